"""The README's blocks, and its commands run as they are written."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.locations import REPOSITORY
from tests.cluster.recipes import program_path

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ON_A_CLUSTER = "On a cluster"
_TIMEOUT_SECONDS = 240


def section(heading: str) -> str:
    """The text below a heading of the second level."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    if found is None:
        raise AssertionError(f"the README has no section {heading!r}")
    return found[1]


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def lines_of(block: str) -> list[str]:
    """The commands of a block, one a line; a backslash goes on in the next."""
    return [line for line in re.sub(r"\\\n\s*", "", block).splitlines() if line.strip()]


def run_as_written(line: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a line of helm or kubectl in a folder, and return what it printed; it has to succeed."""
    program, *arguments = shlex.split(line, comments=True)
    done = subprocess.run(
        [program_path(program), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout
