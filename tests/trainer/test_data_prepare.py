import bz2
import errno
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from trainyard_api.errors import (
    ConfigurationError,
    DataError,
    PreemptedError,
    StorageFullError,
    TrainyardError,
)
from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.spec import TrainingRun
from trainyard_trainer.data import files as files_module
from trainyard_trainer.data import units as units_module
from trainyard_trainer.data.dataset import open_prepared
from trainyard_trainer.data.prepare import prepare
from trainyard_trainer.data.steps import StepOutcome, StepStore

STEPS = ["extract", "deduplicate", "tokenizer", "tokenize", "pack"]


def paragraph(number):
    return (
        " ".join(f"word{(number * 7 + place * place) % 211} of" for place in range(5 + number % 20))
        + f" {number}."
    )


TEXTS = [paragraph(number) for number in range(400)]


def write_lines(path, texts=TEXTS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts))
    return path


def make_plan(tmp_path, *, output="out", source=None, mounts=None, **changes):
    document = {
        "metadata": {"name": "run"},
        "spec": {
            "pretraining": {"objective": "MaskedLM"},
            "model": {"architecture": {"preset": "bert-tiny"}},
            "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": 400}},
            "data": {
                "sources": [
                    {
                        "name": "texts",
                        "uri": f"{tmp_path}/texts.jsonl",
                        "format": "JsonLines",
                        **(source or {}),
                    }
                ],
                "validationFraction": 0.1,
                "sequenceLength": 64,
            },
            "training": {
                "budget": {"steps": 1},
                "globalBatchSize": 4,
                "microBatchSize": 4,
                "optimizer": {"learningRate": 0.001},
            },
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = document["spec"]
        for parent in parents:
            target = (
                target[int(parent) if parent.isdigit() else parent]
                if parent.isdigit()
                else target.setdefault(parent, {})
            )
        target[last] = value
    run = TrainingRun.model_validate(document)
    return plan_run(
        run, storage_root=str(tmp_path / output), rendezvous=Rendezvous(address="x"), mounts=mounts
    )


def run(plan, *, cores=1, report=lambda *_: None, should_stop=lambda: False):
    return prepare(plan, report=report, cores=cores, should_stop=should_stop)


def prepared_files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"manifest.json", "file-hashes.json"}
    }


def row_texts(dataset):
    return [dataset.sample(index) for index in range(len(dataset))]


# --- what comes out ---


def test_every_token_of_every_document_is_in_the_rows_once(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    run(make_plan(tmp_path))
    data = open_prepared(tmp_path / "out" / "run")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data.tokenizer_folder)
    expected = sorted(tuple(tokenizer(text)["input_ids"]) for text in TEXTS)
    found = []
    for dataset in (data.train, data.validation):
        for sample in row_texts(dataset):
            assert len(sample.token_ids) == sample.document_lengths.sum() <= 64
            borders = np.cumsum(sample.document_lengths)[:-1]
            found += [tuple(part.tolist()) for part in np.split(sample.token_ids, borders)]
    assert sorted(found) == expected
    assert data.train.num_tokens + data.validation.num_tokens == sum(map(len, expected))
    assert data.manifest.packing_efficiency > 0.9


