"""Every signal the product knows: its unit, its meaning, how old it may be, and the metric names it may come from.

This module decides what a name such as "ttft_p95_s" means. It never reads anything, never builds a query, and never
says what a value is good for: that is the rules' business. `docs/signals.md` is rendered from it and a test compares.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class Kind(StrEnum):
    """How one number is made from a metric's series."""

    COUNTER_RATE = "counter rate"
    GAUGE_SUM = "gauge sum"
    GAUGE_MAX = "gauge max"
    GAUGE_MEAN = "gauge mean"
    GAUGE_FLAGS = "gauges not zero"
    COUNTER_TOTAL = "counter total"
    HISTOGRAM_P95 = "histogram quantile"
    COUNTER_RATIO = "ratio of counters"


class Use(StrEnum):
    """Who needs the signal, and so how often it is read."""

    REQUIRED = "required"
    RULES = "rules"
    REPORTING = "reporting"


class Origin(StrEnum):
    """Whose label set a metric carries, and so how a query on it is kept to one workload."""

    ENGINE = "engine"
    """The workload's own pods: scoped as the selector says."""
    FRONT_DOOR = "front door"
    """A gateway or router before them: scoped by its model label, else as the selector says."""
    GPU = "gpu exporter"
    """A node exporter that names the pod it measures: scoped by that pod's name."""


class Group(StrEnum):
    """Signals that are asked for in one query."""

    DEMAND = "demand"
    LATENCY = "latency"
    GAUGES = "gauges"
    REPORTING = "reporting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One metric that can supply a signal. For a histogram `metric` is the base name, without _bucket or _count."""

    metric: str
    origin: Origin = Origin.ENGINE
    scale: float = 1.0
    """Factor to the signal's unit, applied once at the edge: 0.01 for percent, 2**20 for MiB, 0.001 for mJ."""
    model_label: str | None = None
    """The label in which a front door names the model."""
    class_label: str | None = None
    """The label in which it names the request class, unless the selector says otherwise."""
    per_metric: str | None = None
    """Denominator of a ratio."""
    min_count: float | None = None
    """Where this metric counts other events than the signal's usual one: how many a window must hold."""
    in_flight: tuple[str, ...] = ()
    """Gauges whose change over the window is added to a rate of completions to give arrivals."""
    rejected: tuple[str, ...] = ()
    """Counters of requests that were turned away and never complete; added, where they exist, to give arrivals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One signal of the contract; `candidates` newest name first, the first one that is live is used."""

    name: str
    unit: str
    meaning: str
    kind: Kind
    use: Use
    group: Group
    candidates: tuple[Candidate, ...]
    max_age_s: float = 120.0
    """Older than this is Blind(stale). 120 s forgives one missed scrape at the common 60 s interval."""
    min_count: float = 0.0
    """Events a window must hold for the statistic to mean anything; fewer is TooFew."""


PROMPT_TOKENS, OUTPUT_TOKENS, IMAGES = "prompt_tokens_per_s", "output_tokens_per_s", "images_per_s"
USAGE: tuple[str, ...] = (PROMPT_TOKENS, OUTPUT_TOKENS, IMAGES)
"""What requests are made of: shown, stored and forecast beside demand where it is told, and decided on by no rule."""

MIN_REQUESTS_FOR_P95 = 50.0
"""A P95 over fewer requests rests on its two or three slowest: below 50 the rule abstains."""

MIN_TOKEN_GAPS_FOR_P95 = 1000.0
"""Tokens of one request come late together: fifty requests of twenty tokens each, not fifty tokens of one request."""

REPORTING_MAX_AGE_S = 300.0

ARRIVALS_FROM_COMPLETIONS = Candidate(
    metric="vllm:request_success_total",
    in_flight=("vllm:num_requests_running", "vllm:num_requests_waiting"),
    rejected=("vllm:admission_rejections_total",),
)
"""Last resort for demand: completions + Δrunning + Δwaiting + what the engine itself refused. It lags, and does not
see what a gateway turned away."""


