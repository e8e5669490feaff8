"""CSV sources: quoting, line ends and encodings as spreadsheets write them; what is no CSV is refused."""

import csv
import io

import pytest

from tests.support.preparation import TEXTS, make_plan, run, write_lines
from trainyard_api.errors import DataError
from trainyard_trainer.data import units as units_module
from trainyard_trainer.data.csv_records import read_csv_objects
from trainyard_trainer.data.readers import FieldsRecord, InvalidRecord


def objects(content):
    return list(read_csv_objects(io.BytesIO(content), "file:///mail.csv"))


def test_quoted_commas_quotes_and_line_ends_belong_to_the_text():
    content = b'\xef\xbb\xbftext,label\r\n"a, ""b""\nc",spam\r\n\r\nd,ham\r\n'
    assert objects(content) == [
        FieldsRecord(3, {"text": 'a, "b"\nc', "label": "spam"}),
        FieldsRecord(5, {"text": "d", "label": "ham"}),
    ]


def test_a_row_with_too_few_columns_is_set_aside():
    [short, good] = objects(b"text,label\nalone\nd,ham\n")
    assert short == InvalidRecord(2, "1 columns instead of the header's 2", "alone")
    assert good.fields == {"text": "d", "label": "ham"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"text,text\na,b\n", "twice or not at all: text, text"),
        (b"text,\na,b\n", "twice or not at all"),
        (b'text\n"never closed\n', "no CSV at line 2"),
        (b'text\n"a"b\n', "no CSV at line 2"),
    ],
)
def test_a_file_that_is_no_csv_is_refused(content, problem):
    with pytest.raises(DataError, match=problem):
        objects(content)


def write_csv(path, texts=TEXTS):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(texts))


def test_csv_gives_the_documents_that_json_lines_give(tmp_path, monkeypatch):
    monkeypatch.setattr(
        units_module, "UNIT_BYTES", 1000
    )  # a CSV file is never cut, its text may hold line ends
    write_lines(tmp_path / "texts.jsonl")
    write_csv(tmp_path / "texts.csv")
    as_lines = run(make_plan(tmp_path, output="lines"))
    source = {"uri": f"{tmp_path}/texts.csv", "format": "CSV"}
    as_csv = run(make_plan(tmp_path, output="csv", source=source))
    assert as_csv.train == as_lines.train
    assert as_csv.unigram_entropy == as_lines.unigram_entropy


def test_csv_that_is_not_utf_8_is_counted(tmp_path):
    write_csv(tmp_path / "texts.csv")
    with (tmp_path / "texts.csv").open("ab") as file:
        file.write("400,caf\xe9\n".encode("latin-1"))
    manifest = run(make_plan(tmp_path, source={"uri": f"{tmp_path}/texts.csv", "format": "CSV"}))
    assert manifest.sources[0].invalid_records == 1


def test_a_column_that_no_row_has_is_refused_with_those_that_are_there(tmp_path):
    write_csv(tmp_path / "texts.csv")
    source = {"uri": f"{tmp_path}/texts.csv", "format": "CSV", "textField": "body"}
    with pytest.raises(DataError, match=r"no record of .* has the field 'body'; they have id, text"):
        run(make_plan(tmp_path, source=source))
