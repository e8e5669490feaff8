"""Rules of the repository that no other tool holds."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainyard_api.names import Stage
from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.validation import load_run_file

ROOT = Path(__file__).parents[2]
SOURCES = ("api/", "trainer/", "operator/", "tools/", "benchmarks/")
MAXIMUM_FUNCTION_LINES = 60
MAXIMUM_FILE_LINES = 500
REGISTRY_ADDRESS = re.compile(
    r"pypi\.org|pythonhosted\.org|npmjs\.(org|com)|yarnpkg\.com|proxy\.golang\.org|goproxy\.|crates\.io"
    r"|(index-url|index_url|registry)[\"' =:]+https?://|https?://[^\s\"']*/simple\b",
    re.IGNORECASE,
)
PICKLE_MODULES = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {
    "torch.load",
    "torch.save",
    "yaml.load",
    "yaml.full_load",
    "yaml.unsafe_load",
    "yaml.load_all",
    "eval",
    "exec",
}
SAFE_KEYWORD_VALUES = {
    "trust_remote_code": False,
    "allow_pickle": False,
    "weights_only": True,
    "shell": False,
}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")
LINK = re.compile(r"(?<!\!)\[[^\]]+\]\(([^)\s]+)\)")


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


FILES = tracked_files()
PYTHON_FILES = [name for name in FILES if name.endswith(".py")]
PYTHON_SOURCES = [name for name in PYTHON_FILES if name.startswith(SOURCES)]
DOCUMENTS = [name for name in FILES if name.endswith(".md")]
SAMPLES = [name for name in FILES if name.startswith("manifests/samples/")]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


def offences(names: list[str], find: Callable[[str], list[str]]) -> dict[str, list[str]]:
    """What is found in each of the files, by name, where something is found."""
    return {name: found for name in names if (found := find(text_of(name)))}


def dotted_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe_places(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{name}" for name in modules] + [node.module or ""]
            yield from (
                f"line {node.lineno}: imports {module}"
                for module in modules
                if module.split(".")[0] in PICKLE_MODULES or module in FORBIDDEN_CALLS
            )
        elif isinstance(node, ast.Call):
            if dotted_name(node.func) in FORBIDDEN_CALLS:
                yield f"line {node.lineno}: calls {dotted_name(node.func)}"
            for keyword in node.keywords:
                if keyword.arg in SAFE_KEYWORD_VALUES:
                    safe = SAFE_KEYWORD_VALUES[keyword.arg]
                    if not (isinstance(keyword.value, ast.Constant) and keyword.value.value is safe):
                        yield f"line {node.lineno}: {keyword.arg} is not {safe}"


def long_functions(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAXIMUM_FUNCTION_LINES:
                yield f"{node.name} has {num_lines} lines"


def heading_anchors(document: str) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", document, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(name: str) -> list[str]:
    broken = []
    for link in LINK.findall(re.sub(r"```.*?```", "", text_of(name), flags=re.DOTALL)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        missing = not path.exists()
        if missing or (anchor and anchor not in heading_anchors(path.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def test_the_repository_has_files_of_every_kind_that_is_checked():
    assert len(PYTHON_SOURCES) > 30
    assert len(DOCUMENTS) >= 9
    assert len(SAMPLES) >= 3


def test_no_file_is_longer_than_the_cap():
    lengths = {name: text_of(name).count("\n") for name in PYTHON_FILES}
    assert {name: length for name, length in lengths.items() if length > MAXIMUM_FILE_LINES} == {}


def test_no_function_is_longer_than_the_cap():
    assert offences(PYTHON_SOURCES, lambda text: list(long_functions(ast.parse(text)))) == {}


def test_no_source_can_run_code_that_it_reads():
    assert offences(PYTHON_SOURCES, lambda text: list(unsafe_places(ast.parse(text)))) == {}


def test_no_source_is_unfinished():
    assert offences(PYTHON_SOURCES, UNFINISHED.findall) == {}


def test_sources_are_ascii():
    names = [*PYTHON_FILES, "Makefile", "pyproject.toml", "constraints.txt", *SAMPLES]
    assert offences(names, lambda text: [line for line in text.splitlines() if not line.isascii()]) == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "import torch\ntorch.save({}, 'x')",
        "from torch import load",
        "torch.load('x', weights_only=False)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=asked)",
        "numpy.load('x', allow_pickle=True)",
        "yaml.load(text)",
        "subprocess.run('ls', shell=True)",
    ],
)
def test_the_check_for_unsafe_code_finds(source):
    assert list(unsafe_places(ast.parse(source))) != []


def test_no_tracked_file_names_a_package_registry():
    assert offences(FILES, lambda text: [found[0] for found in REGISTRY_ADDRESS.finditer(text)]) == {}


@pytest.mark.parametrize(
    "start", ["https://files.python", "index-url = ", "registry=", "https://mirror.example/"]
)
def test_the_check_for_registries_finds(start):
    ends = {"https://files.python": "hosted.org/packages/x.whl", "https://mirror.example/": "simple"}
    assert REGISTRY_ADDRESS.search(start + ends.get(start, "https://mirror.example"))


def test_constraints_pin_every_package_to_one_version():
    lines = [line for line in text_of("constraints.txt").splitlines() if not line.lstrip().startswith("#")]
    assert len(lines) > 50
    assert [line for line in lines if not re.match(r"[a-z0-9.-]+==[^\s;]+( ; .+)?$", line)] == []


def test_the_operator_folder_does_not_shadow_the_standard_library():
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_the_changelog_has_an_entry_for_the_version():
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    assert f"\n## [{version}]" in text_of("CHANGELOG.md")


def test_links_between_documents_resolve():
    broken = {name: broken_links(name) for name in DOCUMENTS}
    assert {name: links for name, links in broken.items() if links} == {}


def test_decisions_are_numbered_without_gaps():
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "adr").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_manifest_validates_and_plans(name):
    run = load_run_file(ROOT / name)
    plan = plan_run(run, storage_root="/storage", rendezvous=Rendezvous(address="localhost"))
    assert run.metadata.name == Path(name).stem
    assert [stage.stage for stage in plan.stages] == [Stage.PREPARE, Stage.TRAIN, Stage.EXPORT]
    assert len(plan.stage(Stage.TRAIN).nodes) == run.spec.workers.nodes
