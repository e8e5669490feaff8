"""Places that text, tokenizers and models are read from: how they are opened, and when they have changed."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import fsspec

from trainyard_api.errors import ConfigurationError
from trainyard_api.uris import CHAIN, PROTOCOL_PACKAGES, protocol_of, protocol_remedy
from trainyard_trainer.data.faults import reading
from trainyard_trainer.data.web import is_web, open_web, web_options

PROTOCOLS = tuple(PROTOCOL_PACKAGES)
WEB_PROTOCOLS = frozenset({"http", "https"})
READ_BYTES = 1 << 22

CONTENT_HASH = "sha256"
"""What `measured` calls the hash of what it has read."""
_EXACT = ("ETag", "etag", "md5Hash", "blob_id", CONTENT_HASH)
"""What stores call a value that no other content has: S3 and HTTP, Azure, GCS, the Hugging Face hub."""
_DATED = (
    "ETag",
    "Content-MD5",
    "Digest",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)
"""What else tells of a change: weak tags, digests of answers, and times."""
_WEAK_TAG = "W/"


def is_local(uri: str) -> bool:
    """Whether a URI or path lies in a file system of this machine."""
    return protocol_of(uri) == "file"


def open_location(uri: str, where: str) -> tuple[Any, str]:
    """The fsspec file system of a URI, and the path in it.

    Args:
        uri: a URI or a bare path.
        where: the field of the spec that names it.

    Raises:
        ConfigurationError: it is no place that a run reads from, or a package for it is missing.
        TransientError: it cannot be reached.
        DataError: the URI cannot be understood.
    """
    protocol = protocol_of(uri)
    if CHAIN in uri or protocol not in PROTOCOLS:
        raise ConfigurationError(where, f"{uri} is no place that a run reads from", protocol_remedy())
    rest = uri.partition("://")[2] if "://" in uri else uri
    with reading(where, uri, "Correct the URI"):
        try:
            options = web_options() if protocol in WEB_PROTOCOLS else {}
            file_system, path = fsspec.core.url_to_fs(f"{protocol}://{rest}", **options)
        except ImportError as error:
            package = PROTOCOL_PACKAGES[protocol]
            raise ConfigurationError(
                where,
                f"{protocol}:// needs the Python package {package}, which is not installed here ({error})",
                f"Install {package} here and in the image of the workers, or copy the files to other storage",
            ) from error
    return file_system, str(path)


def open_stream(uri: str, size_bytes: int | None = None) -> Any:
    """A file as a binary stream; see `open_file`.

    Raises:
        as `open_location`; errors of the file system itself are for the caller.
    """
    file_system, path = open_location(uri, uri)
    return open_file(file_system, path, size_bytes)


def open_file(file_system: Any, path: str, size_bytes: int | None = None) -> Any:
    """A file as a binary stream, seekable unless its web server only sends it as a whole.

    Args:
        file_system: fsspec's.
        path: the file.
        size_bytes: its size, where it is known.
    """
    if is_web(file_system):
        return open_web(file_system, path, size_bytes)
    return file_system.open(path, "rb")


def measured(
    file_system: Any, path: str, info: Mapping[str, Any], advance: Callable[[int], None]
) -> Mapping[str, Any]:
    """What a file system says of a file, with its size; where a web server does not tell it, it is counted.

    Args:
        file_system: fsspec's.
        path: the file.
        info: what the file system says.
        advance: told how many bytes were read; may raise to stop.
    """
    if info.get("size") is not None or not is_web(file_system):
        return info
    counted: list[int] = []

    def count(num_bytes: int) -> None:
        counted.append(num_bytes)
        advance(num_bytes)

    digest = content_hash(file_system, path, count)
    return {**info, "size": sum(counted), CONTENT_HASH: digest}


def stored_identity(info: Mapping[str, Any]) -> str | None:
    """What a store says that changes with a file, from fsspec's info of it; None when it says nothing.

    An ETag is one of the exact validators of RFC 9110, section 8.8, unless it is marked as weak.
    """
    for name in _EXACT:
        value = str(info.get(name) or "")
        if value and not value.startswith(_WEAK_TAG):
            return f"{name}={value}"
    told = [f"{name}={info[name]}" for name in _DATED if info.get(name)]
    return " ".join(told) or None


def identity_hash(
    file_system: Any, path: str, info: Mapping[str, Any], advance: Callable[[int], None]
) -> str:
    """SHA-256 that changes with a file: of what its store says of it, else of its bytes.

    Args:
        file_system: fsspec's.
        path: the file.
        info: what the file system says of it.
        advance: told how many bytes were read; may raise to stop.
    """
    identity = stored_identity(info)
    if identity is None:
        return content_hash(file_system, path, advance)
    return hashlib.sha256(f"{path}\n{info['size']}\n{identity}".encode()).hexdigest()


def content_hash(file_system: Any, path: str, advance: Callable[[int], None]) -> str:
    """SHA-256 of a file's bytes; `advance` is told of them and may raise to stop."""
    digest = hashlib.sha256()
    with open_file(file_system, path) as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
