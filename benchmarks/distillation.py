"""Distillation: what a teacher is worth to a small model, and what is left of a teacher in it.

(a) a masked language model of half the layers, with its teacher and without, after the same tokens
(b) spam by a student with at least 40 % fewer parameters: what it keeps of MiniLM, and how much faster it is
(c) the students of (a) with a cache of the teacher's predictions: what a step costs, and their loss

    python benchmarks/distillation.py [--quick] [--json FILE] [--only PART]

The teacher of (a) is pretrained here, that of (b) is MiniLM fine-tuned here. Losses and metrics do not depend
on what else the machine does; latencies do.
"""

import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # tools fetches models and corpora

from corpora import part_of, sotu_folder
from distillation_arms import (
    PRESET,
    VOCABULARY_SIZE,
    Learnt,
    Lesson,
    assert_same_work,
    cut,
    learn,
    seconds_per_pass,
    timed,
    training_run,
)
from harness import Figure, Report, Target, at_least, at_most, interleave, median_of, options, ratio
from transfer_arms import SPAM, Task
from transfer_data import Email, Parts, divide, draw, read_emails, write_source
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from tools.cache import cache_root
from tools.corpora.spam_assassin import EMAILS, fetch_spam_assassin
from tools.fetch_models import fetch_minilm

PARTS = ("a", "b", "c")
SEEDS = (1, 2, 3)
TEACHER_SEED = 7
MASKED_TEACHER, SPAM_TEACHER = "masked-teacher", "spam-teacher"
"""Names of runs."""
TAUGHT, ALONE = "with its teacher", "without a teacher"
RANDOM, COPIED = "random weights", "every second layer of the teacher"

HALF = {"everyNthLayer": 2}
STUDENT = {"architecture": {"preset": PRESET, "overrides": {"num_hidden_layers": 2}}}
"""Half the layers of the teacher, which has the preset's four."""
MASKED_LOSSES: dict[str, Any] = {"logits": {"positions": "Labelled"}, "labels": {}, "hiddenStates": {}}
MASKED_TEACHER_STEPS = 500
MASKED_STUDENT_STEPS = {RANDOM: 200, COPIED: 80}
QUICK_STEPS = 2
"""The first of them is the warm-up."""
QUICK_ADDRESSES = 30
QUICK_ROWS = 64

SMALLER = {"everyNthLayer": 2, "width": {"hiddenSize": 256, "method": "Project"}}
SPAM_LOSSES: dict[str, Any] = {"logits": {}, "labels": {}, "hiddenStates": {}}
NUM_LABELS = 2048
SPAM_TEACHER_STEPS = 256
SPAM_STUDENT_STEPS = 384
SPAM_TEACHER_RATE = 1.0e-4
SPAM_STUDENT_RATE = 3.0e-4
NUM_TEST = 500
QUICK_NUM_TEST = 32
FEWER_PARAMETERS = 0.40
SPEED_UP = 1.6
RETENTION = 0.97
"""The figures of DistilBERT (Sanh et al. 2019, arXiv 1910.01108)."""
BATCH_SIZES = (1, 32)

CACHED, LIVE = "from a cache", "beside its teacher"
PREDICTIONS: dict[str, Any] = {"logits": {"positions": "Labelled"}, "labels": {}}
"""What a cache can tell."""
TIMED_STEPS, WARM_UP_STEPS = 20, 5
TIMED_REPEATS = 6
CACHE_OVERHEAD = 0.08
CACHE_LOSS_NATS = 0.01


