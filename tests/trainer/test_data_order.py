import numpy as np
import pytest

from trainyard_trainer.data.order import global_positions, sample_index, sample_indices


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 7, 16, 17, 97, 100, 1000, 65_537])
def test_each_epoch_reads_every_sample_once(num_samples):
    order = sample_index(11, 3, np.arange(num_samples), num_samples)
    assert np.array_equal(np.sort(order), np.arange(num_samples))


@pytest.mark.parametrize("num_samples", [1, 2, 10, 1001])
def test_one_position_gives_the_same_as_an_array_of_them(num_samples):
    order = sample_index(2**63 + 5, 2, np.arange(num_samples), num_samples)
    assert order.tolist() == [
        sample_index(2**63 + 5, 2, position, num_samples) for position in range(num_samples)
    ]


def test_any_part_of_a_long_epoch_is_computed_without_the_rest():
    num_samples = 3_000_000_019
    positions = np.arange(2_000_000_000, 2_000_200_000)
    order = sample_index(1, 0, positions, num_samples)
    assert len(np.unique(order)) == len(order)
    assert order.min() >= 0
    assert order.max() < num_samples
    assert abs(order.mean() / num_samples - 0.5) < 0.005


def test_the_order_changes_with_seed_and_epoch():
    positions = np.arange(1000)
    base = sample_index(1, 0, positions, 1000)
    for seed, epoch in ((2, 0), (1, 1), (0, 1)):
        other = sample_index(seed, epoch, positions, 1000)
        assert (base == other).sum() < 10


@pytest.mark.parametrize("num_samples", [2, 5, 12])
def test_every_sample_is_equally_likely_at_every_position(num_samples):
    num_epochs = 6000
    counts = np.zeros((num_samples, num_samples))
    for epoch in range(num_epochs):
        counts[np.arange(num_samples), sample_index(7, epoch, np.arange(num_samples), num_samples)] += 1
    expected = num_epochs / num_samples
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = (num_samples - 1) ** 2
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


def test_neighbours_in_the_order_are_not_neighbours_in_the_data():
    order = sample_index(3, 0, np.arange(100_000), 100_000)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert (np.abs(np.diff(order)) < 10).mean() < 0.001


def test_a_position_outside_the_epoch_is_refused():
    for position in (-1, 10, np.array([3, 10])):
        with pytest.raises(IndexError):
            sample_index(0, 0, position, 10)


def test_steps_run_on_across_epochs_without_gap():
    num_samples, batch = 10, 4
    stream = [global_positions(step, batch, num_samples) for step in range(10)]
    epochs = np.concatenate([epoch for epoch, _ in stream])
    positions = np.concatenate([position for _, position in stream])
    assert epochs.tolist() == [number // 10 for number in range(40)]
    assert positions.tolist() == [number % 10 for number in range(40)]


def test_rows_of_many_epochs_at_once_are_those_of_each_alone():
    epochs = np.array([0, 0, 1, 5, 2**40, 12345, 77, 78] * 50)
    positions = np.arange(400) * 13 % 101
    together = sample_indices(3, epochs, positions, 101)
    pairs = zip(epochs.tolist(), positions.tolist(), strict=True)
    assert together.tolist() == [sample_index(3, epoch, position, 101) for epoch, position in pairs]
