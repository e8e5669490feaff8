"""Parquet files that lie about themselves: they are read in bounded memory, or refused, and never crash."""

import gzip
import io
import random
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.preparation import TEXTS, make_plan, parquet_bytes, run
from trainyard_api.errors import DataError, TransientError
from trainyard_trainer.data import parquet_pages, spool
from trainyard_trainer.data.parquet import (
    open_parquet,
    read_row_group_objects,
    read_row_groups,
    row_group_sizes,
)
from trainyard_trainer.data.parquet_values import row_bytes
from trainyard_trainer.data.readers import FieldsRecord, InvalidRecord, file_errors
from trainyard_trainer.predict.records import read_records

MEGABYTE = 1 << 20


def written(table, **options):
    sink = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), sink, **options)
    return sink.getvalue()


def records_of(content, columns):
    table = open_parquet(io.BytesIO(content), "x.parquet")
    return list(read_row_group_objects(table, columns, range(table.num_row_groups)))


def texts_of(content):
    table = open_parquet(io.BytesIO(content), "x.parquet")
    return [record.text for record in read_row_groups(table, "text", range(table.num_row_groups))]


NESTED = {
    "words": [[f"w{number % 300}" * 5, "of"] for number in range(3000)],
    "messages": [[{"role": "user", "content": f"x{number}" * 9}] for number in range(3000)],
    "raw": [b"\xff%d" % number for number in range(3000)],
    "none": [None] * 3000,
}


@pytest.mark.parametrize("options", [{}, {"dictionary_pagesize_limit": 2000}, {"use_dictionary": False}])
def test_lists_and_bytes_of_several_row_groups_are_read_as_they_were_written(options):
    content = written(NESTED, row_group_size=700, data_page_size=3000, **options)
    read = [record.fields for record in records_of(content, list(NESTED))]
    assert read == pa.table(NESTED).to_pylist()


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_every_page_of_a_chunk_is_looked_at(version, encoding, monkeypatch):
    seen = []
    add = parquet_pages.Chunk.add
    monkeypatch.setattr(parquet_pages.Chunk, "add", lambda chunk, page: seen.append(page) or add(chunk, page))
    texts = [f"{number} " * 40 for number in range(5000)]
    content = written(
        {"text": texts},
        use_dictionary=False,
        column_encoding={"text": encoding},
        data_page_version=version,
        data_page_size=20_000,
        write_batch_size=50,
        row_group_size=2000,
    )
    monkeypatch.setattr("trainyard_trainer.data.parquet.BUFFER_BYTES", 1000)
    assert texts_of(content) == texts
    assert sum(page.num_values for page in seen) == len(texts)
    assert len(seen) > 10