@dataclass(frozen=True)
class Setting:
    """What the parts share."""

    folder: Path
    """Runs, and models and texts made for them."""
    addresses: Path
    """The text of (a)."""
    cache: Path
    """Of what is fetched."""
    quick: bool
    """Whether a minute has to do."""

    @property
    def storage(self) -> Path:
        """Of all runs."""
        return self.folder / "runs"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the students."""
        return SEEDS[:1] if self.quick else SEEDS

    def steps(self, number: int) -> int:
        """Optimizer steps of a run."""
        return QUICK_STEPS if self.quick else number

    @property
    def maximum_sequences(self) -> int | None:
        """Held-out rows that judge a language model; all of them when None."""
        return QUICK_ROWS if self.quick else None

    def target(self, target: Target) -> Target | None:
        """A target, of which a quick run holds none."""
        return None if self.quick else target

    @cached_property
    def masked_teacher(self) -> Learnt:
        """The teacher of (a)."""
        lesson = Lesson(
            name=MASKED_TEACHER,
            model={"architecture": {"preset": PRESET}},
            tokenizer={"train": {"algorithm": "WordPiece", "vocabularySize": VOCABULARY_SIZE}},
            text=self.addresses,
            num_steps=self.steps(MASKED_TEACHER_STEPS),
            seed=TEACHER_SEED,
            maximum_sequences=self.maximum_sequences,
        )
        return learn(lesson.document(), self.storage)

    @cached_property
    def half_of_the_masked_teacher(self) -> Path:
        """Where its students start that are copied."""
        return cut(self.masked_teacher.model, HALF, self.folder / "half", AutoModelForMaskedLM)

    @cached_property
    def emails(self) -> Parts[Email]:
        """Of (b)."""
        num_test = QUICK_NUM_TEST if self.quick else NUM_TEST
        return divide(read_emails(fetch_spam_assassin(self.cache) / EMAILS), num_test)

    def spam(self, model: Path, seed: int, num_steps: int, learning_rate: float) -> Task:
        """To tell spam after the same labelled e-mails, in another order for each seed."""
        return Task(
            subject=SPAM,
            model=model,
            train=draw(self.emails.pool, NUM_LABELS, TEACHER_SEED),
            test=self.emails.test,
            num_steps=self.steps(num_steps),
            learning_rate=learning_rate,
            seed=seed,
        )

    def learn_spam(self, name: str, task: Task, **changes: Mapping[str, Any]) -> Learnt:
        """Learn a task; the changes replace members of its spec."""
        files = [
            write_source(part, self.folder / f"{name}-{split}.jsonl")
            for split, part in (("train", task.train), ("test", task.test))
        ]
        document = task.document(name, *files)
        return learn(training_run(name, {**document["spec"], **changes}), self.storage)

    @cached_property
    def spam_teacher(self) -> Learnt:
        """The teacher of (b)."""
        task = self.spam(fetch_minilm(self.cache), TEACHER_SEED, SPAM_TEACHER_STEPS, SPAM_TEACHER_RATE)
        return self.learn_spam(SPAM_TEACHER, task)

    @cached_property
    def part_of_the_spam_teacher(self) -> Path:
        """Where its students start."""
        folder = self.folder / "smaller"
        return cut(self.spam_teacher.model, SMALLER, folder, AutoModelForSequenceClassification)


def masked_student(  # noqa: PLR0913 - what tells the students apart
    setting: Setting, teacher: Path, half: Path, start: str, seed: int, *, taught: bool
) -> Lesson:
    """A student of (a); both of a seed start from the same weights.

    Args:
        setting: what the parts share.
        teacher: folder of its model.
        half: folder of every second layer of it.
        start: RANDOM or COPIED.
        seed: of the weights and the order of the rows.
        taught: whether it has its teacher.
    """
    is_random = start == RANDOM
    model = STUDENT if is_random else {"fromTeacher": HALF} if taught else stored(half)
    return Lesson(
        name=f"masked-{'random' if is_random else 'copied'}-{'taught' if taught else 'alone'}-{seed}",
        model=model,
        text=setting.addresses,
        num_steps=setting.steps(MASKED_STUDENT_STEPS[start]),
        seed=seed,
        tokenizer={"uri": teacher.as_uri()} if is_random and not taught else None,
        distillation=distillation(MASKED_TEACHER, MASKED_LOSSES) if taught else None,
        maximum_sequences=setting.maximum_sequences,
    )


def spam_student(setting: Setting, seed: int, *, taught: bool) -> Learnt:
    """A student of (b); both of a seed start from the same weights."""
    task = setting.spam(setting.part_of_the_spam_teacher, seed, SPAM_STUDENT_STEPS, SPAM_STUDENT_RATE)
    if not taught:
        return setting.learn_spam(f"spam-alone-{seed}", task)
    return setting.learn_spam(
        f"spam-taught-{seed}",
        task,
        model={"fromTeacher": SMALLER},
        distillation=distillation(SPAM_TEACHER, SPAM_LOSSES),
    )


def distillation(teacher: str, losses: Mapping[str, Any]) -> dict[str, Any]:
    """`spec.distillation` with the model of a run as the teacher."""
    return {"teacher": {"fromRun": {"name": teacher}}, "losses": losses}


def stored(model: Path) -> dict[str, Any]:
    """`spec.model` of a stored one."""
    return {"pretrained": {"uri": model.as_uri()}}


def masked_language_models(report: Report, setting: Setting) -> None:
    """Part (a)."""
    teacher, half = setting.masked_teacher, setting.half_of_the_masked_teacher
    report.add(Figure("held-out loss, teacher", teacher.loss, "nats"))
    report.say(f"teacher: {teacher.num_parameters:,} parameters, {teacher.num_tokens:,} tokens")
    for start in (RANDOM, COPIED):
        students: dict[str, list[Learnt]] = {TAUGHT: [], ALONE: []}
        for seed in setting.seeds:
            for arm, learnt in students.items():
                lesson = masked_student(setting, teacher.model, half, start, seed, taught=arm == TAUGHT)
                learnt.append(learn(lesson.document(), setting.storage))
        assert_same_work(students[TAUGHT], students[ALONE])
        first = students[TAUGHT][0]
        report.say(f"students: {first.num_parameters:,} parameters, {first.num_tokens:,} tokens")
        losses = {arm: [each.loss for each in learnt] for arm, learnt in students.items()}
        for arm, found in losses.items():
            report.add(median_of(f"held-out loss, {start}, {arm}", found, "nats"))
        report.add(gain(setting, start, losses[TAUGHT], losses[ALONE]))


def gain(setting: Setting, start: str, taught: Sequence[float], alone: Sequence[float]) -> Figure:
    """How far the worst seed with a teacher lies below the best one without."""
    return Figure(
        name=f"(a) {start}: best seed {ALONE} less the worst {TAUGHT}",
        value=min(alone) - max(taught),
        unit="nats",
        target=setting.target(Target(">=", sys.float_info.epsilon)),
        raw={TAUGHT: list(taught), ALONE: list(alone)},
    )


def spam_students(report: Report, setting: Setting) -> None:
    """Part (b)."""
    teacher, metric = setting.spam_teacher, SPAM.metric
    report.add(Figure(f"{metric}, teacher", teacher.metrics[metric]))
    students: dict[str, list[Learnt]] = {TAUGHT: [], ALONE: []}
    for seed in setting.seeds:
        for arm, learnt in students.items():
            learnt.append(spam_student(setting, seed, taught=arm == TAUGHT))
    assert_same_work(students[TAUGHT], students[ALONE])
    for arm, learnt in students.items():
        report.add(median_of(f"{metric}, student {arm}", [each.metrics[metric] for each in learnt]))
    for arm, learnt in students.items():
        kept = [each.metrics[metric] / teacher.metrics[metric] for each in learnt]
        name = f"{'(b) ' if arm == TAUGHT else ''}part of the teacher's {metric} kept {arm}"
        report.add(median_of(name, kept, "", setting.target(at_least(RETENTION)) if arm == TAUGHT else None))
    student = students[TAUGHT][0]
    report.say(f"parameters: {teacher.num_parameters:,}, {student.num_parameters:,}")
    fewer = 1 - student.num_parameters / teacher.num_parameters
    report.add(
        Figure("(b) part of the parameters saved", fewer, target=setting.target(at_least(FEWER_PARAMETERS)))
    )
    for batch_size in BATCH_SIZES:
        report.add(speed_up(setting, teacher.model, student.model, batch_size))


def speed_up(setting: Setting, teacher: Path, student: Path, batch_size: int) -> Figure:
    """How many times faster the student is on the first held-out e-mails, each of a whole row."""
    texts = [email.text for email in setting.emails.test[:batch_size]]
    length = SPAM.sequence_length
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    inputs = tokenizer(texts, truncation=True, padding="max_length", max_length=length, return_tensors="pt")
    arms = {
        name: partial(
            seconds_per_pass,
            AutoModelForSequenceClassification.from_pretrained(model).eval(),
            inputs,
            3 if setting.quick else 20,
        )
        for name, model in (("teacher", teacher), ("student", student))
    }
    seconds = interleave(arms, 2 if setting.quick else 10)
    milliseconds = {name: 1000 * statistics.median(found) for name, found in seconds.items()}
    report_of = ", ".join(f"{name} {value:.1f} ms" for name, value in milliseconds.items())
    name = f"(b) times faster, {batch_size} x {length} tokens ({report_of})"
    return ratio(name, seconds, "teacher", "student", setting.target(at_least(SPEED_UP)))


def cached_student(setting: Setting, alone: Lesson, arm: str, name: str, num_steps: int) -> Lesson:
    """The student without a teacher, or with one in an arm of (c).

    Args:
        setting: what the parts share.
        alone: the student without a teacher.
        arm: ALONE, CACHED or LIVE.
        name: of the run.
        num_steps: optimizer steps.
    """
    lesson = replace(alone, name=name, num_steps=setting.steps(num_steps))
    if arm == ALONE:
        return lesson
    taught = distillation(MASKED_TEACHER, PREDICTIONS)
    return replace(lesson, distillation=taught if arm == LIVE else {**taught, "teacherCache": {}})


def cached_predictions(report: Report, setting: Setting) -> None:
    """Part (c): the cache is written before the first of its runs; what its stage takes is told apart."""
    teacher, half = setting.masked_teacher.model, setting.half_of_the_masked_teacher
    alone = masked_student(setting, teacher, half, RANDOM, SEEDS[0], taught=False)
    num_steps = MASKED_STUDENT_STEPS[RANDOM]
    losses: dict[str, list[float]] = {}
    for number, arm in enumerate((CACHED, LIVE)):
        lesson = cached_student(setting, alone, arm, f"predictions-{number}", num_steps)
        losses[arm] = [learn(lesson.document(), setting.storage).loss]
        report.add(Figure(f"held-out loss {arm}", losses[arm][0], "nats"))
    difference = abs(losses[CACHED][0] - losses[LIVE][0])
    target = setting.target(at_most(CACHE_LOSS_NATS))
    report.add(Figure("(c) difference of the losses", difference, "nats", target, raw=losses))
    seconds = seconds_of_cached_steps(setting, replace(alone, maximum_sequences=1))
    report.add(overhead(LIVE, seconds, None))
    report.add(overhead(CACHED, seconds, setting.target(at_most(CACHE_OVERHEAD))))


def seconds_of_cached_steps(setting: Setting, alone: Lesson) -> dict[str, list[float]]:
    """Seconds per useful token of each arm of (c), arms in turn."""
    numbers = itertools.count()

    def measure(arm: str) -> float:
        name = f"timed-{next(numbers)}"
        lesson = cached_student(setting, alone, arm, name, WARM_UP_STEPS + TIMED_STEPS)
        return timed(lesson.document(), setting.storage, 1 if setting.quick else WARM_UP_STEPS)

    arms = {arm: partial(measure, arm) for arm in (ALONE, CACHED, LIVE)}
    return interleave(arms, 1 if setting.quick else TIMED_REPEATS)


def overhead(arm: str, seconds: Mapping[str, Sequence[float]], target: Target | None) -> Figure:
    """What a token costs beyond one without a teacher, as a part of that."""
    parts = [ours / bare - 1 for ours, bare in zip(seconds[arm], seconds[ALONE], strict=True)]
    figure = median_of(f"(c) overhead of a step {arm}", parts, "of the time without a teacher", target)
    return replace(figure, raw={arm: list(seconds[arm]), ALONE: list(seconds[ALONE])})


def open_setting(folder: Path, *, quick: bool) -> Setting:
    """The whole corpus, or a part of it when a minute has to do."""
    addresses = sotu_folder() / "addresses.jsonl.gz"
    if quick:
        addresses = part_of(addresses, QUICK_ADDRESSES, folder)
    return Setting(folder=folder, addresses=addresses, cache=cache_root(os.environ), quick=quick)


def main() -> int:
    """Measure and print."""
    arguments = options(__doc__, PARTS).parse_args()
    parts = {"a": masked_language_models, "b": spam_students, "c": cached_predictions}
    report = Report("Distillation")
    with tempfile.TemporaryDirectory() as folder:
        setting = open_setting(Path(folder), quick=arguments.quick)
        if setting.quick:
            report.say("a quick run holds no targets")
        for name, part in parts.items():
            if arguments.only is None or name in arguments.only:
                part(report, setting)
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
