"""Small runs whose data is prepared in the tests: texts, plans and what lies on disk afterwards."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainyard_api.plan import Rendezvous, RunPlan, plan_run
from trainyard_api.spec import TrainingRun
from trainyard_trainer.data.dataset import PackedDataset, Sample
from trainyard_trainer.data.manifest import DataManifest
from trainyard_trainer.data.prepare import prepare

STEPS = ["extract", "deduplicate", "tokenizer", "tokenize", "pack"]


def paragraph(number: int) -> str:
    """A short text that differs from those of other numbers."""
    words = (f"word{(number * 7 + place * place) % 211} of" for place in range(5 + number % 20))
    return f"{' '.join(words)} {number}."


TEXTS = [paragraph(number) for number in range(400)]


def write_lines(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    """Store texts as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts))
    return path


def parquet_bytes(texts: Sequence[str]) -> bytes:
    """Texts as a Parquet file of several row groups."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "id": list(range(len(texts)))}), sink, row_group_size=50)
    return sink.getvalue()


def make_plan(
    tmp_path: Path,
    *,
    output: str = "out",
    source: Mapping[str, Any] | None = None,
    mounts: Mapping[str, str] | None = None,
    **changes: Any,
) -> RunPlan:
    """The plan of a run on `texts.jsonl` in a folder.

    Args:
        tmp_path: the folder.
        output: storage root, below the folder.
        source: changes of the only source.
        mounts: path prefixes and the folders that stand in for them.
        changes: changes of the spec by dotted path, dots written as double underscores.
    """
    texts = {"name": "texts", "uri": f"{tmp_path}/texts.jsonl", "format": "JsonLines", **(source or {})}
    spec: dict[str, Any] = {
        "pretraining": {"objective": "MaskedLM"},
        "model": {"architecture": {"preset": "bert-tiny"}},
        "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": 400}},
        "data": {"sources": [texts], "validationFraction": 0.1, "sequenceLength": 64},
        "training": {
            "budget": {"steps": 1},
            "globalBatchSize": 4,
            "microBatchSize": 4,
            "optimizer": {"learningRate": 0.001},
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        target: Any = spec
        for parent in parents:
            target = target[int(parent)] if parent.isdigit() else target.setdefault(parent, {})
        target[last] = value
    return plan_run(
        TrainingRun.model_validate({"metadata": {"name": "run"}, "spec": spec}),
        storage_root=str(tmp_path / output),
        rendezvous=Rendezvous(address="x"),
        mounts=mounts,
    )


def run(
    plan: RunPlan,
    *,
    cores: int = 1,
    report: Callable[[str, int, int | None, str], None] = lambda *_: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> DataManifest:
    """Prepare the data of a plan."""
    return prepare(plan, report=report, cores=cores, should_stop=should_stop)


def prepared_files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by path; without what tells of times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"manifest.json", "file-hashes.json"}
    }


def row_texts(dataset: PackedDataset) -> list[Sample]:
    """All rows."""
    return [dataset.sample(index) for index in range(len(dataset))]
