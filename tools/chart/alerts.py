"""The alerts: one table.

Expressions are made of the metrics' own names, so that a renamed metric takes them along. An alert is a
symptom that somebody has to look at. Each has a section of its name in docs/runbooks, and `runbook` points
to it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from trainyard_api.names import Metric, OperatorMetric, Phase, ProgressOutcome

RUN_RUNBOOK = "runs.md"
OPERATOR_RUNBOOK = "operator.md"

_RUN = "{{ $labels.namespace }}/{{ $labels.name }}"
_RUNNING = f'and on (namespace, name) {Metric.PHASE}{{phase="{Phase.RUNNING}"}} == 1'


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert."""

    name: str
    """Its name, and the heading of its section in the runbook."""
    expression: str
    """PromQL; it fires for each series of the result."""
    lasting: str
    """How long the expression has to hold."""
    severity: Literal["critical", "warning", "info"]
    """critical: nothing trains, or soon; warning: somebody should look today; info: worth knowing."""
    summary: str
    """One sentence without labels."""
    description: str
    """The same with labels and numbers."""


RUN_ALERTS = (
    Alert(
        name="TrainingRunFailed",
        expression=(
            f'{Metric.PHASE}{{phase="{Phase.FAILED}"}} == 1 '
            f'unless on (namespace, name) {Metric.PHASE}{{phase="{Phase.FAILED}"}} offset 1h == 1'
        ),
        lasting="0m",
        severity="warning",
        summary="A TrainingRun has failed for good within the last hour.",
        description=f"{_RUN} has failed and is not started again.",
    ),
    Alert(
        name="TrainingRunStalled",
        expression=f"{Metric.PROGRESS_AGE} > 900",
        lasting="5m",
        severity="warning",
        summary="A running TrainingRun has told nothing for a quarter of an hour.",
        description=f"{_RUN} last told its progress {{{{ $value | humanizeDuration }}}} ago.",
    ),
    Alert(
        name="TrainingRunRestartStorm",
        expression=f"increase({Metric.RESTARTS}[1h]) >= 3",
        lasting="0m",
        severity="warning",
        summary="A TrainingRun keeps restarting.",
        description=f"{_RUN} restarted {{{{ $value | humanize }}}} times within an hour.",
    ),
    Alert(
        name="TrainingRunCheckpointStale",
        expression=f"{Metric.CHECKPOINT_AGE} > 14400 {_RUNNING}",
        lasting="15m",
        severity="warning",
        summary="A running TrainingRun has committed no checkpoint for four hours.",
        description=f"{_RUN} would lose {{{{ $value | humanizeDuration }}}} of training in a fault.",
    ),
    Alert(
        name="TrainingRunPendingTooLong",
        expression=f'{Metric.PHASE}{{phase="{Phase.PENDING}"}} == 1',
        lasting="1h",
        severity="info",
        summary="A TrainingRun has not started for an hour.",
        description=f"{_RUN} is still Pending; its conditions say why.",
    ),
    Alert(
        name="TrainingRunThroughputDropped",
        expression=(
            f"{Metric.TOKENS_PER_SECOND} < 0.5 * max_over_time({Metric.TOKENS_PER_SECOND}[6h]) {_RUNNING}"
        ),
        lasting="15m",
        severity="info",
        summary="A running TrainingRun is at less than half of its former speed.",
        description=f"{_RUN} trains at {{{{ $value | humanize }}}} tokens per second.",
    ),
    Alert(
        name="TrainingRunGoodputLow",
        expression=(
            f'sum by (namespace, name) ({Metric.TIME}{{cause!~"Productive|Queue"}}) '
            f'> 0.5 * sum by (namespace, name) ({Metric.TIME}{{cause!="Queue"}}) > 1800 {_RUNNING}'
        ),
        lasting="30m",
        severity="warning",
        summary="A running TrainingRun has lost more than half of its time.",
        description=f"{_RUN} has lost {{{{ $value | humanizeDuration }}}} to start-up, restarts and stalls.",
    ),
    Alert(
        name="TrainingRunEvaluationLossRising",
        expression=(
            f"{Metric.EVALUATION_LOSS} > 1.2 * min_over_time({Metric.EVALUATION_LOSS}[1d]) {_RUNNING}"
        ),
        lasting="30m",
        severity="info",
        summary="The evaluation loss of a running TrainingRun is a fifth above its best.",
        description=f"{_RUN} has a loss of {{{{ $value | humanize }}}} on held-out examples.",
    ),
)
"""What may go wrong with a run."""

_REQUESTS = OperatorMetric.API_REQUESTS
_EXPIRY = OperatorMetric.CERTIFICATE_EXPIRY
_OPERATOR = "the operator in namespace {{ $labels.namespace }}"

