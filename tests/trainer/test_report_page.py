"""The HTML report, from run folders in every state."""

import math
import re
from html.parser import HTMLParser

import pytest

from trainyard_api.names import File
from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.progress import EventRecord, HistoryRecord
from trainyard_api.spec import TrainingRun
from trainyard_api.status import Attempt, Failure, Progress, TrainingRunStatus
from trainyard_trainer.progress import append_record, write_json_atomically
from trainyard_trainer.report import write_report
from trainyard_trainer.report_facts import read_run_facts
from trainyard_trainer.report_format import format_bytes, format_count, format_number, format_seconds
from trainyard_trainer.report_plots import Series, line_chart, smoothed, thinned, ticks
from trainyard_trainer.report_tables import make_tables, scalar, words
from trainyard_trainer.training_record import RecordedCheckpoint, TrainingRecord

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
NUM_STEPS = 600
START = 1_795_000_000.0

DATA = {
    "hash": "ab" * 32,
    "unigramEntropy": 6.21,
    "frequencyLoss": 5.87,
    "packingEfficiency": 0.9871,
    "warnings": ["the validation set holds only 5 documents"],
    "sources": [
        {"name": "speeches", "documents": 233, "characters": 10_400_000, "invalidRecords": 1, "duplicates": 2}
    ],
    "steps": [{"name": "tokenize", "seconds": 3.4}, {"name": "pack", "seconds": 0.12, "reused": True}],
    "tokenizer": {"folder": "/prepared/tokenizer-1", "vocabularySize": 8192},
    "train": {"documents": 228, "rows": 9000, "tokens": 2_270_000},
    "validation": {"documents": 5, "rows": 190, "tokens": 48_000},
}


def make_plan(folder):
    spec = {
        "pretraining": {"objective": "MaskedLM"},
        "model": {"architecture": {"preset": "bert-mini", "overrides": {"num_hidden_layers": 3}}},
        "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": 8192}},
        "data": {
            "sources": [{"name": "speeches", "uri": "file:///data/*.txt", "format": "Text"}],
            "sequenceLength": 256,
        },
        "training": {
            "budget": {"steps": NUM_STEPS},
            "globalBatchSize": 64,
            "microBatchSize": 16,
            "optimizer": {"learningRate": 5e-4},
            "schedule": {"name": "WarmupStableDecay", "warmupSteps": 50},
        },
        "workers": {"nodes": 2},
    }
    run = TrainingRun.model_validate({"metadata": {"name": "speeches-mlm"}, "spec": spec})
    return plan_run(run, storage_root=str(folder.parent), rendezvous=Rendezvous(address="127.0.0.1"))


def write_history(folder, num_steps=NUM_STEPS):
    for step in range(1, num_steps + 1):
        loss = 5.0 + 4.0 * math.exp(-step / 120) + 0.15 * math.sin(step * 2.3)
        append_record(
            folder / File.HISTORY,
            HistoryRecord(
                step=step,
                time=START + 20 + step * 0.5,
                loss=loss,
                learning_rate=5e-4 * min(1.0, step / 50, (num_steps + 1 - step) / 100),
                gradient_norm=0.8 + 0.3 * abs(math.sin(step)) + 4 / step,
                tokens=16_100,
                positions=16_384,
                step_seconds=0.5 + 0.02 * math.cos(step),
                data_seconds=0.001,
            ),
        )
        if step % 100 == 0:
            record = HistoryRecord(step=step, time=START + 20 + step * 0.5, evaluation_loss=loss + 0.1)
            append_record(folder / File.HISTORY, record)


def write_events(folder):
    events = [
        ("StageStarted", "Prepare", 0, 0.0, None, {}),
        ("StageFinished", "Prepare", 0, 6.0, 6.0, {}),
        (
            "Startup",
            "Train",
            0,
            18.0,
            12.0,
            {"importSeconds": 7.0, "engineSeconds": 3.5, "firstStepSeconds": 1.5},
        ),
        ("CheckpointCommitted", "Train", 0, 120.0, 0.4, {"step": 200}),
        ("Resumed", "Train", 1, 150.0, None, {"step": 200}),
        ("CheckpointCommitted", "Train", 1, 220.0, 0.41, {"step": 400}),
        ("StageFinished", "Train", 1, 330.0, 312.0, {}),
        ("StageFinished", "Export", 1, 334.0, 3.1, {}),
    ]
    for kind, stage, attempt, at, seconds, values in events:
        message = f"step {values['step']}" if "step" in values else stage
        append_record(
            folder / File.EVENTS,
            EventRecord(
                time=START + at,
                type=kind,
                stage=stage,
                attempt=attempt,
                message=message,
                seconds=seconds,
                values=values,
            ),
        )


