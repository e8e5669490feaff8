"""The report of a run: one HTML page with plots and facts, made from the run folder alone."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from trainyard_api.names import File
from trainyard_api.progress import EventRecord
from trainyard_api.task_metrics import LOSS
from trainyard_trainer.progress import write_text_atomically
from trainyard_trainer.report_confusion import confusion_chart
from trainyard_trainer.report_evaluation import METRIC_WORDS, interval_words, task_verdict, task_words
from trainyard_trainer.report_facts import RunFacts, read_run_facts
from trainyard_trainer.report_format import format_count, format_number, format_seconds
from trainyard_trainer.report_plots import Series, line_chart, smoothed
from trainyard_trainer.report_tables import make_tables, starting_model, words
from trainyard_trainer.task_result import TaskResult


@dataclass(frozen=True)
class Figure:
    """One number of the headline."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A chart with its legend."""

    title: str
    unit: str
    drawing: Markup
    legend: list[tuple[str, str]] = field(default_factory=list)
    """(class in the style sheet, label)."""


@dataclass(frozen=True)
class Bar:
    """One bar of a bar chart."""

    label: str
    value: str
    percent: float
    """Length, 0 to 100."""


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, of a finished, failed or running run, and return its path."""
    page = render_report(read_run_facts(run_folder))
    path = run_folder / File.REPORT
    write_text_atomically(path, page)
    return path


def render_report(facts: RunFacts) -> str:
    """The page. Everything from users is escaped, and the page loads nothing and runs no script."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("trainyard_trainer").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        name=facts.name,
        phase=facts.status.phase.value,
        summary=summary(facts),
        verdict=verdict(facts),
        figures=headline(facts),
        plots=plots(facts),
        stage_bars=stage_bars(facts.events),
        startup_bars=startup_bars(facts.events),
        failures=[attempt for attempt in facts.status.attempts if attempt.failure is not None],
        tables=make_tables(facts),
        problems=facts.problems,
    )


def summary(facts: RunFacts) -> str:
    """What the run is, in one line."""
    spec = facts.spec
    if facts.plan is None or spec is None:
        return "No plan has been written yet."
    if spec.fine_tuning is not None:
        what = task_words(spec.fine_tuning)
    else:
        what = f"{spec.pretraining.objective if spec.pretraining else ''} pre-training"
    model = spec.model.architecture.preset if spec.model.architecture else starting_model(spec.model)
    world, stage = facts.plan.batch.world_size, facts.plan.zero_stage
    processes = "1 process" if world == 1 else f"{world} processes"
    return (
        f"{what} of {model} on {len(spec.data.sources)} source"
        f"{'s' if len(spec.data.sources) != 1 else ''}, {processes}, ZeRO {stage}, "
        f"{spec.training.precision}"
    )


def verdict(facts: RunFacts) -> str:
    """What the evaluation says: of a task its metric, else the loss against token frequencies."""
    if facts.evaluation is not None and not is_language_modeling(facts):
        return task_verdict(facts.evaluation)
    loss, without_context = evaluation_loss(facts), facts.frequency_loss
    if loss is None:
        return "The model has not been evaluated yet."
    if without_context is None:
        return ""
    if loss < without_context:
        comparison, meaning = "below", "the model uses context, not only token frequencies"
    else:
        comparison, meaning = "above", "the model does not use context yet"
    return (
        f"The evaluation loss is {abs(without_context - loss):.2f} nats {comparison} {without_context:.2f}, "
        f"the lowest that token frequencies alone can give: {meaning}."
    )


def is_language_modeling(facts: RunFacts) -> bool:
    """Whether the run predicts tokens of plain text, whose losses compare with those of token frequencies."""
    fine_tuning = facts.spec.fine_tuning if facts.spec else None
    return fine_tuning is None or fine_tuning.task == "ContinuedPretraining"


def evaluation_loss(facts: RunFacts) -> float | None:
    """The newest loss on the held-out documents."""
    if facts.evaluations:
        return facts.evaluations[-1].evaluation_loss
    return facts.record.evaluation_loss if facts.record else None


def headline(facts: RunFacts) -> list[Figure]:
    """The numbers that are looked at first; those that are not known are left out."""
    figures = []
    loss, entropy = evaluation_loss(facts), facts.unigram_entropy
    if facts.evaluation is not None and not is_language_modeling(facts):
        figures += task_figures(facts.evaluation)
    elif loss is not None:
        note = f"unigram entropy {entropy:.3f}" if entropy is not None else "nats per predicted token"
        figures.append(Figure("evaluation loss", f"{loss:.3f}", note))
        figures.append(
            Figure("perplexity", format_number(math.exp(min(loss, 700.0))), "exp(evaluation loss)")
        )
    if steps := facts.steps:
        tokens = sum(record.tokens or 0 for record in steps)
        seconds = sum(record.step_seconds or 0.0 for record in steps)
        progress = facts.status.progress
        total = progress.total_steps if progress else None
        figures.append(Figure("optimizer steps", f"{steps[-1].step:,}", f"of {total:,}" if total else ""))
        figures.append(Figure("tokens", format_count(tokens), "padding not counted"))
        if seconds > 0:
            figures.append(
                Figure("tokens/s", format_count(tokens / seconds), f"{format_seconds(seconds)} in steps")
            )
    if facts.events:
        elapsed = facts.events[-1].time - facts.events[0].time
        figures.append(Figure("time", format_seconds(max(elapsed, 0.0)), "first to last event"))
    if facts.record:
        figures.append(Figure("parameters", format_count(facts.record.parameters), "tied ones once"))
    return figures


