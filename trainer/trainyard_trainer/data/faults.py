"""Errors of file systems and their clients: whether a retry may help, and what a person is told."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from trainyard_api.errors import DataError, TrainyardError, TransientError

MAXIMUM_CAUSES = 10


class Fault(StrEnum):
    """Why a place cannot be read."""

    TRANSIENT = "cannot be reached"
    ABSENT = "is not there"
    REFUSED = "may not be read"
    REJECTED = "is no request that its server takes"


_TRANSIENT_STATUSES = frozenset({408, 425, 429, *range(500, 600)} - {501, 505})
_STATUSES = {401: Fault.REFUSED, 403: Fault.REFUSED, 404: Fault.ABSENT, 410: Fault.ABSENT}
_CLASSES = {
    Fault.REFUSED: {
        "ClientAuthenticationError",  # azure
        "ClientConnectorCertificateError",  # aiohttp
        "CredentialRetrievalError",  # botocore
        "DefaultCredentialsError",  # google
        "NoCredentialsError",  # botocore
        "SSLCertVerificationError",
    },
    Fault.TRANSIENT: {
        "ClientConnectionError",  # aiohttp
        "ClientPayloadError",  # aiohttp: the connection ended early
        "ConnectionError",
        "HTTPClientError",  # botocore
        "IncompleteRead",  # http.client
        "RevisionResolutionError",  # huggingface_hub: it could not be asked what a revision is
        "ServiceRequestError",  # azure
        "ServiceResponseError",  # azure
        "TimeoutError",
        "TransportError",  # google, httpx
        "XetDownloadError",  # huggingface_hub
        "gaierror",
    },
    Fault.ABSENT: {"FileNotFoundError"},
}
"""Names of classes, also of packages that may not be installed; certificates come before connections."""

_REMEDIES = {
    Fault.TRANSIENT: "Check the network and the server, and start the run again",
    Fault.ABSENT: "Correct the URI",
    Fault.REFUSED: "Give the processes credentials (or certificates) for it",
    Fault.REJECTED: "Correct the URI, or copy the files to other storage",
}


def fault_of(error: BaseException) -> Fault | None:
    """What an error of a file system means; None when it does not tell.

    Clients wrap errors (fsspec calls a refused connection FileNotFoundError), so causes are looked at, and
    the status of a server's answer counts more than any class.
    """
    causes = list(_causes(error))
    for cause in causes:
        status = _status(cause)
        if status in _TRANSIENT_STATUSES:
            return Fault.TRANSIENT
        if status is not None:
            return _STATUSES.get(status, Fault.REJECTED)
    names = {each.__name__ for cause in causes for each in type(cause).__mro__}
    found = next((fault for fault, classes in _CLASSES.items() if names & classes), None)
    return Fault.REFUSED if found is None and "PermissionError" in names else found


def fault_error(error: BaseException, where: str, uri: str) -> TrainyardError | None:
    """The error of a run for an error of a file system; None when that does not tell what it means.

    Args:
        error: what was raised.
        where: the field of the spec, or the file.
        uri: what could not be read.
    """
    fault = fault_of(error)
    if fault is None:
        return None
    kind = TransientError if fault is Fault.TRANSIENT else DataError
    details = "; ".join(dict.fromkeys(str(cause) or type(cause).__name__ for cause in _causes(error)))
    return kind(where, f"{uri} {fault}: {details}", _REMEDIES[fault])


@contextmanager
def reading(where: str, uri: str, remedy: str) -> Iterator[None]:
    """Errors of file systems, and of what they return, as those of a run.

    Args:
        where: the field of the spec that names the place.
        uri: the place.
        remedy: what to do when the error does not tell.

    Raises:
        TransientError: it cannot be reached now.
        DataError: it is not there, may not be read, or cannot be understood.
    """
    try:
        yield
    except TrainyardError:
        raise
    except Exception as error:
        if told := fault_error(error, where, uri):
            raise told from error
        if isinstance(error, (OSError, ValueError)):
            raise DataError(where, f"{uri} cannot be read: {error}", remedy) from error
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it."""
    cause: BaseException | None = error
    for _ in range(MAXIMUM_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of aiohttp, gcsfs, azure, requests, httpx or botocore."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, Mapping):
        metadata = response.get("ResponseMetadata")
        return metadata.get("HTTPStatusCode") if isinstance(metadata, Mapping) else None
    places = [(error, "status"), (error, "status_code"), (error, "code"), (response, "status_code")]
    found = (getattr(holder, name, None) for holder, name in places)
    return next((value for value in found if isinstance(value, int) and 400 <= value < 600), None)
