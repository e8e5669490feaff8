"""The processes of the stages that are no gang: Read, Prepare and Export."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import Environment, ExitCode, File, Stage
from trainyard_api.plan import RunPlan
from trainyard_api.progress import ExitRecord, ProgressReport
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.status import Progress
from trainyard_trainer.data.manifest import DataManifest
from trainyard_trainer.data.progress import PrepareReport
from trainyard_trainer.exit_records import stage_exit_record_path, write_exit_record
from trainyard_trainer.lifeline import die_with_runner
from trainyard_trainer.optimization.budgets import checked_steps
from trainyard_trainer.pod import explained, is_in_pod, leave_message, write_lines_at_once
from trainyard_trainer.progress import read_progress, timestamp, write_json_atomically
from trainyard_trainer.progress_push import ProgressSink, finish_publishing, publish
from trainyard_trainer.rank import LAST_REPORT_SECONDS, translate
from trainyard_trainer.signals import STOP_SIGNALS, StopRequest

MODEL_STATUS = "model_status.json"
"""Where Export tells the runner what it made, in the folder of the attempt's logs."""
FIRST_DEVICE = "/dev/nvidia0"
"""Where it exists, training computes on devices, whose memory only training itself can ask for."""
PRINT_SECONDS = 10.0
"""How often a shard in a pod tells in its log how far it is."""


class PrepareReporter:
    """Turns what the preparation tells into progress reports.

    Args:
        run_folder: where progress.json is.
        attempt: number of this attempt.
        sink: gets every report as well; the operator, where there is one.
        stage: Prepare, or Read for a shard.
        prefix: begins every detail.
    """

    def __init__(
        self,
        run_folder: Path,
        attempt: int,
        sink: ProgressSink = publish,
        *,
        stage: Stage = Stage.PREPARE,
        prefix: str = "",
    ) -> None:
        self._file = run_folder / File.PROGRESS
        self._attempt = attempt
        self._sink = sink
        self._stage = stage
        self._prefix = prefix
        self._step = ""
        self._started = 0.0

    def __call__(self, step: str, done: int, total: int | None, unit: str) -> None:
        """Report one step's state, with its rate and the time it still takes."""
        now = time.time()
        if step != self._step:
            self._step, self._started = step, now
        elapsed = now - self._started
        rate = done / elapsed if elapsed > 0 else 0.0
        of_total = f" of {amount(total, unit)}" if total else ""
        progress = Progress(
            stage=self._stage,
            detail=f"{self._prefix}{step}: {amount(done, unit)}{of_total}"
            + (f", {amount(round(rate), unit)}/s" if rate else ""),
            percent=round(100.0 * done / total, 1) if total else 0.0,
            eta_seconds=round((total - done) / rate) if total and rate else None,
            updated_at=timestamp(now),
        )
        report = ProgressReport(attempt=self._attempt, progress=progress)
        write_json_atomically(self._file, report)
        self._sink(report)


def amount(number: int, unit: str) -> str:
    """A number of bytes in MB, of anything else with separators: `12.5 MB`, `1,234 documents`."""
    return f"{number / 1e6:.1f} MB" if unit == "bytes" else f"{number:,} {unit}"


@contextmanager
def recorded(logs: Path, stage: Stage, index: int = 0) -> Iterator[None]:
    """Store why the process leaves, for the runner, when an error is why."""
    try:
        yield
    except Exception as error:
        known = translate(error)
        record = ExitRecord(
            rank=index,
            exit_code=known.exit_code,
            reason=known.reason,
            message=str(known),
            time=timestamp(time.time()),
        )
        write_exit_record(stage_exit_record_path(logs, stage, index), record)
        raise


def run_read(plan_file: Path, environment: Mapping[str, str]) -> int:
    """Read the shard of a plan that the environment names.

    Raises:
        TrainyardError: what is wrong with a source, or with the number of the shard.
    """
    from trainyard_trainer.data.prepare import read_shard  # noqa: PLC0415 - after the signal handler

    die_with_runner()
    stop = StopRequest()
    stop.install()
    plan = RunPlan.model_validate_json(plan_file.read_bytes())
    write_lines_at_once()
    shard = shard_of(plan, environment)
    with explained(environment, rank=shard), recorded(Path(plan.paths.logs), Stage.READ, shard):
        read_shard(
            plan,
            shard,
            report=shard_report(plan, shard, environment),
            cores=plan.shard_processes or len(os.sched_getaffinity(0)),
            should_stop=lambda: stop.requested,
        )
    sys.stdout.write(f"shard {shard} of {plan.spec.data.preparation.shards} is read\n")
    finish_publishing(LAST_REPORT_SECONDS)
    return ExitCode.SUCCEEDED


