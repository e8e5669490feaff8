import pytest

from tests.trainer.test_report_evaluation import SPAM, record_of, result_of, run_of
from trainyard_api.spec_distillation import Distillation
from trainyard_api.status import MeasuredModel, ModelStatus, TeacherComparison, TrainingRunStatus
from trainyard_trainer.comparison import retention_percent, rows_to_judge
from trainyard_trainer.evaluation.speed import WARM_UP_CALLS, Timing, percentile, timed_in_turn
from trainyard_trainer.model_card import render_model_card
from trainyard_trainer.report_comparison import comparison_line
from trainyard_trainer.report_tables import teacher_table
from trainyard_trainer.run_summary import summary_lines

SMALL = MeasuredModel(
    parameters=7_400_000,
    size_bytes=29_600_000,
    latency_p50_seconds=0.004,
    latency_p95_seconds=0.006,
    tokens_per_second=40_000.0,
    quality=0.96,
)
LARGE = MeasuredModel(
    parameters=22_700_000,
    size_bytes=90_800_000,
    latency_p50_seconds=0.012,
    latency_p95_seconds=0.016,
    tokens_per_second=10_000.0,
    quality=0.98,
)
COMPARISON = TeacherComparison(
    student=SMALL,
    teacher=LARGE,
    metric="MacroF1",
    examples=570,
    row_tokens=128,
    repeats=100,
    threads=2,
    speed_up=3.0,
    retention_percent=97.96,
)


class Machine:
    """A clock that calls move, and what was called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def call(self, name: str, seconds: float):
        def computed() -> None:
            self.called.append(name)
            self.now += seconds

        return computed


def test_models_take_turns_and_their_first_calls_do_not_count():
    machine = Machine()
    calls = [machine.call("student", 0.25), machine.call("teacher", 0.75)]
    taken = timed_in_turn(calls, Timing(seconds=100.0, most=5), lambda: machine.now)
    assert taken == [[0.25] * 5, [0.75] * 5]
    assert machine.called[2 * WARM_UP_CALLS :] == ["student", "teacher"] * 5


def test_a_slow_model_is_warmed_up_once():
    machine = Machine()
    timed_in_turn([machine.call("model", 4.0)], Timing(seconds=0.0, most=50, least=3), lambda: machine.now)
    assert len(machine.called) == 1 + 3


@pytest.mark.parametrize(("seconds", "turns"), [(9.0, 3), (13.0, 4), (1.0, 3), (1000.0, 50)])
def test_timing_ends_with_its_time_but_not_before_a_few_turns(seconds, turns):
    machine = Machine()
    taken = timed_in_turn([machine.call("model", 4.0)], Timing(seconds, most=50), lambda: machine.now)
    assert len(taken[0]) == turns


def test_percentiles_are_interpolated():
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile(range(101), 95) == 95.0


@pytest.mark.parametrize(
    ("wanted", "seconds_per_row", "rows"),
    [(570, 0.01, 570), (5000, 0.01, 1500), (570, 5.0, 8), (5, 5.0, 5), (570, 60.0, 0)],
)
def test_as_many_rows_are_judged_as_the_time_allows(wanted, seconds_per_row, rows):
    assert rows_to_judge(wanted, seconds_per_row, 15.0) == rows


@pytest.mark.parametrize(
    ("metric", "student", "teacher", "kept"),
    [
        ("MacroF1", 0.96, 0.98, 97.959),
        ("Loss", 2.5, 2.0, 80.0),
        ("MeanSquaredError", 0.5, 1.0, 200.0),
        ("Pearson", -0.2, 0.9, None),
        ("Matthews", 0.0, 0.0, None),
        ("MacroF1", None, 0.98, None),
    ],
)
def test_retention_is_the_students_share_of_the_teachers_quality(metric, student, teacher, kept):
    found = retention_percent(metric, student, teacher)
    assert found == (None if kept is None else pytest.approx(kept, abs=1e-3))


def compared_record(**changes):
    run = run_of(SPAM)
    distillation = Distillation.model_validate({"teacher": {"fromRun": {"name": "classify-spam"}}})
    spec = run.spec.model_copy(update={"distillation": distillation})
    record = record_of(run, result_of())
    return record.model_copy(update={"spec": spec, **changes})


def test_the_card_and_the_report_set_the_student_beside_its_teacher():
    record = compared_record(comparison=COMPARISON)
    card = render_model_card(record, weights_bytes=1)
    for expected in (
        "It was trained to imitate `the model of the run classify-spam`.",
        "| measure | student | teacher | student / teacher |",
        "| parameters | 7,400,000 | 22,700,000 | 33 % |",
        "| files of weights | 28.2 MiB | 86.6 MiB | 33 % |",
        "| latency p50 | 4 ms | 12 ms | 33 % |",
        "| latency p95 | 6 ms | 16 ms | 38 % |",
        "| throughput | 40,000 tokens/s | 10,000 tokens/s | 400 % |",
        "| macro F1 | 0.96 | 0.98 | 98.0 % kept |",
        "one row of 128 tokens, 100 times each, and macro F1 on 570 held-out rows.",
    ):
        assert expected in card
    assert len(teacher_table(record).rows) == 6


def test_a_teacher_that_was_gone_at_the_export_is_told():
    record = compared_record(comparison_problem="spec.distillation.teacher: it is gone")
    assert "It was not compared with it: `spec.distillation.teacher: it is gone`" in render_model_card(
        record, weights_bytes=1
    )
    assert teacher_table(record).rows == [["not compared", "spec.distillation.teacher: it is gone"]]


def test_a_model_without_a_teacher_has_no_such_part():
    record = record_of(run_of(SPAM), result_of())
    assert "Beside its teacher" not in render_model_card(record, weights_bytes=1)
    assert teacher_table(record).rows == []
    assert teacher_table(None).rows == []


def test_the_summary_tells_size_speed_and_quality_in_a_line(tmp_path):
    line = "beside its teacher: 67 % fewer parameters, 3.00 times as fast, 98.0 % of its macro F1 kept"
    assert comparison_line(COMPARISON) == line
    model = ModelStatus(uri="file:///m", parameters=7_400_000, comparison=COMPARISON)
    assert line in summary_lines(TrainingRunStatus(model=model), tmp_path, None)
