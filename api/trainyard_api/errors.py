"""Errors that cross a border, each with what is wrong, where, the remedy, and whether a retry helps.

TrainyardError
    ConfigurationError      the TrainingRun cannot work as written
    DataError               a source, tokenizer, model or checkpoint file is missing or broken
    UnavailableError        a port, lock or folder is in use
    RunFolderConflictError  the run folder belongs to another spec
    StorageFullError        no space left
    DivergedError           the loss is not finite
    TransientError          a retry may help
    PreemptedError          told to stop; state was saved
"""

from typing import ClassVar

from trainyard_api.names import PERMANENT_EXIT_CODES, ExitCode, Reason


class TrainyardError(Exception):
    """An error with a place, an explanation and a remedy.

    Args:
        where: the spec field (`spec.data.sources[0].uri`) or the file it is about.
        problem: what is wrong, with the values that show it.
        remedy: what to do instead.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL_ERROR
    reason: ClassVar[Reason] = Reason.PROCESS_FAILED

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}. {remedy}")
        self.where = where
        self.problem = problem
        self.remedy = remedy

    @property
    def retryable(self) -> bool:
        """Whether the same run may succeed when it is started again."""
        return self.exit_code not in PERMANENT_EXIT_CODES

    def __reduce__(self) -> tuple[type["TrainyardError"], tuple[str, str, str]]:
        """Rebuild from the three parts, so that the error survives a process pool."""
        return type(self), (self.where, self.problem, self.remedy)


class ConfigurationError(TrainyardError):
    """The TrainingRun cannot work as written."""

    exit_code = ExitCode.INVALID_CONFIGURATION
    reason = Reason.INVALID_CONFIGURATION


class DataError(TrainyardError):
    """A source, tokenizer, model or checkpoint file is missing or broken."""

    exit_code = ExitCode.INVALID_DATA
    reason = Reason.INVALID_DATA


class UnavailableError(TrainyardError):
    """A port, a lock or a folder is in use by another process."""

    exit_code = ExitCode.UNAVAILABLE


class RunFolderConflictError(TrainyardError):
    """The run folder belongs to another spec."""

    exit_code = ExitCode.RUN_FOLDER_CONFLICT


class StorageFullError(TrainyardError):
    """No space is left where the run writes."""

    exit_code = ExitCode.STORAGE_FULL
    reason = Reason.STORAGE_FULL


class DivergedError(TrainyardError):
    """The loss became infinite or not a number."""

    exit_code = ExitCode.DIVERGED
    reason = Reason.DIVERGED


class TransientError(TrainyardError):
    """A fault outside the run's control; a retry may help."""

    exit_code = ExitCode.RETRYABLE


class PreemptedError(TrainyardError):
    """The process was told to stop and left in order."""

    exit_code = ExitCode.PREEMPTED
    reason = Reason.PREEMPTED
