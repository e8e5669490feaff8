"""Learns made-up tags of words by both arms, and made-up spam by Trainyard's, from a tiny stored model.

usage: learn_by_both_arms.py MODEL FOLDER; writes the outcomes to FOLDER/outcomes.json.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from transfer_arms import PARTS_OF_SPEECH, SPAM, Subject, Task, trainyard_outcome
from transfer_data import Email, Example, Sentence, divide, draw
from transfer_peer import hugging_face_outcome

from tests.support.preparation import TEXTS

NUM_TEST = 42
NUM_TRAIN = 320
SENTENCES = [
    Sentence(tuple(text.split()), tuple("of" if word == "of" else "other" for word in text.split()))
    for text in TEXTS
]
EMAILS = [Email(text, "spam" if number % 3 == 0 else "ham") for number, text in enumerate(TEXTS)]


def task_of(subject: Subject, model: Path, examples: list[Example]) -> Task:
    """One epoch in small batches."""
    small = replace(subject, global_batch_size=16, micro_batch_size=4, sequence_length=48)
    parts = divide(examples, NUM_TEST)
    return Task(
        subject=small,
        model=model,
        train=draw(parts.pool, NUM_TRAIN, seed=1),
        test=parts.test,
        num_steps=NUM_TRAIN // small.global_batch_size,
        learning_rate=1.0e-2,
        seed=1,
    )


def main() -> None:
    """Learn and tell."""
    model, folder = map(Path, sys.argv[1:])
    tagging, spam = task_of(PARTS_OF_SPEECH, model, SENTENCES), task_of(SPAM, model, EMAILS)
    outcomes = {
        "trainyard": trainyard_outcome(tagging, folder, "tagging"),
        "peer": hugging_face_outcome(tagging, folder / "peer"),
        "grouped": hugging_face_outcome(tagging, folder / "peer", "group_by_length"),
        "spam": trainyard_outcome(spam, folder, "spam"),
    }
    found = {name: asdict(outcome) for name, outcome in outcomes.items()}
    (folder / "outcomes.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