def task_figures(result: TaskResult) -> list[Figure]:
    """The metric that chooses the checkpoint, and the loss, with their intervals."""
    names = dict.fromkeys(name for name in (result.metric, LOSS) if name in result.metrics)
    return [
        Figure(METRIC_WORDS[name], format_number(result.metrics[name]), interval_words(result, name))
        for name in names
    ]


def plots(facts: RunFacts) -> list[Plot]:
    """The charts that there is something to draw for."""
    steps = facts.steps
    marks = restart_marks(facts.events)
    found = [*task_plots(facts, marks), loss_plot(facts, marks)]
    rates = [
        (record.step, record.tokens / record.step_seconds)
        for record in steps
        if record.tokens is not None and record.step_seconds
    ]
    norms = [(record.step, record.gradient_norm) for record in steps if record.gradient_norm is not None]
    learning = [(record.step, record.learning_rate) for record in steps if record.learning_rate is not None]
    for title, unit, points, smooth in (
        ("Learning rate", "per optimizer step", learning, False),
        ("Gradient norm", "L2, before clipping", norms, True),
        ("Throughput", "tokens per second", rates, True),
    ):
        series = with_trend(title, points) if smooth else [Series(title, points, "train")]
        found.append(plot(title, unit, series, from_zero=True, marks=marks))
    return [drawn for drawn in found if drawn is not None]


def task_plots(facts: RunFacts, marks: list[tuple[float, str]]) -> list[Plot | None]:
    """The confusion matrix of the task, and its metric over the evaluations."""
    result = facts.evaluation
    if result is None:
        return []
    drawn: list[Plot | None] = []
    if result.confusion is not None:
        picture = confusion_chart([found.name for found in result.classes], result.confusion)
        unit = f"{result.unit}, shades are shares of a row"
        drawn.append(Plot("Confusion matrix", unit, picture) if picture is not None else None)
    if result.metric != LOSS:
        points = [
            (record.step, record.metrics[result.metric])
            for record in facts.evaluations
            if record.metrics and result.metric in record.metrics
        ]
        title = METRIC_WORDS[result.metric][:1].upper() + METRIC_WORDS[result.metric][1:]
        series = [Series("held-out examples", points, "evaluation", dots=True)] if points else []
        drawn.append(plot(title, "on held-out examples", series, marks=marks))
    return drawn


def loss_plot(facts: RunFacts, marks: list[tuple[float, str]]) -> Plot | None:
    """Training and evaluation loss, with the lowest loss without context as a line."""
    losses = [(record.step, record.loss) for record in facts.steps if record.loss is not None]
    evaluations = [
        (record.step, record.evaluation_loss)
        for record in facts.evaluations
        if record.evaluation_loss is not None
    ]
    series = with_trend("training", losses)
    every_step = [step for step, _ in (*losses, *evaluations)]
    without_context = facts.frequency_loss if is_language_modeling(facts) else None
    if without_context is not None and every_step:
        ends = [(min(every_step), without_context), (max(every_step), without_context)]
        series.append(Series(f"token frequencies alone {without_context:.3f}", ends, "reference"))
    if evaluations:
        label = f"evaluation, last {evaluations[-1][1]:.3f}"
        series.append(Series(label, evaluations, "evaluation", dots=True))
    unit = "nats per predicted token" if is_language_modeling(facts) else "mean over predictions"
    return plot("Loss", unit, series, marks=marks)


def with_trend(label: str, points: list[tuple[int, float]]) -> list[Series]:
    """Every value as a faint line, and its smoothed course over it where there are enough."""
    finite = [point for point in points if math.isfinite(point[1])]
    if len(finite) < 20:
        return [Series(label, finite, "train")] if finite else []
    return [
        Series("each step", finite, "faint"),
        Series(label, smoothed(finite, max(1.0, len(finite) / 100)), "train"),
    ]


def plot(
    title: str,
    unit: str,
    series: list[Series],
    *,
    from_zero: bool = False,
    marks: list[tuple[float, str]],
) -> Plot | None:
    """A chart with its legend, or None where there is nothing to draw."""
    drawing = line_chart(f"{title} by optimizer step", series, from_zero=from_zero, marks=marks)
    if drawing is None:
        return None
    legend = [(line.style, line.label) for line in series] if len(series) > 1 else []
    if marks:
        legend.append(("mark", "resumed"))
    return Plot(title, unit, drawing, legend)


def restart_marks(events: Iterable[EventRecord]) -> list[tuple[float, str]]:
    """(step, label) of each resumption from a checkpoint."""
    return [
        (event.values["step"], f"attempt {event.attempt} resumed at step {event.values['step']:,.0f}")
        for event in events
        if event.type == "Resumed" and "step" in event.values
    ]


def stage_bars(events: Iterable[EventRecord]) -> list[Bar]:
    """Seconds of each stage, over all attempts."""
    seconds: dict[str, float] = {}
    for event in events:
        if event.type == "StageFinished" and event.seconds is not None:
            seconds[event.stage] = seconds.get(event.stage, 0.0) + event.seconds
    return bars(seconds)


def startup_bars(events: Iterable[EventRecord]) -> list[Bar]:
    """Seconds from the start of the process to its first optimizer step, by part, of the last attempt."""
    startups = [event for event in events if event.type == "Startup"]
    return bars({words(name): value for name, value in startups[-1].values.items()}) if startups else []


def bars(seconds: Mapping[str, float]) -> list[Bar]:
    """Bars in the order given, the longest filling the width."""
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        Bar(label, format_seconds(value), round(100 * max(value, 0.0) / longest, 1))
        for label, value in seconds.items()
    ]