def shard_of(plan: RunPlan, environment: Mapping[str, str]) -> int:
    """The number of the shard that this process reads.

    Raises:
        ConfigurationError: there is none, or no such shard.
    """
    text, num_shards = environment.get(Environment.SHARD_INDEX, ""), plan.spec.data.preparation.shards
    if not text.isdecimal() or int(text) >= num_shards:
        raise ConfigurationError(
            Environment.SHARD_INDEX,
            f"{text!r} is no number of a shard",
            f"Set it to one from 0 to {num_shards - 1}; a Job with completionMode Indexed does",
        )
    return int(text)


def shard_report(plan: RunPlan, shard: int, environment: Mapping[str, str]) -> PrepareReport:
    """Where a shard tells how far it is.

    In a pod that is its log. The first one also tells the operator, which knows of the others only when they
    are done: reports of all would replace each other.
    """
    printer = StepPrinter(sys.stdout.write)
    if is_in_pod(environment) and shard > 0:
        return printer
    run_folder = Path(plan.paths.run_folder)
    run_folder.mkdir(parents=True, exist_ok=True)
    reporter = PrepareReporter(
        run_folder,
        plan.attempt,
        stage=Stage.READ,
        prefix=f"shard {shard + 1} of {plan.spec.data.preparation.shards}, ",
    )
    if not is_in_pod(environment):
        return reporter

    def tell(step: str, done: int, total: int | None, unit: str) -> None:
        printer(step, done, total, unit)
        reporter(step, done, total, unit)

    return tell


class StepPrinter:
    """Prints the beginning of each step, and how far it is now and then.

    Args:
        write: takes lines.
        clock: seconds that only grow.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._printed_at = clock()

    def __call__(self, step: str, done: int, total: int | None, unit: str) -> None:
        """Take one report."""
        if done and self._clock() - self._printed_at < PRINT_SECONDS:
            return
        self._printed_at = self._clock()
        of_total = f" of {amount(total, unit)}" if total else ""
        self._write(f"{step}: {amount(done, unit)}{of_total}\n")


def run_prepare(plan_file: Path, cores: int) -> int:
    """Prepare the data of a plan.

    Raises:
        TrainyardError: what is wrong with a source, or with the schedule on this much data.
    """
    from trainyard_trainer.data.prepare import prepare  # noqa: PLC0415 - after the signal handler

    die_with_runner()
    stop = StopRequest()
    stop.install()
    plan = RunPlan.model_validate_json(plan_file.read_bytes())
    # In a pod nobody has made it: preparation is the first thing that a run does.
    run_folder = Path(plan.paths.run_folder)
    run_folder.mkdir(parents=True, exist_ok=True)
    reporter = PrepareReporter(run_folder, plan.attempt)
    write_lines_at_once()
    with explained(os.environ), recorded(Path(plan.paths.logs), Stage.PREPARE):
        check_image(plan, os.environ)
        prepare(plan, report=reporter, cores=cores or cores_of(plan), should_stop=lambda: stop.requested)
        check_training(plan)
    finish_publishing(LAST_REPORT_SECONDS)
    return ExitCode.SUCCEEDED


def check_image(plan: RunPlan, environment: Mapping[str, str]) -> None:
    """Refuse an image that cannot use the devices of training, before text is read and devices are held.

    Raises:
        ConfigurationError: its PyTorch cannot drive them.
    """
    if not plan.spec.workers.accelerator.count:
        return
    # PyTorch takes seconds to import, which no other preparation needs.
    from trainyard_trainer.devices import check_build, given_devices  # noqa: PLC0415

    given = given_devices(plan.spec.workers, environment)
    if given is not None:
        check_build(given)


def check_training(plan: RunPlan) -> None:
    """Refuse what the data or the model does not allow, before accelerators are held for it.

    Raises:
        TrainyardError: the schedule needs more steps than there are, the metric does not fit the labels, the
            adaptation or a rule of the optimizer does not fit the model or the steps, a layer of teacher or
            student that is named does not exist, or the data is damaged.
    """
    from trainyard_trainer.data.dataset import open_prepared  # noqa: PLC0415 - after the signal handler
    from trainyard_trainer.data.labelled.dataset import open_labelled  # noqa: PLC0415
    from trainyard_trainer.data.labelled.task import labelled_task  # noqa: PLC0415
    from trainyard_trainer.evaluation.metric_choice import choose_metric  # noqa: PLC0415

    spec, run_folder = plan.spec, Path(plan.paths.run_folder)
    data = open_prepared(run_folder) if labelled_task(spec) is None else open_labelled(run_folder)
    num_steps = checked_steps(spec.training, num_rows=len(data.train), num_tokens=data.train.num_tokens)
    if spec.fine_tuning is not None:
        labels = data.manifest.labels
        choose_metric(spec.fine_tuning, labels.names if labels is not None else ())
    check_declared_room(plan, data.manifest, data.prepared)
    if names_parts_of_model(spec):
        # PyTorch takes seconds to import, and most preparations need none of it.
        from trainyard_trainer.models.fit import check_fit  # noqa: PLC0415

        check_fit(spec, data, num_steps)
    if spec.distillation is not None:
        from trainyard_trainer.models.student_fit import check_student  # noqa: PLC0415 - likewise

        check_student(spec, data)


def check_declared_room(plan: RunPlan, manifest: DataManifest, prepared: Path) -> None:
    """Refuse a teacher that is larger than the memory that the run's processes will have, if that is known.

    Raises:
        ConfigurationError: it is, with figures and what helps.
    """
    from trainyard_trainer.data.base_model import weights_folder  # noqa: PLC0415 - after the signal handler
    from trainyard_trainer.data.model_place import teacher_place  # noqa: PLC0415
    from trainyard_trainer.data.stored_size import stored_size  # noqa: PLC0415
    from trainyard_trainer.memory_limit import host_memory  # noqa: PLC0415
    from trainyard_trainer.models.teacher_room import check_room, declared_room  # noqa: PLC0415

    place = teacher_place(plan)
    is_elsewhere = is_in_pod(os.environ)
    if place is None or manifest.teacher is None or (not is_elsewhere and Path(FIRST_DEVICE).exists()):
        return
    room = declared_room(plan, None if is_elsewhere else host_memory())
    size = stored_size(weights_folder(place, prepared, manifest.teacher))
    vocabulary_size = manifest.tokenizer.vocabulary_size
    check_room(plan, size, room, vocabulary_size, trains=not plan.spec.caches_teacher)


def names_parts_of_model(spec: TrainingRunSpec) -> bool:
    """Whether a fine-tuning names layers or parameters, which only its model's configuration can tell."""
    if spec.fine_tuning is None:
        return False
    adaptation = spec.fine_tuning.adaptation
    of_adaptation = (adaptation.adapter, adaptation.frozen_layers, adaptation.unfreeze_every_steps)
    return any((*of_adaptation, spec.training.optimizer.parameter_groups))


