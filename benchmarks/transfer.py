"""Fine-tuning: what a pre-trained start is worth, and Trainyard against Hugging Face Trainer.

(a) label efficiency: spam or not by 64, 256 and 1,024 labelled e-mails, from MiniLM and from random weights
(b) parts of speech by Trainyard and by Hugging Face Trainer: accuracy, and useful tokens/s

    python benchmarks/transfer.py [--quick] [--json FILE] [--only PART]
    python benchmarks/transfer.py --tune [--json FILE]

`--tune` shows what (a)'s learning rates are chosen by, each start by itself from the same grid, and whether
twice the steps would be better. It judges on e-mails that it does not train on and that are not in the test
set, with a seed that the parts do not use.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # tools fetches models and corpora

from harness import Figure, Report, Target, at_least, interleave, median_of, options, ratio
from transfer_arms import PARTS_OF_SPEECH, SPAM, Outcome, Task, random_weights, trainyard_outcome
from transfer_data import Email, Parts, Sentence, divide, draw, read_emails, read_sentences
from transfer_peer import hugging_face_outcome

from tools.cache import cache_root
from tools.corpora.brown import SENTENCES, fetch_brown
from tools.corpora.spam_assassin import EMAILS, fetch_spam_assassin
from tools.fetch_models import fetch_minilm

PARTS = ("a", "b")
SEEDS = (1, 2, 3)
NUM_TEST = 500
QUICK_NUM_TEST = 32
QUICK_STEPS = 7
PRETRAINED, RANDOM = "pre-trained", "random weights"
STARTS = (PRETRAINED, RANDOM)

STEPS_BY_LABELS = {64: 64, 256: 96, 1024: 384}
"""Of both starts: 16, 6 and 6 epochs."""
FEW, MANY = 256, 1024
LEARNING_RATES = {PRETRAINED: 1.0e-4, RANDOM: 1.0e-4}
"""Of (a)."""
GRID = (3.0e-5, 1.0e-4, 3.0e-4, 1.0e-3)
TUNING_SEED = 11

TAGGING_STEPS = 70
TAGGING_LEARNING_RATE = 3.0e-4
TAGGING_SENTENCES = TAGGING_STEPS * PARTS_OF_SPEECH.global_batch_size
"""One epoch."""
MINIMUM_TAG_COUNT = 500
"""So frequent is every tag in the corpus that training and test sentences surely hold it."""
OURS, PEER, GROUPED = "trainyard", "Hugging Face Trainer", "Hugging Face Trainer, group_by_length"


@dataclass(frozen=True)
class Setting:
    """What the parts share."""

    folder: Path
    """Runs and models made for them."""
    cache: Path
    """Of what is fetched."""
    quick: bool
    """Whether a minute has to do."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the repeats."""
        return SEEDS[:1] if self.quick else SEEDS

    @property
    def num_test(self) -> int:
        """Held-out examples."""
        return QUICK_NUM_TEST if self.quick else NUM_TEST

    @cached_property
    def pretrained(self) -> Path:
        """Folder of the published model."""
        return fetch_minilm(self.cache)

    @cached_property
    def emails(self) -> Parts[Email]:
        """Of (a)."""
        return divide(read_emails(fetch_spam_assassin(self.cache) / EMAILS), self.num_test)

    @cached_property
    def sentences(self) -> Parts[Sentence]:
        """Of (b)."""
        file = fetch_brown(self.cache) / SENTENCES
        return divide(read_sentences(file, MINIMUM_TAG_COUNT), self.num_test)

    def model(self, start: str, seed: int) -> Path:
        """Model folder of a start; random weights are other ones for each seed."""
        if start == PRETRAINED:
            return self.pretrained
        folder = self.folder / f"random-weights-{seed}"
        return folder if folder.is_dir() else random_weights(self.pretrained, folder, seed)

    def spam(self, start: str, num_labels: int, seed: int, emails: Parts[Email]) -> Task:
        """To tell spam after so many labels."""
        return Task(
            subject=SPAM,
            model=self.model(start, seed),
            train=draw(emails.pool, num_labels, seed),
            test=emails.test,
            num_steps=QUICK_STEPS if self.quick else STEPS_BY_LABELS[num_labels],
            learning_rate=LEARNING_RATES[start],
            seed=seed,
        )

    def tagging(self, seed: int) -> Task:
        """To tell parts of speech, from the pre-trained model."""
        return Task(
            subject=PARTS_OF_SPEECH,
            model=self.pretrained,
            train=draw(self.sentences.pool, TAGGING_SENTENCES, seed),
            test=self.sentences.test,
            num_steps=QUICK_STEPS if self.quick else TAGGING_STEPS,
            learning_rate=TAGGING_LEARNING_RATE,
            seed=seed,
        )

    def target(self, target: Target) -> Target | None:
        """A target, of which a quick run holds none."""
        return None if self.quick else target


