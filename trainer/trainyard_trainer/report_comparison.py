"""What a report, a model card and a summary say of a student beside its teacher."""

from trainyard_api.status import TeacherComparison
from trainyard_trainer.report_evaluation import METRIC_WORDS
from trainyard_trainer.report_format import format_bytes, format_number

COMPARISON_COLUMNS = ["measure", "student", "teacher", "student / teacher"]


def comparison_rows(comparison: TeacherComparison) -> list[list[str]]:
    """Measure, student, teacher, and the student's share of the teacher's."""
    models = comparison.student, comparison.teacher
    sizes = [model.size_bytes for model in models]
    medians = [model.latency_p50_seconds for model in models]
    tails = [model.latency_p95_seconds for model in models]
    rates = [model.tokens_per_second for model in models]
    kept = comparison.retention_percent
    return [
        ["parameters", *(f"{model.parameters:,}" for model in models), f"{100 * _share(comparison):.0f} %"],
        ["files of weights", *map(format_bytes, sizes), f"{100 * sizes[0] / sizes[1]:.0f} %"],
        ["latency p50", *map(_milliseconds, medians), f"{100 * medians[0] / medians[1]:.0f} %"],
        ["latency p95", *map(_milliseconds, tails), f"{100 * tails[0] / tails[1]:.0f} %"],
        ["throughput", *(f"{rate:,.0f} tokens/s" for rate in rates), f"{100 * rates[0] / rates[1]:.0f} %"],
        [
            METRIC_WORDS[comparison.metric],
            *("not defined" if model.quality is None else format_number(model.quality) for model in models),
            "" if kept is None else f"{kept:.1f} % kept",
        ],
    ]


def comparison_note(comparison: TeacherComparison) -> str:
    """How it was measured."""
    return (
        f"Measured in turn in fp32 on a CPU with {comparison.threads} threads: forward passes of one row of "
        f"{comparison.row_tokens:,} tokens, {comparison.repeats:,} times each, and "
        f"{METRIC_WORDS[comparison.metric]} on {comparison.examples:,} held-out rows."
    )


def comparison_line(comparison: TeacherComparison) -> str:
    """The comparison in a line."""
    fewer, kept = 100 * (1 - _share(comparison)), comparison.retention_percent
    quality = "" if kept is None else f", {kept:.1f} % of its {METRIC_WORDS[comparison.metric]} kept"
    size = f"{fewer:.0f} % fewer parameters, {comparison.speed_up:.2f} times as fast"
    return f"beside its teacher: {size}{quality}"


def _share(comparison: TeacherComparison) -> float:
    return comparison.student.parameters / comparison.teacher.parameters


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
