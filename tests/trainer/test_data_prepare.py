"""Preparation of data: what comes out, in every format."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pytest
import zstandard

from tests.support.preparation import (
    TEXTS,
    make_plan,
    parquet_bytes,
    prepared_files,
    row_texts,
    run,
    write_lines,
)
from trainyard_trainer.data import units as units_module
from trainyard_trainer.data.dataset import open_prepared


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
