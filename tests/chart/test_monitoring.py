"""Alerts, dashboards and runbooks: every query reads metrics that exist, and every alert says what to do."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from tests.cluster.locations import REPOSITORY
from tests.support.chart_values import PERMUTATIONS
from tests.support.helm import CHART, of_kind
from tools.chart.alerts import OPERATOR_ALERTS, RUN_ALERTS
from trainyard_api.metrics import OPERATOR_METRICS, RUN_METRICS, MetricKind
from trainyard_api.names import Phase, ProgressOutcome
from trainyard_operator.metrics import RESOURCES, RESULTS, VERBS

RUNBOOKS = REPOSITORY / "docs" / "runbooks"
MONITORING = PERMUTATIONS["everything for monitoring"]
OF_SCRAPE = {"namespace", "job", "instance", "pod"}
"""Labels that Prometheus adds to the operator's own metrics."""
VALUES = {
    "phase": set(Phase),
    "result": RESULTS,
    "verb": VERBS,
    "resource": RESOURCES,
    "outcome": set(ProgressOutcome),
    "code": {"200", "201", "403", "404", "409", "429", "500", "503", "error"},
    "cause": {"Productive", "Queue", "Startup", "Restart", "Recompute", "Stall"},
    "namespace": {"a-namespace", "$namespace"},
    "name": {"a-name", "$name"},
}
"""Values that labels take; those of namespaces and names, and all codes, are examples."""


def known_series() -> dict[str, set[str]]:
    """Labels of every series that Trainyard serves, by its name."""
    series = {}
    for definition in (*RUN_METRICS, *OPERATOR_METRICS):
        labels = set(definition.labels)
        if definition in OPERATOR_METRICS:
            labels |= OF_SCRAPE
        if definition.kind is MetricKind.HISTOGRAM:
            series[f"{definition.name}_bucket"] = labels | {"le"}
            series |= {f"{definition.name}_{part}": labels for part in ("sum", "count")}
        else:
            series[definition.name.value] = labels
    return series


SERIES = known_series()


