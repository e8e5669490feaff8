"""Fine-tuning: what a pre-trained start is worth, and Trainyard against Hugging Face Trainer.

(a) label efficiency: spam or not by 64, 256 and 1,024 labelled e-mails, from MiniLM and from random weights
(b) parts of speech by Trainyard and by Hugging Face Trainer: accuracy, and useful tokens/s
(c) both tasks from a model that Trainyard pre-trained, and from random weights of its architecture

    python benchmarks/transfer.py [--quick] [--json FILE] [--only PART] [--own MODEL]
    python benchmarks/transfer.py --tune [--json FILE]

(c) needs `--own`, the model folder of a pretraining run such as that of the sample pretrain-masked.

`--tune` shows what (a)'s learning rates and steps are chosen by: each start by itself, the best macro F1 of
the same grid, and of the same two numbers of steps. It judges on e-mails that it does not train on and that
are not in the test set, with a seed that the parts do not use.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
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

PARTS = ("a", "b", "c")
SEEDS = (1, 2, 3)
NUM_TEST = 500
QUICK_NUM_TEST = 32
QUICK_STEPS = 7
PRETRAINED, RANDOM = "pre-trained", "random weights"
OWN, OWN_RANDOM = "own pre-training", "random weights of its architecture"


@dataclass(frozen=True)
class Learning:
    """How a start learns to tell spam."""

    rate: float
    steps: Mapping[int, int]
    """By the number of labels."""


FEW, MANY = 256, 1024
STARTS = {
    PRETRAINED: Learning(1.0e-4, {64: 64, FEW: 192, MANY: 192}),
    RANDOM: Learning(1.0e-4, {64: 64, FEW: 192, MANY: 384}),
}
"""Of (a)."""
OWN_STARTS = dict.fromkeys((OWN, OWN_RANDOM), Learning(3.0e-4, {MANY: 384}))
"""Of (c); not tuned."""
GRID = (3.0e-5, 1.0e-4, 3.0e-4)
TUNED_STEPS = {FEW: (96, 192), MANY: (192, 384)}
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
    own: Path | None = None
    """Folder of the model of (c)."""

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

    @property
    def emails_to_tune_by(self) -> Parts[Email]:
        """Of `--tune`: what (a) may train on, divided again."""
        pool = self.emails.pool
        return Parts(test=pool[: self.num_test], pool=pool[self.num_test :])

    @cached_property
    def sentences(self) -> Parts[Sentence]:
        """Of (b)."""
        file = fetch_brown(self.cache) / SENTENCES
        return divide(read_sentences(file, MINIMUM_TAG_COUNT), self.num_test)

    def model(self, start: str, seed: int) -> Path:
        """Model folder of a start; random weights are other ones for each seed."""
        source = self.pretrained if start in STARTS else self.own
        assert source is not None, "(c) does not run without a model"
        if start in {PRETRAINED, OWN}:
            return source.resolve()
        folder = self.folder / f"{start.replace(' ', '-')}-{seed}"
        return folder if folder.is_dir() else random_weights(source, folder, seed)

    def spam(self, start: str, num_labels: int, seed: int, emails: Parts[Email]) -> Task:
        """To tell spam after so many labels."""
        learning = {**STARTS, **OWN_STARTS}[start]
        return Task(
            subject=SPAM,
            model=self.model(start, seed),
            train=draw(emails.pool, num_labels, seed),
            test=emails.test,
            num_steps=QUICK_STEPS if self.quick else learning.steps[num_labels],
            learning_rate=learning.rate,
            seed=seed,
        )

    def tagging(self, seed: int, start: str = PRETRAINED) -> Task:
        """To tell parts of speech."""
        return Task(
            subject=PARTS_OF_SPEECH,
            model=self.model(start, seed),
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
    sizes = list(STARTS[RANDOM].steps)[: 1 if setting.quick else None]
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


def own_pretraining(report: Report, setting: Setting) -> None:
    """Part (c)."""
    if setting.own is None:
        report.say("(c) is left out without --own")
        return
    for start in OWN_STARTS:
        arms = {
            f"(c) macro F1, {start}, {MANY} labels": [
                setting.spam(start, MANY, seed, setting.emails) for seed in setting.seeds
            ],
            f"(c) accuracy, {start}": [setting.tagging(seed, start) for seed in setting.seeds],
        }
        for name, tasks in arms.items():
            scores = [trainyard_outcome(task, setting.folder, f"own-{task.seed}").score for task in tasks]
            report.add(median_of(name, scores))


def tune(report: Report, setting: Setting) -> None:
    """Each start with both numbers of labels: every learning rate, then the other number of steps."""
    emails = setting.emails_to_tune_by
    for start in STARTS:
        for num_labels, (fewer, more) in TUNED_STEPS.items():
            task = replace(setting.spam(start, num_labels, TUNING_SEED, emails), num_steps=fewer)
            tasks = [replace(task, learning_rate=rate) for rate in GRID]
            scores = [try_out(report, setting, start, each) for each in tasks]
            best = tasks[scores.index(max(scores))]
            try_out(report, setting, start, replace(best, num_steps=more))


def try_out(report: Report, setting: Setting, start: str, task: Task) -> float:
    """Train and report; macro F1."""
    score = trainyard_outcome(task, setting.folder, "tuning").score
    what = f"{len(task.train)} labels, {task.num_steps} steps, learning rate {task.learning_rate:g}"
    report.add(Figure(f"macro F1, {start}, {what}", score))
    return score


def main() -> int:
    """Measure and print."""
    parser = options(__doc__, PARTS)
    parser.add_argument("--tune", action="store_true", help="try learning rates and steps instead")
    parser.add_argument("--own", type=Path, metavar="MODEL", help="folder of the model of (c)")
    arguments = parser.parse_args()
    parts = {"a": label_efficiency, "b": against_hugging_face, "c": own_pretraining}
    report = Report("Transfer")
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), cache_root(os.environ), quick=arguments.quick, own=arguments.own)
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