def write_status(folder, phase, message="killed by signal 9", log_tail="Traceback ..."):
    failure = Failure(
        pod="node-1",
        node="node-1",
        rank=1,
        exit_code=137,
        reason="ProcessKilled",
        message=message,
        log_tail=log_tail,
    )
    times = {"started_at": "2026-11-23T08:00:00Z", "finished_at": "2026-11-23T08:02:00Z"}
    status = TrainingRunStatus(
        phase=phase,
        progress=Progress(stage="Train", step=300, total_steps=NUM_STEPS, updated_at="2026-11-23T08:05:00Z"),
        attempts=[
            Attempt(number=0, **times, outcome="Failed", failure=failure),
            Attempt(number=1, started_at="2026-11-23T08:02:10Z"),
        ],
    )
    write_json_atomically(folder / File.STATUS, status)


@pytest.fixture
def run_folder(tmp_path):
    """A run that failed once, resumed and succeeded."""
    import json

    import yaml

    folder = tmp_path / "speeches-mlm"
    folder.mkdir()
    plan = make_plan(folder)
    write_json_atomically(folder / File.PLAN, plan)
    (folder / File.RUN).write_text(yaml.safe_dump({"metadata": {"name": "speeches-mlm"}}))
    (folder / File.DATA).write_text(json.dumps(DATA))
    write_history(folder)
    write_events(folder)
    write_status(folder, "Succeeded")
    (folder / File.MODEL).mkdir()
    record = TrainingRecord(
        key="k",
        run="speeches-mlm",
        objective="MaskedLM",
        parameters=4_400_000,
        steps=NUM_STEPS,
        tokens=9_660_000,
        training_seconds=300.0,
        seed=0,
        evaluation_loss=5.1,
        unigram_entropy=6.21,
        frequency_loss=5.87,
        data_hash=DATA["hash"],
        data=DATA,
        spec=plan.spec,
        checkpoint=RecordedCheckpoint(
            step=600, committed_at="2026-11-23T08:05:00Z", manifest_sha256="c" * 64
        ),
        versions={"python": "3.11.9", "torch": "2.13.0"},
        created_at="2026-11-23T08:05:10Z",
    )
    write_json_atomically(folder / File.MODEL / "training_record.json", record)
    return folder


