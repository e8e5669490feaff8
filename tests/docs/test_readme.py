"""The README's manifest, commands and code work as they are written."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.readme import ON_A_CLUSTER, blocks, lines_of, section

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "manifests" / "samples" / "quickstart.yaml"
WITHOUT_A_RUN = {"validate", "plan", "presets", "crd"}
"""Commands of the README that need no run folder and start no training: they are executed as written."""


def commands(program: str) -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in lines_of(block)]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == program]


def trainyard(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainyard_trainer", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_every_shell_line_is_of_a_kind_that_is_checked():
    programs = {shlex.split(line)[0] for block in blocks("sh") for line in lines_of(block)}
    assert programs == {"make", "trainyard", "source", "helm", "kubectl"}


def test_commands_of_a_cluster_stand_where_tests_with_a_cluster_execute_them():
    # tests/chart/test_readme_installation.py and tests/cluster/test_readme_runs.py run these four blocks.
    there = blocks("sh", section(ON_A_CLUSTER))
    assert len(there) == 4
    lines = [line for block in blocks("sh") if block not in there for line in lines_of(block)]
    assert [line for line in lines if shlex.split(line)[0] in ("helm", "kubectl")] == []


def test_the_first_manifest_is_the_quickstart_sample():
    assert blocks("yaml")[0] == QUICKSTART.read_text(encoding="utf-8")


def test_the_first_two_commands_are_demo_and_test():
    assert blocks("sh")[0].split() == ["make", "demo", "make", "test"]


@pytest.mark.parametrize("target", [words[0] for words in commands("make")])
def test_make_targets_exist_and_are_listed_by_help(target):
    assert re.search(rf"^{target}:.*## .+", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("words", commands("trainyard"), ids=" ".join)
def test_trainyard_commands_exist_with_the_options_shown(words, tmp_path):
    done = trainyard(words[0], "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in done.stdout


@pytest.mark.parametrize(
    "words", [words for words in commands("trainyard") if words[0] in WITHOUT_A_RUN], ids=" ".join
)
def test_commands_without_a_run_succeed_as_written(words, tmp_path):
    (tmp_path / "my-run.yaml").write_bytes(QUICKSTART.read_bytes())
    before = sorted(tmp_path.iterdir())
    done = trainyard(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_use_names_that_exist(code):
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom):
            names = ", ".join(alias.name for alias in node.names)
            script = f"from {node.module} import {names}"
            subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
