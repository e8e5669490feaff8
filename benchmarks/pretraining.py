"""Pretraining on this machine against Hugging Face Trainer, a bare PyTorch loop, padding and datasets.map.

(a) useful tokens/s against Hugging Face Trainer
(b) overhead over a bare PyTorch loop
(c) packed against padded rows on short documents, at equal loss after equal tokens
(d) tokenisation per core against datasets.map
(e) from the command to the first optimizer step, with a breakdown

    python benchmarks/pretraining.py [--quick] [--json FILE] [--only PART]

Parts (a) to (c) train bert-mini (vocabulary 8,192) on the State of the Union addresses in this process with
one thread per core.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import preparation
import yaml
from corpora import part_of, sotu_folder
from harness import Figure, Report, Target, at_least, at_most, interleave, median_of, options, ratio
from training_arms import (
    PreparedWorkload,
    Workload,
    held_out_loss,
    hugging_face_rate,
    seconds_beside_a_bare_loop,
    train,
    trainyard_rate,
)

PARTS = ("a", "b", "c", "d", "e")
THREADS = len(os.sched_getaffinity(0))
STEPS_PER_BLOCK = 4
PACKED_SEQUENCE_LENGTH = 256
QUICK_ADDRESSES = 60
QUICK_PARAGRAPHS = 3000
EQUAL_TOKENS = 1_000_000
EQUAL_LOSS_NATS = 0.05
"""Two seeds of one arm differ by about as much at this size."""


@dataclass(frozen=True)
class Setting:
    """What all parts share."""

    storage: Path
    """Folder for runs; prepared text is reused by the parts."""
    addresses: Path
    """Long documents."""
    paragraphs: Path
    """Short documents."""
    quick: bool
    """Whether a minute has to do."""

    def repeats(self, number: int) -> int:
        """Repeats of every arm."""
        return 1 if self.quick else number

    def workload(self, text: Path, num_steps: int) -> Workload:
        """A workload of so many steps after the warm-up."""
        warm_up = 2 if self.quick else 5
        return Workload(text=text, budget={"steps": warm_up + num_steps}, num_warm_up_steps=warm_up)

    def prepared(self, workload: Workload) -> PreparedWorkload:
        """A workload with its text prepared."""
        return PreparedWorkload(workload, self.storage, THREADS)


def against_hugging_face(report: Report, setting: Setting) -> None:
    """Part (a)."""
    prepared = setting.prepared(setting.workload(setting.addresses, 3 if setting.quick else 15))
    arms = {
        "trainyard": lambda: trainyard_rate(prepared),
        "Hugging Face Trainer": lambda: hugging_face_rate(prepared),
    }
    results = interleave(arms, setting.repeats(6))
    for arm, rates in results.items():
        report.add(median_of(f"training, {arm}", rates, "useful tokens/s"))
    name = "(a) useful tokens/s over Hugging Face Trainer"
    report.add(ratio(name, results, "trainyard", "Hugging Face Trainer", at_least(1.15)))


def over_a_bare_loop(report: Report, setting: Setting) -> None:
    """Part (b), with the default configuration and, without a target, with ZeRO 1 forced on one process."""
    num_steps = STEPS_PER_BLOCK * (3 if setting.quick else 24)
    prepared = setting.prepared(replace(setting.workload(setting.addresses, 0), budget={"steps": num_steps}))
    add_overhead(report, "(b) overhead over a bare loop", prepared, at_most(0.03))
    if not setting.quick:
        prepared.with_deepspeed_config({"zero_optimization": {"round_robin_gradients": False}})
        add_overhead(report, "overhead over a bare loop, ZeRO 1 forced", prepared, None)


def add_overhead(report: Report, name: str, prepared: PreparedWorkload, target: Target | None) -> None:
    """Measure and report what Trainyard's loop costs beyond a bare one."""
    ours, bare = seconds_beside_a_bare_loop(prepared, STEPS_PER_BLOCK)
    ratios = [mine / other - 1 for mine, other in zip(ours, bare, strict=True)]
    figure = median_of(name, ratios, "of the bare loop's time", target)
    report.add(replace(figure, raw={"trainyard": ours, "bare": bare}))


def packed_over_padded(report: Report, setting: Setting) -> None:
    """Part (c): the same documents, model and tokens per step; padded to the longest row of a micro-batch."""
    packed = replace(
        setting.workload(setting.paragraphs, 2 if setting.quick else 6),
        sequence_length=PACKED_SEQUENCE_LENGTH,
    )
    padded = replace(packed, packed=False, micro_batch_size=36, global_batch_size=72)
    prepared = {"packed": setting.prepared(packed), "padded": setting.prepared(padded)}
    arms = {
        "packed": lambda: trainyard_rate(prepared["packed"]),
        "padded": lambda: trainyard_rate(prepared["padded"]),
    }
    results = interleave(arms, setting.repeats(6))
    for arm, rates in results.items():
        report.add(median_of(f"training, {arm} rows", rates, "useful tokens/s"))
    name = "(c) useful tokens/s, packed over padded"
    report.add(ratio(name, results, "packed", "padded", at_least(1.8)))
    if not setting.quick:
        after_equal_tokens(report, setting, packed, padded)


