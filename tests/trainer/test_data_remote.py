"""Sources, tokenizers and models elsewhere: noticed when they change, and told apart when they fail."""

import json
import socket

import fsspec
import pytest

from tests.support.base_models import store_model
from tests.support.preparation import TEXTS, make_plan, parquet_bytes, run, write_lines
from tests.support.web_server import web_server
from trainyard_api.errors import ConfigurationError, DataError, TransientError
from trainyard_api.spec import Source
from trainyard_trainer.data import fetch_model, locations, sources, units
from trainyard_trainer.data.existing_tokenizer import read_existing
from trainyard_trainer.data.faults import Fault, fault_of
from trainyard_trainer.data.locations import open_location, open_stream, stored_identity
from trainyard_trainer.data.sources import InputFile
from trainyard_trainer.data.units import divide

MODEL = "spec.model.pretrained.uri"
TEACHER = "spec.distillation.teacher.pretrained.uri"
OTHER_TEXTS = [text.replace("word", "Word", 1) for text in TEXTS]


def lines(texts=TEXTS):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.fixture
def site():
    with web_server() as running:
        running.files["/texts.jsonl"] = lines()
        yield running


@pytest.fixture
def closed_address():
    """Where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def source_plan(tmp_path, address):
    return make_plan(tmp_path, source={"uri": f"{address}/texts.jsonl"})


VALIDATORS = [
    ({"ETag": '"one"'}, {"ETag": '"two"'}),
    ({"Last-Modified": "Wed, 25 Nov 2026 06:00:00 GMT"}, {"Last-Modified": "Wed, 25 Nov 2026 06:00:01 GMT"}),
    ({}, {}),
]


@pytest.mark.parametrize(("before", "after"), VALIDATORS, ids=["ETag", "Last-Modified", "neither"])
def test_a_changed_file_of_the_same_size_is_read_again_and_an_unchanged_one_is_not(
    before, after, site, tmp_path
):
    site.headers = before
    plan = source_plan(tmp_path, site.address)
    first = run(plan)
    assert run(plan).steps[0].reused
    site.files["/texts.jsonl"], site.headers = lines(OTHER_TEXTS), after
    assert len(lines(OTHER_TEXTS)) == len(lines())
    changed = run(plan)
    assert not changed.steps[0].reused
    assert changed.hash != first.hash


@pytest.mark.parametrize(
    ("info", "identity"),
    [
        ({"ETag": '"a"', "Last-Modified": "x"}, 'ETag="a"'),
        ({"ETag": 'W/"a"', "Last-Modified": "x"}, 'ETag=W/"a" Last-Modified=x'),
        ({"ETag": '"a"', "LastModified": "x", "StorageClass": "STANDARD"}, 'ETag="a"'),
        ({"etag": "a", "md5Hash": "m", "generation": "3"}, "etag=a"),
        ({"blob_id": "b", "last_commit": None}, "blob_id=b"),
        ({"created": "now"}, "created=now"),
        ({"name": "x", "size": 3, "type": "file"}, None),
    ],
)
def test_a_file_is_known_by_the_best_that_its_store_tells(info, identity):
    assert stored_identity(info) == identity


def test_a_file_in_memory_that_was_written_again_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr(locations, "PROTOCOLS", ("memory",))
    store = fsspec.filesystem("memory")
    plan = make_plan(tmp_path, source={"uri": "memory://remote-test/*.jsonl"})
    store.pipe("/remote-test/a.jsonl", lines())
    first = run(plan)
    store.pipe("/remote-test/a.jsonl", lines(OTHER_TEXTS))
    assert run(plan).hash != first.hash
    store.rm("/remote-test", recursive=True)


SERVERS = {
    "ranges": {"serves_ranges": True},
    "no ranges": {"serves_ranges": False},
    "neither ranges nor lengths": {"serves_ranges": False, "tells_length": False},
}


@pytest.fixture(params=SERVERS)
def plain_site(request, site):
    for name, value in SERVERS[request.param].items():
        setattr(site, name, value)
    return site


def test_any_server_gives_the_text_of_lines_and_of_parquet(plain_site, tmp_path):
    plain_site.files["/texts.parquet"] = parquet_bytes(TEXTS)
    source = {"uri": f"{plain_site.address}/texts.parquet", "format": "Parquet"}
    plan = make_plan(tmp_path, source=source)
    assert run(plan).sources[0].documents == len(TEXTS)
    assert run(plan).steps[0].reused
    lines_plan = make_plan(tmp_path, output="lines", source={"uri": f"{plain_site.address}/texts.jsonl"})
    assert run(lines_plan).sources[0].documents == len(TEXTS)
    assert plain_site.encodings == {"identity"}, "content compressed on the way has neither length nor ranges"


def test_a_file_of_many_blocks_is_read_from_any_server_and_divided_where_it_serves_ranges(
    plain_site, monkeypatch
):
    monkeypatch.setattr(units, "UNIT_BYTES", 3 << 20)
    content = lines([f"{number} " * 500 for number in range(3000)])
    assert len(content) > 6 << 20, "more than fsspec reads at once"
    plain_site.files["/texts.jsonl"] = content
    uri = f"{plain_site.address}/texts.jsonl"
    source = Source(name="texts", uri=uri, format="JsonLines")
    with open_stream(uri, len(content)) as stream:
        assert stream.read(10) == content[:10]
        assert stream.read() == content[10:]
    parts = divide([InputFile(uri, len(content), "")], source)
    assert len(parts) == (3 if plain_site.serves_ranges else 1)
    plain_site.files["/texts.parquet"] = parquet_bytes(TEXTS)
    file = InputFile(f"{plain_site.address}/texts.parquet", 4 << 20, "")
    groups = divide([file], source.model_copy(update={"format": "Parquet"}))
    assert sum(map(len, groups)) == (8 if plain_site.serves_ranges else 1)


def test_a_tokenizer_and_a_model_come_from_a_server_without_lengths(site, tmp_path):
    model = store_model(tmp_path / "model")
    names = sorted(path.name for path in model.iterdir())
    site.files |= {f"/model/{name}": (model / name).read_bytes() for name in names}
    site.files["/model/"] = "".join(f'<a href="{name}">' for name in names).encode()
    site.tells_length = False
    remote = fetch_model.open_remote(f"{site.address}/model/", MODEL)
    assert remote.sizes == {name: (model / name).stat().st_size for name in names}
    (tmp_path / "fetched").mkdir()
    remote.fetch(names, tmp_path / "fetched", lambda _: None)
    assert all((tmp_path / "fetched" / name).read_bytes() == (model / name).read_bytes() for name in names)
    tokenizer, _ = read_existing(f"{site.address}/model/tokenizer.json", {})
    assert tokenizer == (model / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_stream_that_ends_elsewhere_than_it_did_is_worth_a_retry(difference, site):
    site.tells_length = False
    size_bytes = len(lines()) + difference
    with (
        open_stream(f"{site.address}/texts.jsonl", size_bytes) as stream,
        pytest.raises(TransientError, match=rf"sent \d+ bytes or more instead of {size_bytes}"),
    ):
        stream.read()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_cannot_answer_now_is_worth_a_retry(status, site, tmp_path):
    site.status = status
    with pytest.raises(
        TransientError, match=r"sources\[0\].uri: http\S+ cannot be reached: .*start the run again"
    ):
        run(source_plan(tmp_path, site.address))
    with pytest.raises(TransientError, match=r"spec.tokenizer.uri: http\S+ cannot be reached"):
        read_existing(f"{site.address}/tokenizer.json", {})
    with pytest.raises(TransientError, match=r"spec.model.pretrained.uri: http\S+ cannot be reached"):
        fetch_model.open_remote(f"{site.address}/model/", MODEL)


def test_a_refused_connection_is_worth_a_retry(closed_address, tmp_path):
    with pytest.raises(TransientError, match=r"sources\[0\].uri: http\S+ cannot be reached: "):
        run(source_plan(tmp_path, closed_address))
    with pytest.raises(TransientError, match=r"spec\.tokenizer\.uri"):
        read_existing(f"{closed_address}/tokenizer.json", {})
    with pytest.raises(TransientError, match=r"spec\.distillation\.teacher\.pretrained\.uri"):
        fetch_model.open_remote(f"{closed_address}/model/", TEACHER)


@pytest.mark.parametrize(
    ("status", "told"), [(403, "may not be read"), (401, "may not be read"), (404, "no file matches")]
)
def test_a_server_that_refuses_is_not_asked_again(status, told, site, tmp_path):
    site.status = status
    with pytest.raises(DataError, match=rf"sources\[0\].uri: .*{told}"):
        run(source_plan(tmp_path, site.address))
    with pytest.raises(DataError, match=r"spec\.tokenizer\.uri"):
        read_existing(f"{site.address}/tokenizer.json", {})


def test_a_connection_that_ends_while_a_source_is_read_is_worth_a_retry(site, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "trainyard_trainer.data.units.open_stream",
        lambda *_: (_ for _ in ()).throw(ConnectionResetError(104, "reset")),
    )
    with pytest.raises(TransientError, match=r"texts.jsonl cannot be reached: .*reset"):
        run(source_plan(tmp_path, site.address))


def error_from(error, cause):
    error.__cause__ = cause
    return error


class AnswerError(Exception):
    def __init__(self, status=None, response=None):
        super().__init__(f"answer {status}")
        self.status = status
        self.response = response


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ConnectionResetError(), Fault.TRANSIENT),
        (TimeoutError(), Fault.TRANSIENT),
        (socket.gaierror(-3, "no answer"), Fault.TRANSIENT),
        (error_from(FileNotFoundError("x"), ConnectionRefusedError()), Fault.TRANSIENT),
        (error_from(FileNotFoundError("x"), AnswerError(503)), Fault.TRANSIENT),
        (error_from(FileNotFoundError("x"), AnswerError(403)), Fault.REFUSED),
        (error_from(OSError("x"), AnswerError(501)), Fault.REJECTED),
        (error_from(FileNotFoundError("x"), AnswerError(400)), Fault.REJECTED),
        (AnswerError(response={"ResponseMetadata": {"HTTPStatusCode": 503}}), Fault.TRANSIENT),
        (FileNotFoundError("x"), Fault.ABSENT),
        (PermissionError("x"), Fault.REFUSED),
        (ValueError("x"), None),
    ],
)
def test_the_cause_of_an_error_says_whether_a_retry_helps(error, fault):
    assert fault_of(error) is fault


@pytest.mark.parametrize(
    ("uri", "package"), [("s3://b/x", "s3fs"), ("gs://b/x", "gcsfs"), ("az://b/x", "adlfs")]
)
def test_a_protocol_whose_package_is_missing_names_it(uri, package):
    with pytest.raises(ConfigurationError, match=rf"needs the Python package {package}, .*Install {package}"):
        open_location(uri, "spec.data.sources[0].uri")


@pytest.mark.parametrize(
    "uri",
    [
        "reference://x",
        "data:text/plain,x::file://",
        "filecache::file:///x",
        "zip://a::file:///x.zip",
        "memory://x",
    ],
)
def test_a_place_that_no_run_reads_from_is_refused(uri):
    with pytest.raises(ConfigurationError, match=r"is no place that a run reads from. Use one of file, http"):
        open_location(uri, "spec.tokenizer.uri")


def test_too_many_files_are_refused_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAXIMUM_FILES", 2)
    for number in range(3):
        write_lines(tmp_path / f"{number}.jsonl")
    with pytest.raises(DataError, match=r"matches 3 files, more than 2. Join them"):
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/*.jsonl"}))


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "texts.jsonl").symlink_to(tmp_path / "texts.jsonl")
    with pytest.raises(DataError, match=r"sources\[0\].uri"):
        run(make_plan(tmp_path))
