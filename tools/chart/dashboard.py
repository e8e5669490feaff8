"""The Grafana dashboard: runs above, the operator below."""

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DynamicConfigValue,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from trainyard_api.names import Metric, OperatorMetric

WIDTH = 24
HEIGHT = 8
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_RUN = '{namespace=~"$namespace",name=~"$name"}'
_RUN_LEGEND = "{{namespace}}/{{name}}"

Query = tuple[str, str]
"""PromQL, and the legend of its series."""


def dashboard_json() -> str:
    """The dashboard as Grafana imports it."""
    builder = (
        dashboard.Dashboard("Trainyard")
        .uid("trainyard")
        .tags(["trainyard"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("namespace", f"label_values({Metric.INFO}, namespace)"))
        .with_variable(_variable("name", f'label_values({Metric.INFO}{{namespace=~"$namespace"}}, name)'))
    )
    for row, panels in (("Runs", _run_panels()), ("Operator", _operator_panels())):
        builder = builder.with_row(dashboard.Row(row))
        for panel in panels:
            builder = builder.with_panel(panel)
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return encoder.encode(builder.build()) + "\n"


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(_SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _run_panels() -> list[timeseries.Panel | stat.Panel | table.Panel]:
    """What a person wants to know of a run, the most important first."""
    return [
        _table(
            "Phase of each run",
            f"{Metric.PHASE}{_RUN} * on (namespace, name) group_left (objective, nodes) {Metric.INFO}",
        ),
        _lines("Training loss", "short", 12, _of_run(Metric.LOSS)),
        _lines("Evaluation loss", "short", 12, _of_run(Metric.EVALUATION_LOSS)),
        _lines(
            "Metrics of the task", "short", 24, (f"{Metric.TASK_METRIC}{_RUN}", _RUN_LEGEND + " {{metric}}")
        ),
        _lines("Tokens per second", "short", 12, _of_run(Metric.TOKENS_PER_SECOND)),
        _lines(
            "Progress",
            "percentunit",
            12,
            (f"{Metric.STEP}{_RUN} / {Metric.TOTAL_STEPS}{_RUN}", _RUN_LEGEND),
        ),
        _lines("Time left", "s", 8, _of_run(Metric.SECONDS_LEFT)),
        _lines("Learning rate", "sci", 8, _of_run(Metric.LEARNING_RATE)),
        _lines("Gradient norm", "short", 8, _of_run(Metric.GRADIENT_NORM)),
        _lines("Where time went", "s", 12, (f"{Metric.TIME}{_RUN}", _RUN_LEGEND + " {{cause}}")),
        _lines("Packing efficiency", "percentunit", 12, _of_run(Metric.PACKING_EFFICIENCY)),
        _lines("Age of the last checkpoint", "s", 8, _of_run(Metric.CHECKPOINT_AGE)),
        _lines("Age of the last report", "s", 8, _of_run(Metric.PROGRESS_AGE)),
        _lines("Restarts", "short", 8, _of_run(Metric.RESTARTS)),
    ]


def _operator_panels() -> list[timeseries.Panel | stat.Panel | table.Panel]:
    """Rate, errors and duration of what the operator does."""
    requests = OperatorMetric.API_REQUESTS
    return [
        _number("Leaders", f"sum({OperatorMetric.LEADER})"),
        _number("Runs", f"sum(max by (phase) ({OperatorMetric.RUNS}))"),
        _number("Runs that wait for a pass", f"sum({OperatorMetric.QUEUE_DEPTH})"),
        _number("Passes at work", f"sum({OperatorMetric.ACTIVE_WORKERS})"),
        _lines("Runs by phase", "short", 12, (f"max by (phase) ({OperatorMetric.RUNS})", "{{phase}}")),
        _lines("Passes", "ops", 12, (_rate(OperatorMetric.RECONCILES, "result"), "{{result}}")),
        _lines("Duration of passes", "s", 12, *_quantiles(OperatorMetric.RECONCILE_SECONDS)),
        _lines("Wait for a pass", "s", 12, *_quantiles(OperatorMetric.QUEUE_SECONDS)),
        _lines("API requests", "ops", 12, (_rate(requests, "verb", "resource"), "{{verb}} {{resource}}")),
        _lines(
            "API requests that failed",
            "ops",
            12,
            (_rate(requests, "code", matching='{code!~"2.."}'), "{{code}}"),
        ),
        _lines("Duration of API requests", "s", 12, *_quantiles(OperatorMetric.API_REQUEST_SECONDS)),
        _lines(
            "Progress reports",
            "ops",
            12,
            (_rate(OperatorMetric.PROGRESS_POSTS, "protocol", "outcome"), "{{protocol}} {{outcome}}"),
        ),
        _lines("Duration of progress reports", "s", 12, *_quantiles(OperatorMetric.PROGRESS_POST_SECONDS)),
        _lines("TokenReviews", "ops", 12, (_rate(OperatorMetric.TOKEN_REVIEWS, "result"), "{{result}}")),
        _lines(
            "Silence of watches", "s", 12, (f"max by (resource) ({OperatorMetric.WATCH_AGE})", "{{resource}}")
        ),
        _lines(
            "Left of the certificate",
            "s",
            12,
            (f"min({OperatorMetric.CERTIFICATE_EXPIRY}) - time()", "certificate"),
        ),
    ]


def _of_run(metric: Metric) -> Query:
    return f"{metric}{_RUN}", _RUN_LEGEND


def _rate(metric: OperatorMetric, *labels: str, matching: str = "") -> str:
    return f"sum by ({', '.join(labels)}) (rate({metric}{matching}[$__rate_interval]))"


def _quantiles(metric: OperatorMetric) -> list[Query]:
    """Median and 99th percentile of a histogram."""
    buckets = f"sum by (le) (rate({metric}_bucket[$__rate_interval]))"
    return [
        (f"histogram_quantile({quantile}, {buckets})", f"p{quantile * 100:.0f}") for quantile in (0.5, 0.99)
    ]


def _query(expression: str, legend: str = "") -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(_SOURCE).expr(expression).legend_format(legend)


def _lines(title: str, unit: str, width: int, *queries: Query) -> timeseries.Panel:
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel = (
        timeseries.Panel()
        .title(title)
        .datasource(_SOURCE)
        .unit(unit)
        .span(width)
        .height(HEIGHT)
        .legend(legend)
    )
    for expression, series in queries:
        panel = panel.with_target(_query(expression, series))
    return panel


def _number(title: str, expression: str) -> stat.Panel:
    panel = stat.Panel().title(title).datasource(_SOURCE).span(WIDTH // 4).height(HEIGHT // 2)
    return panel.with_target(_query(expression).instant())


def _table(title: str, expression: str) -> table.Panel:
    panel = table.Panel().title(title).datasource(_SOURCE).span(WIDTH).height(HEIGHT)
    query = _query(expression).instant().format(PromQueryFormat.TABLE)
    return panel.with_target(query).override_by_name("Time", [DynamicConfigValue("custom.hidden", True)])
