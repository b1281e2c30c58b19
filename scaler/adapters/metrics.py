"""The exported metrics by name: type, labels and meaning. A contract: more may come, none is renamed.

It makes no series; `scaler.adapters.telemetry` does. `docs/metrics.md` is rendered from here and a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "headstart_"


_WORKLOAD = ("namespace", "workload")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One exported metric as it is documented; `name` without the prefix."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def full_name(self) -> str:
        """The name as it is scraped."""
        return PREFIX + self.name


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        name="replicas_desired",
        kind="gauge",
        labels=_WORKLOAD,
        meaning="Replicas that the last decision wants, after every clamp. Absent while replicas cannot be read, no "
        "tick finishes or another process leads: an HPA that follows it then holds.",
    ),
    MetricSpec(
        name="replicas_current",
        kind="gauge",
        labels=_WORKLOAD,
        meaning="spec.replicas, in mode floor the floor, as the last tick found it. Absent while it cannot be read.",
    ),
    MetricSpec(
        name="replicas_proposed",
        kind="gauge",
        labels=(*_WORKLOAD, "rule"),
        meaning="Replicas that each rule wants; a rule without an opinion has no series.",
    ),
    MetricSpec(
        name="forecast_demand",
        kind="gauge",
        labels=(*_WORKLOAD, "request_class", "quantile", "horizon"),
        meaning="Forecast demand in requests per second at now + horizon (lead = the workload's lead time).",
    ),
    MetricSpec(
        name="forecast_usage",
        kind="gauge",
        labels=(*_WORKLOAD, "request_class", "signal", "quantile", "horizon"),
        meaning="Forecast tokens or images per second (signal, as in docs/signals.md) at now + horizon, where told.",
    ),
    MetricSpec(
        name="request_amount",
        kind="gauge",
        labels=(*_WORKLOAD, "request_class", "signal", "source"),
        meaning="Tokens or images of a request: source measured (20 minutes), forecast (at the lead time) or profile.",
    ),
    MetricSpec(
        name="demand",
        kind="gauge",
        labels=(*_WORKLOAD, "request_class"),
        meaning="Demand in requests per second as the last tick read it. Absent while blind, 0 only by evidence.",
    ),
    MetricSpec(
        name="spill_rps",
        kind="gauge",
        labels=(*_WORKLOAD, "sender", "request_class", "at"),
        meaning="Requests per second that come over from the pool sender: now (beyond what is Ready there), or planned "
        "(beyond what it may come to have: what this pool makes ready for). Absent where nothing spills over.",
    ),
    MetricSpec(
        name="spill_sender_reach_replicas",
        kind="gauge",
        labels=(*_WORKLOAD, "sender"),
        meaning="Replicas that the pool sender may come to have by its limits: what is beyond them spills over.",
    ),
    MetricSpec(
        name="decision_total",
        kind="counter",
        labels=(*_WORKLOAD, "action", "reason"),
        meaning="Decisions since the start, one a tick.",
    ),
    MetricSpec(
        name="blind",
        kind="gauge",
        labels=(*_WORKLOAD, "signal", "reason"),
        meaning="1 for each signal that cannot be read now; demand_rps and replicas are the required ones.",
    ),
    MetricSpec(
        name="samples_dropped_total",
        kind="counter",
        labels=("reason",),
        meaning="Measured values left out: not_finite, negative, future, too_old, or over_limit (too many series).",
    ),
    MetricSpec(
        name="clock_skew_seconds",
        kind="gauge",
        labels=(),
        meaning="The metrics source's clock minus ours at its last answer: over 30 s is told, over 120 s blinds.",
    ),
    MetricSpec(
        name="state",
        kind="gauge",
        labels=(*_WORKLOAD, "mode", "state"),
        meaning="1 for the state that the workload is in.",
    ),
    MetricSpec(
        name="forecast_wape",
        kind="gauge",
        labels=(*_WORKLOAD, "request_class", "model"),
        meaning="Weighted absolute error (ratio) over six hours at the lead time; model is headstart or last-value.",
    ),
    MetricSpec(
        name="forecast_coverage",
        kind="gauge",
        labels=(*_WORKLOAD, "request_class", "quantile"),
        meaning="Share of minutes of the last six hours at or below that forecast quantile.",
    ),
    MetricSpec(
        name="forecast_doubt",
        kind="gauge",
        labels=(*_WORKLOAD, "cause"),
        meaning="Share of the safety margin that the forecast may not carry: 0 trusted, 1 disabled; cause says why.",
    ),
    MetricSpec(
        name="lead_time_seconds",
        kind="gauge",
        labels=_WORKLOAD,
        meaning="Time from an order to Ready that the last decision planned with.",
    ),
    MetricSpec(
        name="lead_time_part_seconds",
        kind="gauge",
        labels=(*_WORKLOAD, "part"),
        meaning="Parts of the measured start that is the P90: node_wait, image, load. Absent where not measured.",
    ),
    MetricSpec(
        name="lead_time_starts",
        kind="gauge",
        labels=(*_WORKLOAD, "source"),
        meaning="Starts behind the lead time; source own (P90), same_gpus (P90 of all on such GPUs) or configured.",
    ),
    MetricSpec(
        name="tick_duration_seconds",
        kind="histogram",
        labels=(),
        meaning="Duration of a tick, reads and writes included.",
    ),
    MetricSpec(
        name="tick_last_success_timestamp_seconds",
        kind="gauge",
        labels=(),
        meaning="Unix time at which the last tick finished. 0 before the first.",
    ),
    MetricSpec(
        name="invariant_violations_total",
        kind="counter",
        labels=("invariant",),
        meaning="Broken promises: I1 bounds, I2 blind, I3 rules, I4 steps, I5 budget, I6 standby, I8 observe; stays 0.",
    ),
    MetricSpec(
        name="leader",
        kind="gauge",
        labels=(),
        meaning="1 while this daemon is the one that may write (always, where no lease is configured), 0 in standby.",
    ),
    MetricSpec(
        name="journal_errors_total",
        kind="counter",
        labels=(),
        meaning="Ticks whose decisions could not be made durable; scaling goes on from memory.",
    ),
    MetricSpec(
        name="job_failures_total",
        kind="counter",
        labels=("job",),
        meaning="Runs of a background job that failed; the next run tries again.",
    ),
    MetricSpec(
        name="job_late_total",
        kind="counter",
        labels=("job",),
        meaning="Runs of a background job that began late, or were left out because the last one was not over.",
    ),
    MetricSpec(
        name="prometheus_query_seconds",
        kind="histogram",
        labels=(),
        meaning="Duration of a round of metrics queries, failed ones included.",
    ),
    MetricSpec(
        name="kubernetes_request_seconds",
        kind="histogram",
        labels=("verb", "code"),
        meaning='Duration of a Kubernetes API request; code is "2xx" and so on, or "none" without an answer.',
    ),
    MetricSpec(
        name="forecast_duration_seconds",
        kind="histogram",
        labels=(),
        meaning="Duration of a forecast over all workloads.",
    ),
    MetricSpec(
        name="train_duration_seconds",
        kind="gauge",
        labels=("outcome",),
        meaning="Duration of the last refit. Absent before the first.",
    ),
    MetricSpec(
        name="drifted_series",
        kind="gauge",
        labels=(),
        meaning="Series whose forecasts had drifted at the last hourly look. Absent before the first.",
    ),
    MetricSpec(
        name="drift_refits_total",
        kind="counter",
        labels=(),
        meaning="Refits that were begun before the night because forecasts had drifted.",
    ),
    MetricSpec(
        name="model_age_seconds",
        kind="gauge",
        labels=("model",),
        meaning="Time since the model in use was trained. Absent while only members that need no fit are used.",
    ),
    MetricSpec(
        name="config_reload_ok",
        kind="gauge",
        labels=(),
        meaning="1 while the settings file is the one in force, 0 since it was last read and could not be used.",
    ),
    MetricSpec(
        name="config_reload_success_timestamp_seconds",
        kind="gauge",
        labels=(),
        meaning="Since when the settings in force are in force: the last start or reload.",
    ),
    MetricSpec(
        name="variant_chosen",
        kind="gauge",
        labels=("model", *_WORKLOAD),
        meaning="1 for the variant of a model that serves, or takes over, 0 for its others.",
    ),
    MetricSpec(
        name="variant_share",
        kind="gauge",
        labels=("model", *_WORKLOAD),
        meaning="Share of the model's traffic that the variant should get, 0 to 1; absent where that cannot be told.",
    ),
    MetricSpec(
        name="variant_switches_total",
        kind="counter",
        labels=("model",),
        meaning="Times that another variant of the model was chosen.",
    ),
    MetricSpec(
        name="gpu_budget_used_ratio",
        kind="gauge",
        labels=(),
        meaning="GPUs of all workloads' current replicas over the fleet's budget. Absent without a budget.",
    ),
)

SPECS = {spec.name: spec for spec in METRICS}


def render_markdown() -> str:
    """The page `docs/metrics.md`, one row a metric."""
    rows = [
        "# Exported metrics",
        "",
        "Rendered from `scaler/adapters/metrics.py`; a test keeps the two equal. Served at `/metrics` of the daemon.",
        "Names are a contract: more may come, none is renamed. `workload` is the name without its namespace.",
        "The standard `process_*` metrics (memory, CPU, file descriptors) are served beside them.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for spec in METRICS:
        labels = ", ".join(f"`{label}`" for label in spec.labels) or "–"
        rows.append(f"| `{spec.full_name}` | {spec.kind} | {labels} | {spec.meaning} |")
    return "\n".join(rows) + "\n"