def test_flags_tell_special_tokens_and_beginnings_of_words(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    manifest = run(make_plan(tmp_path))
    data = open_prepared(tmp_path / "out" / "run")
    for sample in row_texts(data.train)[:20]:
        special = np.isin(
            sample.token_ids, [manifest.tokenizer.prefix_token_id, manifest.tokenizer.suffix_token_id]
        )
        assert np.array_equal(special, (sample.flags & 2) != 0)
        first_of_document = np.cumsum(sample.document_lengths) - sample.document_lengths + 1
        assert (sample.flags[first_of_document] & 1).all()


def test_a_causal_document_is_framed_once_and_cut(tmp_path):
    write_lines(tmp_path / "texts.jsonl", [" ".join(TEXTS[start : start + 20]) for start in range(380)])
    plan = make_plan(
        tmp_path,
        pretraining__objective="CausalLM",
        tokenizer__train={"algorithm": "BPE", "vocabularySize": 400},
    )
    manifest = run(plan)
    data = open_prepared(tmp_path / "out" / "run")
    tokens = np.concatenate([sample.token_ids for sample in row_texts(data.train)])
    assert (tokens == manifest.tokenizer.prefix_token_id).sum() == manifest.train.documents
    assert (tokens == manifest.tokenizer.suffix_token_id).sum() == manifest.train.documents
    assert manifest.train.pieces > manifest.train.documents
    assert manifest.tokenizer.mask_token_id is None


def test_the_outcome_does_not_depend_on_the_number_of_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "UNIT_BYTES", 4096)
    write_lines(tmp_path / "texts.jsonl")
    first = run(make_plan(tmp_path, output="one"), cores=1)
    second = run(make_plan(tmp_path, output="two"), cores=2)
    assert first.hash == second.hash
    one, two = prepared_files(tmp_path / "one" / "prepared"), prepared_files(tmp_path / "two" / "prepared")
    assert one == two
    assert sum(name.endswith(".tokens") for name in one) > 5


