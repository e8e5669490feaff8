"""What a person sees while a run goes on: a live panel on a terminal, lines elsewhere, or next to nothing."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainyard_api.names import Phase
from trainyard_api.status import Progress, TrainingRunStatus
from trainyard_api.task_metrics import LOSS
from trainyard_trainer.run_summary import summary_lines

LINE_INTERVAL_SECONDS = 5.0
REFRESH_PER_SECOND = 4


class Display(Protocol):
    """What the runner tells a person."""

    def message(self, text: str) -> None:
        """Something that happened once."""

    def error(self, text: str) -> None:
        """Something that went wrong."""

    def update(self, status: TrainingRunStatus) -> None:
        """The newest status; called many times a second."""

    def finished(self, status: TrainingRunStatus, run_folder: Path, report: Path) -> None:
        """The run has ended or was stopped."""

    def close(self) -> None:
        """Leave the terminal as it was, also after an error; called last."""


def open_display(console: Console, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> Display:
    """The display that fits: quiet, live on a terminal, lines elsewhere."""
    if quiet:
        return QuietDisplay(console)
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console, clock)


class QuietDisplay:
    """Errors, and one line at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def message(self, text: str) -> None:
        """Nothing."""

    def error(self, text: str) -> None:
        """Print it."""
        self._console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)

    def update(self, status: TrainingRunStatus) -> None:
        """Nothing."""

    def finished(self, status: TrainingRunStatus, run_folder: Path, report: Path) -> None:
        """The phase and the folder."""
        self._console.print(f"{status.phase} {run_folder} {report}", markup=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to leave."""


class LineDisplay:
    """Plain lines, every few seconds and when something happens: for logs and pipes."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._last_line = float("-inf")
        self._last_text = ""

    def message(self, text: str) -> None:
        """Print it."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """Print it."""
        self.message(text)

    def update(self, status: TrainingRunStatus) -> None:
        """A line now and then, when there is something new."""
        if status.progress is None or self._clock() - self._last_line < LINE_INTERVAL_SECONDS:
            return
        text = progress_line(status.progress)
        if text != self._last_text:
            self._last_line, self._last_text = self._clock(), text
            self.message(text)

    def finished(self, status: TrainingRunStatus, run_folder: Path, report: Path) -> None:
        """The figures of the run."""
        for line in summary_lines(status, run_folder, report):
            self.message(line)

    def close(self) -> None:
        """Nothing to leave."""


class LiveDisplay:
    """A panel that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True)
        self._live.start()

    def message(self, text: str) -> None:
        """Print it above the panel."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """Print it in red above the panel."""
        self._console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)

    def update(self, status: TrainingRunStatus) -> None:
        """Redraw the panel."""
        self._live.update(panel(status))

    def finished(self, status: TrainingRunStatus, run_folder: Path, report: Path) -> None:
        """Take the panel away and print the figures of the run."""
        self._live.stop()
        for line in summary_lines(status, run_folder, report):
            self.message(line)

    def close(self) -> None:
        """Take the panel away, and give the cursor back."""
        self._live.stop()


def panel(status: TrainingRunStatus) -> Group:
    """The bar and the figures of the current stage."""
    progress = status.progress
    if progress is None:
        return Group(Text(f"{status.phase} ..."))
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column()
    head.add_column(ratio=1)
    head.add_column(justify="right")
    head.add_row(
        Text(str(progress.stage), style="bold"),
        ProgressBar(total=100.0, completed=progress.percent),
        Text(f"{progress.percent:.0f} %  {left(progress)}"),
    )
    if progress.loss is None:
        return Group(head, Text(progress.detail))
    figures = Table.grid(padding=(0, 3))
    figures.add_row(*[Text(f"{name} {value}") for name, value in training_figures(progress)])
    if status.phase == Phase.RESTARTING or status.restarts:
        return Group(head, figures, Text(f"restarts {status.restarts}", style="yellow"))
    return Group(head, figures)


def training_figures(progress: Progress) -> list[tuple[str, str]]:
    """Names and values of what training tells."""
    figures = [("step", f"{progress.step:,} of {progress.total_steps or 0:,}")]
    if progress.loss is not None:
        figures.append(("loss", f"{progress.loss:.4f}"))
    if progress.evaluation_loss is not None:
        figures.append(("evaluation", f"{progress.evaluation_loss:.4f}"))
    figures += [(name, f"{value:.4f}") for name, value in (progress.metrics or {}).items() if name != LOSS]
    if progress.learning_rate is not None:
        figures.append(("lr", f"{progress.learning_rate:.2e}"))
    if progress.tokens_per_second is not None:
        figures.append(("tokens/s", f"{progress.tokens_per_second:,.0f}"))
    if progress.packing_efficiency is not None:
        figures.append(("filled", f"{100 * progress.packing_efficiency:.1f} %"))
    return figures


def progress_line(progress: Progress) -> str:
    """One line for a log."""
    if progress.loss is None:
        return f"{progress.stage} {progress.percent:.0f} % {progress.detail} {left(progress)}".rstrip()
    figures = "  ".join(f"{name} {value}" for name, value in training_figures(progress))
    return f"{progress.stage} {progress.percent:.0f} %  {figures}  {left(progress)}".rstrip()


def left(progress: Progress) -> str:
    """The time left, in words."""
    return "" if progress.eta_seconds is None else f"{duration(progress.eta_seconds)} left"


def duration(seconds: float) -> str:
    """Seconds in the units people use: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
