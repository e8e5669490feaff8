"""Sources that several processes read: the same bytes as by one, and what is there is used."""

import errno
import json
import multiprocessing
from pathlib import Path

import pytest

from tests.support.base_models import store_model
from tests.support.labelled import labelled_texts, task_plan
from tests.support.preparation import (
    TEXTS,
    make_plan,
    parquet_bytes,
    prepared_files,
    run,
    write_lines,
)
from trainyard_api.errors import DataError, PreemptedError
from trainyard_trainer.data import unit_steps
from trainyard_trainer.data import units as units_module
from trainyard_trainer.data.prepare import read_shard
from trainyard_trainer.data.read_share import shards_of, share_of
from trainyard_trainer.data.sources import FileHashes
from trainyard_trainer.data.units import FilePart

UNIT_BYTES = 3000
"""So little that small files give several units."""


@pytest.fixture(autouse=True)
def _small_units(monkeypatch):
    monkeypatch.setattr(units_module, "UNIT_BYTES", UNIT_BYTES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Lines with faults, Parquet of several row groups, and files too small for a unit each."""
    tmp_path = tmp_path_factory.mktemp("sources")
    broken = [TEXTS[0], *TEXTS[:200], *TEXTS[50:60]]
    path = write_lines(tmp_path / "texts.jsonl", broken)
    lines = path.read_text().splitlines()
    lines[40], lines[140] = "no JSON", json.dumps({"other": 1})
    path.write_text("\n".join(lines) + "\n")
    (tmp_path / "more.parquet").write_bytes(parquet_bytes(TEXTS[150:400]))
    for number in range(12):
        (tmp_path / f"small-{number}.txt").write_text(f"the small text {number} of a file of its own")
    return tmp_path


def plan_of(folder, output, num_shards):
    sources = [
        {"name": "texts", "uri": f"{folder}/texts.jsonl", "format": "JsonLines"},
        {"name": "more", "uri": f"{folder}/more.parquet", "format": "Parquet"},
        {"name": "small", "uri": f"{folder}/small-*.txt", "format": "Text"},
    ]
    return make_plan(
        output,
        data__sources=sources,
        data__preparation={"shards": num_shards, "maximumInvalidFraction": 0.5},
    )


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """The plan and the manifest of a preparation by one process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(units_module, "UNIT_BYTES", UNIT_BYTES)
        plan = plan_of(folder, tmp_path_factory.mktemp("alone"), 1)
        return plan, run(plan)


def read(plan, shard, *, cores=1, should_stop=lambda: False, report=lambda *_: None):
    read_shard(plan, shard, report=report, cores=cores, should_stop=should_stop)


def without_units(folder):
    """What lies in a prepared folder, without units and locks."""
    return {
        name: content
        for name, content in prepared_files(folder).items()
        if not name.startswith(("units/", "locks/"))
    }


def unit_manifests(plan):
    return sorted((Path(plan.paths.prepared) / "units").glob("*/manifest.json"))


def test_the_prepared_data_is_the_same_byte_for_byte_whoever_read_it(folder, alone, tmp_path):
    single, expected = alone
    together = plan_of(folder, tmp_path, 3)
    for shard in (2, 0, 1):
        read(together, shard)
    made = unit_manifests(together)
    assert len(made) > 8
    manifest = run(together)
    assert unit_manifests(together) == made
    assert manifest.hash == expected.hash
    assert manifest.sources == expected.sources
    assert sum(source.invalid_records for source in manifest.sources) == 2
    found = without_units(Path(together.paths.prepared))
    assert found == without_units(Path(single.paths.prepared))
    assert any("quarantine.jsonl" in name for name in found)


def test_the_examples_of_a_task_are_the_same_too(tmp_path):
    base = store_model(tmp_path / "model", "bert-tiny")
    task = {"task": "SequenceClassification"}
    records = [*labelled_texts(["no", "yes"]), {"text": "a label is missing"}]
    plans = [
        task_plan(
            base,
            tmp_path,
            records,
            task,
            output=f"out-{num_shards}",
            data__preparation={"shards": num_shards, "maximumInvalidFraction": 0.5},
        )
        for num_shards in (1, 2)
    ]
    for shard in range(2):
        read(plans[1], shard)
    made = unit_manifests(plans[1])
    assert len(made) > 2
    first, second = (run(plan) for plan in plans)
    assert unit_manifests(plans[1]) == made
    assert second.hash == first.hash
    assert without_units(Path(plans[1].paths.prepared)) == without_units(Path(plans[0].paths.prepared))


def test_each_unit_is_read_by_one_shard_and_preparation_reads_none_again(folder, tmp_path, monkeypatch):
    plan = plan_of(folder, tmp_path, 3)
    counts = []
    for shard in range(3):
        read(plan, shard)
        counts.append(len(unit_manifests(plan)))
    assert 0 < counts[0] < counts[1] < counts[2]
    prepared = Path(plan.paths.prepared)
    inodes = {path.stat().st_ino for path in (prepared / "units").glob("*/*.text")}
    monkeypatch.setattr("trainyard_trainer.data.extract.read_part", pytest.fail)
    run(plan)
    assert {path.stat().st_ino for path in prepared.glob("extract-*/*.text")} == inodes


def test_a_shard_that_starts_again_reads_only_what_it_had_not_finished(folder, tmp_path):
    plan = plan_of(folder, tmp_path, 2)
    calls = iter(range(10_000))
    with pytest.raises(PreemptedError):
        read(plan, 0, should_stop=lambda: next(calls) > 12)
    first = {path: path.stat().st_mtime_ns for path in unit_manifests(plan)}
    assert not list((Path(plan.paths.prepared) / "units").glob(".temporary-*"))
    read(plan, 0)
    again = {path: path.stat().st_mtime_ns for path in unit_manifests(plan)}
    assert 0 < len(first) < len(again)
    assert {path: again[path] for path in first} == first


def test_preparation_reads_what_no_shard_has_read_also_on_a_file_system_without_hard_links(
    folder, alone, tmp_path, monkeypatch
):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted", str(target))

    plan = plan_of(folder, tmp_path, 2)
    read(plan, 1)
    monkeypatch.setattr(unit_steps.Path, "hardlink_to", refuse)
    assert run(plan).hash == alone[1].hash


def test_another_error_of_linking_is_raised(folder, tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError(errno.EIO, "Input/output error", str(target))

    monkeypatch.setattr(unit_steps.Path, "hardlink_to", fail)
    with pytest.raises(OSError, match="Input/output error"):
        run(plan_of(folder, tmp_path, 2))


def test_a_file_that_changes_after_it_was_read_is_read_again(tmp_path):
    path = write_lines(tmp_path / "texts.jsonl")
    plan = make_plan(tmp_path, data__preparation={"shards": 2})
    read(plan, 0)
    first = unit_manifests(plan)
    read(plan, 0)
    assert unit_manifests(plan) == first
    write_lines(path, [*TEXTS[:-1], "changed"])
    read(plan, 0)
    assert len(unit_manifests(plan)) == 2 * len(first)


def test_two_processes_of_the_same_shard_make_each_unit_once_and_neither_fails(folder, tmp_path):
    plan = plan_of(folder, tmp_path, 1)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=read, args=(plan, 0)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert not list((Path(plan.paths.prepared) / "units").glob(".temporary-*"))
    made = {path: path.stat().st_mtime_ns for path in unit_manifests(plan)}
    read(plan, 0)
    assert {path: path.stat().st_mtime_ns for path in unit_manifests(plan)} == made


def test_a_shard_hashes_only_the_files_that_it_reads_and_keeps_what_others_have_hashed(
    folder, tmp_path, monkeypatch
):
    hashed = []
    real = FileHashes.__call__

    def counted(self, file_system, path, info):
        hashed.append(Path(path).name)
        return real(self, file_system, path, info)

    def known():
        stored = json.loads((Path(plan.paths.prepared) / "file-hashes.json").read_text())
        return {Path(identity.split(":")[0]).name for identity in stored}

    monkeypatch.setattr(FileHashes, "__call__", counted)
    plan = plan_of(folder, tmp_path, 3)
    read(plan, 0)
    assert set(hashed) == known() == {"texts.jsonl"}
    hashed.clear()
    read(plan, 2)
    assert "texts.jsonl" not in hashed
    assert known() == {"texts.jsonl", *hashed}


def test_a_shard_that_is_read_already_tells_so_with_its_total(folder, tmp_path):
    plan = plan_of(folder, tmp_path, 1)
    read(plan, 0)
    told = []
    read(plan, 0, report=lambda *arguments: told.append(arguments))
    last = {step: (done, total) for step, done, total, _ in told}
    assert list(last) == ["list", "extract texts", "extract more", "extract small"]
    assert all(done == total > 0 for done, total in list(last.values())[1:])


def test_a_field_that_all_records_lack_fails_the_shard_before_everything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.extract.EARLY_RECORDS", 10)
    write_lines(tmp_path / "texts.jsonl")
    plan = make_plan(tmp_path, source={"textField": "body"}, data__preparation={"shards": 2})
    with pytest.raises(DataError, match="textField"):
        read(plan, 1)


@pytest.mark.parametrize(
    ("sizes", "num_shards", "expected"),
    [
        ([], 3, []),
        ([0, 0], 2, [0, 0]),
        ([5], 4, [2]),
        ([10] * 4, 2, [0, 0, 1, 1]),
        ([10] * 4, 4, [0, 1, 2, 3]),
        ([10] * 5, 2, [0, 0, 1, 1, 1]),
        ([90, 5, 5], 2, [0, 1, 1]),
        ([1, 1, 98], 2, [0, 0, 1]),
        ([10] * 3, 1, [0, 0, 0]),
    ],
)
def test_neighbouring_units_go_to_one_shard_and_shards_get_equal_parts(sizes, num_shards, expected):
    assert shards_of(sizes, num_shards) == expected


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 256])
def test_every_unit_belongs_to_exactly_one_shard(num_shards):
    units = [
        [(FilePart(f"{source}-{number}", None, 0, None, 1 + number * source),) for number in range(20)]
        for source in range(3)
    ]
    shares = [share_of(units, num_shards, shard) for shard in range(num_shards)]
    for source in range(3):
        read_by = [number for share in shares for number in share[source]]
        assert sorted(read_by) == list(range(20))
        assert read_by == sorted(read_by)