def _reporting(
    name: str, unit: str, kind: Kind, meaning: str, *candidates: Candidate, min_count: float = 0.0
) -> Signal:
    """A signal that is only shown, read every five minutes."""
    return Signal(
        name=name,
        unit=unit,
        meaning=meaning,
        kind=kind,
        use=Use.REPORTING,
        group=Group.REPORTING,
        candidates=candidates,
        max_age_s=REPORTING_MAX_AGE_S,
        min_count=min_count,
    )


def _p95(name: str, meaning: str, *metrics: str | Candidate) -> Signal:
    """A latency percentile that a rule reads."""
    return Signal(
        name=name,
        unit="s",
        meaning=meaning,
        kind=Kind.HISTOGRAM_P95,
        use=Use.RULES,
        group=Group.LATENCY,
        candidates=tuple(metric if isinstance(metric, Candidate) else Candidate(metric=metric) for metric in metrics),
        min_count=MIN_REQUESTS_FOR_P95,
    )


def _tokens(metric: str) -> Candidate:
    """A histogram that counts gaps between tokens, not requests.

    Each prefill makes the tokens of others wait, and a slow replica gives fewer: at nine tenths of its capacity a sound
    fleet whose requests keep 100 ms in the mean has 5 % of its gaps above it. So it stands in where a request's mean is
    not told.
    """
    return Candidate(metric=metric, min_count=MIN_TOKEN_GAPS_FOR_P95)


def _gauge(name: str, unit: str, kind: Kind, meaning: str, *metrics: str) -> Signal:
    """A gauge of the engine that a rule reads."""
    return Signal(
        name=name,
        unit=unit,
        meaning=meaning,
        kind=kind,
        use=Use.RULES,
        group=Group.GAUGES,
        candidates=tuple(Candidate(metric=metric) for metric in metrics),
    )


def _gpu(metric: str, scale: float = 1.0) -> Candidate:
    """A metric of NVIDIA's DCGM exporter."""
    return Candidate(metric=metric, origin=Origin.GPU, scale=scale)


def _door(metric: str, model_label: str, class_label: str | None = None) -> Candidate:
    """A counter of arrivals at a gateway or router."""
    return Candidate(metric=metric, origin=Origin.FRONT_DOOR, model_label=model_label, class_label=class_label)


