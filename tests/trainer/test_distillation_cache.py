import json

import numpy as np
import pytest
import torch

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_api.spec_distillation import TeacherCache
from trainyard_api.spec_objectives import Masking
from trainyard_trainer.distillation.cache_entries import cached_forward_kl, kept_predictions, read_predictions
from trainyard_trainer.distillation.cache_files import PredictionCache, write_shard
from trainyard_trainer.distillation.cache_layout import CacheInputs, cache_key, cache_layout
from trainyard_trainer.distillation.cached_losses import cached_sums
from trainyard_trainer.distillation.sampled_sums import UNLABELLED
from trainyard_trainer.methods.distillation_losses import forward_kl

CPU = torch.device("cpu")
INPUTS = CacheInputs(
    teacher="a" * 64,
    tokenizer="b" * 64,
    data="c" * 64,
    objective="MaskedLM",
    masking=Masking(),
    masking_seed=7,
    sampling_seed=1,
    positions="All",
    isolate_documents=True,
    precision="FP32",
)


def layout_of(vocabulary_size=50, temperature=2.0, **fields):
    return cache_layout(
        TeacherCache.model_validate(fields), vocabulary_size=vocabulary_size, temperature=temperature
    )


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def logits(num_places, columns=50, seed=0):
    return 3.0 * torch.randn(num_places, columns, generator=seeded(seed))


def cached(student, teacher, layout, seed=0):
    kept = read_predictions(kept_predictions(teacher, layout, seeded(seed)), CPU)
    return cached_forward_kl(student, kept, layout)


@pytest.mark.parametrize(
    ("vocabulary_size", "cache", "num_bytes"),
    [
        (65_536, {}, 8 * 4 + 10 * 2 + 4),
        (65_537, {}, 8 * 6 + 10 * 4 + 4),
        (30_522, {"topEntries": 24, "tail": "Bucket"}, 100),
        (30_522, {"topEntries": 12, "tailSamples": 24}, 100),
        (151_936, {"topEntries": 0, "tailSamples": 24}, 100),
        (8, {"topEntries": 24, "tail": "Bucket"}, 7 * 4 + 4),
    ],
)
def test_a_place_takes_at_most_a_hundred_bytes(vocabulary_size, cache, num_bytes):
    layout = layout_of(vocabulary_size, **cache)
    teacher = logits(3, columns=min(vocabulary_size, 64))
    records = kept_predictions(teacher, layout, seeded(0))
    assert records.nbytes == 3 * num_bytes <= 300


def test_a_cache_that_only_large_vocabularies_make_too_large_is_refused_for_them():
    fields = {"topEntries": 12, "tailSamples": 24}
    with pytest.raises(ConfigurationError, match="it takes 172 bytes a token in a vocabulary of 151936"):
        layout_of(151_936, **fields)


def test_with_samples_the_loss_and_its_gradient_are_right_on_average():
    """The same four places are drawn 5000 times; one draw is off by far more than the mean of all."""
    student, teacher = logits(4, seed=1), logits(4, seed=2)
    layout = layout_of(topEntries=4, tailSamples=6)
    live = student.clone().requires_grad_()
    expected = forward_kl(live, teacher, 2.0).sum()
    expected.backward()
    repeated = student.repeat(5000, 1).requires_grad_()
    mean = cached(repeated, teacher.repeat(5000, 1), layout).total / 5000
    mean.backward()
    gradient = repeated.grad.view(5000, 4, 50).sum(0)
    assert mean.item() == pytest.approx(expected.item(), rel=3e-3)
    torch.testing.assert_close(gradient, live.grad, atol=5e-3, rtol=0.0)
    single = cached(student, teacher, layout).total.item()
    assert single != pytest.approx(expected.item(), rel=1e-2)


def test_a_bucket_gives_the_divergence_of_the_kept_tokens_and_one_more():
    student, teacher = logits(5, seed=1), logits(5, seed=2)
    expected = 0.0
    for own, other in zip(student, teacher, strict=True):
        p, q = (other / 2.0).softmax(-1), (own / 2.0).softmax(-1)
        top = p.topk(3).indices
        kept_p = torch.cat([p[top], 1.0 - p[top].sum()[None]])
        kept_q = torch.cat([q[top], 1.0 - q[top].sum()[None]])
        expected += 4.0 * (kept_p * (kept_p / kept_q).log()).sum().item()
    term = cached(student, teacher, layout_of(topEntries=3, tail="Bucket"))
    assert term.total.item() == pytest.approx(expected, rel=5e-3)
    assert term.count == 5
    assert term.total.item() < forward_kl(student, teacher, 2.0).sum().item()


