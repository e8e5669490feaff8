"""What a person sees: a panel on a terminal, lines elsewhere, next to nothing when quiet."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from trainyard_api.names import Phase, Stage
from trainyard_api.status import CheckpointStatus, Condition, Progress, TrainingRunStatus
from trainyard_trainer.display import (
    LINE_INTERVAL_SECONDS,
    LineDisplay,
    LiveDisplay,
    QuietDisplay,
    duration,
    left,
    open_display,
    panel,
    progress_line,
)

TIME = "2026-11-25T01:13:17Z"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"

PREPARE = Progress(
    stage=Stage.PREPARE, detail="tokenize: 12.5 MB of 50.0 MB", percent=25.0, eta_seconds=8, updated_at=TIME
)
STARTING = Progress(stage=Stage.TRAIN, detail="starting", updated_at=TIME)
TRAIN = Progress(
    stage=Stage.TRAIN,
    step=1420,
    total_steps=2000,
    tokens=5_000_000,
    percent=71.0,
    loss=3.14159,
    evaluation_loss=3.5,
    learning_rate=0.0005,
    tokens_per_second=8000.4,
    packing_efficiency=0.985,
    eta_seconds=200,
    updated_at=TIME,
)


TRAIN_LINE = (
    "Train 71 %  step 1,420 of 2,000  loss 3.1416  evaluation 3.5000  lr 5.00e-04  tokens/s 8,000  "
    "filled 98.5 %  3 min 20 s left"
)


def status(progress=None, phase=Phase.RUNNING, **fields):
    return TrainingRunStatus(phase=phase, progress=progress, **fields)


def shown(renderable):
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (PREPARE, "Prepare 25 % tokenize: 12.5 MB of 50.0 MB 8 s left"),
        (STARTING, "Train 0 % starting"),
        (
            TRAIN,
            TRAIN_LINE,
        ),
        (
            Progress(stage=Stage.TRAIN, step=1, total_steps=2, percent=50, loss=7.0, updated_at=TIME),
            "Train 50 %  step 1 of 2  loss 7.0000",
        ),
    ],
    ids=["preparation", "training starts", "training", "figures that are not there yet are left out"],
)
def test_a_line_says_how_far_a_stage_is(progress, line):
    assert progress_line(progress) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.2, "1 s"),
        (59.5, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (7530, "2 h 5 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_durations_are_told_in_the_units_people_use(seconds, text):
    assert duration(seconds) == text


def test_an_unknown_time_left_is_not_told():
    assert left(STARTING) == ""
    assert left(PREPARE) == "8 s left"


def test_the_panel_shows_the_phase_before_anything_is_known():
    assert shown(panel(status(phase=Phase.PENDING))) == "Pending ...\n"


def test_the_panel_of_a_preparation_has_bar_detail_and_time_left():
    text = shown(panel(status(PREPARE)))
    assert re.search(r"Prepare +\S+ +25 %  8 s left", text)
    assert "tokenize: 12.5 MB of 50.0 MB" in text


def test_the_panel_of_training_has_every_figure():
    text = shown(panel(status(TRAIN)))
    assert re.search(r"Train +\S+ +71 %  3 min 20 s left", text)
    for figure in ("step 1,420 of 2,000", "loss 3.1416", "evaluation 3.5000", "tokens/s 8,000"):
        assert figure in text
    assert "restarts" not in text


def test_the_panel_tells_of_restarts():
    assert "restarts 2" in shown(panel(status(TRAIN, restarts=2)))
    assert "restarts 1" in shown(panel(status(TRAIN, Phase.RESTARTING, restarts=1)))


def test_the_panel_fits_a_narrow_terminal():
    console = Console(file=io.StringIO(), width=40)
    console.print(panel(status(TRAIN)))
    assert max(map(len, console.file.getvalue().splitlines())) <= 40


@pytest.mark.parametrize(
    ("terminal", "quiet", "kind"),
    [(True, False, LiveDisplay), (False, False, LineDisplay), (True, True, QuietDisplay)],
)
def test_the_display_fits_where_it_is_shown(terminal, quiet, kind):
    display = open_display(Console(file=io.StringIO(), force_terminal=terminal), quiet=quiet)
    try:
        assert type(display) is kind
    finally:
        display.close()


def test_lines_come_now_and_then_and_only_with_news():
    now = 0.0
    console = Console(file=io.StringIO())
    display = LineDisplay(console, lambda: now)
    for half_seconds in range(41):
        now = half_seconds / 2
        display.update(status(TRAIN.model_copy(update={"step": half_seconds // 2})))
    lines = console.file.getvalue().splitlines()
    steps = [int(re.search(r"step (\d+)", line)[1]) for line in lines]
    assert steps == list(range(0, 21, round(LINE_INTERVAL_SECONDS)))
    now = 1000.0
    display.update(status(TRAIN.model_copy(update={"step": 20})))
    display.update(status())
    assert console.file.getvalue().splitlines() == lines


ENDED = status(
    TRAIN,
    Phase.FAILED,
    conditions=[
        Condition(
            type="Failed", status="True", reason="X", message="rank 1 [died]", last_transition_time=TIME
        )
    ],
    checkpoint=CheckpointStatus(step=1400, uri="file:///c/step-00001400", committed_at=TIME),
)


def test_lines_are_printed_as_they_are_and_end_with_the_figures_of_the_run(tmp_path):
    console = Console(file=io.StringIO(), width=30)
    display = LineDisplay(console, lambda: 0.0)
    display.message("Train started [bold]attempt 0[/bold], in a line that is longer than the console")
    display.error("rank 1: ProcessKilled")
    display.finished(ENDED, Path("/runs/x"), Path("/runs/x/report.html"))
    display.close()
    assert console.file.getvalue().splitlines() == [
        "Train started [bold]attempt 0[/bold], in a line that is longer than the console",
        "rank 1: ProcessKilled",
        "Failed: /runs/x",
        "Failed: rank 1 [died]",
        "steps 1,420, tokens 5,000,000",
        "evaluation loss 3.5000 nats (perplexity 33.1)",
        "checkpoint of step 1,400: file:///c/step-00001400",
        "report: /runs/x/report.html",
    ]


def test_quiet_prints_errors_and_the_last_line():
    console = Console(file=io.StringIO())
    display = QuietDisplay(console)
    display.message("Train started")
    display.update(status(TRAIN))
    display.error("rank 1: [died]")
    display.finished(ENDED, Path("/runs/x"), Path("/runs/x/report.html"))
    display.close()
    assert console.file.getvalue() == "rank 1: [died]\nFailed /runs/x /runs/x/report.html\n"


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)


def test_the_live_panel_is_redrawn_and_gives_way_to_the_figures(terminal):
    display = LiveDisplay(terminal)
    display.message("Train started (attempt 0)")
    display.update(status(TRAIN))
    display._live.refresh()
    display.error("rank 0 was killed")
    display.update(status(TRAIN, Phase.RESTARTING, restarts=1))
    display._live.refresh()
    display.finished(ENDED, Path("/runs/x"), Path("/runs/x/report.html"))
    display.close()
    text = terminal.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    for part in ("Train started (attempt 0)", "step 1,420 of 2,000", "restarts 1", "rank 0 was killed"):
        assert part in plain
    assert plain.rstrip().splitlines()[-1].strip() == "report: /runs/x/report.html"
    assert text.index(HIDE_CURSOR) < text.rindex(SHOW_CURSOR)
    assert text.count(HIDE_CURSOR) == 1
    assert HIDE_CURSOR not in text[text.rindex(SHOW_CURSOR) :]


def test_an_error_before_the_end_gives_the_cursor_back(terminal):
    display = LiveDisplay(terminal)
    display.update(status(TRAIN))
    display.close()
    text = terminal.file.getvalue()
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    assert not display._live.is_started


def test_a_task_shows_its_metrics_beside_the_loss():
    line = progress_line(TRAIN.model_copy(update={"metrics": {"Loss": 3.5, "MacroF1": 0.91234}}))
    assert "evaluation 3.5000  MacroF1 0.9123  lr" in line
