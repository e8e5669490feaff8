"""From a source's URI or glob to its files, always in the same order, each with the hash of its content."""

import hashlib
import json
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from trainyard_api.errors import DataError
from trainyard_api.spec import Source
from trainyard_trainer.data.manifest import SourceFile, hash_of
from trainyard_trainer.progress import write_text_atomically

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
LOCAL_PROTOCOLS = ("file", "local")
HASH_CACHE = "file-hashes.json"
READ_BYTES = 1 << 22


@dataclass(frozen=True)
class InputFile:
    """One file to read.

    Attributes:
        uri: where it is, for fsspec and for people.
        size_bytes: size as stored.
        content_hash: see manifest.SourceFile.
    """

    uri: str
    size_bytes: int
    content_hash: str

    @property
    def compression(self) -> str | None:
        """Name of the compression, by the ending of the file's name."""
        return COMPRESSIONS.get(posixpath.splitext(self.uri)[1].lower())

    def as_manifest(self) -> SourceFile:
        """The file in a manifest."""
        return SourceFile(uri=self.uri, size_bytes=self.size_bytes, content_hash=self.content_hash)


def resolve_mounts(uri: str, mounts: Mapping[str, str]) -> str:
    """The URI after local path prefixes are replaced by the folders that stand in for them.

    Args:
        uri: a URI of the spec.
        mounts: path prefixes, with or without a leading slash, and local folders; the longest fitting one
            wins.
    """
    protocol, separator, rest = uri.partition("://")
    if separator and protocol not in LOCAL_PROTOCOLS:
        return uri
    path = posixpath.normpath("/" + (rest if separator else uri).lstrip("/"))
    prefixes = {posixpath.normpath("/" + prefix.lstrip("/")): host for prefix, host in mounts.items()}
    for prefix in sorted(prefixes, key=len, reverse=True):
        if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
            below = path[len(prefix) :].lstrip("/")
            return "file://" + posixpath.join(posixpath.abspath(prefixes[prefix]), below).rstrip("/")
    return uri


def list_files(
    source: Source,
    where: str,
    mounts: Mapping[str, str],
    hash_file: Callable[[Any, str, Mapping[str, Any]], str],
) -> list[InputFile]:
    """The files of a source, by name.

    Args:
        source: the source of the spec.
        where: its place in the spec, such as spec.data.sources[0].
        mounts: see `resolve_mounts`.
        hash_file: content hash of (file system, path, info).

    Raises:
        DataError: nothing matches, or the place cannot be reached.
    """
    uri = resolve_mounts(source.uri, mounts)
    file_system, pattern = _open_file_system(uri, f"{where}.uri")
    try:
        paths = sorted(_matching(file_system, pattern))
        infos = [(path, file_system.info(path)) for path in paths]
    except FileNotFoundError as error:
        raise _nothing_matches(source.uri, uri, f"{where}.uri") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{where}.uri", f"{uri} cannot be listed: {error}", "Check the URI and its access rights"
        ) from error
    files = []
    for path, info in infos:
        if info.get("type") == "directory":
            continue
        if info.get("type") != "file":
            raise DataError(f"{where}.uri", f"{path} is not a regular file", "Name regular files only")
        full = file_system.unstrip_protocol(path)
        files.append(InputFile(full, int(info["size"]), _hashed(hash_file, file_system, path, info, where)))
    if not files:
        raise _nothing_matches(source.uri, uri, f"{where}.uri")
    return files


def combined_hash(files: list[InputFile]) -> str:
    """SHA-256 over the content hashes of files, in order."""
    return hash_of([file.content_hash for file in files])


class FileHashes:
    """Content hashes of files; a local file is hashed again only when its size, time or inode changed.

    Attributes:
        advance: told how many bytes were hashed; may raise to stop.
    """

    def __init__(self, prepared: Path, advance: Callable[[int], None]) -> None:
        self._path = prepared / HASH_CACHE
        self._advance = advance
        self._known: dict[str, str] = {}
        if self._path.is_file():
            try:
                content = json.loads(self._path.read_bytes())
            except ValueError:
                content = {}
            self._known = (
                {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}
            )
        self._changed = False

    def __call__(self, file_system: Any, path: str, info: Mapping[str, Any]) -> str:
        """SHA-256 of a local file's bytes; of the store's own identity elsewhere."""
        if not _is_local(file_system):
            return hashlib.sha256(str(file_system.ukey(path)).encode()).hexdigest()
        status = Path(path).stat()
        identity = f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}:{status.st_dev}"
        if identity not in self._known:
            self._known[identity] = self._hash(path)
            self._changed = True
        else:
            self._advance(int(info["size"]))
        return self._known[identity]

    def save(self) -> None:
        """Keep the hashes for the next run."""
        if self._changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self._path, json.dumps(self._known, indent=0, sort_keys=True))

    def _hash(self, path: str) -> str:
        digest = hashlib.sha256()
        with Path(path).open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
                self._advance(len(block))
        return digest.hexdigest()


def _open_file_system(uri: str, where: str) -> tuple[Any, str]:
    try:
        file_system, pattern = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError, OSError) as error:
        raise DataError(
            where, f"{uri} cannot be opened: {error}", "Correct the protocol, or install its fsspec package"
        ) from error
    return file_system, str(pattern)


def _matching(file_system: Any, pattern: str) -> list[str]:
    if any(magic in pattern for magic in "*?["):
        return [str(path) for path in file_system.glob(pattern)]
    if file_system.isdir(pattern):
        return []
    if not file_system.exists(pattern):
        raise FileNotFoundError(pattern)
    return [pattern]


def _hashed(
    hash_file: Callable[[Any, str, Mapping[str, Any]], str],
    file_system: Any,
    path: str,
    info: Mapping[str, Any],
    where: str,
) -> str:
    try:
        return hash_file(file_system, path, info)
    except OSError as error:
        raise DataError(
            f"{where}.uri",
            f"{path} cannot be read: {error.strerror or error}",
            "Check the file and its access rights",
        ) from error


def _is_local(file_system: Any) -> bool:
    protocol = file_system.protocol
    return bool(
        {protocol} & set(LOCAL_PROTOCOLS)
        if isinstance(protocol, str)
        else set(protocol) & set(LOCAL_PROTOCOLS)
    )


def _nothing_matches(uri: str, resolved: str, where: str) -> DataError:
    looked_at = uri if uri == resolved else f"{uri} (read from {resolved})"
    return DataError(
        where,
        f"no file matches {looked_at}",
        "Correct the path or glob (a folder needs a pattern such as /*.jsonl), or map it with --mount",
    )
