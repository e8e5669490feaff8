"""The places that a run may read from: protocols, and what a URI must look like."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from trainyard_api.problems import Problem

PROTOCOL_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "file": "",
        "http": "aiohttp",
        "https": "aiohttp",
        "s3": "s3fs",
        "gs": "gcsfs",
        "gcs": "gcsfs",
        "az": "adlfs",
        "abfs": "adlfs",
        "abfss": "adlfs",
        "hf": "huggingface_hub",
    }
)
"""The protocols, each with the Python package that fsspec needs for it; empty where it needs none."""

CHAIN = "::"
"""What fsspec chains file systems with."""

_PROTOCOLS = "|".join(PROTOCOL_PACKAGES)
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CREDENTIALS = re.compile(r"^[^/]+://[^/]*@")
_PARENT = re.compile(r"/\.\.(/|$)")

URI_RULE = (
    "uri names no protocol that a run reads from, chains several with ::, holds credentials or /../, or is a "
    "file:// URI that is not absolute"
)
"""All that `uri_problem` finds, in one line."""

URI_CEL = (
    f"self.matches('^(?i)({_PROTOCOLS})://') && !self.contains('{CHAIN}') && "
    r"!self.matches('/[.][.](/|$)') && !self.matches('^[^/]+://[^/]*@') && "
    "(!self.matches('^(?i)file://') || self.matches('^(?i)file:///'))"
)
"""That `uri_problem` finds nothing, in CEL, at the URI itself."""


def protocol_of(uri: str) -> str:
    """The protocol in lower case; a bare path is one of file."""
    matched = _SCHEME.match(uri)
    return matched[1].lower() if matched else "file"


def protocol_remedy() -> str:
    """What to write instead of another protocol."""
    return f"Use one of {', '.join(PROTOCOL_PACKAGES)}"


def uri_problem(path: str, uri: str) -> Problem | None:
    """What is wrong with the form of a URI, or None."""
    return _place_problem(path, uri) or _form_problem(path, uri)


def _place_problem(path: str, uri: str) -> Problem | None:
    """A URI without a protocol, with one that is not read, or with several."""
    if CHAIN in uri:
        return Problem(
            path,
            f"{uri!r} chains file systems with {CHAIN}, and a run reads from one",
            "Unpack or copy the files first, and name them themselves",
        )
    if not _SCHEME.match(uri):
        absolute = uri if uri.startswith("/") else f"/path/to/{uri.removeprefix('./')}"
        return Problem(
            path, f"{uri!r} has no scheme", f"Write a URI with an absolute path: file://{absolute}"
        )
    if protocol_of(uri) not in PROTOCOL_PACKAGES:
        return Problem(path, f"{protocol_of(uri)}:// is no place that a run reads from", protocol_remedy())
    return None


def _form_problem(path: str, uri: str) -> Problem | None:
    """A URI with credentials, one that is not absolute, or one that leaves its folder."""
    rest = uri.partition("://")[2]
    if _CREDENTIALS.match(uri):
        return Problem(
            path,
            "the URI holds a user name or password, which status, logs and the model's record would show",
            "Remove it, and give the credentials by the environment of the workers",
        )
    if protocol_of(uri) == "file" and not rest.startswith("/"):
        return Problem(
            path, f"{uri!r} is not absolute", f"Write three slashes and an absolute path: file:///{rest}"
        )
    if _PARENT.search(uri):
        return Problem(path, f"{uri!r} leaves the folder that it names by '..'", "Write the path without it")
    return None
