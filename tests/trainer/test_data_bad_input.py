"""Sources that cannot be used are refused with the field and the remedy; bad records are set aside."""

import gzip
import json
import lzma
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.preparation import TEXTS, make_plan, parquet_bytes, run, write_lines
from trainyard_api.errors import (
    ConfigurationError,
    DataError,
)
from trainyard_trainer.data import units as units_module
from trainyard_trainer.data.parquet import open_parquet, read_row_groups


def lines_with(*bad, count=400):
    good = [json.dumps({"text": text}).encode() for text in TEXTS[:count]]
    return b"\n".join([*good[:3], *bad, *good[3:]]) + b"\n"


BAD_RECORDS = {
    "broken JSON": b'{"text": "cut off',
    "broken JSON: ": b"[" * 100_000,
    "not a JSON object": b"[1, 2]",
    "no field 'text'": b'{"body": "x"}',
    "holds NoneType": b'{"text": null}',
    "holds int": b'{"text": 5}',
    "lone surrogate": b'{"text": "\\ud800"}',
    "not UTF-8": '{"text": "caf\xe9"}'.encode("latin-1"),
}


@pytest.mark.parametrize("reason", BAD_RECORDS)
def test_a_bad_record_is_counted_and_set_aside(reason, tmp_path):
    (tmp_path / "texts.jsonl").write_bytes(lines_with(BAD_RECORDS[reason]))
    manifest = run(make_plan(tmp_path))
    assert manifest.sources[0].invalid_records == 1
    assert manifest.sources[0].documents == len(TEXTS)
    [quarantine] = (tmp_path / "out" / "prepared").glob("extract-*/quarantine.jsonl")
    [entry] = map(json.loads, quarantine.read_text().splitlines())
    assert entry["line"] == 4
    assert entry["file"].endswith("texts.jsonl")
    assert reason in entry["reason"]
    assert len(entry["text"]) <= 200


def test_lines_of_the_quarantine_count_from_the_start_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "UNIT_BYTES", 1000)
    lines = [json.dumps({"text": text}) for text in TEXTS]
    lines[250] = "broken"
    lines[399] = "broken too"
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    run(make_plan(tmp_path), cores=2)
    [quarantine] = (tmp_path / "out" / "prepared").glob("extract-*/quarantine.jsonl")
    assert [json.loads(line)["line"] for line in quarantine.read_text().splitlines()] == [251, 400]


def test_too_many_bad_records_are_refused_with_examples(tmp_path):
    (tmp_path / "texts.jsonl").write_bytes(lines_with(*[b"broken"] * 10))
    with pytest.raises(DataError, match=r"10 of 410 .*line 4: broken JSON.*line 5.*quarantine.jsonl"):
        run(make_plan(tmp_path))
    manifest = run(make_plan(tmp_path, data__preparation={"maximumInvalidFraction": 0.1}))
    assert manifest.steps[0].reused