def label_efficiency(report: Report, setting: Setting) -> None:
    """Part (a)."""
    sizes = [min(STEPS_BY_LABELS)] if setting.quick else list(STEPS_BY_LABELS)
    scores: dict[tuple[str, int], list[float]] = {}
    for num_labels in sizes:
        for start in STARTS:
            tasks = [setting.spam(start, num_labels, seed, setting.emails) for seed in setting.seeds]
            found = [trainyard_outcome(task, setting.folder, f"spam-{task.seed}").score for task in tasks]
            scores[start, num_labels] = found
            report.add(median_of(f"macro F1, {start}, {num_labels} labels", found))
        report.add(gap(setting, scores[PRETRAINED, num_labels], scores[RANDOM, num_labels], num_labels))
    if not setting.quick:
        gain = statistics.median(scores[PRETRAINED, FEW]) - statistics.median(scores[RANDOM, MANY])
        name = f"(a) {PRETRAINED} with {FEW} labels over {RANDOM} with {MANY}, medians"
        report.add(Figure(name, gain, target=at_least(0)))


def gap(setting: Setting, pretrained: Sequence[float], random: Sequence[float], num_labels: int) -> Figure:
    """How far the worst seed of the pre-trained start lies above the best one of random weights."""
    return Figure(
        name=f"(a) {num_labels} labels: worst seed of {PRETRAINED} over best seed of {RANDOM}",
        value=min(pretrained) - max(random),
        target=setting.target(Target(">=", sys.float_info.epsilon)),
        raw={PRETRAINED: list(pretrained), RANDOM: list(random)},
    )


def against_hugging_face(report: Report, setting: Setting) -> None:
    """Part (b): each pair of arms has a seed; arms in the order A B B A A B, and the third one at last."""
    outcomes: dict[str, list[Outcome]] = {OURS: [], PEER: []}

    def trainyard() -> float:
        task = setting.tagging(setting.seeds[len(outcomes[OURS])])
        outcomes[OURS].append(trainyard_outcome(task, setting.folder, f"tagging-{task.seed}"))
        return outcomes[OURS][-1].rate

    def hugging_face() -> float:
        task = setting.tagging(setting.seeds[len(outcomes[PEER])])
        outcomes[PEER].append(hugging_face_outcome(task, setting.folder / "hugging-face"))
        return outcomes[PEER][-1].rate

    rates = interleave({OURS: trainyard, PEER: hugging_face}, len(setting.seeds))
    check_same_work(outcomes, whole_epoch=not setting.quick)
    task = setting.tagging(setting.seeds[0])
    outcomes[GROUPED] = [hugging_face_outcome(task, setting.folder / "hugging-face", "group_by_length")]
    for arm, found in outcomes.items():
        report.add(median_of(f"training, {arm}", [one.rate for one in found], "useful tokens/s"))
        report.add(median_of(f"positions that are no padding, {arm}", [one.fullness for one in found]))
        report.add(median_of(f"accuracy, {arm}", [one.score for one in found]))
    ours, theirs = ([one.score for one in outcomes[arm]] for arm in (OURS, PEER))
    report.add(difference(setting, ours, theirs))
    target = setting.target(at_least(1.15))
    report.add(ratio("(b) useful tokens/s over Hugging Face Trainer", rates, OURS, PEER, target))


def check_same_work(outcomes: dict[str, list[Outcome]], *, whole_epoch: bool) -> None:
    """Make sure that the arms judged the same words and, over a whole epoch, trained on the same tokens."""
    for of_seed in zip(*outcomes.values(), strict=True):
        assert len({one.num_judged for one in of_seed}) == 1, of_seed
        assert not whole_epoch or len({one.num_tokens for one in of_seed}) == 1, of_seed


def difference(setting: Setting, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Whether our median is not below theirs by more than seeds of theirs differ."""
    return Figure(
        name="(b) accuracy less Hugging Face Trainer's, not below minus the spread of its seeds",
        value=statistics.median(ours) - statistics.median(theirs),
        target=setting.target(at_least(min(theirs) - max(theirs))),
        raw={OURS: list(ours), PEER: list(theirs)},
    )


def tune(report: Report, setting: Setting) -> None:
    """Every learning rate of the grid, on e-mails that the parts do not judge by; then twice the steps."""
    pool = setting.emails.pool
    apart = Parts(test=pool[: setting.num_test], pool=pool[setting.num_test :])
    for start, num_labels in ((RANDOM, MANY), (PRETRAINED, FEW)):
        task = setting.spam(start, num_labels, TUNING_SEED, apart)
        for learning_rate in GRID:
            try_out(report, setting, start, replace(task, learning_rate=learning_rate))
        try_out(report, setting, start, replace(task, num_steps=2 * task.num_steps))


def try_out(report: Report, setting: Setting, start: str, task: Task) -> None:
    """Train and report."""
    score = trainyard_outcome(task, setting.folder, "tuning").score
    what = f"{len(task.train)} labels, {task.num_steps} steps, learning rate {task.learning_rate:g}"
    report.add(Figure(f"macro F1, {start}, {what}", score))


def main() -> int:
    """Measure and print."""
    parser = options(__doc__, PARTS)
    parser.add_argument("--tune", action="store_true", help="try learning rates and steps instead")
    arguments = parser.parse_args()
    parts = {"a": label_efficiency, "b": against_hugging_face}
    report = Report("Transfer")
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), cache_root(os.environ), quick=arguments.quick)
        if setting.quick:
            report.say("a quick run holds no targets")
        if arguments.tune:
            tune(report, setting)
        else:
            for name, part in parts.items():
                if arguments.only is None or name in arguments.only:
                    part(report, setting)
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
