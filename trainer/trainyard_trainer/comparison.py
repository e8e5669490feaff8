"""A student beside its teacher, as Export measures them: size, speed on this CPU, and quality."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from trainyard_api.plan import RunPlan
from trainyard_api.status import MeasuredModel, TeacherComparison
from trainyard_api.task_metrics import LOSS, LOWER_IS_BETTER
from trainyard_trainer.data.base_config import CONFIG
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.evaluation.evaluator import build_evaluator
from trainyard_trainer.evaluation.gather import Gatherer
from trainyard_trainer.evaluation.loss_judge import LossJudge
from trainyard_trainer.evaluation.speed import Timing, percentile, timed_in_turn
from trainyard_trainer.models.distilled_model import Watched
from trainyard_trainer.models.teacher import check_teacher_room, load_teacher
from trainyard_trainer.workload import Workload, open_workload

LATENCY = Timing(seconds=8.0, most=100)
THROUGHPUT = Timing(seconds=4.0, most=10)
QUALITY_SECONDS = 15.0
"""With the two above, how long the two models are compared; reading them comes on top."""
MOST_ROW_TOKENS = 512
"""Longest row that is timed: logits of a longer one take gigabytes where the vocabulary is large."""
THROUGHPUT_TOKENS = 2048
"""Most tokens of a pass of several rows."""
PASS_SECONDS = 1.0
"""About the longest that such a pass is to take."""
FEWEST_ROWS = 8
"""Rows that tell something of quality."""
MOST_PATIENCE = 4
"""How many times the seconds for judging may be spent on the fewest rows; slower models are not judged."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Limits:
    """How long is measured.

    Attributes:
        latency: of forward passes of one row.
        throughput: of forward passes of several rows.
        quality_seconds: for judging both models.
    """

    latency: Timing = LATENCY
    throughput: Timing = THROUGHPUT
    quality_seconds: float = QUALITY_SECONDS


@dataclass(frozen=True)
class _Alone:
    """A model without an engine, as a judge asks it."""

    model: Watched

    def forward(self, batch: Any) -> torch.Tensor:
        return cast("torch.Tensor", self.model(*batch.model_arguments(CPU)))

    def predict(self, batch: Any) -> torch.Tensor:
        return cast("torch.Tensor", self.model(*batch.model_arguments(CPU), predict=True))


def compare_with_teacher(
    plan: RunPlan,
    student: PreTrainedModel,
    size_bytes: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    limits: Limits | None = None,
) -> TeacherComparison | None:
    """Measure a student and its teacher in fp32 on this CPU; None where the run has no teacher.

    Args:
        plan: the run.
        student: the exported model, on the CPU.
        size_bytes: size of the files of its weights.
        clock: seconds that only grow.
        limits: how long is measured.

    Raises:
        DataError: the teacher's files are gone or changed.
        ConfigurationError: there is no room for the teacher.
    """
    limits = limits or Limits()
    plan = _by_one_process(plan)
    workload = open_workload(plan)
    check_teacher_room(plan, workload.data, CPU, trains=False)
    teacher, described = load_teacher(plan, workload.data), workload.data.manifest.teacher
    if teacher is None or described is None:
        return None
    student.train(mode=False)
    models = [student, teacher]
    sizes = size_bytes, sum(file.size_bytes for file in described.files if file.name != CONFIG)
    length = min(plan.spec.data.sequence_length, MOST_ROW_TOKENS)
    with torch.no_grad():
        speeds = _speeds(models, length, limits, clock)
        held_out = workload.data.manifest.validation.rows
        examples = rows_to_judge(
            min(held_out, plan.spec.training.evaluation.maximum_sequences or held_out),
            sum(plan.spec.data.sequence_length / speed.tokens_per_second for speed in speeds),
            limits.quality_seconds,
        )
        # Losses over different tokens say nothing of each other.
        examples = 0 if plan.spec.aligns_tokens else examples
        metric, qualities = _qualities(plan, workload, models, examples)
    measured = [_measured(*each) for each in zip(models, sizes, speeds, qualities, strict=True)]
    medians = [percentile(speed.latencies, 50) for speed in speeds]
    retention = retention_percent(metric, *qualities)
    return TeacherComparison(
        student=measured[0],
        teacher=measured[1],
        metric=metric,
        examples=examples,
        row_tokens=length,
        repeats=len(speeds[0].latencies),
        threads=torch.get_num_threads(),
        speed_up=round(medians[1] / medians[0], 2),
        retention_percent=None if retention is None else round(retention, 2),
    )