def cores_of(plan: RunPlan) -> int:
    """The worker processes that the plan says, or one for each core that this process may use."""
    return plan.preparation_processes or len(os.sched_getaffinity(0))


def run_export(plan_file: Path) -> int:
    """Export the model of a plan.

    Raises:
        TrainyardError: there is no checkpoint, or it does not give the model that the plan describes.
    """
    die_with_runner()
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)
    write_lines_at_once()
    with explained(os.environ):
        return _export(RunPlan.model_validate_json(plan_file.read_bytes()))


def _export(plan: RunPlan) -> int:
    from trainyard_trainer.export import export  # noqa: PLC0415 - torch loads after the lifeline

    logs = Path(plan.paths.logs)
    publish(export_report(plan, 0.0))
    with recorded(logs, Stage.EXPORT):
        status = export(plan)
        logs.mkdir(parents=True, exist_ok=True)
        write_json_atomically(logs / MODEL_STATUS, status)
    leave_message(status, os.environ)
    publish(export_report(plan, 100.0))
    finish_publishing(LAST_REPORT_SECONDS)
    return ExitCode.SUCCEEDED


def export_report(plan: RunPlan, percent: float) -> ProgressReport:
    """The report of the export: how training ended, in a new stage.

    It goes to the operator only: progress.json keeps the last word of training.
    """
    trained = read_progress(Path(plan.paths.run_folder))
    changes = {"stage": Stage.EXPORT, "detail": "", "percent": percent, "eta_seconds": None}
    now = timestamp(time.time())
    progress = trained.progress if trained is not None else Progress(stage=Stage.EXPORT, updated_at=now)
    return ProgressReport(
        attempt=plan.attempt,
        progress=progress.model_copy(update={**changes, "updated_at": now}),
        checkpoint=trained.checkpoint if trained is not None else None,
    )


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Leave an export: its folder appears whole or not at all, so there is nothing to save."""
    del number, frame
    sys.exit(ExitCode.PREEMPTED)
