"""Fine-tuning: what a pre-trained start is worth, and Trainyard against Hugging Face Trainer.

(a) label efficiency: spam or not by 64, 256 and 1,024 labelled e-mails, from MiniLM and from random weights
(b) the same task by Trainyard and by Hugging Face Trainer: metric, and useful tokens/s

    python benchmarks/transfer.py [--quick] [--json FILE] [--only PART]
    python benchmarks/transfer.py --tune

`--tune` tells by what learning rates are to be chosen: each start by itself, from the same grid, judged on
e-mails that it does not train on and that are not in the test set, with a seed that the parts do not use.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import Figure, Report, Target, at_least, interleave, median_of, options, ratio
from transfer_arms import Outcome, Task, hugging_face_outcome, random_weights, trainyard_outcome
from transfer_data import Emails, divide, draw, read_emails

from tools.cache import cache_root
from tools.corpora.spam_assassin import EMAILS, fetch_spam_assassin
from tools.fetch_models import fetch_minilm

PARTS = ("a", "b")
SEEDS = (1, 2, 3)
NUM_TEST = 500
QUICK_NUM_TEST = 32
QUICK_STEPS = 7
STEPS_BY_LABELS = {64: 24, 256: 48, 1024: 96}
"""Both starts train equally long: 6, 3 and 1.5 epochs."""
FEW, MANY = 256, 1024
PRETRAINED, RANDOM = "pre-trained", "random weights"
STARTS = (PRETRAINED, RANDOM)
LEARNING_RATES = {PRETRAINED: 1.0e-4, RANDOM: 3.0e-4}
"""Of each start; not tuned yet."""
GRID = (3.0e-5, 1.0e-4, 3.0e-4, 1.0e-3)
TUNING_SEED = 11


@dataclass(frozen=True)
class Setting:
    """What the parts share."""

    folder: Path
    """Runs and models made for them."""
    pretrained: Path
    """Folder of the published model."""
    emails: Emails
    quick: bool
    """Whether a minute has to do."""

    def model(self, start: str, seed: int) -> Path:
        """Model folder of a start; random weights are other ones for each seed."""
        if start == PRETRAINED:
            return self.pretrained
        folder = self.folder / f"random-weights-{seed}"
        return folder if folder.is_dir() else random_weights(self.pretrained, folder, seed)

    def task(self, start: str, num_labels: int, seed: int) -> Task:
        """What to learn from a start with a number of labelled e-mails."""
        return Task(
            model=self.model(start, seed),
            train=draw(self.emails.pool, num_labels, seed),
            test=self.emails.test,
            num_steps=QUICK_STEPS if self.quick else STEPS_BY_LABELS[num_labels],
            learning_rate=LEARNING_RATES[start],
            seed=seed,
        )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the repeats."""
        return SEEDS[:1] if self.quick else SEEDS


def label_efficiency(report: Report, setting: Setting) -> None:
    """Part (a)."""
    sizes = [min(STEPS_BY_LABELS)] if setting.quick else list(STEPS_BY_LABELS)
    scores: dict[tuple[str, int], list[float]] = {}
    for num_labels in sizes:
        for start in STARTS:
            name = f"{start.replace(' ', '-')}-{num_labels}"
            scores[start, num_labels] = [
                trainyard_outcome(
                    setting.task(start, num_labels, seed), setting.folder, f"{name}-{seed}"
                ).macro_f1
                for seed in setting.seeds
            ]
            report.add(median_of(f"macro F1, {start}, {num_labels} labels", scores[start, num_labels]))
        add_gap(report, scores[PRETRAINED, num_labels], scores[RANDOM, num_labels], num_labels)
    if not setting.quick:
        gain = statistics.median(scores[PRETRAINED, FEW]) - statistics.median(scores[RANDOM, MANY])
        name = f"(a) {PRETRAINED} with {FEW} labels over {RANDOM} with {MANY}, medians"
        report.add(Figure(name, gain, target=at_least(0)))