@pytest.mark.parametrize("tail", [{"tail": "Bucket"}, {"tail": "Sampled", "tailSamples": 4}])
def test_a_cache_of_nearly_all_tokens_gives_the_live_loss(tail):
    student, teacher = logits(6, columns=10, seed=1), logits(6, columns=10, seed=2)
    term = cached(student, teacher, layout_of(10, topEntries=9, **tail))
    assert term.total.item() == pytest.approx(forward_kl(student, teacher, 2.0).sum().item(), rel=2e-3)


@pytest.mark.parametrize("tail", [{"tail": "Bucket"}, {"tail": "Sampled"}])
def test_a_student_that_agrees_has_next_to_no_loss_and_no_gradient_on_kept_tokens(tail):
    teacher = logits(6, columns=8, seed=2)
    states = teacher.clone().requires_grad_()
    term = cached(states, teacher, layout_of(8, topEntries=7, **tail))
    term.total.backward()
    assert term.total.item() == pytest.approx(0.0, abs=0.02)
    assert states.grad.abs().max().item() < 5e-3


@pytest.mark.parametrize("tail", [{"tail": "Bucket"}, {"tail": "Sampled"}])
def test_a_teacher_that_is_certain_leaves_nothing_to_the_rest(tail):
    teacher = torch.zeros(2, 50)
    teacher[:, 7] = 1000.0
    states = logits(2, seed=3).requires_grad_()
    term = cached(states, teacher, layout_of(topEntries=1, **tail))
    term.total.backward()
    expected = -4.0 * (states.detach() / 2.0).log_softmax(-1)[:, 7].sum().item()
    assert term.total.item() == pytest.approx(expected, rel=1e-3)
    assert states.grad.isfinite().all()


@pytest.mark.parametrize(
    "cache",
    [
        {"topEntries": 4, "tailSamples": 6},
        {"topEntries": 4, "tailSamples": 6, "temperature": 1.0},
        {"topEntries": 4, "tailSamples": 6, "temperature": 3.5},
        {"topEntries": 4, "tail": "Bucket"},
    ],
)
def test_both_sums_and_their_gradient_equal_those_of_each_alone_in_any_number_of_chunks(cache):
    """In padded logits, with a token that is drawn twice and places without a label."""
    layout = layout_of(**cache)
    kept = read_predictions(kept_predictions(logits(9, seed=2), layout, seeded(0)), CPU)
    kept.tail_ids[:, :1] = kept.tail_ids[:, 1:2]
    labels = torch.tensor([1, UNLABELLED, 3, 4, UNLABELLED, 49, 0, 7, 8])
    student = logits(9, columns=64, seed=1)
    alone = student.clone().requires_grad_()
    expected = torch.stack(
        [
            torch.nn.functional.cross_entropy(alone, labels, ignore_index=UNLABELLED, reduction="sum"),
            cached_forward_kl(alone, kept, layout).total,
        ]
    )
    (expected * torch.tensor([2.0, 3.0])).sum().backward()
    for size in (9, 4):
        together = student.clone().requires_grad_()
        sums = cached_sums(together, labels, kept, layout, lambda states: states, chunk_positions=size)
        (sums * torch.tensor([2.0, 3.0])).sum().backward()
        torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(together.grad, alone.grad, rtol=1e-4, atol=1e-5)
    without_labels = cached_sums(student, None, kept, layout, lambda states: states)
    torch.testing.assert_close(without_labels, expected[1:].detach(), rtol=1e-5, atol=1e-4)


def test_padded_columns_of_both_models_do_not_matter():
    layout = layout_of()
    student, teacher = logits(3, columns=64, seed=1), logits(3, columns=128, seed=2)
    whole = cached(student, teacher, layout)
    student[:, 50:], teacher[:, 50:] = 99.0, 99.0
    assert cached(student, teacher, layout).total.item() == whole.total.item()