def selectors(expression: Any) -> Iterator[promql_parser.VectorSelector]:
    """The selectors of a query, at any depth."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for part in ("expr", "lhs", "rhs", "param", "vector_selector", "args"):
        child = getattr(expression, part, None)
        for each in child if isinstance(child, list) else [child]:
            if each is not None and not isinstance(each, str):
                yield from selectors(each)


def grouped_by(expression: str) -> set[str]:
    """Labels that a query groups or joins by."""
    groups = re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression)
    return {label.strip() for group in groups for label in group.split(",") if label.strip()}


def problems_of(expression: str) -> list[str]:
    """What is wrong with a query."""
    found = []
    read = list(selectors(promql_parser.parse(expression.replace("$__rate_interval", "5m"))))
    if not read:
        found.append("it reads nothing")
    for selector in read:
        if selector.name not in SERIES:
            found.append(f"there is no {selector.name}")
            continue
        for matcher in selector.matchers.matchers:
            if matcher.name not in SERIES[selector.name]:
                found.append(f"{selector.name} has no label {matcher.name}")
            elif not any(
                matcher.value in (value, f"${matcher.name}") or re.fullmatch(matcher.value, value)
                for value in VALUES[matcher.name]
            ):
                found.append(f"{matcher.name} is never {matcher.value}")
    if read and all(selector.name in SERIES for selector in read):
        known = set().union(*(SERIES[selector.name] for selector in read))
        found += [f"nothing has a label {label} to group by" for label in grouped_by(expression) - known]
    return found


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("trainyard_run_speed > 1", "there is no trainyard_run_speed"),
        ("1 + 1", "it reads nothing"),
        ('trainyard_run_phase{stage="x"}', "has no label stage"),
        ('trainyard_run_phase{phase="Broken"} == 1', "phase is never Broken"),
        ('rate(trainyard_operator_queue_seconds{namespace="a-namespace"}[5m])', "there is no"),
        ("sum by (pod_name) (trainyard_operator_leader)", "no"),
        ("max(1 + sum(rate(trainyard_x_total[5m])))", "there is no trainyard_x_total"),
    ],
)
def test_the_check_of_queries_finds(expression, problem):
    assert any(problem in found for found in problems_of(expression))


def test_a_query_that_does_not_parse_is_found():
    with pytest.raises(ValueError, match="unclosed"):
        problems_of("sum by (trainyard_run_loss")


ALERTS = (*RUN_ALERTS, *OPERATOR_ALERTS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_reads_what_exists_and_compares_it(alert):
    assert problems_of(alert.expression) == []
    assert re.search(r"[<>=]=?\s*[\d.]+|^absent", alert.expression)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_tells_only_of_labels_that_its_result_has(alert):
    told = set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.description))
    assert "$" not in alert.summary
    if "absent" in alert.expression:
        assert told == set()
        return
    aggregated = re.findall(r"\bby \(([^)]*)\)", alert.expression)
    series = next(selectors(promql_parser.parse(alert.expression)))
    labels = set(re.split(r",\s*", aggregated[0])) if aggregated else SERIES[series.name]
    assert told <= labels


def sections(name: str) -> dict[str, str]:
    """Text of each section of a runbook, by its heading."""
    text = (RUNBOOKS / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(("alerts", "name"), [(RUN_ALERTS, "runs.md"), (OPERATOR_ALERTS, "operator.md")])
def test_each_alert_has_a_section_and_each_section_an_alert(alerts, name):
    assert list(sections(name)) == [alert.name for alert in alerts]
    for text in sections(name).values():
        assert "**Means.**" in text
        assert "**Look at**" in text or "| Outcome | Do |" in text
        assert "**Do.**" in text or "| Do |" in text


def test_reasons_in_runbooks_are_reasons_of_the_api():
    from trainyard_api.names import Reason

    rows = re.findall(r"^\| (`.*?) \|", (RUNBOOKS / "runs.md").read_text(encoding="utf-8"), re.MULTILINE)
    reasons = {reason for row in rows for reason in re.findall(r"`(\w+)`", row)}
    assert len(reasons) > 10
    assert reasons - set(Reason) == set()


def test_values_that_runbooks_name_are_options_of_the_chart():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    pattern = r"`((?:settings|resources|networkPolicy|progress|metrics|rbac|watchNamespaces)[\w.]*)"
    texts = [path.read_text(encoding="utf-8") for path in RUNBOOKS.glob("*.md")]
    named = {name for text in texts for name in re.findall(pattern, text)}
    assert len(named) > 8
    for name in named:
        node = schema
        for part in name.split("."):
            node = schema["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
            assert part in node.get("properties", {}) or "properties" not in node, name
            node = node.get("properties", {}).get(part, {})


def test_the_rule_of_the_chart_has_the_alerts_with_links_but_those_left_out(helm):
    (rule,) = of_kind(helm.template(MONITORING), "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    rules = [each for group in rule["spec"]["groups"] for each in group["rules"]]
    assert {each["alert"] for each in rules} == {alert.name for alert in ALERTS} - {
        "TrainingRunThroughputDropped"
    }
    expressions = {alert.name: alert.expression for alert in ALERTS}
    for each in rules:
        assert each["expr"] == expressions[each["alert"]]
        assert each["labels"]["severity"] in ("critical", "warning", "info")
        page, _, anchor = each["annotations"]["runbook"].partition("#")
        assert anchor in {heading.lower() for heading in sections(page)}
        assert each["annotations"]["runbook_url"] == f"https://runbooks.example/{page}#{anchor}"


def test_without_a_base_address_there_are_no_links(helm):
    (rule,) = of_kind(helm.template({"metrics": {"prometheusRule": {"enabled": True}}}), "PrometheusRule")
    rules = [each for group in rule["spec"]["groups"] for each in group["rules"]]
    assert len(rules) == len(ALERTS)
    assert all("runbook_url" not in each["annotations"] for each in rules)


def test_the_monitor_scrapes_the_metrics_service_and_keeps_whose_run_it_is(helm):
    objects = helm.template(MONITORING)
    (monitor,) = of_kind(objects, "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["interval"] == "15s"
    assert endpoint["honorLabels"] is True
    matching = [
        service["metadata"]["name"]
        for service in of_kind(objects, "Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        and endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    ]
    assert matching == ["trainyard-metrics"]


def dashboard(helm) -> dict[str, Any]:
    (config_map,) = of_kind(helm.template(MONITORING), "ConfigMap")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "yes"
    assert config_map["metadata"]["annotations"] == {"grafana_folder": "Training"}
    found: dict[str, Any] = json.loads(config_map["data"]["trainyard.json"])
    return found


def test_the_dashboard_of_the_chart_is_the_generated_one(helm):
    assert dashboard(helm) == json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))


def test_every_query_of_the_dashboard_reads_what_exists(helm):
    panels = [panel for panel in dashboard(helm)["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels) > 20
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert {query: found for query in queries if (found := problems_of(query))} == {}


def test_the_dashboard_shows_every_metric_but_those_that_only_label(helm):
    text = json.dumps(dashboard(helm))
    silent = {
        "trainyard_run_tokens_total",
        "trainyard_operator_build_info",
        "trainyard_operator_maximum_workers",
    }
    names = {definition.name.value for definition in (*RUN_METRICS, *OPERATOR_METRICS)}
    assert {name for name in names if not re.search(rf"\b{name}(_bucket)?\b", text)} == silent


def test_panels_do_not_overlap(helm):
    places = [panel["gridPos"] for panel in dashboard(helm)["panels"]]
    cells = [
        (place["x"] + x, place["y"] + y)
        for place in places
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_alerts_and_dashboard_are_off_until_asked_for(helm):
    kinds = {each["kind"] for each in helm.template()}
    assert kinds & {"PrometheusRule", "ServiceMonitor", "ConfigMap"} == set()


def test_the_alerts_file_is_plain_prometheus_rules():
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[mh]", rule["for"])