def after_equal_tokens(report: Report, setting: Setting, packed: Workload, padded: Workload) -> None:
    """Train both to the same number of tokens and compare their loss on the same held-out rows."""
    losses: dict[str, list[float]] = {}
    source = None
    for name, workload in (("packed", packed), ("padded", padded)):
        prepared = setting.prepared(replace(workload, budget={"tokens": EQUAL_TOKENS}))
        trainer = prepared.trainer()
        rate = train(trainer, prepared)
        source = source or trainer.source
        loss = held_out_loss(trainer, source, None)
        losses[name] = [loss]
        report.say(f"{name}: {trainer.state.tokens:,} tokens in {trainer.state.step} steps, {rate:.0f}/s")
        report.add(Figure(f"held-out loss after {EQUAL_TOKENS:,} tokens, {name}", loss, "nats"))
    difference = abs(losses["packed"][0] - losses["padded"][0])
    target = at_most(EQUAL_LOSS_NATS)
    report.add(Figure("(c) difference of the losses", difference, "nats", target, raw=losses))


def tokenisation(report: Report, setting: Setting) -> None:
    """Part (d)."""
    preparation.measure(report, quick=setting.quick)


def start_up(report: Report, setting: Setting) -> None:
    """Part (e): the quickstart's text and model with 2 processes, its data prepared anew and reused."""
    parts: dict[str, dict[str, list[float]]] = {"prepared anew": {}, "data reused": {}}
    if setting.quick:
        del parts["prepared anew"]
    for _ in range(setting.repeats(5)):
        with tempfile.TemporaryDirectory() as fresh:
            folder = setting.storage if setting.quick else Path(fresh)
            for name, seconds_by_part in parts.items():
                run_name = name.replace(" ", "-")
                for part, seconds in first_step_seconds(setting, folder, run_name).items():
                    seconds_by_part.setdefault(part, []).append(seconds)
    for name, seconds_by_part in parts.items():
        total = seconds_by_part.pop("total")
        report.add(median_of(f"(e) start to first optimizer step, {name}", total, "s"))
        for part, values in seconds_by_part.items():
            report.say(f"{part}: {statistics.median(values):.2f} s")


def first_step_seconds(setting: Setting, folder: Path, name: str) -> dict[str, float]:
    """Run 2 steps in a folder of its own below shared prepared data; seconds by part, and in total."""
    workload = replace(setting.workload(setting.addresses, 0), budget={"steps": 2}, maximum_sequences=2)
    document = workload.document()
    document["metadata"]["name"] = name
    document["spec"]["workers"] = {"nodes": 2, "processesPerNode": 1}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    started = time.time()
    command = [
        sys.executable,
        "-m",
        "trainyard_trainer",
        "run",
        str(file),
        "--output",
        str(folder),
        "--quiet",
    ]
    subprocess.run(command, check=True, capture_output=True)
    lines = (folder / name / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    first = next(event for event in events if event["type"] == "Startup")
    stage_starts = {event["stage"]: event["time"] for event in events if event["type"] == "StageStarted"}
    values = first["values"]
    return {
        "command to Prepare": stage_starts["Prepare"] - started,
        "Prepare": stage_starts["Train"] - stage_starts["Prepare"],
        "agent to rank": first["time"] - stage_starts["Train"] - sum(values.values()),
        **values,
        "total": first["time"] - started,
    }


def main() -> int:
    """Measure and print."""
    arguments = options(__doc__, PARTS).parse_args()
    parts = {
        "a": against_hugging_face,
        "b": over_a_bare_loop,
        "c": packed_over_padded,
        "d": tokenisation,
        "e": start_up,
    }
    report = Report("Pretraining")
    with tempfile.TemporaryDirectory() as folder:
        setting = open_setting(Path(folder), quick=arguments.quick)
        for name, part in parts.items():
            if arguments.only is None or name in arguments.only:
                part(report, setting)
    return report.finish(arguments.json)


def open_setting(folder: Path, *, quick: bool) -> Setting:
    """The whole corpus, or a part of it when a minute has to do."""
    corpus = sotu_folder()
    addresses, paragraphs = corpus / "addresses.jsonl.gz", corpus / "paragraphs.jsonl.gz"
    if quick:
        addresses = part_of(addresses, QUICK_ADDRESSES, folder)
        paragraphs = part_of(paragraphs, QUICK_PARAGRAPHS, folder)
    return Setting(storage=folder / "runs", addresses=addresses, paragraphs=paragraphs, quick=quick)


if __name__ == "__main__":
    sys.exit(main())
