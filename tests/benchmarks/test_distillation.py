"""The pure parts of the distillation benchmark."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from distillation import (
    ALONE,
    CACHED,
    COPIED,
    LIVE,
    RANDOM,
    SEEDS,
    Setting,
    cached_student,
    gain,
    masked_student,
    overhead,
)
from distillation_arms import Learnt, assert_same_work, seconds_per_token
from harness import at_most

from trainyard_api.validation import validate_document

FULL = Setting(Path("/folder"), Path("/addresses.jsonl.gz"), Path("/cache"), quick=False)
LEARNT = Learnt(Path("/model"), loss=6.0, metrics={}, num_parameters=9, num_tokens=99)


def spec_of(start, *, taught):
    lesson = masked_student(FULL, Path("/teacher"), Path("/half"), start, SEEDS[0], taught=taught)
    return validate_document(lesson.document()).spec.model_dump(by_alias=True, exclude_unset=True)


def test_a_student_from_random_weights_differs_from_one_without_a_teacher_by_the_teacher_alone():
    taught, alone = spec_of(RANDOM, taught=True), spec_of(RANDOM, taught=False)
    assert taught.pop("distillation")["teacher"] == {"fromRun": {"name": "masked-teacher"}}
    assert alone.pop("tokenizer") == {"uri": "file:///teacher"}
    assert taught == alone


def test_a_copied_student_differs_from_one_without_a_teacher_by_the_teacher_alone():
    taught, alone = spec_of(COPIED, taught=True), spec_of(COPIED, taught=False)
    del taught["distillation"]
    assert taught.pop("model") == {"fromTeacher": {"everyNthLayer": 2}}
    assert alone.pop("model") == {"pretrained": {"uri": "file:///half"}}
    assert taught == alone


@pytest.mark.parametrize(("taught", "holds"), [([5.9, 6.0, 6.1], True), ([5.9, 6.0, 6.2], False)])
def test_every_seed_with_a_teacher_has_to_win(taught, holds):
    assert gain(FULL, RANDOM, taught, [6.2, 6.3, 6.4]).holds is holds


def test_a_quick_run_holds_no_target():
    figure = gain(replace(FULL, quick=True), RANDOM, [7.0], [6.0])
    assert figure.target is None


@pytest.mark.parametrize("other", [{"num_parameters": 1}, {"num_tokens": 1}])
def test_students_that_did_other_work_are_noticed(other):
    assert_same_work([LEARNT], [LEARNT])
    with pytest.raises(AssertionError):
        assert_same_work([LEARNT], [replace(LEARNT, **other)])


def test_the_time_of_a_token_leaves_the_warm_up_out():
    assert seconds_per_token([70, 20, 10], [5.0, 6.0, 9.0], 1) == pytest.approx(4 / 30)


def test_a_cached_student_differs_from_a_live_one_by_the_cache_alone():
    alone = masked_student(FULL, Path("/teacher"), Path("/half"), RANDOM, SEEDS[0], taught=False)
    specs = {
        arm: cached_student(FULL, alone, arm, "name", 9).document()["spec"] for arm in (CACHED, LIVE, ALONE)
    }
    cached, live = specs[CACHED].pop("distillation"), specs[LIVE].pop("distillation")
    assert cached == live | {"teacherCache": {}}
    assert specs[CACHED] == specs[LIVE] == specs[ALONE]


def test_the_overhead_is_what_a_step_takes_beyond_one_without_a_teacher():
    seconds = {ALONE: [1.0, 2.0, 4.0], CACHED: [1.05, 2.14, 4.40]}
    figure = overhead(CACHED, seconds, at_most(0.08))
    assert figure.value == pytest.approx(0.07)
    assert figure.holds
