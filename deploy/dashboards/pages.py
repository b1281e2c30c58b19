"""What the dashboards show: pages, panels, queries. How Grafana wants it is `generate.py`'s affair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ONE = 'namespace="$namespace",workload="$workload"'
"""The workload that is chosen at the top of the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One PromQL expression and how its lines are called; {{label}} is put in by Grafana."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A chart or a figure. `meaning` is shown on the panel's information mark; `unit` is one of Grafana's."""

    title: str
    meaning: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    stacked: bool = False
    stepped: bool = False
    """Replicas jump; a sloping line between two counts would show what never was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One page. `one_workload` adds the choice of a namespace and a workload."""

    uid: str
    title: str
    about: str
    panels: tuple[Panel, ...]
    one_workload: bool = False


def panel(title: str, meaning: str, *queries: tuple[str, str], **how: Any) -> Panel:
    """A panel from pairs of expression and legend."""
    return Panel(title=title, meaning=meaning, queries=tuple(Query(expr=e, legend=n) for e, n in queries), **how)


def quantile(level: float, histogram: str, by: str = "") -> str:
    """A quantile of one of our histograms over five minutes."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({level:g}, sum by ({labels}) (rate({histogram}_bucket[5m])))"


FLEET = Dashboard(
    uid="headstart-fleet",
    title="Headstart / Fleet",
    about="Every workload at a glance: what is wanted, what is there, what stands in the way.",
    panels=(
        panel(
            "Blind workloads",
            "Workloads whose demand or replicas cannot be read now. Nothing is released there.",
            ('count(max by (namespace, workload) (headstart_blind{signal=~"demand_rps|replicas"})) or vector(0)', ""),
            kind="stat",
            width=6,
            height=4,
        ),
        panel(
            "Degraded or held",
            "Workloads that cannot be read or written, or that somebody else scales.",
            ('count(max by (namespace, workload) (headstart_state{state=~"DEGRADED|HELD"})) or vector(0)', ""),
            kind="stat",
            width=6,
            height=4,
        ),
        panel(
            "GPU budget in use",
            "GPUs of all workloads' replicas over the fleet's budget. No value without a budget.",
            ("max(headstart_gpu_budget_used_ratio)", ""),
            unit="percentunit",
            kind="stat",
            width=6,
            height=4,
        ),
        panel(
            "Since the last round",
            "Time since a decision round finished; a minute is normal.",
            ("time() - max(headstart_tick_last_success_timestamp_seconds)", ""),
            unit="s",
            kind="stat",
            width=6,
            height=4,
        ),
        panel(
            "Replicas",
            "spec.replicas of each workload.",
            ("max by (namespace, workload) (headstart_replicas_current)", "{{namespace}}/{{workload}}"),
            stacked=True,
            stepped=True,
        ),
        panel(
            "Wanted beyond what is there",
            "Replicas that the last decision wants more (above zero) or fewer (below) than there are.",
            (
                "max by (namespace, workload) (headstart_replicas_desired)"
                " - max by (namespace, workload) (headstart_replicas_current)",
                "{{namespace}}/{{workload}}",
            ),
            stepped=True,
        ),
        panel(
            "Demand",
            "Requests per second as the last round read them.",
            (
                "sum by (namespace, workload) (max by (namespace, workload, request_class) (headstart_demand))",
                "{{namespace}}/{{workload}}",
            ),
            unit="reqps",
        ),
        panel(
            "States",
            "How many workloads are in which state.",
            ("count by (state) (max by (namespace, workload, state) (headstart_state))", "{{state}}"),
            stacked=True,
            stepped=True,
        ),
        panel(
            "Decisions that move the scale",
            "An hour's decisions by reason; in the mode observe they repeat at every round, because nothing moves.",
            (
                'sum by (action, reason) (increase(headstart_decision_total{action=~"out|in"}[1h]))',
                "{{action}}: {{reason}}",
            ),
        ),
        panel(
            "Variants: share of the traffic",
            "Part of a model's traffic that each of its variants should get. It moves as replicas become Ready.",
            ("max by (model, namespace, workload) (headstart_variant_share)", "{{model}}: {{workload}}"),
            unit="percentunit",
            stacked=True,
        ),
        panel(
            "Variants: who serves",
            "1 for the variant of a model that serves or takes over, and how often that changed within an hour.",
            ("max by (model, namespace, workload) (headstart_variant_chosen)", "{{model}}: {{workload}}"),
            ("sum by (model) (increase(headstart_variant_switches_total[1h]))", "{{model}}: switches"),
            stepped=True,
        ),
        panel(
            "What holds workloads back",
            "Share of the last 15 minutes' rounds that ended with such a reason.",
            (
                'sum by (namespace, workload, reason) (rate(headstart_decision_total{action="hold",'
                'reason=~"at_max|gpu_budget|unschedulable|blind_demand|blind_replicas"}[15m]))'
                " / on (namespace, workload) group_left"
                " sum by (namespace, workload) (rate(headstart_decision_total[15m]))",
                "{{namespace}}/{{workload}}: {{reason}}",
            ),
            unit="percentunit",
        ),
    ),
)

WORKLOAD = Dashboard(
    uid="headstart-workload",
    title="Headstart / Workload",
    about="One workload: the load and its forecast, the replicas and who asks for them, and how good the forecast is.",
    one_workload=True,
    panels=(
        panel(
            "Demand and forecast",
            "Demand as read, and what is forecast for one start-up time ahead (median and 95 % quantile), drawn at "
            "the time at which they were made.",
            (f"max by (request_class) (headstart_demand{{{ONE}}})", "demand {{request_class}}"),
            (
                f'max by (request_class) (headstart_forecast_demand{{{ONE},horizon="lead",quantile="0.5"}})',
                "median ahead {{request_class}}",
            ),
            (
                f'max by (request_class) (headstart_forecast_demand{{{ONE},horizon="lead",quantile="0.95"}})',
                "95 % ahead {{request_class}}",
            ),
            unit="reqps",
            width=24,
        ),
        panel(
            "Replicas",
            "What is there, and what the last decision wants after every limit.",
            (f"max(headstart_replicas_current{{{ONE}}})", "current"),
            (f"max(headstart_replicas_desired{{{ONE}}})", "desired"),
            stepped=True,
        ),
        panel(
            "Who asks for how many",
            "Replicas that each rule wants; a rule without an opinion has no line.",
            (f"max by (rule) (headstart_replicas_proposed{{{ONE}}})", "{{rule}}"),
            stepped=True,
        ),
        panel(
            "Spill-over from other pools",
            "Requests per second that come over now, and those that this pool makes ready for.",
            (
                f"max by (sender, request_class, at) (headstart_spill_rps{{{ONE}}})",
                "{{request_class}} {{at}}: {{sender}}",
            ),
            unit="reqps",
        ),
        panel(
            "Replicas that the other pools may have",
            "By their limits; what is beyond them spills over to this pool.",
            (f"max by (sender) (headstart_spill_sender_reach_replicas{{{ONE}}})", "{{sender}}"),
            stepped=True,
        ),
        panel(
            "Rounds by reason",
            "The reason of each decision, in rounds per hour.",
            (
                f"sum by (action, reason) (rate(headstart_decision_total{{{ONE}}}[15m])) * 3600",
                "{{action}}: {{reason}}",
            ),
            stacked=True,
        ),
        panel(
            "State",
            "1 for the state that the workload is in.",
            (f"max by (state, mode) (headstart_state{{{ONE}}})", "{{state}} ({{mode}})"),
            stepped=True,
        ),
        panel(
            "Signals that cannot be read",
            "1 for each signal, with the reason. Only demand_rps and replicas are required.",
            (f"max by (signal, reason) (headstart_blind{{{ONE}}})", "{{signal}}: {{reason}}"),
            stepped=True,
        ),
        panel(
            "Start time planned with",
            "From an order to Ready, and the parts of the measured start; the forecast is read that far ahead.",
            (f"max(headstart_lead_time_seconds{{{ONE}}})", "start time"),
            (f"max by (part) (headstart_lead_time_part_seconds{{{ONE}}})", "{{part}}"),
            unit="s",
        ),
        panel(
            "Starts behind the start time",
            "How many starts it was measured on, and whose.",
            (f"max by (source) (headstart_lead_time_starts{{{ONE}}})", "{{source}}"),
            stepped=True,
        ),
        panel(
            "Forecast error over six hours",
            "Weighted absolute error at the start time; last-value is the forecast that nothing changes.",
            (f"max by (request_class, model) (headstart_forecast_wape{{{ONE}}})", "{{model}} {{request_class}}"),
            unit="percentunit",
        ),
        panel(
            "Minutes below the 95 % forecast",
            "Share of the last six hours' minutes; .95 is right, less than .8 disables the forecast.",
            (
                f"max by (request_class, quantile) (headstart_forecast_coverage{{{ONE}}})",
                "{{quantile}} {{request_class}}",
            ),
            unit="percentunit",
        ),
        panel(
            "Doubt in the forecast",
            "Share of the safety margin that the forecast may not carry.",
            (f"max by (cause) (headstart_forecast_doubt{{{ONE}}})", "{{cause}}"),
            unit="percentunit",
        ),
        panel(
            "Tokens and images ahead",
            "95 % forecast of tokens or images per second, one start-up time ahead.",
            (
                f'max by (request_class, signal) (headstart_forecast_usage{{{ONE},horizon="lead",quantile="0.95"}})',
                "{{signal}} {{request_class}}",
            ),
        ),
        panel(
            "Tokens and images of a request",
            "Measured over 20 minutes, forecast, and as the capacity profile has it.",
            (
                f"max by (request_class, signal, source) (headstart_request_amount{{{ONE}}})",
                "{{signal}} {{source}} {{request_class}}",
            ),
            width=24,
        ),
    ),
)

DAEMON = Dashboard(
    uid="headstart-daemon",
    title="Headstart / Daemon",
    about="The daemon itself: rounds, its two servers, forecasts and training, and the promises.",
    panels=(
        panel(
            "Who leads",
            "1 for the daemon that may write. Exactly one, and none where all workloads are only observed.",
            ("max by (instance) (headstart_leader)", "{{instance}}"),
            stepped=True,
            width=8,
        ),
        panel(
            "Since the last round",
            "Time since a decision round finished.",
            ("time() - headstart_tick_last_success_timestamp_seconds", "{{instance}}"),
            unit="s",
            width=8,
        ),
        panel(
            "Broken promises",
            "Stays zero: I1 bounds, I2 no release while blind, I8 observing writes nothing.",
            ("sum by (invariant) (headstart_invariant_violations_total)", "{{invariant}}"),
            width=8,
        ),
        panel(
            "Duration of a round",
            "Reads and writes included; 10 s is its budget.",
            (quantile(0.5, "headstart_tick_duration_seconds", "instance"), "median {{instance}}"),
            (quantile(0.99, "headstart_tick_duration_seconds", "instance"), "99 % {{instance}}"),
            unit="s",
        ),
        panel(
            "Metrics queries",
            "A round of queries, failed ones included; cut off at 8 s.",
            (quantile(0.5, "headstart_prometheus_query_seconds", "instance"), "median {{instance}}"),
            (quantile(0.99, "headstart_prometheus_query_seconds", "instance"), "99 % {{instance}}"),
            unit="s",
        ),
        panel(
            "Values left out",
            "Measured values per second that could not be used, by reason.",
            ("sum by (reason) (rate(headstart_samples_dropped_total[5m]))", "{{reason}}"),
        ),
        panel(
            "Clock skew",
            "The metrics server's clock minus the daemon's; over 30 s is told, over two minutes blinds.",
            ("max by (instance) (headstart_clock_skew_seconds)", "{{instance}}"),
            unit="s",
        ),
        panel(
            "Kubernetes requests",
            "Requests per second by verb and kind of answer.",
            ("sum by (verb, code) (rate(headstart_kubernetes_request_seconds_count[5m]))", "{{verb}} {{code}}"),
            unit="reqps",
        ),
        panel(
            "Duration of Kubernetes requests",
            "99 % of the requests take no longer.",
            (quantile(0.99, "headstart_kubernetes_request_seconds", "verb"), "{{verb}}"),
            unit="s",
        ),
        panel(
            "Duration of a forecast",
            "Over all workloads, once a minute.",
            (quantile(0.99, "headstart_forecast_duration_seconds", "instance"), "99 % {{instance}}"),
            unit="s",
        ),
        panel(
            "Failed runs of background jobs",
            "An hour's failures by job; the next run tries again.",
            ("sum by (instance, job) (increase(headstart_job_failures_total[1h]))", "{{job}} {{instance}}"),
        ),
        panel(
            "Late runs of background jobs",
            "An hour's runs that began late, or were left out because the last one was not over.",
            ("sum by (instance, job) (increase(headstart_job_late_total[1h]))", "{{job}} {{instance}}"),
        ),
        panel(
            "Decisions that could not be stored",
            "An hour's rounds; scaling goes on from memory.",
            ("sum by (instance) (increase(headstart_journal_errors_total[1h]))", "{{instance}}"),
        ),
        panel(
            "Age of the models in use",
            "Since the end of the data that each was trained on. The shipped network is as old as the release.",
            ("min by (model) (headstart_model_age_seconds)", "{{model}}"),
            unit="s",
        ),
        panel(
            "Last refit",
            "Its duration, by how it ended.",
            ("max by (outcome) (headstart_train_duration_seconds)", "{{outcome}}"),
            unit="s",
        ),
        panel(
            "Drift",
            "Series whose forecasts have drifted, and the refits that were begun for it since the start.",
            ("max by (instance) (headstart_drifted_series)", "drifted series {{instance}}"),
            ("max by (instance) (headstart_drift_refits_total)", "refits {{instance}}"),
        ),
        panel(
            "Settings in force",
            "1 while the settings file is the one in force, 0 since it was last read and could not be used.",
            ("min by (instance) (headstart_config_reload_ok)", "{{instance}}"),
            stepped=True,
            width=6,
        ),
        panel(
            "Age of the settings in force",
            "Since the last start or reload.",
            ("time() - max by (instance) (headstart_config_reload_success_timestamp_seconds)", "{{instance}}"),
            unit="s",
            width=6,
        ),
        panel(
            "Memory",
            "Resident memory of the daemon; fits run in other processes.",
            (
                "process_resident_memory_bytes and on (instance) headstart_tick_last_success_timestamp_seconds",
                "{{instance}}",
            ),
            unit="bytes",
        ),
        panel(
            "CPU",
            "Cores in use.",
            (
                "rate(process_cpu_seconds_total[5m]) and on (instance) headstart_tick_last_success_timestamp_seconds",
                "{{instance}}",
            ),
        ),
    ),
)

DASHBOARDS = {"fleet": FLEET, "workload": WORKLOAD, "daemon": DAEMON}
"""By file name."""
