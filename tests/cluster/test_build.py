"""The build of the cluster's programs, with small programs instead of Kubernetes."""

import subprocess
import threading

import pytest

from tests.cluster import build, go_tool, recipes
from tests.cluster.go_tool import find_go
from tests.cluster.recipes import Recipe
from trainyard_api.errors import TransientError, UnavailableError

HELLO = """package main

import "fmt"

var greeting = "nothing"

func main() { fmt.Println(greeting) }
"""


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """The builds that took place in a cache of its own, of a program named hello."""
    monkeypatch.setenv("TRAINYARD_CACHE", str(tmp_path))
    done = []

    def build_hello(go, work, program, target):
        done.append(program)
        go.write_module(work, "")
        (work / "main.go").write_text(HELLO)
        go.build(work, ".", target, {"main.greeting": "built"})

    def build_broken(go, work, program, target):
        done.append(program)
        target.write_text("half of it")
        go.write_module(work, "")
        go.build(work, "example.invalid/absent", target)

    recipe = Recipe("hello-1", ("hello",), build_hello)
    broken = Recipe("broken-1", ("broken",), build_broken)
    monkeypatch.setattr(recipes, "RECIPES", (recipe, broken))
    return done


def test_a_program_is_built_once_and_keeps_the_values_that_it_was_given(builds):
    build.build_programs(["hello"])
    build.build_programs(["hello"])
    assert builds == ["hello"]
    built = recipes.program_path("hello")
    assert built.parent.name == "hello-1"
    assert subprocess.run([built], capture_output=True, text=True, check=True).stdout == "built\n"
    assert [path.name for path in built.parent.iterdir()] == ["hello"]


def test_a_build_that_fails_leaves_nothing_and_is_tried_again(builds):
    for _ in range(2):
        with pytest.raises(TransientError, match=r"example\.invalid/absent"):
            build.build_programs(["broken"])
    assert builds == ["broken", "broken"]
    assert recipes.missing_programs(["broken"]) == ["broken"]
    assert list(recipes.program_path("broken").parent.iterdir()) == []


def test_two_builds_at_once_build_once(builds):
    threads = [threading.Thread(target=build.build_programs, args=(["hello"],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == ["hello"]


@pytest.mark.parametrize(
    ("version", "is_used"), [("go1.26.0", True), ("go2.0", True), ("go1.25.9", False), ("devel", False)]
)
def test_only_a_go_that_is_new_enough_is_used(tmp_path, monkeypatch, version, is_used):
    command = tmp_path / "go"
    command.write_text(f"#!/bin/sh\necho {version}\n")
    command.chmod(0o755)
    monkeypatch.setattr(go_tool, "candidates", lambda: iter([command]))
    found = find_go()
    assert (found is not None and found.command == command) is is_used


def test_the_go_of_the_environment_builds_when_the_machine_has_none(builds, monkeypatch):
    monkeypatch.setattr(go_tool.shutil, "which", lambda *_, **__: None)
    found = find_go()
    assert found is not None
    assert found.command.parts[-3:] == ("go", "bin", "go")
    build.build_programs(["hello"])
    assert recipes.program_path("hello").is_file()


def test_without_any_go_the_error_says_where_to_get_one(builds, monkeypatch):
    monkeypatch.setattr(go_tool, "candidates", lambda: iter([]))
    with pytest.raises(UnavailableError, match="make init"):
        build.build_programs(["hello"])


def test_every_program_of_the_cluster_has_a_recipe():
    for program in (*recipes.CONTROL_PLANE, *recipes.REAL_NODE, *recipes.MONITORING, *recipes.BATCH_QUEUE):
        assert program in recipes.recipe_of(program).programs
