"""The training of one rank, top to bottom. Read `train` first; the rest follows in the order it is called.

Everything that a step needs is a pure function of the step's number: which rows, which masks, which dropout,
which learning rate. What has to survive a restart is in the checkpoint: weights, optimizer state and the few
numbers of TrainState.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from trainyard_api.errors import DataError, DivergedError
from trainyard_api.names import ExitCode
from trainyard_api.plan import RunPlan
from trainyard_api.task_metrics import LOSS
from trainyard_trainer.batches import Batch, Prefetcher, Supply
from trainyard_trainer.checkpoint import (
    CommittedCheckpoint,
    TrainState,
    amend_checkpoint,
    delete_old_checkpoints,
    is_committed,
    restore_engine,
    save_checkpoint,
)
from trainyard_trainer.data.manifest import DataManifest
from trainyard_trainer.distillation.cache_check import check_shards_together
from trainyard_trainer.distributed import Ranks, join_gang, leave_gang
from trainyard_trainer.engine import Engine, build_engine, check_precision
from trainyard_trainer.evaluation.evaluator import (
    Examination,
    TaskEvaluator,
    build_evaluator,
    keeps_best,
    measure_loss,
)
from trainyard_trainer.imitation import with_teacher
from trainyard_trainer.methods.loss_terms import LossTerm, term_factors, term_means
from trainyard_trainer.models.teacher import check_teacher_room, load_teacher, needs_teacher
from trainyard_trainer.network import build_network
from trainyard_trainer.on_policy import Writer, build_writer
from trainyard_trainer.optimization.budgets import checked_steps, estimated_steps
from trainyard_trainer.optimization.schedules import learning_rate_factor
from trainyard_trainer.recorder import Recorder, StepFigures
from trainyard_trainer.resume import agree_on_checkpoint, resumed_state
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.workload import open_workload


def train(plan: RunPlan, *, stop: StopRequest, clock: Callable[[], float] = time.time) -> ExitCode:
    """Train one rank until the budget is spent or it is told to stop.

    Args:
        plan: the run; rank and rendezvous come from the environment (see `distributed.join_gang`).
        stop: whether this process was told to stop.
        clock: Unix time in seconds.

    Returns:
        SUCCEEDED when the budget is spent, PREEMPTED when a checkpoint was saved on a stop.

    Raises:
        TrainyardError: what is wrong, where, and whether a retry helps.
    """
    startup = Startup(clock, psutil.Process().create_time())
    startup.mark("importSeconds")

    ranks = join_gang(plan)
    try:
        check_precision(plan.spec, ranks.device)
        startup.mark("rendezvousSeconds")
        trainer = set_up(plan, ranks, stop, startup, clock)
        return run(trainer)
    finally:
        leave_gang()


@dataclass
class Trainer:
    """What the loop works with."""

    plan: RunPlan
    ranks: Ranks
    engine: Engine
    terms: tuple[LossTerm, ...]
    source: Supply
    recorder: Recorder
    stop: StopRequest
    startup: Startup
    state: TrainState
    data_hash: str
    planned_steps: int | None
    evaluator: TaskEvaluator | None
    writer: Writer | None
    clock: Callable[[], float]

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return Path(self.plan.paths.checkpoints)


def set_up(
    plan: RunPlan, ranks: Ranks, stop: StopRequest, startup: Startup, clock: Callable[[], float]
) -> Trainer:
    """Open the data, build the model and its engine, and resume from the newest sound checkpoint."""
    spec = plan.spec
    recorder = Recorder(Path(plan.paths.run_folder) if ranks.is_first else None, plan.attempt, clock)
    workload = open_workload(plan)
    num_steps = checked_steps(spec.training, num_rows=workload.num_rows, num_tokens=workload.num_tokens)
    startup.mark("dataSeconds")

    checkpoint = agree_on_checkpoint(Path(plan.paths.checkpoints), ranks, recorder)
    check_data(checkpoint, workload.data.manifest)
    if workload.cache is not None:
        check_shards_together(workload.cache, ranks)
    resumes_all = checkpoint is not None and not checkpoint.manifest.frozen
    teacher = None
    if needs_teacher(plan, resumes_all=resumes_all):
        if not spec.caches_teacher:
            check_teacher_room(plan, workload.data, ranks.device, trains=True)
        teacher = load_teacher(plan, workload.data)
    network = build_network(plan, workload.data, checkpoint, recorder, teacher=teacher)
    model, terms = with_teacher(plan, workload, network, teacher, ranks)
    startup.mark("modelSeconds")

    engine = build_engine(plan, model, ranks, network.adapted.paces)
    if checkpoint is not None:
        restore_engine(engine, checkpoint)
        recorder.resumed(checkpoint)
    startup.mark("engineSeconds")

    return Trainer(
        plan=plan,
        ranks=ranks,
        engine=engine,
        terms=terms,
        source=workload.supply(ranks.rank),
        recorder=recorder,
        stop=stop,
        startup=startup,
        state=resumed_state(checkpoint, ranks, recorder, keeps_best=keeps_best(spec)),
        data_hash=workload.data.manifest.hash,
        planned_steps=num_steps,
        evaluator=build_evaluator(spec, workload.labels),
        writer=build_writer(plan, workload.data.manifest.tokenizer),
        clock=clock,
    )


def check_data(checkpoint: CommittedCheckpoint | None, manifest: DataManifest) -> None:
    """Refuse to resume on other data: row i would be another row.

    Raises:
        DataError: the checkpoint was trained on other data.
    """
    if checkpoint is not None and checkpoint.manifest.data_hash != manifest.hash:
        raise DataError(
            str(checkpoint.path),
            f"it was trained on data {checkpoint.manifest.data_hash[:12]}, and the sources (or the model to "
            f"start from) now give {manifest.hash[:12]}",
            "Restore them, or start a run of another name",
        )


def run(trainer: Trainer) -> ExitCode:
    """The loop: one optimizer step after the other, with evaluations and checkpoints once in a while."""
    spec = trainer.plan.spec
    trainer.engine.train()
    if is_evaluation_due(trainer):
        # A stop came between the step and its evaluation.
        evaluate(trainer, trainer.planned_steps or trainer.state.step)
    with Prefetcher(trainer.source, trainer.state.step) as prefetcher:
        while True:
            started = time.perf_counter()
            micro_batches = written(trainer, prefetcher.next_step())
            counts = agree_on_step(trainer, micro_batches)
            data_seconds = time.perf_counter() - started
            if counts.stop:
                save(trainer)
                trainer.recorder.report(trainer.state, counts.total_steps)
                return ExitCode.PREEMPTED
            if counts.finished:
                break

            learning_rate = step_learning_rate(trainer, counts.total_steps)
            trainer.engine.set_learning_rate(learning_rate, trainer.state.step)
            factors = term_factors(trainer.terms, counts)
            term_sums, gradient_norm = optimizer_step(trainer, micro_batches, factors)
            means = term_means(trainer.terms, factors, trainer.ranks.sums(term_sums))
            loss = sum(term.weight * means[term.name] for term in trainer.terms)
            step_seconds = time.perf_counter() - started
            trainer.state = advance(trainer.state, counts, step_seconds)
            check_finite(trainer, loss, gradient_norm)
            figures = StepFigures(
                loss=loss,
                loss_terms=means,
                gradient_norm=gradient_norm,
                learning_rate=learning_rate,
                num_tokens=counts.num_tokens,
                num_positions=counts.num_positions,
                step_seconds=step_seconds,
                data_seconds=data_seconds,
            )
            trainer.recorder.step_done(trainer.state, figures, counts.total_steps)
            tell_startup(trainer)

            step = trainer.state.step
            # Also at what looks like the last step: the total may be an estimate, and `finish` repeats none.
            if is_evaluation_due(trainer):
                evaluate(trainer, counts.total_steps)
            if step % spec.checkpoint.every_steps == 0:
                save(trainer)
    return finish(trainer)


@dataclass(frozen=True)
class StepCounts:
    """What all ranks agree on before a step."""

    loss_weight: float
    num_labels: int
    num_tokens: int
    num_positions: int
    num_compared: int
    total_steps: int
    stop: bool
    finished: bool


def written(trainer: Trainer, micro_batches: Sequence[Batch]) -> Sequence[Batch]:
    """The micro-batches of a step, with the rows in them that the student writes itself."""
    return micro_batches if trainer.writer is None else trainer.writer.written(trainer.engine, micro_batches)


def agree_on_step(trainer: Trainer, micro_batches: Sequence[Batch]) -> StepCounts:
    """One collective per step: counts to divide by, whether to stop, whether the budget is spent.

    Rank 0's clock decides a wall-clock budget, so that no two ranks disagree on the last step.
    """
    state, budget = trainer.state, trainer.plan.spec.training.budget
    weight, labels, tokens, positions, compared, stops, elapsed_seconds = trainer.ranks.sums(
        [
            sum(batch.loss_weight for batch in micro_batches),
            sum(batch.num_labels for batch in micro_batches),
            sum(batch.num_tokens for batch in micro_batches),
            sum(batch.num_positions for batch in micro_batches),
            sum(batch.num_compared for batch in micro_batches),
            float(trainer.stop.requested),
            state.train_seconds if trainer.ranks.is_first else 0.0,
        ]
    )
    total_steps = trainer.planned_steps
    if budget.wall_clock_seconds is not None:
        total_steps = estimated_steps(budget.wall_clock_seconds, elapsed_seconds, state.step)
        finished = elapsed_seconds >= budget.wall_clock_seconds
    elif budget.tokens is not None:
        finished = state.tokens >= budget.tokens
    else:
        finished = total_steps is not None and state.step >= total_steps
    if trainer.evaluator is not None:
        finished = finished or trainer.evaluator.has_stopped_improving(state.selection)
    return StepCounts(
        loss_weight=weight,
        num_labels=round(labels),
        num_tokens=round(tokens),
        num_positions=round(positions),
        num_compared=round(compared),
        total_steps=max(state.step, total_steps or 1),
        stop=stops > 0 and not finished,
        finished=finished,
    )


def step_learning_rate(trainer: Trainer, total_steps: int) -> float:
    """The learning rate of the next optimizer step."""
    training = trainer.plan.spec.training
    factor = learning_rate_factor(training.schedule, trainer.state.step, total_steps)
    return training.optimizer.learning_rate * factor


def optimizer_step(
    trainer: Trainer, micro_batches: Sequence[Batch], factors: Sequence[float]
) -> tuple[list[float], float]:
    """Forward, backward and update; this rank's sum of each term and the gradient norm before clipping."""
    engine = trainer.engine
    term_sums = torch.zeros(len(factors), device=trainer.ranks.device)
    factors_on_device = torch.tensor(factors, device=trainer.ranks.device)
    clipped_norm = None
    for index, batch in enumerate(micro_batches):
        torch.manual_seed(dropout_seed(trainer.plan.spec.training.seed, batch.first_row))
        sums = engine.forward(batch).reshape(-1)
        engine.backward(sums, factors_on_device)
        term_sums += sums.detach()
        if index == len(micro_batches) - 1:
            clipped_norm = engine.clip_at_stage_0()
        engine.mark_micro_step()
    return term_sums.tolist(), engine.gradient_norm() if clipped_norm is None else clipped_norm