def test_a_text_field_that_is_not_there_lists_those_that_are(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    with pytest.raises(DataError, match=r"sources\[0\].textField: no record .* 'body'; they have id, text"):
        run(make_plan(tmp_path, source={"textField": "body"}))


def test_a_wrong_field_is_noticed_before_a_large_source_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.extract.EARLY_RECORDS", 10)
    (tmp_path / "texts.jsonl").write_bytes(b'{"b": 1}\n' * 10 + b"\xff\n" * 100_000)
    with pytest.raises(DataError, match="they have b"):
        run(make_plan(tmp_path))


def test_a_missing_or_wrong_parquet_column_is_refused(tmp_path):
    (tmp_path / "texts.parquet").write_bytes(parquet_bytes(TEXTS))
    source = {"uri": f"{tmp_path}/texts.parquet", "format": "Parquet"}
    with pytest.raises(DataError, match=r"textField: .* no column 'body'; it has text, id"):
        run(make_plan(tmp_path, source={**source, "textField": "body"}))
    with pytest.raises(DataError, match="holds int64, not text"):
        run(make_plan(tmp_path, source={**source, "textField": "id"}))


BROKEN_FILES = {
    "texts.jsonl.gz": gzip.compress(b"x" * 5000)[:-20],
    "plain.jsonl.gz": b'{"text": "not compressed"}\n',
    "texts.jsonl.zst": b"not zstd at all",
    "texts.jsonl.xz": lzma.compress(b"y" * 5000)[:-9],
    "texts.jsonl.bz2": b"BZh9garbage",
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_damaged_file_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(BROKEN_FILES[name])
    with pytest.raises(DataError, match=f"{name}: .*Replace the file"):
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/{name}"}))


def test_a_text_of_parquet_that_is_too_long_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.parquet_values.MAXIMUM_RECORD_BYTES", 10_000)
    texts = [*TEXTS[:60], "long " * 2_001, *TEXTS[60:120]]
    (tmp_path / "texts.parquet").write_bytes(parquet_bytes(texts))
    source = {"uri": f"{tmp_path}/texts.parquet", "format": "Parquet"}
    plan = make_plan(tmp_path, source=source, data__preparation={"maximumInvalidFraction": 0.05})
    manifest = run(plan)
    assert (manifest.sources[0].records, manifest.sources[0].invalid_records) == (121, 1)


def test_a_small_parquet_file_that_unfolds_to_gigabytes_is_read_in_bounded_memory(tmp_path):
    text = "text " * 100_000
    column = pa.array([text]).dictionary_encode().take(pa.array([0] * 4_000))
    pq.write_table(pa.table({"text": column}), tmp_path / "bomb.parquet", store_schema=False)
    assert (tmp_path / "bomb.parquet").stat().st_size < 2_000_000
    before = pa.total_allocated_bytes()
    num_records = most = 0
    with (tmp_path / "bomb.parquet").open("rb") as stream:
        table = open_parquet(stream, "bomb.parquet")
        for record in read_row_groups(table, "text", range(1)):
            num_records += 1
            assert len(record.text) == len(text)
            most = max(most, pa.total_allocated_bytes() - before)
    assert num_records == 4_000
    assert most < 64 << 20


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "texts.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"texts.parquet: it is not a Parquet file"):
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/texts.parquet", "format": "Parquet"}))


@pytest.mark.parametrize("uri", ["{}/nothing.jsonl", "{}/*.nothing", "{}", "file://{}/no/such/*/folder"])
def test_a_source_that_matches_nothing_is_refused(uri, tmp_path):
    with pytest.raises(DataError, match=r"spec.data.sources\[0\].uri: no file matches .*Correct"):
        run(make_plan(tmp_path, source={"uri": uri.format(tmp_path)}))


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"spec.data.sources.0..uri: nonsense://x is no place"):
        run(make_plan(tmp_path, source={"uri": "nonsense://x"}))


@pytest.mark.parametrize("content", [b"", b"\n\n \n", b'{"text": "  "}\n'])
def test_a_source_without_text_is_refused(content, tmp_path):
    (tmp_path / "texts.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"spec.data.sources\[0\].uri: .* holds no text"):
        run(make_plan(tmp_path))


def test_special_files_and_dangling_links_are_refused_and_link_loops_end(tmp_path):
    write_lines(tmp_path / "data" / "texts.jsonl")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    assert run(make_plan(tmp_path, source={"uri": f"{tmp_path}/data/**/*.jsonl"})).train.rows > 4
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"sources\[0\].uri"):
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/dangling.jsonl"}))
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/pipe.jsonl"}))


def test_a_record_that_is_too_long_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.readers.MAXIMUM_RECORD_BYTES", 5000)
    (tmp_path / "texts.jsonl").write_bytes(lines_with(b'{"text": "' + b"a" * 9000 + b'"}'))
    manifest = run(make_plan(tmp_path))
    assert (manifest.sources[0].invalid_records, manifest.sources[0].documents) == (1, len(TEXTS))


def test_a_decompression_bomb_without_lines_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.readers.MAXIMUM_RECORD_BYTES", 1 << 16)
    monkeypatch.setattr("trainyard_trainer.data.readers.MAXIMUM_LINE_BYTES", 1 << 22)
    (tmp_path / "texts.jsonl.gz").write_bytes(gzip.compress(bytes(20 << 20)))
    with pytest.raises(DataError, match="decompression bomb"):
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/texts.jsonl.gz"}))


def test_a_file_too_long_for_one_document_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.readers.MAXIMUM_RECORD_BYTES", 5000)
    (tmp_path / "book.txt").write_text("\n".join(TEXTS))
    with pytest.raises(DataError, match="set documentBoundary to BlankLine or Line"):
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/book.txt", "format": "Text"}))


def test_too_few_rows_for_a_batch_are_refused(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    with pytest.raises(DataError, match=r"spec.training.globalBatchSize: .* fewer than one batch of 4000"):
        run(make_plan(tmp_path, training__globalBatchSize=4000))
    assert not (tmp_path / "out" / "run" / "data.json").exists()


def test_no_validation_document_is_refused(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    with pytest.raises(DataError, match=r"spec.data.validationFraction"):
        run(make_plan(tmp_path, data__validationFraction=1e-9))


def test_rows_that_documents_fill_badly_are_warned_about(tmp_path):
    write_lines(tmp_path / "texts.jsonl", [f"{number} " + "word of " * 18 for number in range(400)])
    manifest = run(make_plan(tmp_path))
    assert manifest.packing_efficiency < 0.95
    assert "a larger one packs better" in manifest.warnings[0]
    unpacked = run(make_plan(tmp_path, data__packing={"enabled": False}))
    assert unpacked.warnings == ()
    assert unpacked.train.rows == unpacked.train.pieces


def test_a_vocabulary_too_small_for_the_algorithm_is_refused(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    with pytest.raises(ConfigurationError, match="vocabularySize"):
        run(make_plan(tmp_path, tokenizer__train={"algorithm": "BPE", "vocabularySize": 256}))