BOMBS = {
    "a page of zeros": (
        {"text": ["\0" * (2 * MEGABYTE)]},
        {"use_dictionary": False, "compression": "zstd"},
        "text",
        r"a page of the column 'text' unfolds from \d+ to \d+ bytes. Write it again",
    ),
    "a dictionary of zeros": (
        {"words": [["\0" * (2 * MEGABYTE)] * 2]},
        {"compression": "zstd", "dictionary_pagesize_limit": 9 * MEGABYTE},
        "words",
        r"a page of the column 'words.list.element' unfolds",
    ),
    "repeated prefixes": (
        {"text": ["x" * (MEGABYTE // 2)] * 64},
        {
            "use_dictionary": False,
            "compression": "zstd",
            "column_encoding": {"text": "DELTA_BYTE_ARRAY"},
        },
        "text",
        r"rows of the column 'text' may unfold to \d+ bytes",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_unfolds_to_more_than_memory_is_refused_before_it_does(name, monkeypatch):
    monkeypatch.setattr(parquet_pages, "PAGE_BYTES", MEGABYTE)
    monkeypatch.setattr(parquet_pages, "MAXIMUM_BATCH_BYTES", 8 * MEGABYTE)
    columns, options, column, problem = BOMBS[name]
    content = written(columns, write_statistics=False, **options)
    assert len(content) < MEGABYTE // 10
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match=problem):
        records_of(content, [column])
    assert pa.total_allocated_bytes() - before < MEGABYTE


def chunk(**changes):
    usual = {"position": 4, "end": 1 << 40, "num_values": 1 << 40, "batch_rows": 1000, "value_weight": 1}
    kinds = {"is_nested": False, "keeps_dictionary": False}
    return parquet_pages.Chunk(name="text", **{**usual, **kinds, **changes})


def data_page(**changes):
    usual = {"kind": 0, "unfolded_bytes": 1000, "stored_bytes": 1000, "num_values": 100, "encoding": 0}
    return parquet_pages.Page(header_bytes=20, **{**usual, **changes})


GIGABYTE = 1 << 30
DICTIONARY = data_page(kind=2, unfolded_bytes=2 * MEGABYTE, num_values=0, encoding=-1)


@pytest.mark.parametrize(
    ("chunk", "pages", "problem"),
    [
        (chunk(), [data_page(unfolded_bytes=64 * MEGABYTE, stored_bytes=1)], None),
        (chunk(), [data_page(unfolded_bytes=64 * MEGABYTE + 1, stored_bytes=1)], "unfolds"),
        (chunk(), [data_page(unfolded_bytes=GIGABYTE, stored_bytes=GIGABYTE // 99)], None),
        (chunk(), [data_page(unfolded_bytes=GIGABYTE + 1, stored_bytes=GIGABYTE)], "unfolds"),
        (chunk(), [data_page(stored_bytes=-1)], "negative"),
        (chunk(), [data_page(num_values=(1 << 27) + 1)], "values"),
        (chunk(), [DICTIONARY, data_page(encoding=8)], None),
        (chunk(), [DICTIONARY, data_page(encoding=8, num_values=513)], "rows of"),
        (chunk(batch_rows=512), [DICTIONARY, data_page(encoding=8, num_values=513)], None),
        (chunk(keeps_dictionary=True), [DICTIONARY, data_page(encoding=8, num_values=513)], None),
        (chunk(), [data_page(encoding=7, unfolded_bytes=2 * MEGABYTE, num_values=513)], "rows of"),
        (chunk(), [data_page(unfolded_bytes=60 * MEGABYTE)] * 10, None),
        (chunk(), [data_page(unfolded_bytes=60 * MEGABYTE, num_values=10)] * 18, "rows of"),
        (chunk(is_nested=True), [data_page(num_values=1 << 26)], None),
        (chunk(is_nested=True), [data_page(num_values=1 << 25)] * 3, "in a row group"),
        (chunk(is_nested=True, value_weight=4), [data_page(num_values=1 << 25)], "in a row group"),
    ],
)
def test_a_page_is_refused_when_it_or_its_batch_would_not_fit_into_memory(chunk, pages, problem):
    found = [chunk.add(page) for page in pages]
    assert found[:-1] == [None] * (len(pages) - 1)
    assert (found[-1] is None) == (problem is None)
    assert problem is None or problem in found[-1]


def test_lists_of_texts_told_by_differences_are_refused_with_what_to_do():
    content = written(
        {"words": [["a", "b"]]},
        use_dictionary=False,
        column_encoding={"words.list.element": "DELTA_BYTE_ARRAY"},
    )
    with pytest.raises(DataError, match=r"'words.list.element' holds lists .* with the encoding PLAIN"):
        records_of(content, ["words"])


def test_a_list_of_more_values_than_a_row_group_may_hold_is_refused(monkeypatch):
    monkeypatch.setattr(parquet_pages, "MAXIMUM_NESTED_VALUES", 10_000)
    content = written({"words": [["a"] * 20_000]})
    with pytest.raises(DataError, match=r"'words.list.element' holds more than 10000 values in a row group"):
        records_of(content, ["words"])


def test_small_pages_with_long_texts_may_not_fill_a_batch_beyond_memory(monkeypatch):
    monkeypatch.setattr(parquet_pages, "MAXIMUM_BATCH_BYTES", 300_000)
    long = "x" * 100_000
    options = {"use_dictionary": False, "data_page_size": 1, "write_batch_size": 1, "compression": "zstd"}
    content = written({"text": [long] * 5}, **options)
    with pytest.raises(DataError, match=r"670 rows of the column 'text' may unfold to \d+ bytes"):
        texts_of(content)
    assert texts_of(written({"text": [long, long]}, **options)) == [long, long]


@pytest.mark.parametrize(
    ("value", "others"),
    [
        (["word"] * 1000, [["a", "b"]] * 3),
        (b"\xff" * 6000, [b"\xfe"] * 3),
        ([{"role": "user", "content": "x" * 6000}], [[{"role": "user", "content": "y"}]] * 3),
        ({"deep": [["x" * 3000], ["y" * 3000]]}, [{"deep": [["x"]]}] * 3),
    ],
    ids=["words", "bytes", "messages", "deep"],
)
def test_a_row_that_is_too_long_is_set_aside_whatever_holds_it(value, others, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.parquet_values.MAXIMUM_RECORD_BYTES", 5000)
    content = written({"field": [others[0], value, *others[1:]]})
    read = records_of(content, ["field"])
    assert [type(record) for record in read] == [FieldsRecord, InvalidRecord, FieldsRecord, FieldsRecord]
    assert [record.fields["field"] for record in read if isinstance(record, FieldsRecord)] == others


def test_the_bytes_of_rows_count_each_repetition_of_a_text():
    array = pa.array([["aa", "b"], None, ["aa"] * 3, []])
    assert row_bytes(array).tolist() == [3 + 16, 0, 6 + 24, 0]
    as_dictionary = pa.array(["x" * 9, None, "y", "x" * 9]).dictionary_encode()
    assert row_bytes(as_dictionary).tolist() == [9, 0, 1, 9]
    assert row_bytes(as_dictionary.slice(2)).tolist() == [1, 9]
    assert row_bytes(array.slice(2)).tolist() == [30, 0]
    assert row_bytes(pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)).slice(1)).tolist() == [32]
    assert row_bytes(pa.array([[("k", "vv")]], pa.map_(pa.string(), pa.string()))).tolist() == [11]


def test_a_column_that_uses_entries_its_dictionary_lacks_is_refused():
    indices = pa.array([0, 3], pa.int32())
    array = pa.DictionaryArray.from_arrays(indices, pa.array(["x"]), safe=False)
    with pytest.raises(pa.ArrowInvalid, match="entries that its dictionary does not have"):
        row_bytes(array)


def test_a_time_that_python_does_not_know_is_set_aside():
    content = written({"when": pa.array([0, 1 << 62], pa.timestamp("us"))})
    first, second = records_of(content, ["when"])
    assert isinstance(first, FieldsRecord)
    assert "no value that can be read" in second.reason


class FailingStream(io.BytesIO):
    """Fails on the first read from before a place."""

    def __init__(self, content, before, error):
        super().__init__(content)
        self._before = before
        self._error = error

    def read(self, size=-1):
        if self.tell() < self._before:
            raise self._error
        return super().read(size)


@pytest.mark.parametrize("before", [1000, 1 << 40], ids=["pages", "footer"])
@pytest.mark.parametrize(
    ("uri", "error", "kind", "told"),
    [
        ("s3://b/x.parquet", ConnectionResetError(104, "reset"), TransientError, "cannot be reached"),
        ("s3://b/x.parquet", TimeoutError(), TransientError, "cannot be reached"),
        ("s3://b/x.parquet", PermissionError("no"), DataError, "may not be read"),
        ("/x.parquet", OSError(5, "Input/output error"), OSError, "Input/output error"),
    ],
    ids=["reset", "timeout", "refused", "disk"],
)
def test_an_error_of_the_store_is_not_taken_for_damage(uri, error, kind, told, before):
    def read():
        with file_errors(uri):
            table = open_parquet(FailingStream(parquet_bytes(TEXTS), before, error), uri)
            list(read_row_groups(table, "text", range(table.num_row_groups)))

    with pytest.raises(kind, match=told):
        read()


def test_a_compressed_parquet_file_is_predicted_on(tmp_path):
    (tmp_path / "in.parquet.gz").write_bytes(gzip.compress(parquet_bytes(TEXTS[:3])))
    assert [record.fields["text"] for record in read_records(tmp_path / "in.parquet.gz")] == TEXTS[:3]
    (tmp_path / "in.parquet.gz").write_bytes(gzip.compress(b"no Parquet"))
    with pytest.raises(DataError, match=r"in.parquet.gz: it is not a Parquet file"):
        list(read_records(tmp_path / "in.parquet.gz"))


def test_a_compressed_parquet_file_that_fills_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "UNPACKED_BYTES", 1 << 16)
    path = tmp_path / "texts.parquet.gz"
    path.write_bytes(gzip.compress(parquet_bytes(TEXTS) + bytes(8 * MEGABYTE)))
    problem = r"texts.parquet.gz: it has \d+ bytes and unpacks to more than \d+. It is a decompression bomb"
    with pytest.raises(DataError, match=problem):
        list(read_records(path))
    with pytest.raises(DataError, match=problem):
        run(make_plan(tmp_path, source={"uri": str(path), "format": "Parquet"}))
    path.write_bytes(gzip.compress(parquet_bytes(TEXTS)))
    assert len(list(read_records(path))) == len(TEXTS), "a small ratio is no bomb"


def test_a_stream_is_kept_on_the_disk_and_may_not_be_longer_than_it_is_said_to_be():
    class Stream(io.BytesIO):
        def seekable(self):
            return False

    with ExitStack() as stack:
        assert spool.seekable(Stream(b"abc"), None, 3, "x", stack).read() == b"abc"
        with pytest.raises(DataError, match="it has 2 bytes and unpacks to more than 2"):
            spool.seekable(Stream(b"abc"), None, 2, "x", stack)


SEED = 20261125
NUM_MUTATIONS = 300
MAXIMUM_MEMORY_BYTES = 4 << 30
MAXIMUM_SECONDS = 20


def mutated(content, generator):
    """The file with some bytes of its footer, or of its pages, changed."""
    damaged = bytearray(content)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    first, last = (footer, len(content) - 4) if generator.random() < 0.75 else (4, footer)
    for _ in range(generator.choice([1, 1, 1, 2, 4, 16])):
        place = generator.randrange(first, last)
        damaged[place] = generator.choice([0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)])
    return bytes(damaged)


def fuzz():
    """Read each mutation; only a DataError may come of it. Runs in a process of its own."""
    generator = random.Random(SEED)
    words = [[f"w{number % 50}", "of"] for number in range(600)]
    columns = {"text": [f"text {number} " * 9 for number in range(600)], "words": words, "n": range(600)}
    files = [
        written(columns, row_group_size=200, compression=compression, data_page_version=version)
        for compression, version in [("zstd", "1.0"), ("none", "2.0"), ("snappy", "1.0")]
    ]
    outcomes = {"read": 0, "refused": 0}
    for number in range(NUM_MUTATIONS):
        content = mutated(files[number % len(files)], generator)
        started = time.monotonic()
        try:
            with file_errors("/x.parquet"):
                table = open_parquet(io.BytesIO(content), "/x.parquet")
                row_group_sizes(table)
                for _ in read_row_group_objects(table, list(table.columns), range(table.num_row_groups)):
                    pass
            outcomes["read"] += 1
        except DataError:
            outcomes["refused"] += 1
        seconds = time.monotonic() - started
        if seconds > MAXIMUM_SECONDS:
            raise AssertionError(f"mutation {number} took {seconds} s")
    sys.stdout.write(f"{outcomes['read']} {outcomes['refused']}")


def test_no_damage_of_a_footer_or_a_page_does_more_than_an_error_of_data():
    source = Path(__file__).resolve()

    def limit_memory():
        resource.setrlimit(resource.RLIMIT_DATA, (MAXIMUM_MEMORY_BYTES, MAXIMUM_MEMORY_BYTES))

    finished = subprocess.run(
        [sys.executable, "-c", f"from tests.trainer.{source.stem} import fuzz; fuzz()"],
        cwd=source.parents[2],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit_memory,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    num_read, num_refused = map(int, finished.stdout.split())
    assert num_read + num_refused == NUM_MUTATIONS
    assert min(num_read, num_refused) > NUM_MUTATIONS // 10
