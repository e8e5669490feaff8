"""Every sample manifest is executed as a person would do it, with less text and few steps.

The samples share a storage, so that one that starts from the model of another finds it there.
"""

import gzip
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
NUM_STEPS = 3
NUM_RECORDS = {"addresses.jsonl.gz": 16, "paragraphs.jsonl.gz": 600}


@pytest.fixture(scope="module")
def small_corpus(sotu_corpus, tmp_path_factory):
    """A folder like the corpus's, with every n-th record."""
    folder = tmp_path_factory.mktemp("sotu")
    for name, num_records in NUM_RECORDS.items():
        with gzip.open(sotu_corpus / name, "rb") as lines:
            records = lines.readlines()
        with gzip.open(folder / name, "wb") as out:
            out.writelines(itertools.islice(records, 0, None, len(records) // num_records))
    return folder


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
    """Run a shortened sample, after the one whose model it starts from."""
    document = shortened(sample)
    upstream = document["spec"]["model"].get("fromRun")
    if upstream is not None and not (storage / upstream["name"] / "report.html").is_file():
        run_sample(sample.with_name(f"{upstream['name']}.yaml"), small_corpus, storage)
    file = storage / sample.name
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [sys.executable, "-m", "trainyard_trainer", "run", str(file), "--output", str(storage)]
    done = subprocess.run(
        [*command, "--mount", f"{small_corpus}:/data/sotu"],
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
