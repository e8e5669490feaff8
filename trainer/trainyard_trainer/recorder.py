"""What rank 0 writes while it trains: progress, history and events; other ranks write nothing."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainyard_api.names import File, Stage
from trainyard_api.progress import EventRecord, HistoryRecord, ProgressReport
from trainyard_api.status import CheckpointStatus, Progress
from trainyard_trainer.accounting import WorkLedger
from trainyard_trainer.checkpoint import CommittedCheckpoint, TrainState
from trainyard_trainer.progress import (
    append_record,
    read_history_lines,
    read_work,
    timestamp,
    write_json_atomically,
)
from trainyard_trainer.progress_push import ProgressSink, publish
from trainyard_trainer.training_record import StartRecord

PROGRESS_INTERVAL_SECONDS = 1.0
RATE_WINDOW_STEPS = 20


@dataclass(frozen=True)
class StepFigures:
    """What one optimizer step measured, over all ranks."""

    loss: float
    """Mean over predictions: nats for tokens and classes, squared error for numbers."""
    loss_terms: Mapping[str, float]
    """Mean of each term of the loss before its weight."""
    gradient_norm: float
    """L2 norm before clipping."""
    learning_rate: float
    """Rate of the step."""
    num_tokens: int
    """Tokens, padding not counted."""
    num_positions: int
    """Positions, padding counted."""
    step_seconds: float
    """How long it took."""
    data_seconds: float
    """How much of it rank 0 waited for data."""


class Recorder:
    """Writes the files of a run folder that tell of training.

    Args:
        run_folder: where; None writes nothing (ranks other than 0).
        attempt: number of this start of the gang.
        clock: Unix time in seconds.
        sink: gets every progress report as well; the operator, where there is one.
    """

    def __init__(
        self,
        run_folder: Path | None,
        attempt: int,
        clock: Callable[[], float],
        sink: ProgressSink = publish,
    ) -> None:
        self._folder = run_folder
        self._attempt = attempt
        self._clock = clock
        self._sink = sink
        self._last_report: ProgressReport | None = None
        self._checkpoint: CheckpointStatus | None = None
        self._recent: deque[StepFigures] = deque(maxlen=RATE_WINDOW_STEPS)
        self._last_report_time = float("-inf")
        self._ledger = resumed_ledger(run_folder) if run_folder is not None else WorkLedger()

    def step_done(self, state: TrainState, figures: StepFigures, total_steps: int) -> None:
        """Tell of an optimizer step; the progress report follows at most once a second."""
        self._recent.append(figures)
        self._append_history(
            HistoryRecord(
                step=state.step,
                time=self._clock(),
                loss=figures.loss,
                loss_terms=dict(figures.loss_terms) if len(figures.loss_terms) > 1 else None,
                learning_rate=figures.learning_rate,
                gradient_norm=figures.gradient_norm,
                tokens=figures.num_tokens,
                positions=figures.num_positions,
                step_seconds=round(figures.step_seconds, 6),
                data_seconds=round(figures.data_seconds, 6),
            )
        )
        if self._clock() - self._last_report_time >= PROGRESS_INTERVAL_SECONDS:
            self.report(state, total_steps)

    def evaluated(self, state: TrainState, total_steps: int) -> None:
        """Tell of an evaluation."""
        self._append_history(
            HistoryRecord(
                step=state.step,
                time=self._clock(),
                evaluation_loss=state.evaluation_loss,
                metrics=state.metrics,
            )
        )
        self.report(state, total_steps, urgent=True)

    def checkpoint_committed(self, path: Path, state: TrainState, seconds: float) -> None:
        """Tell of a new checkpoint."""
        self._checkpoint = CheckpointStatus(
            step=state.step, uri=path.as_uri(), committed_at=timestamp(self._clock())
        )
        self.event("CheckpointCommitted", f"step {state.step}", seconds=seconds, step=state.step)
        self._keep_work()
        if self._last_report is not None:
            self._tell(self._last_report.model_copy(update={"checkpoint": self._checkpoint}), urgent=True)

    def resumed(self, checkpoint: CommittedCheckpoint) -> None:
        """Tell which checkpoint training goes on from."""
        self._checkpoint = CheckpointStatus(
            step=checkpoint.step, uri=checkpoint.path.as_uri(), committed_at=checkpoint.committed_at
        )
        self.event("Resumed", f"from step {checkpoint.step}", step=checkpoint.step)

    def started_from(self, name: str, record: StartRecord) -> None:
        """Tell which stored model training starts from, and which weights that model did not give."""
        if self._folder is None:
            return
        write_json_atomically(self._folder / File.START, record)
        message = f"{name}, hash {record.hash[:12]}"
        if record.initialised:
            message += f"; drawn from the seed: {', '.join(record.initialised)}"
        if record.unused:
            message += f"; not used: {', '.join(record.unused)}"
        self.event("StartedFromModel", message, initialised=float(len(record.initialised)))

    def event(self, kind: str, message: str, *, seconds: float | None = None, **values: float) -> None:
        """Tell of something that happens once."""
        if self._folder is None:
            return
        append_record(
            self._folder / File.EVENTS,
            EventRecord(
                time=self._clock(),
                type=kind,
                stage=Stage.TRAIN,
                attempt=self._attempt,
                message=message,
                seconds=seconds,
                values=values,
            ),
        )

    def report(self, state: TrainState, total_steps: int, *, urgent: bool = False) -> None:
        """Replace the progress report; an urgent one reaches the operator at once."""
        self._last_report_time = self._clock()
        if self._folder is None:
            return
        report = ProgressReport(
            attempt=self._attempt,
            progress=self._progress(state, total_steps),
            checkpoint=self._checkpoint,
            work=self._ledger.work,
        )
        self._tell(report, urgent=urgent)

    def _tell(self, report: ProgressReport, *, urgent: bool) -> None:
        if self._folder is None:
            return
        self._last_report = report
        write_json_atomically(self._folder / File.PROGRESS, report)
        self._sink(report, urgent=urgent)

    def _progress(self, state: TrainState, total_steps: int) -> Progress:
        newest = self._recent[-1] if self._recent else None
        seconds = sum(figures.step_seconds for figures in self._recent)
        tokens = sum(figures.num_tokens for figures in self._recent)
        positions = sum(figures.num_positions for figures in self._recent)
        steps_left = max(0, total_steps - state.step)
        return Progress(
            stage=Stage.TRAIN,
            detail="train",
            step=state.step,
            total_steps=total_steps,
            tokens=state.tokens,
            percent=round(100.0 * state.step / total_steps, 2),
            loss=newest.loss if newest else None,
            evaluation_loss=state.evaluation_loss,
            metrics=state.metrics,
            learning_rate=newest.learning_rate if newest else None,
            gradient_norm=newest.gradient_norm if newest else None,
            tokens_per_second=round(tokens / seconds, 1) if seconds else None,
            packing_efficiency=round(tokens / positions, 4) if positions else None,
            eta_seconds=round(steps_left * seconds / len(self._recent)) if self._recent else None,
            updated_at=timestamp(self._clock()),
        )

    def _keep_work(self) -> None:
        """Keep the sums, so that the next start reads only what comes after them."""
        if self._folder is not None and (history := self._folder / File.HISTORY).exists():
            record = self._ledger.record(history.stat().st_size)
            write_json_atomically(self._folder / File.WORK, record)

    def _append_history(self, record: HistoryRecord) -> None:
        if self._folder is not None:
            append_record(self._folder / File.HISTORY, record)
            self._ledger.add(record)


def resumed_ledger(run_folder: Path) -> WorkLedger:
    """The sums over the history of a run; only what came after the newest checkpoint is read for them."""
    start = read_work(run_folder)
    return WorkLedger(read_history_lines(run_folder, start.history_bytes if start is not None else 0), start)