def dropout_seed(seed: int, first_row: int) -> int:
    """Dropout is a pure function of the seed and the row's number, so no random state has to be saved."""
    return (seed * 0x9E3779B97F4A7C15 + first_row) % 2**63


def advance(state: TrainState, counts: StepCounts, step_seconds: float) -> TrainState:
    """The state after one more step."""
    return state.model_copy(
        update={
            "step": state.step + 1,
            "tokens": state.tokens + counts.num_tokens,
            "train_seconds": state.train_seconds + step_seconds,
        }
    )


def check_finite(trainer: Trainer, loss: float, gradient_norm: float) -> None:
    """Refuse to go on from weights that are no numbers; under FP16 DeepSpeed skips a step that overflows.

    Raises:
        DivergedError: the loss or the gradient is not finite.
    """
    is_scaled = trainer.plan.spec.training.precision == "FP16"
    if not math.isfinite(loss) or not (is_scaled or math.isfinite(gradient_norm)):
        step = trainer.state.step
        raise diverged(f"the loss of step {step} is {loss} (gradient norm {gradient_norm})")


def diverged(problem: str) -> DivergedError:
    """The error of a loss that is not finite; the checkpoints before it stay."""
    return DivergedError(
        "spec.training",
        problem,
        "Lower optimizer.learningRate, lengthen schedule.warmupSteps, or look at the data of that step",
    )


