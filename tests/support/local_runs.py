"""The `trainyard` command as a person starts it: real processes that tests watch, signal and kill."""

import gzip
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from tests.support.runs import document
from trainyard_api.status import TrainingRunStatus
from trainyard_trainer.checkpoint_steps import committed_steps
from trainyard_trainer.progress import read_history, read_history_lines
from trainyard_trainer.run_folder import read_status

COMMAND = (sys.executable, "-m", "trainyard_trainer")
DEADLINE_SECONDS = 280.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    output: str


def wait_until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> float:
    """Look again and again until something holds; how many seconds that took, or a failed test."""
    started = time.monotonic()
    while not condition():
        elapsed = time.monotonic() - started
        assert elapsed < seconds, f"{what}: not within {seconds} s"
        time.sleep(POLL_SECONDS)
    return time.monotonic() - started


def trainyard(*arguments: str, cwd: Path | None = None) -> Finished:
    """Run a command to its end; both streams in one."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return Finished(done.returncode, done.stdout)


def write_excerpt(corpus_file: Path, target: Path, num_records: int) -> Path:
    """The first records of a file of the corpus, for runs that need not learn much."""
    with gzip.open(corpus_file, "rb") as lines:
        target.write_bytes(b"".join(itertools.islice(lines, num_records)))
    return target


def write_run(folder: Path, source: Path, name: str, **changes: object) -> Path:
    """A TrainingRun file; changes as in `runs.document`."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document(source, name, **changes)), encoding="utf-8")
    return file


@contextmanager
def python_child(code: str, *arguments: str, own_session: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A Python process with pipes as standard input and output; on leaving, it is gone."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=own_session,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@dataclass
class LocalRun:
    """A `trainyard run` that was started."""

    process: subprocess.Popen[bytes]
    folder: Path
    """The run folder."""
    output_file: Path

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.output_file.read_text(encoding="utf-8")

    def wait(self) -> Finished:
        """Wait for its end."""
        return Finished(self.process.wait(DEADLINE_SECONDS), self.output)

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> float:
        """Wait until something holds; fails early when the command has ended before."""

        def holds() -> bool:
            return condition() or (self.process.poll() is not None and not condition() and self.fail(what))

        return wait_until(holds, what, seconds)

    def fail(self, what: str) -> bool:
        """Fail the test with what the command printed."""
        raise AssertionError(f"{what}: the command ended ({self.process.returncode}) before:\n{self.output}")

    def wait_for_step(self, step: int, after_lines: int = 0) -> None:
        """Wait until an optimizer step is in the history, in a line behind `after_lines` others."""

        def is_done() -> bool:
            lines = itertools.islice(read_history_lines(self.folder), after_lines, None)
            return any(record.loss is not None and record.step >= step for record in lines)

        self.wait_for(is_done, f"step {step}")

    def descendants(self) -> list[psutil.Process]:
        """Every process below the runner."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def ranks(self) -> dict[int, psutil.Process]:
        """The processes that train, by rank."""
        found = {}
        for process in self.descendants():
            if "rank" in process.cmdline():
                found[int(process.environ()["RANK"])] = process
        return found

    def signal(self, number: signal.Signals) -> None:
        """Signal the runner."""
        self.process.send_signal(number)


@contextmanager
def started(file: Path, storage: Path, *options: str) -> Iterator[LocalRun]:
    """Start `trainyard run`; on leaving, neither it nor a process of it is left."""
    output_file = file.with_suffix(".out")
    with output_file.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "run", str(file), "--output", str(storage), *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    run = LocalRun(process, storage / file.stem, output_file)
    try:
        yield run
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def num_history_lines(folder: Path) -> int:
    """Lines of the history so far."""
    return sum(1 for _ in read_history_lines(folder))


def losses(folder: Path) -> list[tuple[int, float]]:
    """The loss curve: step and loss, repeated steps once."""
    return [(record.step, record.loss) for record in read_history(folder) if record.loss is not None]


def status_of(folder: Path) -> TrainingRunStatus:
    """The status of a run that has started."""
    status = read_status(folder)
    assert status is not None
    return status


def checkpoints_of(folder: Path) -> list[int]:
    """Steps of the committed checkpoints."""
    return committed_steps(folder / "checkpoints")
