"""Every sample manifest is executed as a person would do it, with less text and few steps.

The samples share a storage, so that one that starts from the model of another finds it there.
"""

import gzip
import itertools
import json
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.support.commands import Caller, command_caller
from tests.support.corpus import brown_folder, spam_assassin_folder
from tests.support.published_models import minilm_folder, smollm2_folder
from tests.support.readme import blocks, lines_of, section

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
NUM_STEPS = 3
NUM_RECORDS = {
    "sotu/addresses.jsonl.gz": 16,
    "sotu/paragraphs.jsonl.gz": 600,
    "sotu/conversations.jsonl.gz": 60,
    "spam-assassin/emails.jsonl.gz": 200,
    "brown/sentences.jsonl.gz": 600,
}
FEW_WORDS = 50
"""Sentences with a tag of fewer words are left out: a small part of them may hold such a tag out whole."""


@pytest.fixture(scope="module")
def small_corpus(sotu_corpus, tmp_path_factory):
    """A folder of corpora, with every n-th record of each."""
    folder = tmp_path_factory.mktemp("data")
    corpora = {"sotu": sotu_corpus, "spam-assassin": spam_assassin_folder(), "brown": brown_folder()}
    for name, num_records in NUM_RECORDS.items():
        corpus, _, file = name.partition("/")
        with gzip.open(corpora[corpus] / file, "rb") as lines:
            records = lines.readlines()
        chosen = list(itertools.islice(records, 0, None, len(records) // num_records))
        (folder / corpus).mkdir(exist_ok=True)
        with gzip.open(folder / name, "wb") as out:
            out.writelines(with_common_tags(chosen) if corpus == "brown" else chosen)
    return folder


def with_common_tags(lines: list[bytes]) -> list[bytes]:
    """The sentences all of whose tags are common among them."""
    tags = [json.loads(line)["tags"] for line in lines]
    counts = Counter(tag for each in tags for tag in each)
    return [
        line for line, each in zip(lines, tags, strict=True) if all(counts[tag] >= FEW_WORDS for tag in each)
    ]


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """The storage root of all samples."""
    return tmp_path_factory.mktemp("runs")


def shortened(sample: Path) -> dict:
    document = yaml.safe_load(sample.read_text(encoding="utf-8"))
    spec = document["spec"]
    spec["data"]["validationFraction"] = 0.2
    if "tokenizer" in spec:
        spec["tokenizer"]["train"]["vocabularySize"] = 1024
    if "unfreezeEverySteps" in (adaptation := spec.get("fineTuning", {}).get("adaptation", {})):
        # Fewer steps than the model has layers do not come to the lowest ones.
        adaptation |= {"unfreezeEverySteps": 1, "frozenLayers": 2}
    training = spec["training"]
    training["budget"] = {"steps": NUM_STEPS}
    training["microBatchSize"] = 2
    training["globalBatchSize"] = 8
    training["evaluation"] = {"maximumSequences": 8}
    training["schedule"]["warmupSteps"] = 1
    if "decaySteps" in training["schedule"]:
        training["schedule"]["decaySteps"] = 1
    return document


def run_sample(sample: Path, small_corpus: Path, storage: Path) -> None:
    """Run a shortened sample, after those whose models it reads; nothing where it has run already."""
    if (storage / sample.stem / "report.html").is_file():
        return
    document = shortened(sample)
    teacher = document["spec"].get("distillation", {}).get("teacher", {})
    for model in (document["spec"]["model"], teacher):
        if (upstream := model.get("fromRun")) is not None:
            run_sample(sample.with_name(f"{upstream['name']}.yaml"), small_corpus, storage)
    file = storage / sample.name
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [sys.executable, "-m", "trainyard_trainer", "run", str(file), "--output", str(storage)]
    done = subprocess.run(
        [
            *command,
            "--mount",
            f"{small_corpus}:/data",
            "--mount",
            f"{minilm_folder()}:/models/all-minilm-l6-v2",
            "--mount",
            f"{smollm2_folder()}:/models/smollm2-135m-instruct",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_a_sample_runs_to_its_model_and_report(sample, small_corpus, storage):
    run_sample(sample, small_corpus, storage)
    run_folder = storage / sample.stem
    status = json.loads((run_folder / "status.json").read_text(encoding="utf-8"))
    assert status["phase"] == "Succeeded"
    assert status["progress"]["step"] == NUM_STEPS
    assert status["progress"]["evaluationLoss"] > 0
    assert (run_folder / "model" / "model.safetensors").is_file()
    assert (run_folder / "report.html").is_file()


@pytest.fixture
def call(monkeypatch, capsys) -> Caller:
    return command_caller(monkeypatch, capsys)


def predictions(
    call: Caller, sample: str, storage: Path, records: list[dict], *options: object
) -> list[dict]:
    """What the model of a sample says of records."""
    file = storage / f"{sample}-input.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, err = call("predict", storage / sample, "--input", file, *options)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def first_records(file: Path, number: int) -> list[dict]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, number)]


@pytest.mark.slow
def test_the_tagger_of_the_sample_tags_every_word_of_sentences_and_of_a_text(call, small_corpus, storage):
    sample = "tag-parts-of-speech"
    run_sample(ROOT / "manifests" / "samples" / f"{sample}.yaml", small_corpus, storage)
    sentences = first_records(small_corpus / "brown" / "sentences.jsonl.gz", 5)
    records = [{"words": sentence["words"]} for sentence in sentences] + [{"words": "peace and good will"}]
    found = predictions(call, sample, storage, records)
    expected = [*(sentence["words"] for sentence in sentences), ["peace", "and", "good", "will"]]
    assert [each["words"] for each in found] == expected
    config = json.loads((storage / sample / "model" / "config.json").read_text(encoding="utf-8"))
    for each in found:
        assert len(each["tags"]) == len(each["scores"]) == len(each["words"])
        assert set(each["tags"]) <= set(config["label2id"])


@pytest.mark.slow
def test_the_instructed_model_of_the_sample_answers_a_conversation_and_a_text_alike(
    call, small_corpus, storage
):
    sample = "instruct"
    run_sample(ROOT / "manifests" / "samples" / f"{sample}.yaml", small_corpus, storage)
    [record] = first_records(small_corpus / "sotu" / "conversations.jsonl.gz", 1)
    question = record["messages"][0]
    records = [{"messages": [question]}, {"text": question["content"]}]
    found = predictions(call, sample, storage, records, "--maximum-new-tokens", 8)
    assert [each.keys() for each in found] == [{"text"}] * 2
    assert found[0]["text"]
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_predictions_of_the_readme_are_made_as_written(small_corpus, storage, tmp_path):
    [block] = blocks("sh", section("Fine-tune"))
    run_line, predict_line = (shlex.split(line) for line in lines_of(block))
    sample = ROOT / run_line[2]
    assert run_line[:2] == ["trainyard", "run"]
    run_sample(sample, small_corpus, storage)
    (tmp_path / "runs").symlink_to(storage)
    mails = ["Dear friend, you have won a million dollars", "The meeting is moved to Friday"]
    (tmp_path / "mails.jsonl").write_text("".join(json.dumps({"text": mail}) + "\n" for mail in mails))
    done = subprocess.run(
        [sys.executable, "-m", "trainyard_trainer", *predict_line[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert len(labels) == len(mails)
    assert all(label["scores"].keys() == {"ham", "spam"} for label in labels)