OPERATOR_ALERTS = (
    Alert(
        name="TrainyardOperatorDown",
        expression=f"absent({OperatorMetric.BUILD_INFO})",
        lasting="5m",
        severity="critical",
        summary="No replica of the operator is scraped.",
        description="There is no operator. Running pods go on; nothing is started or restarted.",
    ),
    Alert(
        name="TrainyardOperatorNoLeader",
        expression=f"max by (namespace) ({OperatorMetric.LEADER}) == 0",
        lasting="2m",
        severity="critical",
        summary="No replica of the operator leads.",
        description=f"Of {_OPERATOR} no replica holds the Lease, so that nothing is started or restarted.",
    ),
    Alert(
        name="TrainyardOperatorTwoLeaders",
        expression=f"sum by (namespace) ({OperatorMetric.LEADER}) > 1",
        lasting="2m",
        severity="critical",
        summary="More than one replica of the operator says that it leads.",
        description=f"Of {_OPERATOR} {{{{ $value }}}} replicas lead.",
    ),
    Alert(
        name="TrainyardOperatorReconcileErrors",
        expression=f'sum by (namespace) (rate({OperatorMetric.RECONCILES}{{result="error"}}[10m])) > 0',
        lasting="10m",
        severity="warning",
        summary="The operator meets errors that it does not know.",
        description=f"Passes of {_OPERATOR} fail at {{{{ $value | humanize }}}} a second.",
    ),
    Alert(
        name="TrainyardOperatorBacklog",
        expression=(
            "histogram_quantile(0.99, sum by (namespace, le) "
            f"(rate({OperatorMetric.QUEUE_SECONDS}_bucket[10m]))) > 10"
        ),
        lasting="10m",
        severity="warning",
        summary="Runs wait long for the operator.",
        description=f"Of 100 runs one waits {{{{ $value | humanizeDuration }}}} for {_OPERATOR}.",
    ),
    Alert(
        name="TrainyardOperatorAPIErrors",
        expression=(
            f'sum by (namespace) (rate({_REQUESTS}{{code=~"5..|error"}}[10m])) '
            f"> 0.05 * sum by (namespace) (rate({_REQUESTS}[10m]))"
        ),
        lasting="10m",
        severity="warning",
        summary="The API server fails many requests of the operator.",
        description=f"Of the requests of {_OPERATOR} {{{{ $value | humanize }}}} a second fail.",
    ),
    Alert(
        name="TrainyardOperatorThrottled",
        expression=f'sum by (namespace) (rate({_REQUESTS}{{code="429"}}[10m])) > 0.1',
        lasting="10m",
        severity="warning",
        summary="The API server throttles the operator.",
        description=f"Of the requests of {_OPERATOR} {{{{ $value | humanize }}}} a second are sent away.",
    ),
    Alert(
        name="TrainyardOperatorForbidden",
        expression=(
            "sum by (namespace, verb, resource) "
            f'(increase({_REQUESTS}{{code="403",verb!~"POST|APPLY"}}[15m])) > 0'
        ),
        lasting="5m",
        severity="critical",
        summary="The operator lacks a right that it needs.",
        description=f"{{{{ $labels.verb }}}} of {{{{ $labels.resource }}}} is refused to {_OPERATOR}.",
    ),
    Alert(
        name="TrainyardOperatorProgressRefused",
        expression=(
            f"sum by (namespace, outcome) (rate({OperatorMetric.PROGRESS_POSTS}{{outcome=~"
            f'"{ProgressOutcome.UNAUTHENTICATED}|{ProgressOutcome.FORBIDDEN}|{ProgressOutcome.UNAVAILABLE}"'
            "}[10m])) > 0.1"
        ),
        lasting="15m",
        severity="warning",
        summary="Progress reports are turned away.",
        description="Reports that end as {{ $labels.outcome }}: {{ $value | humanize }} a second.",
    ),
    Alert(
        name="TrainyardOperatorCertificateExpiring",
        expression=f"{_EXPIRY} - time() < 604800 and {_EXPIRY} > 0",
        lasting="1h",
        severity="warning",
        summary="The certificate of the progress endpoint ends within a week.",
        description=f"The certificate of {_OPERATOR} ends in {{{{ $value | humanizeDuration }}}}.",
    ),
)
"""What may go wrong with the operator itself."""


def alerts_yaml() -> str:
    """Groups of Prometheus rules."""
    groups = [
        {"name": "trainyard-runs", "rules": list(_rules(RUN_ALERTS, RUN_RUNBOOK))},
        {"name": "trainyard-operator", "rules": list(_rules(OPERATOR_ALERTS, OPERATOR_RUNBOOK))},
    ]
    return yaml.safe_dump({"groups": groups}, sort_keys=False, width=110)


def _rules(alerts: Iterable[Alert], runbook: str) -> Iterator[dict[str, Any]]:
    for alert in alerts:
        yield {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook": f"{runbook}#{alert.name.lower()}",
            },
        }
