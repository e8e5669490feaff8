"""The Dockerfile keeps rules, and what it runs works: there is no container engine here to build it with."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.cluster.locations import REPOSITORY
from tests.support.dockerfile import lineage, parse, problems
from tests.support.helm import CHART, operator_pod
from trainyard_api.names import Stage as RunStage
from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.spec import TrainingRun

TEXT = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
STAGES = parse(TEXT)
IMAGES = ("operator", "trainer")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UV = [sys.executable, "-m", "uv"]


def everything_of(name, *kinds):
    """Instructions that an image inherits, the first one first."""
    return [each for stage in lineage(STAGES, name) for each in stage.all(*kinds)]


def test_the_rules_are_kept():
    assert problems(TEXT) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM python", "not pinned"),
        ("FROM python:latest", "not pinned"),
        ("FROM registry.example:5000/python", "not pinned"),
        ("FROM x:1.2.3\nADD a /a", "ADD"),
        ("FROM x:1.2.3\nCOPY a /a", "no --chown"),
        ("FROM x:1.2.3\nCOPY --chown=0:0 . /a", "the whole context"),
        ("FROM x:1.2.3\nUSER trainyard", "no numbers"),
        ("FROM x:1.2.3\nUSER 0:0", "root"),
        ("FROM x:1.2.3\nENTRYPOINT python -m a", "no exec form"),
        ("FROM x:1.2.3\nRUN pip install uv", "no exec form"),
        ('FROM x:1.2.3\nRUN ["pip", "install", "--no-cache-dir", "uv"]', "not pinned"),
        ('FROM x:1.2.3\nRUN ["pip", "install", "uv==1"]', "cache"),
        ('FROM x:1.2.3\nRUN ["apt-get", "install", "git"]', "apt"),
        ('FROM x:1.2.3\nRUN ["curl", "x"]', "nothing verifies"),
        ("FROM x:1.2.3\nENV HF_TOKEN=abc", "secret"),
        ("FROM x:1.2.3\nHEALTHCHECK NONE", "HEALTHCHECK"),
    ],
)
def test_the_rules_find(text, problem):
    assert any(problem in found for found in problems(text))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_the_user_of_the_pods_and_has_no_build_tool(image):
    users = everything_of(image, "USER")
    assert [user.text for user in users] == ["10001:10001"]
    assert everything_of(image, "RUN") == []
    (copied,) = everything_of(image, "COPY")
    assert copied.flags == {"from": f"{image}-environment", "chown": "0:0"}


def test_the_operators_user_is_the_one_of_the_chart(helm):
    context = operator_pod(helm.template())["spec"]["securityContext"]
    (user,) = everything_of("operator", "USER")
    assert user.text == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_entry_points_are_what_pods_run(helm):
    entry_points = {image: everything_of(image, "ENTRYPOINT")[-1].argv for image in IMAGES}
    (container,) = operator_pod(helm.template())["spec"]["containers"]
    assert entry_points["operator"] == container["command"]
    document = yaml.safe_load((REPOSITORY / "manifests" / "samples" / "quickstart.yaml").read_text("utf-8"))
    # Only such a run has all stages.
    document["spec"]["data"]["preparation"] = {"shards": 2}
    teacher = {"fromRun": {"name": "large"}}
    document["spec"]["distillation"] = {"teacher": teacher, "losses": {"logits": {}}, "teacherCache": {}}
    run = TrainingRun.model_validate(document)
    plan = plan_run(run, storage_root="/data/runs", rendezvous=Rendezvous(address="rank-0"))
    for stage in RunStage:
        for node in plan.stage(stage).nodes:
            assert list(node.argv[:3])[1:] == entry_points["trainer"][1:]


def test_versions_are_those_of_the_project_the_chart_and_the_tools():
    assert set(re.findall(r"trainyard-(\d[^-]*)-py3", TEXT)) == {PROJECT["version"]}
    assert set(re.findall(r'image\.version="([^"]+)"', TEXT)) == {PROJECT["version"]}
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (PROJECT["version"], PROJECT["version"])
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert (
        re.search(r"^UV_VERSION := (.*)$", makefile, re.MULTILINE)[1] == re.search(r"uv==([\d.]+)", TEXT)[1]
    )


@pytest.mark.parametrize("image", IMAGES)
def test_labels_tell_what_an_image_is(image):
    (label,) = everything_of(image, "LABEL")
    names = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", label.text))
    assert names == {"title", "description", "version", "revision", "licenses"}
    assert f'image.title="trainyard-{image}"' in label.text


def copied_from_context():
    return {
        operand.removeprefix("./")
        for stage in STAGES
        for copy in stage.all("COPY")
        if "from" not in copy.flags
        for operand in copy.operands[:-1]
    }


def test_only_what_is_copied_enters_the_build():
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied_from_context()
    assert all((REPOSITORY / name).exists() for name in copied_from_context())
    assert any(fnmatch.fnmatch("api/trainyard_api/__pycache__", rule) for rule in rules[1:])


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of the operator's image, made by the very commands of its stages."""
    folder = tmp_path_factory.mktemp("image")
    source = folder / "source"
    source.mkdir()
    for name in copied_from_context():
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, source / name)
    for stage in lineage(STAGES, "operator-environment"):
        for instruction in stage.all("RUN"):
            words = [
                re.sub(r"^(.*?)/(source|wheels|opt)\b", rf"\1{folder}/\2", word) for word in instruction.argv
            ]
            if words[0] == "uv":
                # This machine's cache stands in for a network, and bytecode only takes time here.
                words = [
                    *UV,
                    *(word for word in words[1:] if word not in ("--no-cache", "--compile-bytecode")),
                ]
                done = subprocess.run(
                    words, cwd=source, capture_output=True, text=True, timeout=300, check=False
                )
                assert done.returncode == 0, done.stderr
    return folder / "opt" / "trainyard"


def run_python(environment: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(environment / "bin" / "python"), *arguments]
    return subprocess.run(
        command,
        cwd=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


def test_the_operators_environment_runs_its_entry_point(environment):
    (entry_point,) = everything_of("operator", "ENTRYPOINT")
    done = run_python(environment, *entry_point.argv[1:], "--help")
    assert done.returncode == 0, done.stderr
    assert "TRAINYARD_LEASE_DURATION_SECONDS" in done.stdout


def test_the_operators_environment_is_small_and_pinned(environment):
    listed = subprocess.run(
        [*UV, "pip", "list", "--python", str(environment / "bin" / "python"), "--format=json"],
        capture_output=True,
        text=True,
        check=True,
    )
    packages = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    assert packages.keys() & {"torch", "deepspeed", "transformers", "numpy", "pytest", "pip"} == set()
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", constraints, re.MULTILINE))
    assert packages.pop("trainyard") == PROJECT["version"]
    assert packages.items() <= pinned.items()


def test_the_wheel_has_what_the_packages_read(environment):
    site = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages = ("api/trainyard_api", "operator/trainyard_operator", "trainer/trainyard_trainer")
    for package in packages:
        read = {
            path.relative_to(REPOSITORY / package)
            for path in (REPOSITORY / package).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }
        assert read
        installed = site / Path(package).name
        assert {path for path in read if not (installed / path).is_file()} == set()
