"""When alerts fire, by Prometheus' own engine: when they promise to, and never in a healthy world."""

import json
import subprocess
from dataclasses import dataclass, field

import pytest

from tests.support.helm import CHART
from tools.chart.alerts import OPERATOR_ALERTS, RUN_ALERTS

RULES = (CHART / "files" / "alerts.yaml").read_text(encoding="utf-8")
RUN = 'namespace="team",name="speeches"'
PHASE = f"trainyard_run_phase{{{RUN},phase="
TIME = f"trainyard_run_time_seconds{{{RUN},cause="
REQUESTS = 'trainyard_operator_api_requests_total{namespace="home",pod="one",'
BUCKET = 'trainyard_operator_queue_seconds_bucket{namespace="home",pod="one",le='
POSTS = 'trainyard_operator_progress_posts_total{namespace="home",pod="one",protocol="trainyard",outcome='
LEADER = 'trainyard_operator_leader{namespace="home",pod='
BUILD = 'trainyard_operator_build_info{namespace="home",pod="one"}'
EXPIRY = 'trainyard_operator_certificate_expiry_timestamp_seconds{namespace="home",pod="one"}'
RECONCILES = 'trainyard_operator_reconciles_total{namespace="home",pod="one",result='
OF_RUN = {"namespace": "team", "name": "speeches"}
OF_OPERATOR = {"namespace": "home"}

HEALTHY = {
    f'{PHASE}"Running"}}': "1x400",
    f"trainyard_run_progress_age_seconds{{{RUN}}}": "5x400",
    f"trainyard_run_restarts_total{{{RUN}}}": "0x100 1x300",
    f"trainyard_run_last_checkpoint_age_seconds{{{RUN}}}": "0+60x200 0+60x200",
    f"trainyard_run_tokens_per_second{{{RUN}}}": "1000x100 800x300",
    f"trainyard_run_evaluation_loss{{{RUN}}}": "6-0.01x400",
    f'{TIME}"Productive"}}': "0+60x400",
    f'{TIME}"Startup"}}': "60x400",
    f'{TIME}"Queue"}}': "9000x400",
    BUILD: "1x400",
    f'{LEADER}"one"}}': "1x400",
    f'{LEADER}"two"}}': "0x400",
    f'{RECONCILES}"success"}}': "0+60x400",
    f'{RECONCILES}"error"}}': "0x400",
    f'{BUCKET}"0.1"}}': "0+60x400",
    f'{BUCKET}"10"}}': "0+60x400",
    f'{BUCKET}"+Inf"}}': "0+60x400",
    f'{REQUESTS}verb="PATCH",resource="trainingruns",code="200"}}': "0+60x400",
    f'{REQUESTS}verb="GET",resource="trainingruns",code="500"}}': "0+1x400",
    f'{REQUESTS}verb="POST",resource="pods",code="403"}}': "0+10x400",
    f'{POSTS}"accepted"}}': "0+60x400",
    f'{POSTS}"forbidden"}}': "0+1x400",
    EXPIRY: "2592000x400",
}
"""A value a minute of every series that alerts read; a restart, a slower node, a quota now and then."""


@dataclass(frozen=True)
class Case:
    """What happens, and from which minute to which the alert tells of it; to the last one without an end."""

    series: dict[str, str | None]
    begin: int
    labels: dict[str, str] = field(default_factory=lambda: OF_RUN)
    end: int | None = None
    minutes: int = 130


