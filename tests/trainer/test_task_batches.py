"""Batches of examples: their order is a pure function of seed and step, and loses and doubles nothing."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.base_models import store_model
from tests.support.labelled import labelled_texts, prepare_labelled, task_plan
from tests.support.preparation import make_plan
from trainyard_api.plan import BatchPlan
from trainyard_api.spec_objectives import ClassBalance
from trainyard_trainer.data.labelled.class_weights import class_weights
from trainyard_trainer.data.labelled.dataset import LabelledSample
from trainyard_trainer.data.manifest import LabelManifest
from trainyard_trainer.data.order import mix_64, round_keys, sample_index
from trainyard_trainer.task_batches import (
    Collator,
    ExamplesByClass,
    TaskBatchSource,
    balanced_draws,
    build_task_batches,
)

PAD = 9
TASK = {"task": "SequenceClassification"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    records = labelled_texts(["a", "b", "b", "b", "c"], 150)
    plan = task_plan(store_model(folder / "model"), folder, records, TASK)
    return prepare_labelled(plan)


def source_of(data, *, rank=0, world_size=1, micro=8, **changes):
    batch = BatchPlan(
        global_batch_size=16,
        micro_batch_size=micro,
        world_size=world_size,
        accumulation_steps=16 // (micro * world_size),
    )
    return TaskBatchSource(
        train=data.train,
        validation=data.validation,
        collator=Collator("Class", PAD, None),
        batch=batch,
        rank=rank,
        seed=3,
        **changes,
    )


def ids_of(batches):
    return [number for batch in batches for number in batch.example_ids.tolist()]


def test_an_epoch_has_each_example_once(data):
    source = source_of(data)
    stream = np.concatenate([source.examples_of_step(step) for step in range(30)])
    epoch = stream[: len(data.train)]
    assert sorted(epoch.tolist()) == list(range(len(data.train)))
    assert stream[len(data.train) : 2 * len(data.train)].tolist() != epoch.tolist()


@pytest.mark.parametrize(("world_size", "micro"), [(1, 16), (1, 4), (2, 4), (4, 2)])
def test_a_step_holds_the_same_examples_for_every_division(world_size, micro, data):
    ranks = [source_of(data, rank=rank, world_size=world_size, micro=micro) for rank in range(world_size)]
    found = [number for source in ranks for number in ids_of(source.step_batches(5))]
    assert sorted(found) == sorted(source_of(data).examples_of_step(5).tolist())


def test_micro_batches_of_a_step_hold_rows_of_similar_length(data):
    batches = source_of(data, micro=4).step_batches(0)
    lengths = [data.train.lengths[batch.example_ids.numpy()] for batch in batches]
    for shorter, longer in itertools.pairwise(lengths):
        assert shorter.max() <= longer.min()
    padded = sum(batch.num_positions for batch in batches)
    assert padded < source_of(data, micro=16).step_batches(0)[0].num_positions


def test_a_batch_holds_the_samples_and_their_labels(data):
    [batch] = source_of(data, micro=16).step_batches(0)
    for row, number in enumerate(batch.example_ids.tolist()):
        sample = data.train.sample(number)
        length = len(sample.token_ids)
        assert batch.input_ids[row, :length].tolist() == sample.token_ids.tolist()
        assert set(batch.input_ids[row, length:].tolist()) <= {PAD}
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)
        assert batch.labels[row] == sample.labels
    assert batch.num_labels == batch.loss_weight == 16
    assert batch.num_tokens == int(batch.attention_mask.sum())


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_held_out_example_is_judged_once_and_ranks_stay_in_step(world_size, data):
    ranks = []
    for rank in range(world_size):
        batch = BatchPlan(
            global_batch_size=12, micro_batch_size=4, world_size=world_size, accumulation_steps=1
        )
        ranks.append(list(replace(source_of(data), rank=rank, batch=batch).evaluation_batches(9)))
    assert len({len(batches) for batches in ranks}) == 1
    found = [batch for batches in ranks for batch in batches]
    judged = sorted(number for number in ids_of(found) if number >= 0)
    assert judged == sorted(source_of(data).judged_examples(9).tolist())
    assert len(set(judged)) == 9
    assert all((batch.num_labels == 0) == (-1 in batch.example_ids.tolist()) for batch in found)
    assert sum(batch.loss_weight for batch in found) == 9


def test_a_part_of_the_held_out_examples_is_drawn_from_all_of_them_whatever_the_seed(data):
    """Of examples that are sorted by their labels, the first ones would all have the same."""
    many = replace(source_of(data), validation=data.train)
    judged = many.judged_examples(40)
    assert len(set(judged.tolist())) == 40
    assert judged.max() > 100
    assert judged.tolist() == replace(many, seed=4).judged_examples(40).tolist()
    for maximum in (None, len(data.train), 10_000):
        assert many.judged_examples(maximum).tolist() == list(range(len(data.train)))


def test_weighted_sampling_draws_every_class_equally_often(data):
    source = source_of(data, weighted_sampling=True)
    drawn = np.concatenate([source.examples_of_step(step) for step in range(30)])
    assert Counter(data.train.class_numbers[drawn].tolist()) == {0: 160, 1: 160, 2: 160}
    again = source_of(data, weighted_sampling=True, rank=0, micro=4)
    assert again.examples_of_step(7).tolist() == source.examples_of_step(7).tolist()


def test_balanced_draws_take_any_example_of_a_class():
    by_class = ExamplesByClass.of(np.array([0, 0, 1, 0, 0, 0]), 2)
    drawn = balanced_draws(1, np.arange(400), by_class)
    assert (drawn == 2).sum() == 200
    assert min(Counter(drawn[drawn != 2].tolist()).values()) > 20


@pytest.mark.parametrize("num_classes", [1, 2, 7, 40])
def test_balanced_draws_are_those_that_runs_resume_with(num_classes):
    class_numbers = np.arange(300) * 11 % num_classes
    numbers = np.arange(10_000, 10_500)
    drawn = balanced_draws(5, numbers, ExamplesByClass.of(class_numbers, num_classes))
    key = round_keys(5, num_classes)[0]
    expected = []
    for number in numbers.tolist():
        of_draw = sample_index(5, number // num_classes, number % num_classes, num_classes)
        examples = np.flatnonzero(class_numbers == of_draw)
        expected.append(examples[mix_64(mix_64(number) ^ key) % len(examples)])
    assert drawn.tolist() == expected


def test_the_weight_of_a_batch_is_that_of_its_predictions():
    weights = np.array([0.5, 1.5], dtype=np.float32)
    samples = [sample_with(1), sample_with(1), sample_with(0)]
    batch = Collator("Class", PAD, weights).collate(samples, [0, 1, 2], 0)
    assert (batch.num_labels, batch.loss_weight) == (3, 3.5)
    words = [sample_with(np.array([-100, 1, 0], dtype=np.int32))]
    batch = Collator("WordClasses", PAD, weights).collate(words, [0], 0)
    assert (batch.num_labels, batch.loss_weight) == (2, 2.0)
    several = [sample_with(np.array([1.0, 0.0], dtype=np.float32))]
    batch = Collator("Classes", PAD, np.array([0.25, 1.75], dtype=np.float32)).collate(several, [0], 0)
    assert (batch.num_labels, batch.loss_weight, batch.labels.dtype) == (2, 2.0, torch.float32)


def test_the_token_that_the_assistant_wrote_is_predicted_at_the_place_before():
    sample = sample_with(np.array([-100, 11, -100], dtype=np.int32))
    batch = Collator("TrainedTokens", PAD, None).collate([sample], [0], 0)
    assert batch.labels.tolist() == [[11, *[-100] * 7]]
    assert (batch.num_labels, batch.num_tokens) == (1, 3)
    filler = Collator("TrainedTokens", PAD, None).filler(sample, 0)
    assert set(filler.labels.flatten().tolist()) == {-100}


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ({}, [1.0, 1.0, 1.0]),
        ({"class_weights": "InverseFrequency"}, [12 / 7, 6 / 7, 3 / 7]),
        (
            {"class_weights": "EffectiveNumber", "effective_number_beta": 0.5},
            [15 / 11, 10 / 11, 8 / 11],
        ),
        ({"class_weights": "Given", "given_weights": {"c": 1.0, "a": 4.0, "b": 1.0}}, [2.0, 0.5, 0.5]),
    ],
)
def test_class_weights_follow_their_formula_with_mean_1(balance, expected):
    labels = LabelManifest(names=("a", "b", "c"), training_counts=(1, 2, 4), validation_counts=(1, 1, 1))
    weights = class_weights(ClassBalance(**balance), labels)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_the_batches_of_a_plan_have_its_weights_and_draws(data, tmp_path):
    balance = {"classWeights": "InverseFrequency", "weightedSampling": True}
    plan = make_plan(tmp_path, pretraining=None, fineTuning={**TASK, "classBalance": balance})
    source = build_task_batches(plan, data, rank=0)
    [batch] = source.step_batches(0)
    weights = class_weights(ClassBalance(class_weights="InverseFrequency"), data.manifest.labels)
    assert source.weighted_sampling
    assert batch.loss_weight == pytest.approx(weights[batch.labels.numpy()].sum())
    plain = build_task_batches(make_plan(tmp_path, pretraining=None, fineTuning=TASK), data, rank=0)
    assert plain.step_batches(0)[0].loss_weight == 4


def sample_with(labels):
    return LabelledSample(np.array([10, 11, 12], dtype=np.int32), np.zeros(3, dtype=np.uint8), labels)