@dataclass(frozen=True)
class _Speed:
    """How fast a model is: seconds of forward passes of one row, and tokens per second of several."""

    latencies: list[float]
    tokens_per_second: float


def _speeds(
    models: list[PreTrainedModel], length: int, limits: Limits, clock: Callable[[], float]
) -> list[_Speed]:
    """How fast each model is on rows of some length."""
    latencies = timed_in_turn([_forward(model, 1, length) for model in models], limits.latency, clock)
    slowest = max(percentile(taken, 50) for taken in latencies)
    num_rows = max(1, min(THROUGHPUT_TOKENS // length, int(PASS_SECONDS / slowest)))
    passes = [_forward(model, num_rows, length) for model in models]
    taken_together = timed_in_turn(passes, limits.throughput, clock)
    return [
        _Speed(taken, num_rows * length / percentile(together, 50))
        for taken, together in zip(latencies, taken_together, strict=True)
    ]


def rows_to_judge(wanted: int, seconds_per_row: float, seconds: float) -> int:
    """How many held-out rows both models are judged on: those wanted, or as many as the time allows.

    Fewer than a few tell nothing, so that models which are too slow for these are not judged at all.

    Args:
        wanted: rows that there are, or that an evaluation takes.
        seconds_per_row: of both models together, for a row of full length.
        seconds: that there are.
    """
    fewest = min(wanted, FEWEST_ROWS)
    if fewest * seconds_per_row > MOST_PATIENCE * seconds:
        return 0
    return min(wanted, max(fewest, int(seconds / seconds_per_row)))


def retention_percent(metric: str, student: float | None, teacher: float | None) -> float | None:
    """How much of its teacher's quality a student keeps; None where a share says nothing.

    Args:
        metric: what was measured; of one that improves by falling, the ratio is turned round.
        student: the student's.
        teacher: the teacher's.
    """
    if student is None or teacher is None:
        return None
    part, whole = (teacher, student) if metric in LOWER_IS_BETTER else (student, teacher)
    return 100.0 * part / whole if part >= 0 and whole > 0 else None


def _by_one_process(plan: RunPlan) -> RunPlan:
    """A plan whose batches one process sees, without a cache, in fp32, which CPUs compute without detours."""
    spec = plan.spec
    changes: dict[str, Any] = {"training": spec.training.model_copy(update={"precision": "FP32"})}
    if spec.distillation is not None:
        changes["distillation"] = spec.distillation.model_copy(update={"teacher_cache": None})
    return plan.model_copy(
        update={
            "spec": spec.model_copy(update=changes),
            "batch": plan.batch.model_copy(update={"world_size": 1}),
        }
    )


def _forward(model: PreTrainedModel, num_rows: int, length: int) -> Callable[[], object]:
    """A forward pass as predictions need it: of a decoder the logits of the next token alone."""
    # Which tokens they are does not change the time.
    input_ids = torch.arange(num_rows * length).reshape(num_rows, length) % int(model.config.vocab_size)
    arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    if type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        arguments |= {"logits_to_keep": 1, "use_cache": False}
    return lambda: model(**arguments)


def _measured(model: PreTrainedModel, size_bytes: int, speed: _Speed, quality: float | None) -> MeasuredModel:
    """What is told of a model."""
    return MeasuredModel(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        size_bytes=size_bytes,
        latency_p50_seconds=_rounded(percentile(speed.latencies, 50)),
        latency_p95_seconds=_rounded(percentile(speed.latencies, 95)),
        tokens_per_second=_rounded(speed.tokens_per_second),
        quality=None if quality is None else _rounded(quality),
    )


def _qualities(
    plan: RunPlan, workload: Workload, models: list[PreTrainedModel], num_rows: int
) -> tuple[str, list[float | None]]:
    """The metric of the run, and its value for each model on the same held-out rows."""
    evaluator = build_evaluator(plan.spec, workload.labels)
    judge = LossJudge() if evaluator is None else evaluator.judge
    metric = LOSS if evaluator is None else evaluator.metric
    found: list[float | None] = []
    if not num_rows:
        return metric, [None] * len(models)
    for model in models:
        gatherer = Gatherer(Ranks(rank=0, local_rank=0, world_size=1, device=CPU), judge.num_keys)
        predictor = _Alone(workload.model(model).eval())
        for number, batch in enumerate(workload.supply(0).evaluation_batches(num_rows)):
            gatherer.add(judge.observe(predictor, batch, number))
        gatherer.flush()
        value = judge.judge(gatherer.all()).measure(None).get(metric, math.nan)
        found.append(value if math.isfinite(value) else None)
    return metric, found


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise in a status."""
    return float(f"{value:.4g}")