CASES = {
    "TrainingRunFailed": Case(
        {f'{PHASE}"Running"}}': "1x9 stale", f'{PHASE}"Failed"}}': "_x10 1x200"},
        10,
        {**OF_RUN, "phase": "Failed"},
        end=69,
    ),
    "TrainingRunStalled": Case({f"trainyard_run_progress_age_seconds{{{RUN}}}": "0+60x200"}, 16 + 5),
    "TrainingRunRestartStorm": Case(
        {f"trainyard_run_restarts_total{{{RUN}}}": "0x60 1x5 2x5 3x200"}, 73, end=119
    ),
    "TrainingRunCheckpointStale": Case(
        {f"trainyard_run_last_checkpoint_age_seconds{{{RUN}}}": "0+60x400"}, 241 + 15, minutes=260
    ),
    "TrainingRunPendingTooLong": Case(
        {f'{PHASE}"Running"}}': None, f'{PHASE}"Pending"}}': "1x200"}, 60, {**OF_RUN, "phase": "Pending"}
    ),
    "TrainingRunThroughputDropped": Case(
        {f"trainyard_run_tokens_per_second{{{RUN}}}": "1000x60 499x200"}, 61 + 15
    ),
    "TrainingRunGoodputLow": Case(
        {f'{TIME}"Productive"}}': "20x200", f'{TIME}"Startup"}}': "0+60x200"}, 31 + 30
    ),
    "TrainingRunEvaluationLossRising": Case(
        {f"trainyard_run_evaluation_loss{{{RUN}}}": "2x60 2.5x200"}, 61 + 30
    ),
    # A series counts for 5 minutes after its last value.
    "TrainyardOperatorDown": Case({BUILD: "1x10"}, 10 + 5 + 5, {}),
    "TrainyardOperatorNoLeader": Case({f'{LEADER}"one"}}': "1x10 0x200"}, 11 + 2, OF_OPERATOR),
    "TrainyardOperatorTwoLeaders": Case({f'{LEADER}"two"}}': "0x10 1x200"}, 11 + 2, OF_OPERATOR),
    "TrainyardOperatorReconcileErrors": Case(
        {f'{RECONCILES}"error"}}': "0x10 1+1x200"}, 11 + 10, OF_OPERATOR
    ),
    "TrainyardOperatorBacklog": Case(
        {f'{BUCKET}"0.1"}}': "0+50x200", f'{BUCKET}"10"}}': "0+50x200", f'{BUCKET}"30"}}': "0+60x200"},
        1 + 10,
        OF_OPERATOR,
    ),
    "TrainyardOperatorAPIErrors": Case(
        {f'{REQUESTS}verb="GET",resource="trainingruns",code="500"}}': "0+10x200"}, 1 + 10, OF_OPERATOR
    ),
    # 10 a minute are more than 0.1 a second once 7 of the 10 minutes have them.
    "TrainyardOperatorThrottled": Case(
        {f'{REQUESTS}verb="PATCH",resource="trainingruns",code="429"}}': "0+10x200"}, 7 + 10, OF_OPERATOR
    ),
    "TrainyardOperatorForbidden": Case(
        {f'{REQUESTS}verb="LIST",resource="pods",code="403"}}': "0x10 1x200"},
        11 + 5,
        {**OF_OPERATOR, "verb": "LIST", "resource": "pods"},
        end=24,
    ),
    "TrainyardOperatorProgressRefused": Case(
        {f'{POSTS}"forbidden"}}': "0+10x200"}, 7 + 15, {**OF_OPERATOR, "outcome": "forbidden"}
    ),
    "TrainyardOperatorCertificateExpiring": Case(
        {EXPIRY: f"{604_800 + 600}x200"}, 11 + 60, {**OF_OPERATOR, "pod": "one"}
    ),
}


def ask(prometheus, series, minutes, rules=RULES):
    """What Prometheus does not like about rules, and the alerts that fire, by name and minute."""
    known = {name: values for name, values in series.items() if values is not None}
    question = {"rules": rules, "series": known, "minutes": minutes}
    done = subprocess.run(
        [prometheus], input=json.dumps(question), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    firing = {
        name: {int(minute): labels for minute, labels in told.items()}
        for name, told in answer["firing"].items()
        if told
    }
    return answer["problems"], firing


def test_every_alert_has_a_case():
    assert list(CASES) == [alert.name for alert in (*RUN_ALERTS, *OPERATOR_ALERTS)]


def test_in_a_healthy_world_nothing_fires(prometheus):
    assert ask(prometheus, HEALTHY, 400) == ([], {})


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_promises_and_no_other_does(prometheus, name):
    case = CASES[name]
    problems, firing = ask(prometheus, {**HEALTHY, **case.series}, case.minutes)
    assert problems == []
    assert set(firing) == {name}
    end = case.minutes if case.end is None else case.end
    assert sorted(firing[name]) == list(range(case.begin, end + 1))
    assert all(labels == [case.labels] for labels in firing[name].values())


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("for: 5m", "for: soon", "soon"),
        ("> 900", "> > 900", "could not parse expression"),
        ("{{ $labels.namespace }}", "{{ $labels.namespace", "TrainingRun"),
        ("alert: TrainingRunStalled", "alertt: TrainingRunStalled", "alertt"),
    ],
)
def test_what_prometheus_would_not_load_is_found(prometheus, before, after, problem):
    assert before in RULES
    problems, _ = ask(prometheus, {}, 0, RULES.replace(before, after, 1))
    assert any(problem in each for each in problems)