def test_entropy_is_that_of_the_training_tokens(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    manifest = run(make_plan(tmp_path))
    data = open_prepared(tmp_path / "out" / "run")
    tokens = np.concatenate([sample.token_ids[sample.flags < 2] for sample in row_texts(data.train)])
    shares = np.bincount(tokens)[np.bincount(tokens) > 0] / len(tokens)
    assert manifest.unigram_entropy == pytest.approx(-(shares * np.log(shares)).sum())


def test_real_addresses_are_prepared(tmp_path, sotu_addresses):
    plan = make_plan(
        tmp_path,
        source={"uri": f"file://{sotu_addresses}", "documentBoundary": "Line"},
        data__sequenceLength=256,
        tokenizer__train={"algorithm": "BPE", "vocabularySize": 2000},
    )
    manifest = run(plan, cores=2)
    assert manifest.sources[0].records == 233
    assert manifest.packing_efficiency > 0.99
    assert 5.5 < manifest.unigram_entropy < 7.5
    assert manifest.steps[3].counts["shards_by_reference"] == 0


# --- reuse ---


CHANGES = {
    "training__seed": (9, {"pack"}),
    "data__sequenceLength": (128, {"pack"}),
    "data__packing__enabled": (False, {"pack"}),
    "data__sources__0__weight": (2.0, {"pack"}),
    "data__validationFraction": (0.2, {"tokenizer", "pack"}),
    "tokenizer__train": ({"algorithm": "BPE", "vocabularySize": 400}, {"tokenizer", "tokenize", "pack"}),
    "data__preparation__deduplicate": ({"exact": False}, {"deduplicate", "tokenizer", "tokenize", "pack"}),
    "data__preparation__normalize": (False, set(STEPS)),
    "data__preparation__minimumCharacters": (30, set(STEPS)),
    "data__sources__0__documentBoundary": ("Line", set(STEPS)),
    "data__preparation__maximumInvalidFraction": (0.5, set()),
    "data__packing__isolateDocuments": (False, set()),
    "data__sources__0__name": ("other", set()),
    "training__budget": ({"steps": 7}, set()),
    "pretraining__masking": ({"probability": 0.4}, set()),
}


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reuse")
    write_lines(folder / "texts.jsonl", [*TEXTS, *TEXTS[:50]])
    return folder, run(make_plan(folder))


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_redoes_only_what_depends_on_it(field, prepared_once):
    folder, _ = prepared_once
    value, redone = CHANGES[field]
    manifest = run(make_plan(folder, **{field: value}))
    made = {step.name for step in manifest.steps if not step.reused}
    # the tokenizer of another split may come out equal; what follows is then rightly reused
    assert made - {"tokenize"} == redone - {"tokenize"}
    assert made <= redone | {"tokenize"}


def test_a_second_run_reuses_everything_and_has_the_same_hash(prepared_once):
    folder, first = prepared_once
    second = run(make_plan(folder))
    assert all(step.reused for step in second.steps)
    assert second.hash == first.hash


def test_a_changed_file_is_noticed_and_an_equal_one_elsewhere_is_not_read_again(tmp_path):
    path = write_lines(tmp_path / "texts.jsonl")
    first = run(make_plan(tmp_path))
    moved = write_lines(tmp_path / "elsewhere" / "texts.jsonl")
    again = run(make_plan(tmp_path, source={"uri": str(moved)}))
    assert all(step.reused for step in again.steps)
    assert again.hash == first.hash
    write_lines(path, [*TEXTS[:-1], "changed"])
    changed = run(make_plan(tmp_path))
    assert not any(step.reused for step in changed.steps)
    assert changed.hash != first.hash


def test_another_source_leaves_the_extraction_of_the_first_alone(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    second = write_lines(tmp_path / "more.jsonl", [f"more {text}" for text in TEXTS[:50]] + TEXTS[:10])
    plan = make_plan(tmp_path)
    run(plan)
    sources = [*(source.model_dump(by_alias=True) for source in plan.spec.data.sources)]
    sources.append({"name": "more", "uri": str(second), "format": "JsonLines"})
    manifest = run(make_plan(tmp_path, data__sources=sources))
    assert [step.reused for step in manifest.steps] == [True, False, False, False, False, False]
    assert [source.duplicates for source in manifest.sources] == [0, 10]


def test_a_damaged_step_is_made_again(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    first = run(make_plan(tmp_path))
    [tokens] = (tmp_path / "out" / "prepared").glob("tokenize-*/*.tokens")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match="Delete it and run again"):
        open_prepared(tmp_path / "out" / "run")
    second = run(make_plan(tmp_path))
    assert [step.reused for step in second.steps] == [True, True, True, False, True]
    assert second.hash == first.hash
    assert len(open_prepared(tmp_path / "out" / "run").train) == first.train.rows


def test_a_changed_packing_index_is_refused(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    run(make_plan(tmp_path))
    [pieces] = (tmp_path / "out" / "prepared").glob("pack-*/train.pieces")
    content = bytearray(pieces.read_bytes())
    content[0] ^= 1
    pieces.write_bytes(content)
    with pytest.raises(DataError, match="was changed after it was written"):
        open_prepared(tmp_path / "out" / "run")


# --- weights, duplicates, mounts ---


def test_weights_repeat_and_thin_out_training_documents_only(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    base = run(make_plan(tmp_path))
    double = run(make_plan(tmp_path, source={"weight": 2.0}))
    half = run(make_plan(tmp_path, source={"weight": 0.5}))
    assert double.train.tokens == 2 * base.train.tokens
    assert 0.4 < half.train.documents / base.train.documents < 0.6
    assert base.validation == double.validation == half.validation


def test_duplicates_are_dropped_whatever_their_spelling(tmp_path):
    texts = [
        *TEXTS,
        *(f"  {text}\r\n" for text in TEXTS[:30]),
        *(text.replace(" ", "\xa0") for text in TEXTS[:10]),
    ]
    write_lines(tmp_path / "texts.jsonl", texts)
    manifest = run(make_plan(tmp_path))
    assert manifest.sources[0].duplicates == 40
    assert manifest.train.documents + manifest.validation.documents == len(TEXTS)


def test_duplicates_are_found_across_partitions_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.deduplicate.PARTITION_DOCUMENTS", 16)
    write_lines(tmp_path / "texts.jsonl", [*TEXTS, *TEXTS[::2]])
    assert run(make_plan(tmp_path)).sources[0].duplicates == 200


def test_a_mounted_path_is_read_from_its_folder(tmp_path):
    write_lines(tmp_path / "host" / "texts.jsonl")
    plan = make_plan(
        tmp_path, source={"uri": "file:///data/*.jsonl"}, mounts={"/data": str(tmp_path / "host")}
    )
    manifest = run(plan)
    assert manifest.sources[0].records == len(TEXTS)
    assert manifest.sources[0].uri == "file:///data/*.jsonl"


def test_the_run_and_its_data_may_be_moved_together(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    run(make_plan(tmp_path))
    (tmp_path / "out").rename(tmp_path / "moved")
    assert len(open_prepared(tmp_path / "moved" / "run").train) > 4


# --- formats ---


def parquet_bytes(texts):
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "id": list(range(len(texts)))}), sink, row_group_size=50)
    return sink.getvalue()


COMPRESSORS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.compress(data[:99]) + zstandard.compress(data[99:]),
}


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("kind", ["JsonLines", "Text", "Parquet"])
def test_every_format_is_read_with_every_compression(kind, ending, tmp_path):
    content = {
        "JsonLines": "\n".join(json.dumps({"text": text}) for text in TEXTS).encode(),
        "Text": b"\xef\xbb\xbf" + "\r\n".join(TEXTS).encode(),
        "Parquet": parquet_bytes(TEXTS),
    }[kind]
    (tmp_path / f"texts{ending}").write_bytes(COMPRESSORS[ending](content))
    boundary = "Line" if kind == "Text" else "Record"
    plan = make_plan(
        tmp_path, source={"uri": f"{tmp_path}/texts*", "format": kind, "documentBoundary": boundary}
    )
    manifest = run(plan)
    assert manifest.sources[0].documents == len(TEXTS)
    assert manifest.sources[0].characters == sum(map(len, TEXTS))


@pytest.mark.parametrize("unit_bytes", [100, 777, 5000])
@pytest.mark.parametrize("kind", ["JsonLines", "Text", "Parquet"])
def test_a_large_file_is_read_in_parts_without_loss(kind, unit_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "UNIT_BYTES", unit_bytes)
    content = {
        "JsonLines": "\n".join(json.dumps({"text": text}) for text in TEXTS).encode(),
        "Text": "\n".join(TEXTS).encode(),
        "Parquet": parquet_bytes(TEXTS),
    }[kind]
    (tmp_path / "texts").write_bytes(content)
    source = {
        "uri": f"{tmp_path}/texts",
        "format": kind,
        "documentBoundary": "Line" if kind == "Text" else "Record",
    }
    manifest = run(make_plan(tmp_path, source=source))
    assert manifest.sources[0].documents == len(TEXTS)
    assert manifest.sources[0].characters == sum(map(len, TEXTS))


@pytest.mark.parametrize(("boundary", "documents"), [("Record", 400), ("BlankLine", 800), ("Line", 1200)])
@pytest.mark.parametrize("kind", ["JsonLines", "Text"])
def test_records_are_split_at_the_boundary(kind, boundary, documents, tmp_path):
    for number, text in enumerate(TEXTS):
        record = f"{text}\r\nline {number}\n \n\n\tpart {number}\n"
        if kind == "Text":
            (tmp_path / f"{number:03d}.txt").write_text(record)
        else:
            with (tmp_path / "all.txt").open("a") as file:
                file.write(json.dumps({"text": record}) + "\n")
    source = {"uri": f"{tmp_path}/*.txt", "format": kind, "documentBoundary": boundary}
    assert run(make_plan(tmp_path, source=source)).sources[0].documents == documents


# --- bad input ---


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


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "texts.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"texts.parquet: it is not a Parquet file"):
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/texts.parquet", "format": "Parquet"}))


@pytest.mark.parametrize("uri", ["{}/nothing.jsonl", "{}/*.nothing", "{}", "file://{}/no/such/*/folder"])
def test_a_source_that_matches_nothing_is_refused(uri, tmp_path):
    with pytest.raises(DataError, match=r"spec.data.sources\[0\].uri: no file matches .*Correct"):
        run(make_plan(tmp_path, source={"uri": uri.format(tmp_path)}))


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"spec.data.sources.0..uri: nonsense://x cannot be opened"):
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


