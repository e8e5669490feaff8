"""Tokenisation in MB/s of text per core against `datasets.map` with the same tokenizer and text.

Both arms start from text on disk and end with token ids on disk, in one process with one thread, and are
timed in seconds of CPU, so that other work on the machine disturbs little. The table of words that
Trainyard fills as it goes starts empty in every repeat.

    python benchmarks/preparation.py [--quick] [--json FILE] [--algorithm WordPiece]
"""

import gzip
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
from corpora import sotu_folder
from harness import Report, at_least, interleave, median_of, options, ratio
from transformers import AutoTokenizer

from trainyard_api.spec import Source, TokenizerTraining
from trainyard_trainer.data.extract import ExtractTask, extract_unit, finish_extraction
from trainyard_trainer.data.sources import InputFile
from trainyard_trainer.data.steps import StepOutcome, StepStore
from trainyard_trainer.data.text_shards import TextShard, list_shards
from trainyard_trainer.data.tokenize_step import TokenizeTask, forget_encoders, tokenize_shard
from trainyard_trainer.data.tokenizer import train_tokenizer
from trainyard_trainer.data.tokenizer_step import write_trained
from trainyard_trainer.data.units import divide

ALGORITHMS = ("WordPiece", "BPE", "Unigram")
VOCABULARY_SIZE = 8192
QUICK_TEXTS = 4000
TARGET = at_least(2.5)


@dataclass(frozen=True)
class TokenizedText:
    """A text and a tokenizer trained on it, ready for both arms."""

    shards: list[TextShard]
    """The text as Trainyard stores it."""
    dataset: datasets.Dataset
    """The text as datasets stores it."""
    tokenizer_folder: Path
    """The tokenizer, as stock Transformers loads it."""
    megabytes: float
    """Size of the text in UTF-8."""

    def trainyard_rate(self) -> float:
        """MB per second of CPU of the step tokenize."""
        forget_encoders()
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            for number, shard in enumerate(self.shards):
                task = TokenizeTask(
                    shard=shard,
                    name=f"{number:06d}",
                    duplicates=None,
                    tokenizer_folder=self.tokenizer_folder,
                    vocabulary_size=VOCABULARY_SIZE,
                    folder=Path(folder),
                )
                tokenize_shard(task, lambda _amount: None)
            return self.megabytes / (time.process_time() - started)

    def datasets_rate(self) -> float:
        """MB per second of CPU of datasets.map, batched, written to its cache."""
        tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_folder)

        def encode(batch: dict[str, list[str]]) -> Any:
            return tokenizer(
                batch["text"],
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )

        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            self.dataset.map(
                encode, batched=True, remove_columns=["text"], cache_file_name=f"{folder}/out.arrow"
            )
            return self.megabytes / (time.process_time() - started)


def tokenized_text(folder: Path, texts: list[str], algorithm: str) -> TokenizedText:
    """Train a tokenizer on texts and store them for both arms, none of which is timed."""
    spec = TokenizerTraining.model_validate({"algorithm": algorithm, "vocabularySize": VOCABULARY_SIZE})
    write_trained(folder, train_tokenizer(spec, "MaskedLM", lambda: texts).to_str(), 0, "MaskedLM")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "text.jsonl").write_text(lines, encoding="utf-8")
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(folder / "dataset")
    return TokenizedText(
        shards=extract(folder / "text.jsonl", folder / "prepared"),
        dataset=datasets.load_from_disk(folder / "dataset"),
        tokenizer_folder=folder,
        megabytes=sum(len(text.encode()) for text in texts) / 1e6,
    )


def extract(path: Path, folder: Path) -> list[TextShard]:
    """The text shards of a JSON Lines file, by Trainyard's step extract."""
    source = Source(name="text", uri=str(path), format="JsonLines")
    units = divide([InputFile(str(path), path.stat().st_size, "")], source)

    def body(target: Path) -> StepOutcome:
        tasks = [
            ExtractTask(
                number=number,
                unit=unit,
                folder=target,
                source=source,
                where="source",
                normalize=True,
                minimum_characters=1,
                stop_early=True,
            )
            for number, unit in enumerate(units)
        ]
        return finish_extraction(target, [extract_unit(task, lambda _amount: None) for task in tasks], units)

    return list_shards([StepStore(folder, lambda: False).run("extract", {}, body)])


def measure(report: Report, *, quick: bool, algorithm: str = "WordPiece") -> None:
    """Add the rates and their ratio to a report."""
    datasets.disable_progress_bars()
    with gzip.open(sotu_folder() / "paragraphs.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    with tempfile.TemporaryDirectory() as name:
        text = tokenized_text(Path(name), texts[:QUICK_TEXTS] if quick else texts, algorithm)
        arms = {"trainyard": text.trainyard_rate, "datasets.map": text.datasets_rate}
        results = interleave(arms, repeats=2 if quick else 6)
    report.say(f"{text.megabytes:.1f} MB of text, {algorithm} with {VOCABULARY_SIZE} tokens, one thread")
    for arm, rates in results.items():
        report.add(median_of(f"tokenisation, {arm}", rates, "MB/s of CPU"))
    report.add(ratio("(d) tokenisation over datasets.map", results, "trainyard", "datasets.map", TARGET))


def main() -> int:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="WordPiece")
    arguments = parser.parse_args()
    report = Report("Data preparation")
    measure(report, quick=arguments.quick, algorithm=arguments.algorithm)
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