def test_no_place_gives_no_records_and_a_loss_of_zero():
    term = cached(logits(0), logits(0), layout_of())
    assert (term.total.item(), term.count) == (0.0, 0)


CHANGES = [
    ("teacher", "d" * 64),
    ("tokenizer", "d" * 64),
    ("data", "d" * 64),
    ("objective", "CausalLM"),
    ("masking", Masking(probability=0.2)),
    ("masking_seed", 8),
    ("sampling_seed", 2),
    ("positions", "Labelled"),
    ("isolate_documents", False),
    ("precision", "BF16"),
]


@pytest.mark.parametrize(("field", "value"), CHANGES, ids=[field for field, _ in CHANGES])
def test_the_key_changes_with_everything_that_decides_the_predictions(field, value):
    assert {name for name, _ in CHANGES} == CacheInputs.model_fields.keys()
    assert cache_key(INPUTS.model_copy(update={field: value}), layout_of()) != cache_key(INPUTS, layout_of())


@pytest.mark.parametrize("fields", [{"temperature": 1.0}, {"topEntries": 7}, {"tailSamples": 9}])
def test_the_key_changes_with_what_is_kept(fields):
    assert cache_key(INPUTS, layout_of(**fields)) != cache_key(INPUTS, layout_of())


LAYOUT = layout_of()
KEY = cache_key(INPUTS, LAYOUT)


@pytest.fixture
def shards(tmp_path):
    """Five rows of 0 to 4 places in two shards, as two processes write them."""
    rows = [kept_predictions(logits(places, seed=places), LAYOUT, seeded(places)) for places in range(5)]
    write_shard(tmp_path / "shard-1", KEY, LAYOUT, 3, rows[3:])
    write_shard(tmp_path / "shard-0", KEY, LAYOUT, 0, rows[:3])
    return [tmp_path / "shard-1", tmp_path / "shard-0"], rows


def test_rows_are_read_back_from_all_shards_without_loading_them(shards):
    folders, rows = shards
    cache = PredictionCache(folders, KEY, check=True)
    assert cache.num_rows == 5
    for number, records in enumerate(rows):
        np.testing.assert_array_equal(cache.row(number), records)
    assert isinstance(cache.row(4), np.memmap)
    with pytest.raises(IndexError):
        cache.row(5)


def test_a_cache_of_another_teacher_or_data_is_refused(shards):
    folders, _ = shards
    other = cache_key(INPUTS.model_copy(update={"teacher": "d" * 64}), LAYOUT)
    with pytest.raises(DataError, match="made from another teacher, tokenizer, data, masking"):
        PredictionCache(folders, other, check=False)


def test_a_cache_with_a_missing_shard_is_refused(shards):
    folders, _ = shards
    with pytest.raises(DataError, match="rows 0 to 2 are in no shard"):
        PredictionCache(folders[:1], KEY, check=False)


def test_a_changed_byte_is_found_by_the_check_and_a_lost_one_always(shards):
    folders, _ = shards
    records = folders[0] / "records"
    content = bytearray(records.read_bytes())
    content[10] ^= 1
    records.write_bytes(content)
    with pytest.raises(DataError, match="records was changed after it was written"):
        PredictionCache(folders, KEY, check=True)
    records.write_bytes(content[:-1])
    with pytest.raises(DataError, match="records has"):
        PredictionCache(folders, KEY, check=False)


@pytest.mark.parametrize("content", ["", "{}", '{"key": 1}'])
def test_a_damaged_manifest_is_refused_with_the_remedy(shards, content):
    folders, _ = shards
    (folders[1] / "cache.json").write_text(content)
    with pytest.raises(DataError, match="Delete its folder and run again"):
        PredictionCache(folders, KEY, check=False)


def test_a_shard_that_was_not_finished_does_not_exist(tmp_path):
    def rows():
        yield kept_predictions(logits(2), LAYOUT, seeded(0))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_shard(tmp_path / "shard-0", KEY, LAYOUT, 0, rows())
    assert not (tmp_path / "shard-0").exists()
    manifest = write_shard(tmp_path / "shard-0", KEY, LAYOUT, 0, [])
    assert (manifest.num_rows, manifest.num_places) == (0, 0)
    assert json.loads((tmp_path / "shard-0" / "cache.json").read_text())["key"] == KEY
    assert not list(tmp_path.glob("*.partial"))