CATALOGUE: tuple[Signal, ...] = (
    Signal(
        name="demand_rps",
        unit="requests/s",
        meaning="arrivals at the front door per request class, those that were shed or queued included",
        kind=Kind.COUNTER_RATE,
        use=Use.REQUIRED,
        group=Group.DEMAND,
        candidates=(
            _door("headstart_gateway_requests_total", "model", "request_class"),
            _door("vllm:num_incoming_requests_total", "model"),
            _door("llm_d_epp_request_total", "model_name"),
            _door("dynamo_frontend_requests_total", "model"),
            _door("inference_objective_request_total", "model_name"),
            _door("inference_model_request_total", "model_name"),
            ARRIVALS_FROM_COMPLETIONS,
        ),
    ),
    _p95(
        "e2e_p95_s",
        "95th percentile of request latency, first byte in to last byte out, as the engine sees it",
        "vllm:e2e_request_latency_seconds",
    ),
    _p95("ttft_p95_s", "95th percentile of time to first token", "vllm:time_to_first_token_seconds"),
    _p95(
        "queue_time_p95_s",
        "95th percentile of time spent waiting in the engine; its smallest bucket is 0.3 s",
        "vllm:request_queue_time_seconds",
        "vllm:time_in_queue_requests",
    ),
    _p95(
        "itl_p95_s",
        "95th percentile of the time between two tokens: of each request's mean, from older engines over all tokens",
        "vllm:request_time_per_output_token_seconds",
        _tokens("vllm:inter_token_latency_seconds"),
        _tokens("vllm:time_per_output_token_seconds"),
    ),
    _gauge(
        "requests_running",
        "requests",
        Kind.GAUGE_SUM,
        "requests in execution, summed over the workload's live pods",
        "vllm:num_requests_running",
    ),
    _gauge(
        "requests_waiting",
        "requests",
        Kind.GAUGE_SUM,
        "requests waiting in the engines, summed over the workload's live pods",
        "vllm:num_requests_waiting",
    ),
    _gauge(
        "kv_cache_usage_ratio",
        "ratio",
        Kind.GAUGE_MAX,
        "fullest KV cache of the workload's live pods over the last minute, 0 to 1",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
    ),
    _reporting(
        PROMPT_TOKENS,
        "tokens/s",
        Kind.COUNTER_RATE,
        "prompt tokens, images' and cached ones included, per request class where a front door tells",
        _door("headstart_gateway_prompt_tokens_total", "model", "request_class"),
        _door("llm_d_epp_request_input_tokens_sum", "model_name"),
        _door("dynamo_frontend_input_sequence_tokens_sum", "model"),
        _door("inference_objective_input_tokens_sum", "model_name"),
        Candidate(metric="vllm:prompt_tokens_total"),
    ),
    _reporting(
        OUTPUT_TOKENS,
        "tokens/s",
        Kind.COUNTER_RATE,
        "tokens generated, per request class where a front door tells",
        _door("headstart_gateway_output_tokens_total", "model", "request_class"),
        _door("llm_d_epp_request_output_tokens_sum", "model_name"),
        _door("dynamo_frontend_output_tokens_total", "model"),
        _door("inference_objective_output_tokens_sum", "model_name"),
        Candidate(metric="vllm:generation_tokens_total"),
    ),
    _reporting(
        IMAGES,
        "images/s",
        Kind.COUNTER_RATE,
        "images in requests, per request class where a front door tells; the engine counts what its processor cache is"
        " asked for, nothing where that cache is off",
        _door("headstart_gateway_images_total", "model", "request_class"),
        Candidate(metric="vllm:mm_cache_queries_total"),
    ),
    _reporting(
        "preemptions_per_s",
        "1/s",
        Kind.COUNTER_RATE,
        "requests evicted from the KV cache and computed again",
        Candidate(metric="vllm:num_preemptions_total"),
    ),
    _reporting(
        "prefix_cache_hit_ratio",
        "ratio",
        Kind.COUNTER_RATIO,
        "share of looked-up prompt tokens that were found in the prefix cache",
        Candidate(metric="vllm:prefix_cache_hits_total", per_metric="vllm:prefix_cache_queries_total"),
        Candidate(metric="vllm:gpu_prefix_cache_hits_total", per_metric="vllm:gpu_prefix_cache_queries_total"),
        min_count=1.0,
    ),
    _reporting(
        "rejections_per_s",
        "requests/s",
        Kind.COUNTER_RATE,
        "requests the engine refused at admission because its queue was full",
        Candidate(metric="vllm:admission_rejections_total"),
    ),
    _reporting(
        "gpu_utilisation_ratio",
        "ratio",
        Kind.GAUGE_MEAN,
        "mean share of time in which a kernel ran; says little about capacity left",
        _gpu("DCGM_FI_DEV_GPU_UTIL", 0.01),
    ),
    _reporting(
        "gpu_memory_used_bytes",
        "bytes",
        Kind.GAUGE_SUM,
        "framebuffer in use, summed over the workload's GPUs",
        _gpu("DCGM_FI_DEV_FB_USED", 2.0**20),
    ),
    _reporting(
        "gpu_memory_free_bytes",
        "bytes",
        Kind.GAUGE_SUM,
        "framebuffer free, summed over the workload's GPUs",
        _gpu("DCGM_FI_DEV_FB_FREE", 2.0**20),
    ),
    _reporting(
        "gpu_power_watts",
        "W",
        Kind.GAUGE_SUM,
        "power drawn, summed over the workload's GPUs",
        _gpu("DCGM_FI_DEV_POWER_USAGE"),
    ),
    _reporting(
        "gpu_energy_joules_total",
        "J",
        Kind.COUNTER_TOTAL,
        "energy since the driver was loaded, summed over the workload's GPUs; falls when a pod leaves",
        _gpu("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 0.001),
    ),
    _reporting(
        "gpu_xid_errors",
        "GPUs",
        Kind.GAUGE_FLAGS,
        "GPUs whose last XID error code is not zero",
        _gpu("DCGM_FI_DEV_XID_ERRORS"),
    ),
)

_BY_NAME = {signal.name: signal for signal in CATALOGUE}

SIGNAL_NAMES: tuple[str, ...] = tuple(_BY_NAME)


def signal_named(name: str) -> Signal:
    """The signal of that name; `KeyError` that lists the known ones."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise KeyError(f"no signal {name!r}; known: {', '.join(SIGNAL_NAMES)}") from None


Judged = Mapping[str, Collection[str]]
"""By workload, the latencies that a rule judges; every one of a workload that is not named."""

_ONLY_SHOWN = {
    signal.name: replace(signal, use=Use.REPORTING, group=Group.REPORTING, max_age_s=REPORTING_MAX_AGE_S)
    for signal in CATALOGUE
    if signal.group is Group.LATENCY
}


def as_needed(signal: Signal, workload: str, judged: Judged) -> Signal:
    """The signal as a workload needs it: a latency without a target is only shown, and so read every few minutes.

    A histogram is some twenty series a pod: of 2,000 workloads the four latencies are 150,000, two seconds of a
    Prometheus' processor time at every tick, and most have no target.
    """
    if signal.group is not Group.LATENCY or signal.name in judged.get(workload, (signal.name,)):
        return signal
    return _ONLY_SHOWN[signal.name]


def render_markdown() -> str:
    """The page `docs/signals.md`, one row a signal."""
    rows = [
        "# Signals",
        "",
        "Rendered from `forecaster/sources/catalogue.py`; a test keeps the two equal. Candidates are tried in order;",
        "the first one that is live for a workload is used, and `headstart doctor` says which that is.",
        "A metric given as `selector.demand_metric` (nginx, Envoy) goes before all candidates of `demand_rps`.",
        "Tokens and images are told apart by request class like demand. Where they are not (the engine's counters),",
        "they belong to the workload's only class, or to it as a whole. Most sites lack some of them: nothing waits.",
        "What is `reporting` is read every five minutes, of more than 200 workloads a part at a time; so is a latency",
        "that has no target (`latency.slos`), which then may be as old.",
        "",
        "| signal | unit | meaning | made as | use | max age | fewest events | metric names, newest first |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows += [_row(signal) for signal in CATALOGUE]
    return "\n".join(rows) + "\n"


def _row(signal: Signal) -> str:
    names = "<br>".join(_candidate_text(candidate) for candidate in signal.candidates)
    fewest = f"{signal.min_count:g}" if signal.min_count else "–"
    cells = (
        f"`{signal.name}`",
        signal.unit,
        signal.meaning,
        signal.kind,
        signal.use,
        f"{signal.max_age_s:g} s",
        fewest,
        names,
    )
    return "| " + " | ".join(cells) + " |"


def _candidate_text(candidate: Candidate) -> str:
    text = f"`{candidate.metric}`"
    if candidate.per_metric:
        text += f" / `{candidate.per_metric}`"
    if candidate.in_flight:
        text += " + Δ(" + " + ".join(f"`{gauge}`" for gauge in candidate.in_flight) + ")"
    text += "".join(f" + `{counter}`" for counter in candidate.rejected)
    if candidate.min_count is not None:
        text += f" (fewest {candidate.min_count:g})"
    if candidate.scale != 1.0:
        text += f" × {candidate.scale:g}"
    return text
