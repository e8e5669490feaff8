import numpy as np
import pytest

from trainyard_trainer.data.packing import cut_documents, one_piece_per_row, pack


def random_lengths(case):
    generator = np.random.default_rng(case)
    sequence_length = int(generator.choice([8, 13, 64, 512, 4096]))
    count = int(generator.integers(1, 3000))
    shapes = [
        generator.integers(1, sequence_length + 1, count),
        np.minimum(sequence_length, generator.geometric(4 / sequence_length, count)),
        np.full(count, generator.integers(1, sequence_length + 1)),
        generator.choice([1, sequence_length], count),
    ]
    return shapes[case % len(shapes)].astype(np.int64), sequence_length


@pytest.mark.parametrize("case", range(40))
def test_every_piece_is_packed_once_and_no_row_overflows(case):
    lengths, sequence_length = random_lengths(case)
    starts, pieces = pack(lengths, sequence_length, seed=case)
    assert np.array_equal(np.sort(pieces), np.arange(len(lengths)))
    assert starts[0] == 0
    assert starts[-1] == len(pieces)
    assert (np.diff(starts) > 0).all()
    fill = np.add.reduceat(lengths[pieces], starts[:-1])
    assert fill.max() <= sequence_length
    assert (fill <= sequence_length // 2).sum() <= 1


def plain_best_fit_decreasing(lengths, sequence_length):
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda row: rooms[row])] -= length
        else:
            rooms.append(sequence_length - length)
    return len(rooms)


@pytest.mark.parametrize("case", range(12))
def test_packing_by_histogram_needs_no_more_rows_than_best_fit_decreasing(case):
    lengths, sequence_length = random_lengths(case)
    lengths = lengths[:400]
    starts, _ = pack(lengths, sequence_length, seed=0)
    assert len(starts) - 1 <= plain_best_fit_decreasing(lengths.tolist(), sequence_length)


def test_short_documents_fill_rows_almost_wholly():
    lengths = np.random.default_rng(0).integers(3, 120, 100_000)
    starts, _ = pack(lengths, 256, seed=0)
    assert lengths.sum() / ((len(starts) - 1) * 256) > 0.99


def test_packing_repeats_with_its_seed_and_changes_with_it():
    lengths = np.random.default_rng(0).integers(3, 60, 5000)
    first, same, other = pack(lengths, 128, 1), pack(lengths, 128, 1), pack(lengths, 128, 2)
    assert all(np.array_equal(one, two) for one, two in zip(first, same, strict=True))
    assert not np.array_equal(first[1], other[1])


def test_rows_are_not_ordered_by_length():
    lengths = np.random.default_rng(0).integers(3, 128, 20_000)
    starts, pieces = pack(lengths, 128, 1)
    longest = np.maximum.reduceat(lengths[pieces], starts[:-1])
    half = len(longest) // 2
    assert abs(longest[:half].mean() - longest[half:].mean()) < 3


def test_without_packing_each_row_holds_one_piece():
    starts, pieces = one_piece_per_row(50, seed=3)
    assert np.array_equal(np.diff(starts), np.ones(50))
    assert np.array_equal(np.sort(pieces), np.arange(50))


@pytest.mark.parametrize("objective", ["MaskedLM", "CausalLM"])
@pytest.mark.parametrize("sequence_length", [8, 9, 64])
def test_pieces_of_a_document_cover_it_once_in_order(objective, sequence_length):
    lengths = np.arange(200)
    pieces = cut_documents(lengths, sequence_length, objective)
    assert pieces.row_lengths().max() <= sequence_length
    for document, length in enumerate(lengths.tolist()):
        mine = pieces.documents == document
        starts, sizes = pieces.starts[mine], pieces.lengths[mine]
        covered = [
            token for start, size in zip(starts, sizes, strict=True) for token in range(start, start + size)
        ]
        assert covered == list(range(length))


def test_masked_pieces_all_have_special_tokens_at_both_ends():
    assert set(cut_documents(np.array([1, 6, 7, 100]), 8, "MaskedLM").ends.tolist()) == {3}


@pytest.mark.parametrize("length", range(1, 60))
def test_a_causal_document_has_one_beginning_and_one_end(length):
    pieces = cut_documents(np.array([length]), 8, "CausalLM")
    kinds = pieces.ends.tolist()
    assert [kind & 1 for kind in kinds] == [1] + [0] * (len(kinds) - 1)
    assert [kind >> 1 for kind in kinds] == [0] * (len(kinds) - 1) + [1]
    assert pieces.row_lengths().sum() == length + 2
    assert pieces.row_lengths().min() >= 2