def tell_startup(trainer: Trainer) -> None:
    """After the first step of an attempt, tell where the time until then went."""
    if "firstStepSeconds" not in trainer.startup.seconds:
        trainer.startup.mark("firstStepSeconds")
        parts = trainer.startup.seconds
        trainer.recorder.event("Startup", "first optimizer step", seconds=sum(parts.values()), **parts)


def is_evaluation_due(trainer: Trainer) -> bool:
    """Whether the weights of this step are to be evaluated and have not been."""
    every, state = trainer.plan.spec.training.evaluation.every_steps, trainer.state
    return bool(every and state.step and state.step % every == 0 and state.evaluation_step != state.step)


def evaluate(trainer: Trainer, total_steps: int) -> bool:
    """Judge the model on held-out examples; given up when anybody is told to stop, since a save comes first.

    The best weights so far are saved at once, so that the model can be exported from them.

    Returns:
        Whether it was judged.

    Raises:
        DivergedError: the loss is not finite.
    """
    evaluator, step = trainer.evaluator, trainer.state.step
    maximum_rows = trainer.plan.spec.training.evaluation.maximum_sequences
    batches = trainer.source.evaluation_batches(maximum_rows)
    examination = Examination(trainer.engine, trainer.ranks, step, lambda: trainer.stop.requested)
    trainer.engine.eval()
    if evaluator is None:
        found = measure_loss(examination, batches)
    else:
        found = evaluator.evaluate(
            examination, batches, trainer.state.selection, Path(trainer.plan.paths.run_folder)
        )
    trainer.engine.train()
    if found is None:
        return False
    loss = found.metrics.get(LOSS, math.nan)
    if not math.isfinite(loss):
        # Only the last update can have done that, and no further step would tell.
        raise diverged(f"the evaluation loss after step {step} is {loss}")
    measured = {"evaluation_loss": loss, "evaluation_step": step, "selection": found.selection}
    metrics = None if evaluator is None else found.metrics
    trainer.state = trainer.state.model_copy(update={**measured, "metrics": metrics})
    trainer.recorder.evaluated(trainer.state, total_steps)
    if keeps_best(trainer.plan.spec) and found.selection.best_step == step:
        save(trainer)
    if evaluator is not None and evaluator.has_stopped_improving(found.selection):
        trainer.recorder.event("StoppedEarly", f"no improvement of {evaluator.metric}", step=step)
    return True