def add_gap(report: Report, pretrained: Sequence[float], random: Sequence[float], num_labels: int) -> None:
    """How far the worst seed of the pre-trained start lies above the best one of random weights."""
    gap = min(pretrained) - max(random)
    raw = {PRETRAINED: list(pretrained), RANDOM: list(random)}
    name = f"(a) {num_labels} labels: worst seed of {PRETRAINED} over best seed of {RANDOM}"
    report.add(Figure(name, gap, target=Target(">=", sys.float_info.epsilon), raw=raw))


def against_hugging_face(report: Report, setting: Setting) -> None:
    """Part (b): each pair of arms has a seed; arms in the order A B B A A B."""
    num_labels = min(STEPS_BY_LABELS) if setting.quick else FEW
    outcomes: dict[str, list[Outcome]] = {"trainyard": [], "Hugging Face Trainer": []}

    def task_of(arm: str) -> Task:
        return setting.task(PRETRAINED, num_labels, setting.seeds[len(outcomes[arm])])

    def trainyard() -> float:
        task = task_of("trainyard")
        outcomes["trainyard"].append(trainyard_outcome(task, setting.folder, f"arms-{task.seed}"))
        return outcomes["trainyard"][-1].rate

    def hugging_face() -> float:
        task = task_of("Hugging Face Trainer")
        outcomes["Hugging Face Trainer"].append(hugging_face_outcome(task, setting.folder / "hugging-face"))
        return outcomes["Hugging Face Trainer"][-1].rate

    arms = {"trainyard": trainyard, "Hugging Face Trainer": hugging_face}
    rates = interleave(arms, len(setting.seeds))
    for arm, values in rates.items():
        report.add(median_of(f"training, {arm}", values, "useful tokens/s"))
    scores = {arm: [outcome.macro_f1 for outcome in found] for arm, found in outcomes.items()}
    add_difference(report, scores["trainyard"], scores["Hugging Face Trainer"])
    name = "(b) useful tokens/s over Hugging Face Trainer"
    report.add(ratio(name, rates, "trainyard", "Hugging Face Trainer", at_least(1.15)))


def add_difference(report: Report, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """Whether our median is not below theirs by more than seeds of theirs differ."""
    difference = statistics.median(ours) - statistics.median(theirs)
    spread = max(theirs) - min(theirs)
    raw = {"trainyard": list(ours), "Hugging Face Trainer": list(theirs)}
    figure = Figure("(b) macro F1 less Hugging Face Trainer's", difference, target=at_least(-spread), raw=raw)
    report.add(figure)


def tune(report: Report, setting: Setting) -> None:
    """Try every learning rate of the grid with each start, on e-mails that the parts do not judge by."""
    pool = setting.emails.pool
    apart = replace(setting, emails=Emails(test=pool[:NUM_TEST], pool=pool[NUM_TEST:]))
    for start in STARTS:
        for learning_rate in GRID:
            task = replace(apart.task(start, FEW, TUNING_SEED), learning_rate=learning_rate)
            name = f"tune-{start.replace(' ', '-')}-{GRID.index(learning_rate)}"
            score = trainyard_outcome(task, setting.folder, name).macro_f1
            report.add(Figure(f"macro F1, {start}, learning rate {learning_rate:g}", score))


def open_setting(folder: Path, *, quick: bool) -> Setting:
    """Fetch e-mails and model."""
    cache = cache_root(os.environ)
    minilm = fetch_minilm(cache)
    emails = divide(read_emails(fetch_spam_assassin(cache) / EMAILS), QUICK_NUM_TEST if quick else NUM_TEST)
    return Setting(folder=folder, pretrained=minilm, emails=emails, quick=quick)


def main() -> int:
    """Measure and print."""
    parser = options(__doc__, PARTS)
    parser.add_argument("--tune", action="store_true", help="choose learning rates instead")
    arguments = parser.parse_args()
    parts = {"a": label_efficiency, "b": against_hugging_face}
    report = Report("Transfer")
    with tempfile.TemporaryDirectory() as folder:
        setting = open_setting(Path(folder), quick=arguments.quick)
        if arguments.tune:
            tune(report, setting)
        else:
            for name, part in parts.items():
                if arguments.only is None or name in arguments.only:
                    part(report, setting)
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
