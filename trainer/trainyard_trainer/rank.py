"""The process of one rank: from `train` to an exit code and a record of why it left."""

import errno
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from trainyard_api.errors import ConfigurationError, StorageFullError, TrainyardError, TransientError
from trainyard_api.names import ExitCode, Reason, Stage
from trainyard_api.plan import RunPlan
from trainyard_api.progress import ExitRecord
from trainyard_trainer.exit_records import exit_record_path, gang_logs, write_exit_record
from trainyard_trainer.lifeline import die_with_parent
from trainyard_trainer.progress import timestamp
from trainyard_trainer.progress_push import finish_publishing
from trainyard_trainer.signals import StopRequest

LAST_REPORT_SECONDS = 5.0
"""How long the last report may take when training ended in order; after a fault nobody waits for it."""

OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "Cannot allocate memory")
"""Words of PyTorch's allocators, on accelerators and on a CPU."""

LOST_PEER_WORDS = (
    "Connection closed by peer",
    "Connection reset",
    "Broken pipe",
    "Timed out",
    "NCCL",
    "Gloo",
)


def run_rank(plan_file: Path, stage: Stage = Stage.TRAIN) -> NoReturn:
    """Do the work of this rank and leave by the code that says how it went.

    Leaves by `os._exit`: threads of communication libraries that still run when the interpreter is taken down
    have been seen to abort a process whose work was done and recorded.
    """
    stop = StopRequest()
    stop.install()
    die_with_parent()
    os.dup2(1, 2)
    faulthandler.enable()
    plan = RunPlan.model_validate_json(plan_file.read_bytes())
    rank = int(os.environ.get("RANK", "0"))
    code, reason, message = _work(plan, stop, stage)
    record = ExitRecord(
        rank=rank, exit_code=code, reason=reason, message=message, time=timestamp(time.time())
    )
    write_exit_record(exit_record_path(gang_logs(Path(plan.paths.logs), stage), rank), record)
    if code in (ExitCode.SUCCEEDED, ExitCode.PREEMPTED):
        finish_publishing(LAST_REPORT_SECONDS)
    with suppress(OSError):  # the log may lie on a full disk; the code still has to be told
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _work(plan: RunPlan, stop: StopRequest, stage: Stage) -> tuple[ExitCode, Reason, str]:
    try:
        code = _program(stage)(plan, stop=stop)
    except Exception as error:  # noqa: BLE001 - the process ends here; every error becomes a code and a record
        with suppress(OSError):  # the log may lie on the full disk that this error is about
            traceback.print_exc()
        known = translate(error)
        return known.exit_code, known.reason, str(known)
    return code, Reason.PREEMPTED if code is ExitCode.PREEMPTED else Reason.STAGE_FINISHED, ""


def _program(stage: Stage) -> Callable[..., ExitCode]:
    """What the ranks of a stage do; PyTorch and DeepSpeed load after the signal handler."""
    if stage is Stage.CACHE:
        from trainyard_trainer.cache_stage import write_cache  # noqa: PLC0415

        return write_cache
    from trainyard_trainer.train import train  # noqa: PLC0415

    return train


def translate(error: Exception) -> TrainyardError:
    """The error of Trainyard that stands for any error of a rank."""
    if isinstance(error, TrainyardError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(
            str(error.filename or "the run folder"), "no space is left", "Free space and start the run again"
        )
    if isinstance(error, MemoryError) or any(word in str(error) for word in OUT_OF_MEMORY_WORDS):
        return ConfigurationError(
            "spec.training.microBatchSize",
            f"memory ran out ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
            "Lower it or data.sequenceLength, raise deepspeed.zeroStage, or give the workers more memory",
        )
    if isinstance(error, RuntimeError) and any(word in str(error) for word in LOST_PEER_WORDS):
        return TransientError("the gang", f"another process was lost ({error})", "The gang starts again")
    return TrainyardError(
        "the trainer", f"{type(error).__name__}: {error}", "The log has the traceback; please report it"
    )
