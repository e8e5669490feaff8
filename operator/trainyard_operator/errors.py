"""What the API server may answer, as types that tell what to do; `cluster.py` translates once.

ClusterError
    NotFoundError        the object, its namespace or its kind is not there
    AlreadyExistsError   an object of that name is there
    ConflictError        the object is no longer the one, or no longer as, the writer saw it: read again
    ForbiddenError       RBAC, a quota or admission refuses: tell the person, try again slowly
    InvalidError         the API server refuses the object as it is
    ThrottledError       too many requests: wait `retry_after` seconds
    UnavailableError     no answer, or the server failed; the write may or may not have happened
NotLeadingError          another replica leads, or may: do not write
SettingsError            an environment variable of the operator is wrong
"""


class ClusterError(Exception):
    """A request to the API server that did not succeed.

    Args:
        message: what the API server said.
        reason: its machine-readable reason, such as AlreadyExists; empty when there was no answer.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class NotFoundError(ClusterError):
    """The object, its namespace or its kind is not there."""


class AlreadyExistsError(ClusterError):
    """An object of that name is there."""


class ConflictError(ClusterError):
    """The object changed, or is another one, since the writer read it."""


class ForbiddenError(ClusterError):
    """RBAC, a quota or admission refuses the request."""

    @property
    def is_quota(self) -> bool:
        """Whether a ResourceQuota is the cause."""
        return "exceeded quota" in self.message or "failed quota" in self.message


class InvalidError(ClusterError):
    """The API server refuses the object as it is."""


class ThrottledError(ClusterError):
    """The API server asks for a pause.

    Args:
        message: what it said.
        reason: its machine-readable reason.
        retry_after: seconds to wait.
    """

    def __init__(self, message: str, reason: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, reason)
        self.retry_after = retry_after


class UnavailableError(ClusterError):
    """No answer in time, or the server failed; a write may or may not have happened."""


class NotLeadingError(Exception):
    """This replica does not lead, or its lease may have run out."""


class SettingsError(Exception):
    """An environment variable of the operator is wrong.

    Args:
        variable: its name.
        problem: what is wrong, with the value.
        remedy: what to write instead.
    """

    def __init__(self, variable: str, problem: str, remedy: str) -> None:
        super().__init__(f"{variable}: {problem}. {remedy}")
