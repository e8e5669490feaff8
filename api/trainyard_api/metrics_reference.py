"""`docs/metrics.md`: every metric, from the table itself."""

from collections.abc import Iterable

from trainyard_api.metrics import (
    MAXIMUM_SERIES_PER_RUN,
    OPERATOR_METRICS,
    RUN_METRICS,
    MetricDefinition,
)


def metrics_reference() -> str:
    """The whole page as Markdown."""
    lines = [
        "# Metrics",
        "",
        "## Of a run",
        "",
        "The operator serves them at `/metrics` for every run, `trainyard run --metrics-port` for the one it",
        f"executes. A run has at most {MAXIMUM_SERIES_PER_RUN} series; one without a value yet is not",
        "there, and all of them vanish when the run is deleted.",
        "",
        *_table(RUN_METRICS),
        "",
        "## Of the operator",
        "",
        "Object names are in no label here, so the number of series does not grow with the number of runs.",
        "The usual `process_` and `python_` series are there too.",
        "",
        *_table(OPERATOR_METRICS),
    ]
    return "\n".join(lines) + "\n"


def _table(definitions: Iterable[MetricDefinition]) -> list[str]:
    rows = [
        f"| `{definition.name}` | {definition.kind} | {_labels(definition)} | {definition.help}. |"
        for definition in definitions
    ]
    return ["| Name | Type | Labels | What it tells |", "|---|---|---|---|", *rows]


def _labels(definition: MetricDefinition) -> str:
    return ", ".join(f"`{label}`" for label in definition.labels) or "none"