class Page(HTMLParser):
    """Tags, attributes and text of a page; raises when tags are not closed in order."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.handlers, self.text, self.open = set(), [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def page_of(folder):
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def test_the_report_of_a_finished_run_tells_its_result_first(run_folder):
    html, page = page_of(run_folder)
    for expected in (
        "Succeeded",
        "MaskedLM pre-training of bert-mini on 1 source, 2 processes, ZeRO 1, BF16",
        "nats below 5.87, the lowest that token frequencies alone can give: the model uses context",
        "perplexity",
        "9.66 M",
        "98.3 %",
        "16 rows x 2 passes x 2 processes",
        "rank 1, ProcessKilled, exit code 137",
        "resumed",
        "vocabulary size 8,192",
        "torch 2.13.0",
        "the validation set holds only 5 documents",
    ):
        assert expected in page.words
    assert html.count("<svg") == 4
    assert "attempt 1 resumed at step 200" in html
    assert page.words.index("perplexity") < page.words.index("Attempt 0 failed")


def test_the_page_loads_nothing_and_runs_nothing(run_folder):
    html, page = page_of(run_folder)
    assert page.links == []
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|https?:", html)


def test_hostile_text_is_shown_and_not_run(run_folder):
    (run_folder / File.RUN).write_text("metadata:\n  name: |-\n    " + HOSTILE)
    write_status(run_folder, "Failed", message=HOSTILE, log_tail="</pre>" + HOSTILE)
    (run_folder / File.DATA).write_text(
        '{"sources": [{"name": "<b onclick=x>"}], "unigramEntropy": "</style>"}'
    )
    html, page = page_of(run_folder)
    assert page.tags.isdisjoint({"script", "img", "b onclick"})
    assert page.handlers == []
    assert html.count("</style>") == 1
    assert HOSTILE in page.words
    assert page.words.index("Attempt 0 failed: ProcessKilled") < page.words.index("perplexity")


def test_an_empty_folder_gives_a_report_that_says_so(tmp_path):
    folder = tmp_path / "fresh"
    folder.mkdir()
    _, page = page_of(folder)
    assert "fresh" in page.words
    assert "Pending" in page.words
    assert "No optimizer step yet" in page.words


@pytest.mark.parametrize(
    "name", ["run.yaml", "plan.json", "status.json", "history.jsonl", "data.json", "events.jsonl"]
)
def test_a_missing_file_is_no_problem_and_a_broken_one_is_named(run_folder, name):
    (run_folder / name).unlink()
    assert read_run_facts(run_folder).problems == []
    page_of(run_folder)
    # A line of a history that is no JSON was cut off by a crash and is passed over; this one is whole.
    broken = '{"step": "many"}\n' if name.endswith(".jsonl") else '{"broken": [}\n'
    (run_folder / name).write_text(broken)
    _, page = page_of(run_folder)
    assert f"{name} could not be read" in page.words


def test_a_running_run_without_a_model_has_a_report(run_folder):
    (run_folder / File.MODEL / "training_record.json").unlink()
    write_status(run_folder, "Running")
    _, page = page_of(run_folder)
    assert "of 600" in page.words
    assert "parameters" not in page.words


def test_a_loss_above_word_frequencies_is_not_praised(run_folder):
    (run_folder / File.DATA).write_text('{"unigramEntropy": 6.0, "frequencyLoss": 4.0}')
    _, page = page_of(run_folder)
    assert "the model does not use context yet" in page.words


def test_sources_with_unequal_columns_share_one_table():
    tables = make_tables_of(
        {"sources": [{"name": "a", "documents": 2}, {"name": "b", "numFiles": 3, "files": [1, 2, 3]}]}
    )
    assert tables["Sources"].columns == ["name", "documents", "files"]
    assert tables["Sources"].rows == [["a", "2", ""], ["b", "", "3"]]


def make_tables_of(data):
    from pathlib import Path

    from trainyard_trainer.report_facts import RunFacts

    return {table.title: table for table in make_tables(RunFacts(Path("run"), data=data))}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (4.9, 9.1, [5, 6, 7, 8, 9]),
        (0, 5e-4, [0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_thinning_keeps_the_spike():
    points = [(step, 1.0) for step in range(10_000)]
    points[7321] = (7321, 50.0)
    thin = thinned(points)
    assert len(thin) <= 400
    assert (7321, 50.0) in thin
    assert thin == sorted(thin)


def test_smoothing_of_a_constant_is_the_constant():
    assert [value for _, value in smoothed([(1, 3.0), (2, 3.0), (3, 3.0)], 5)] == pytest.approx([3.0] * 3)


def test_smoothing_halves_the_weight_with_each_half_life_to_both_sides():
    points = smoothed([(1, 0.0), (2, 1.0), (3, 0.0)], 1)
    assert [value for _, value in points] == pytest.approx([0.5 / 1.75, 1 / 2, 0.5 / 1.75])


@pytest.mark.parametrize("points", [[], [(1, math.nan)], [(1, math.inf)]])
def test_a_chart_of_nothing_is_none(points):
    assert line_chart("loss", [Series("loss", points, "train")]) is None


@pytest.mark.parametrize("points", [[(1, 2.0)], [(1, 0.0), (2, 0.0)], [(5, -1.0), (6, math.nan)]])
def test_a_chart_of_few_or_equal_points_is_drawn_inside_its_frame(points):
    drawing = str(line_chart("loss", [Series("loss", points, "train")], from_zero=points[0][1] >= 0))
    places = re.search(r'points="([^"]+)"', drawing)[1]
    for place in places.split():
        x, y = map(float, place.split(","))
        assert 0 <= x <= 440
        assert 0 <= y <= 250


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (format_count, 950, "950"),
        (format_count, 9_999, "9,999"),
        (format_count, 12_400, "12.4 k"),
        (format_count, 3_072_000, "3.07 M"),
        (format_count, 1.04e9, "1.04 B"),
        (format_seconds, 0, "0 s"),
        (format_seconds, 4.23, "4.2 s"),
        (format_seconds, 59.4, "59 s"),
        (format_seconds, 185, "3 min 05 s"),
        (format_seconds, 7800, "2 h 10 min"),
        (format_seconds, 273_600, "3 d 04 h"),
        (format_bytes, 512, "512 B"),
        (format_bytes, 3.4 * 2**20, "3.4 MiB"),
        (format_number, 0.0, "0"),
        (format_number, 5.31234, "5.312"),
        (format_number, 5e-4, "5e-4"),
        (format_number, 12_345.6, "12,346"),
        (format_number, 1.234e7, "1.23e7"),
        (format_number, math.nan, "nan"),
        (words, "importSeconds", "import"),
        (words, "vocabularySize", "vocabulary size"),
        (words, "mask_token_id", "mask token id"),
    ],
)
def test_numbers_and_names_read_well(function, value, text):
    assert function(value) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("packingEfficiency", 0.98, "98.0 %"),
        ("seconds", 65, "1 min 05 s"),
        ("sizeBytes", 2048, "2 KiB"),
        ("documents", 12345, "12,345"),
        ("lowercase", True, "True"),
    ],
)
def test_a_value_is_shown_by_the_unit_of_its_name(name, value, text):
    assert scalar(name, value) == text
