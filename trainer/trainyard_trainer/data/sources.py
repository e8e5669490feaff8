"""From a source's URI or glob to its files, always in the same order, each with the hash of its content."""

import json
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainyard_api.errors import DataError
from trainyard_api.spec import Source
from trainyard_trainer.data.faults import Fault, fault_of, reading
from trainyard_trainer.data.locations import (
    content_hash,
    identity_hash,
    is_local,
    measured,
    open_location,
)
from trainyard_trainer.data.manifest import SourceFile, hash_of
from trainyard_trainer.data.web import is_web
from trainyard_trainer.progress import write_text_atomically

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
LOCAL_PROTOCOLS = ("file", "local")
HASH_CACHE = "file-hashes.json"
MAXIMUM_FILES = 100_000
"""More files are refused: each costs a request or a look at the disk, whenever the run starts."""


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
    _, separator, rest = uri.partition("://")
    if not is_local(uri):
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
    advance: Callable[[int], None],
) -> list[InputFile]:
    """The files of a source, by name.

    Args:
        source: the source of the spec.
        where: its place in the spec, such as spec.data.sources[0].
        mounts: see `resolve_mounts`.
        hash_file: content hash of (file system, path, info).
        advance: told of bytes that are read to learn the size of a file; may raise to stop.

    Raises:
        DataError: nothing matches, too much does, or the place may not be read.
        TransientError: the place cannot be reached.
        ConfigurationError: the place is none that a run reads from, or a package for it is missing.
    """
    uri = resolve_mounts(source.uri, mounts)
    field = f"{where}.uri"
    file_system, pattern = open_location(uri, field)
    with reading(field, uri, "Check the URI and its access rights"):
        file_system.invalidate_cache()
        infos = _matching(file_system, pattern, field)
        files = []
        for path, info in sorted(infos.items()):
            if info.get("type") == "directory":
                continue
            _check_file(path, info, field)
            full = file_system.unstrip_protocol(path)
            sized = measured(file_system, path, info, advance)
            files.append(InputFile(full, int(sized["size"]), hash_file(file_system, path, sized)))
    if not files:
        raise _nothing_matches(source.uri, uri, field)
    return files


def contents_hash(files: list[InputFile]) -> str:
    """SHA-256 over everything of files that what is read from them depends on, in order."""
    return hash_of([[file.size_bytes, file.content_hash, file.compression] for file in files])


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
        self._known = self._stored()
        self._changed = False

    def __call__(self, file_system: Any, path: str, info: Mapping[str, Any]) -> str:
        """SHA-256 of a local file's bytes; elsewhere see `locations.identity_hash`."""
        if not _is_local(file_system):
            return identity_hash(file_system, path, info, self._advance)
        status = Path(path).stat()
        # Not the device: each node counts the devices of its network mounts for itself.
        identity = f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
        if identity not in self._known:
            self._known[identity] = content_hash(file_system, path, self._advance)
            self._changed = True
        else:
            self._advance(int(info["size"]))
        return self._known[identity]

    def save(self) -> None:
        """Keep the hashes for others, with those that they have kept since; only one may do so at a time."""
        if self._changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            everything = self._stored() | self._known
            write_text_atomically(self._path, json.dumps(everything, indent=0, sort_keys=True))

    def _stored(self) -> dict[str, str]:
        if not self._path.is_file():
            return {}
        try:
            content = json.loads(self._path.read_bytes())
        except ValueError:
            return {}
        return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


class LaterHashes:
    """Lets files be listed without being read, and hashes those that turn out to matter.

    Args:
        hashes: does that.
    """

    def __init__(self, hashes: FileHashes) -> None:
        self._hashes = hashes
        self._places: dict[str, tuple[Any, str, Mapping[str, Any]]] = {}

    def __call__(self, file_system: Any, path: str, info: Mapping[str, Any]) -> str:
        """No hash yet; see `list_files`."""
        self._places[str(file_system.unstrip_protocol(path))] = (file_system, path, info)
        return ""

    def hashed(self, file: InputFile) -> InputFile:
        """A listed file with its content hash."""
        return replace(file, content_hash=self._hashes(*self._places[file.uri]))


def _matching(file_system: Any, pattern: str, field: str) -> dict[str, Mapping[str, Any]]:
    """What fits a path or glob, by path, with the file system's info of each."""
    magic = "*[" if is_web(file_system) else "*?["
    try:
        if any(character in pattern for character in magic):
            found = dict(file_system.glob(pattern, detail=True))
        else:
            found = {pattern: file_system.info(pattern)}
    except FileNotFoundError as error:
        if fault_of(error) is Fault.ABSENT:
            return {}
        raise
    if len(found) > MAXIMUM_FILES:
        raise DataError(
            field,
            f"{pattern} matches {len(found)} files, more than {MAXIMUM_FILES}",
            "Join them into fewer and larger files, such as JSON Lines of some 100 MB",
        )
    # Pages tell neither sizes nor changes of what they link to.
    needs_info = _is_local(file_system) or is_web(file_system)
    return {str(path): file_system.info(path) if needs_info else info for path, info in found.items()}


def _check_file(path: str, info: Mapping[str, Any], field: str) -> None:
    """Refuse what is no file."""
    if info.get("type") != "file":
        raise DataError(field, f"{path} is not a regular file", "Name regular files only")


def _is_local(file_system: Any) -> bool:
    protocol = file_system.protocol
    return bool(({protocol} if isinstance(protocol, str) else set(protocol)) & set(LOCAL_PROTOCOLS))


def _nothing_matches(uri: str, resolved: str, where: str) -> DataError:
    looked_at = uri if uri == resolved else f"{uri} (read from {resolved})"
    return DataError(
        where,
        f"no file matches {looked_at}",
        "Correct the path or glob (a folder needs a pattern such as /*.jsonl), or map it with --mount",
    )