def save(trainer: Trainer) -> None:
    """Commit a checkpoint of the current step, or amend the one there is; delete those no longer kept."""
    if trainer.state.step == 0:
        return
    if is_saved(trainer):
        amend_checkpoint(trainer.checkpoints, trainer.ranks, trainer.state)
        return
    started = time.perf_counter()
    path = save_checkpoint(
        trainer.checkpoints,
        trainer.engine,
        trainer.state,
        data_hash=trainer.data_hash,
        optimizer_name=trainer.plan.spec.training.optimizer.name,
        now=trainer.clock(),
    )
    trainer.recorder.checkpoint_committed(path, trainer.state, time.perf_counter() - started)
    if trainer.ranks.is_first:
        best_step = trainer.state.selection.best_step if keeps_best(trainer.plan.spec) else None
        delete_old_checkpoints(trainer.checkpoints, trainer.plan.spec.checkpoint.keep, best_step)


def is_saved(trainer: Trainer) -> bool:
    """Whether the current step has a checkpoint; rank 0 looks and tells the others, so a collective."""
    is_seen = trainer.ranks.is_first and is_committed(trainer.checkpoints, trainer.state.step)
    return bool(trainer.ranks.from_first(int(is_seen)))


def finish(trainer: Trainer) -> ExitCode:
    """The last evaluation and checkpoint.

    A stop during the evaluation saves the trained weights first, and the next attempt evaluates them.
    """
    total_steps = trainer.state.step
    is_evaluated = trainer.state.evaluation_step == total_steps or evaluate(trainer, total_steps)
    save(trainer)
    trainer.recorder.report(trainer.state, total_steps)
    return ExitCode.SUCCEEDED if is_evaluated else ExitCode.PREEMPTED