# --- interruption, a full disk, two runs at once ---


def test_a_stop_at_any_moment_leaves_no_half_written_step(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    expected = run(make_plan(tmp_path, output="other")).hash
    for patience in range(0, 60, 3):
        calls = iter(range(1000))
        plan = make_plan(tmp_path)
        try:
            manifest = run(plan, should_stop=lambda calls=calls, patience=patience: next(calls) >= patience)
        except PreemptedError:
            assert not list((tmp_path / "out" / "prepared").glob(".temporary-*"))
            assert not (tmp_path / "out" / "run" / "data.json").exists()
        else:
            break
    assert patience > 3
    assert manifest.hash == expected


def test_a_stop_ends_worker_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "UNIT_BYTES", 2000)
    write_lines(tmp_path / "texts.jsonl")
    calls = iter(range(10_000))
    with pytest.raises(PreemptedError):
        run(make_plan(tmp_path), cores=2, should_stop=lambda: next(calls) > 4)
    assert not list((tmp_path / "out" / "prepared").glob("*extract-*/"))


@pytest.mark.parametrize("allowed_bytes", [0, 5000, 20_000, 30_000])
def test_a_full_disk_is_told_and_leaves_no_half_written_step(allowed_bytes, tmp_path, monkeypatch):
    write_lines(tmp_path / "texts.jsonl")
    written = 0
    real_write = files_module.HashedFile.write

    def write(self, data):
        nonlocal written
        written += data.nbytes if isinstance(data, np.ndarray) else len(data)
        if written > allowed_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_write(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(files_module.HashedFile, "write", write)
        with pytest.raises(StorageFullError, match="no space is left"):
            run(make_plan(tmp_path))
    assert not list((tmp_path / "out" / "prepared").glob(".temporary-*"))
    assert run(make_plan(tmp_path)).train.rows > 4


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    first = run(make_plan(tmp_path))
    folder = tmp_path / "out" / "prepared" / first.steps[-1].folder
    (folder / "manifest.json").unlink()
    left = folder.with_name(f".temporary-{folder.name}")
    left.mkdir()
    (left / "train.rows").write_bytes(b"half")
    assert run(make_plan(tmp_path)).hash == first.hash
    assert not left.exists()


def test_two_runs_that_need_the_same_step_make_it_once(tmp_path):
    made = []
    inside, leave = threading.Event(), threading.Event()

    def body(folder):
        made.append(folder)
        inside.set()
        assert leave.wait(10)
        return StepOutcome((), {}, {})

    store = StepStore(tmp_path, lambda: False)
    results = []
    threads = [threading.Thread(target=lambda: results.append(store.run("step", {}, body))) for _ in range(2)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    stopping = StepStore(tmp_path, lambda: True)
    with pytest.raises(PreemptedError):
        stopping.run("step", {}, body)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
    assert sorted(result.reused for result in results) == [False, True]


def test_progress_is_told_with_totals(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    told = []
    run(make_plan(tmp_path), report=lambda *arguments: told.append(arguments))
    last = {step: (done, total, unit) for step, done, total, unit in told}
    assert list(last) == ["list", "extract texts", "deduplicate", "tokenizer", "tokenize", "pack"]
    for step in list(last)[1:]:
        done, total, _ = last[step]
        assert done == total > 0


def test_preparation_imports_no_torch(tmp_path):
    code = "import sys, trainyard_trainer.data.prepare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=60)


MEMORY_PROGRAM = """
import resource, sys
from pathlib import Path
from tests_plan import make_plan
from trainyard_trainer.data.prepare import prepare
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan = make_plan(Path(sys.argv[1]), source={"uri": sys.argv[1] + "/texts.jsonl.gz"}, data__sequenceLength=512)
manifest = prepare(plan, report=lambda *_: None, cores=1, should_stop=lambda: False)
print(manifest.sources[0].characters, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    block = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    (tmp_path / "tests_plan.py").write_text(Path(__file__).read_text())
    with gzip.open(tmp_path / "texts.jsonl.gz", "wb", compresslevel=1) as file:
        while file.tell() < 220 << 20:
            file.write(block)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, str(tmp_path)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    characters, grown_mebibytes = map(int, done.stdout.split())
    assert characters > 150 << 20
    assert grown_mebibytes < 250


def test_errors_of_workers_keep_their_class(tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "UNIT_BYTES", 64)
    write_lines(tmp_path / "good.jsonl")
    (tmp_path / "bad.jsonl.gz").write_bytes(b"bad" * 100)
    with pytest.raises(TrainyardError) as caught:
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/*.jsonl*"}), cores=2)
    assert isinstance(caught.value, DataError)
