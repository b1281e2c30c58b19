"""One decision in words: what was read, what each rule proposed, what was clamped, and what can happen next.

Pure rendering of a decision that was already made. It decides nothing and repairs nothing: every number it shows was
given to it, and where it computes a moment ("release possible from 12:08") it adds a rule's own parameter to a moment
that the state holds. Every machine reason has its sentence here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from forecaster.types import HORIZONS, LEVEL_Z, LEVELS, STEP, Blind, BlindReason, Known, Reading, TooFew, Zero
from scaler.policy import guard, lead_time, scheduled
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.explain_people import BY_HAND, next_by_hand, ordered
from scaler.policy.explain_spill import foreseen_texts, inflow_text
from scaler.policy.explain_variants import variant_lines
from scaler.policy.latency import LatencyRule
from scaler.policy.types import (
    Action,
    ClassReadings,
    Decision,
    DemandForecast,
    Mode,
    PolicyState,
    Reason,
    ReplicaState,
    Snapshot,
    Trust,
    in_words,
)

REASONS: Final[dict[Reason, str]] = {
    Reason.LOAD: "the load of now needs so many",
    Reason.FORECAST: "the forecast needs so many by the time an order placed now is Ready",
    Reason.STAND_IN: "the demand is unknown, and the day before needed so many at that time",
    Reason.FORECAST_EXPIRED: "the forecast has expired and is not used",
    Reason.P95_BREACH: "a latency stayed above its SLO for long enough",
    Reason.P95_PENDING: "a latency was above its SLO; what was ordered for it is not Ready yet",
    Reason.P95_WATCH: "a latency is above its SLO, not long enough to order, but nothing is released",
    Reason.PROFILE_DOUBTED: "a latency broke its SLO although the load fits: the capacity profile promises too much",
    Reason.DOUBT_REMEMBERED: "so many kept the SLO at a load that the profile gives to fewer",
    Reason.SCHEDULED: "a scheduled event needs so many",
    Reason.SPILL: "so many serve what comes over from another pool at this moment",
    Reason.STEADY: "no rule wants more, and none allows less",
    Reason.BLIND_DEMAND: "the demand is unknown or seen only in part, so nothing is released",
    Reason.BLIND_REPLICAS: "the cluster could not be read",
    Reason.BLIND_RULE: "a signal whose rule was active a moment ago is blind, so nothing is released",
    Reason.REWARM: "signals are known again, but a whole look-back must pass before anything is released",
    Reason.SUDDEN_SILENCE: "the demand vanished all at once, which outages do and people do not",
    Reason.NOT_CALM: "the rules have allowed less for too short a time",
    Reason.RECENT_SCALE_IN: "the last scale-in was too recent",
    Reason.RECENT_PEAK: "without a trusted forecast only what lies above the recent peak is released",
    Reason.SURVIVORS: "those that would stay could not carry the present load",
    Reason.STEP_OUT: "the most that may be added in one period",
    Reason.AFTER_OUTAGE: "so soon after an outage clients ask again and again, which is not demand that stays",
    Reason.STEP_IN: "the most that may be released at once",
    Reason.AT_MIN: "the minimum is a promise",
    Reason.AT_MAX: "the maximum is a promise",
    Reason.GPU_BUDGET: "the fleet's GPU budget is used up",
    Reason.FLEET_CHANGE: "so much of the fleet at once may go, and no more",
    Reason.UNSCHEDULABLE: "pods find no GPU, so ordering more would only lengthen the queue",
    Reason.VARIANT_SWITCH: "one variant of the model serves at a time, and hands over step by step",
    Reason.VARIANT_GPUS: "the model's variants together may hold no more GPUs",
    Reason.HANDS_OFF: "somebody scaled it to zero, and it stays so until somebody scales it up",
    Reason.PAUSED: "somebody paused it: nothing is written until it is resumed",
    Reason.OVERRIDE: "somebody ordered so many until a stated time",
    Reason.HELD_MANUAL: "somebody changed the scale by hand, and that is left alone for a while",
    Reason.HELD_CONFLICT: "another writer keeps changing the scale, and nothing is written until that stops",
}
"""What each machine reason means, as the end of "… because"."""

TRUSTS: Final[dict[Trust, str]] = {
    Trust.TRUSTED: "trusted: fresh, no worse than the last value, and its band covers what it should",
    Trust.NO_FORECAST: "no forecast: the load rule keeps its own margin",
    Trust.EXPIRED: "expired: it is not used, and the load rule keeps its own margin",
    Trust.IMPLAUSIBLE: "implausible: it is not used, and the load rule keeps its own margin",
    Trust.UNSCORED: "not judged yet: it may add replicas, but the load rule keeps its own margin",
    Trust.WORSE_THAN_LAST_VALUE: "worse than the last value: it may add replicas, but carries less margin",
    Trust.COVERAGE_LOW: "too optimistic: more minutes exceed its 95 % quantile than should; it carries less margin",
    Trust.COVERAGE_HIGH: "too cautious: its band is so wide that it wastes GPUs; it carries no margin",
    Trust.STAND_IN: "a stand-in, the day before at this level: it may add replicas while the demand is unknown",
    Trust.CLASS_MISSING: "incomplete: a request class with traffic has no forecast; it carries no margin",
}
"""What each verdict on the forecast means, as the end of "the forecast is …"."""

BLINDS: Final[dict[BlindReason, str]] = {
    BlindReason.UNREACHABLE: "the server cannot be reached",
    BlindReason.TIMEOUT: "the server did not answer in time",
    BlindReason.REFUSED: "the server refused the question",
    BlindReason.MALFORMED: "the answer is not what the server should send",
    BlindReason.PARTIAL: "the answer is incomplete",
    BlindReason.NO_SERIES: "query returned no series",
    BlindReason.TARGET_DOWN: "the target is down",
    BlindReason.STALE: "the newest sample is too old",
    BlindReason.NOT_FINITE: "the value is not a finite number",
    BlindReason.AMBIGUOUS: "several series match where one was expected",
    BlindReason.CLOCK_SKEW: "the clocks differ too much",
    BlindReason.NOT_FOUND: "it does not exist",
    BlindReason.FORBIDDEN: "permission is missing",
    BlindReason.NOT_READ: "it was not asked for",
    BlindReason.NO_AUTOSCALER: "the autoscaler whose floor is set is missing or scales something else",
}
"""What each cause of blindness means."""

_LATENCIES: Final = (
    ("e2e_p95_s", "end to end"),
    ("ttft_p95_s", "first token"),
    ("queue_time_p95_s", "in queue"),
    ("itl_p95_s", "between tokens"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One statement: the part of the chain that it belongs to, what it is about, and the statement."""

    part: str
    topic: str
    text: str


def explain(decision: Decision, snapshot: Snapshot, policy: WorkloadPolicy, after: PolicyState) -> tuple[Line, ...]:
    """The whole chain of `decision`, in the order in which it was made; `after` is the state that it left."""
    return (
        *_read(snapshot, policy),
        *_ahead(decision, snapshot, policy, after),
        *_rules(decision),
        *_clamps(decision, policy),
        *(Line(part="variant", topic=topic, text=text) for topic, text in variant_lines(decision, snapshot)),
        *(Line(part="people", topic=topic, text=text) for topic, text in ordered(decision, snapshot, policy, after)),
        Line(part="result", topic="", text=_result(decision, policy, standby=snapshot.standby)),
        *(Line(part="next", topic="", text=text) for text in _next(decision, snapshot, policy, after)),
    )


def as_text(decision: Decision, lines: tuple[Line, ...]) -> str:
    """The chain as plain text: a title, then each part with its lines in columns."""
    width = max((len(line.topic) for line in lines), default=0)
    shown, part = [f"{decision.workload}  {decision.at:%Y-%m-%d %H:%M:%S} UTC  {headline(decision)}"], ""
    for line in lines:
        head = line.part if line.part != part else ""
        part = line.part
        topic = f"{line.topic:<{width}}  " if line.topic else ""
        shown.append(f"  {head:<7} {topic}{line.text}")
    return "\n".join(shown) + "\n"


def headline(decision: Decision) -> str:
    """The decision in five words: "out 6 → 9", "holds 6", "nothing written"."""
    if decision.current is None or decision.target is None:
        return "nothing written"
    if decision.action is Action.HOLD:
        return f"holds {decision.current}"
    return f"{decision.action.value} {decision.current} → {decision.target}"


def blind_block(
    workload: str,
    blind: Blind,
    *,
    lasted: timedelta | None = None,
    holding: int | None = None,
    query: str = "",
    way_out: str = "",
) -> str:
    """What failed, on what, what happens meanwhile, and the next command.

    `lasted` is since when, `holding` the replicas that stay, `way_out` the next command and setting; `query` is taken
    from the detail if it is not given.
    """
    words, asked, found = _taken_apart(blind)
    since = f"  for {in_words(lasted)}" if lasted is not None else ""
    rows = [
        ("query", query or asked),
        ("found", found or words),
        ("now", f"holding {holding} replicas" if holding is not None else "nothing is written"),
        ("fix", way_out or f"headstart doctor --workload {workload}"),
    ]
    lines = [f"BLIND  {workload}{since}: {BLINDS[blind.reason]}"]
    return "\n".join([*lines, *(f"  {name:<7} {text}" for name, text in rows if text)]) + "\n"


def _taken_apart(blind: Blind) -> tuple[str, str, str]:
    """A detail of the shape "words; query Q; found F" in its parts; what it does not have is empty."""
    rest, _, found = blind.detail.partition("; found ")
    words, _, asked = rest.partition("; query ")
    return ("" if words == BLINDS[blind.reason] else words), asked, found


def reading_text(reading: Reading, unit: str = "") -> str:
    """A reading with its unit and age, or why there is none."""
    match reading:
        case Known(value=value, age_s=age_s):
            return f"{value:.4g}{unit} ({age_s:.0f} s old)"
        case Zero(evidence=evidence, age_s=age_s):
            return f"0{unit}, by evidence: {evidence} ({age_s:.0f} s old)"
        case TooFew(count=count):
            return f"too few requests to tell ({count:.0f}): the rule abstains"
        case Blind(reason=reason, detail=detail):
            return f"blind: {BLINDS[reason]}" + (f" ({detail})" if detail else "")


# ── The parts of the chain ────────────────────────────────────────────────────────────────────────────────────


def _read(snapshot: Snapshot, policy: WorkloadPolicy) -> Iterator[Line]:
    yield Line(part="read", topic="replicas", text=_replicas_text(snapshot.replicas))
    if not snapshot.classes:
        yield Line(part="read", topic="demand", text="unknown: the source gave no answer for this workload")
    for readings in snapshot.classes:
        name = readings.request_class
        text = reading_text(readings.demand_rps, " requests/s")
        yield Line(part="read", topic=f"demand {name}", text=text)
        for line in _latency_texts(readings, policy.latency):
            yield Line(part="read", topic=f"latency {name}", text=line)
    for inflow in snapshot.inflows:
        yield Line(part="read", topic=f"spill-over {inflow.sender}", text=inflow_text(inflow))
    if not _is_unread(snapshot.requests_waiting):
        yield Line(part="read", topic="waiting", text=reading_text(snapshot.requests_waiting, " requests"))


def _replicas_text(replicas: ReplicaState | Blind) -> str:
    if isinstance(replicas, Blind):
        return reading_text(replicas)
    counts = [f"{replicas.desired} desired", f"{replicas.ready} Ready"]
    if replicas.held is not None:
        ceiling = "" if replicas.ceiling is None else f", at most {replicas.ceiling}"
        counts[0] = f"a floor of {replicas.desired} under an autoscaler that holds {replicas.held}{ceiling}"
    for count, words in (
        (replicas.starting, "starting"),
        (replicas.unschedulable, "without a GPU"),
        (replicas.failed, "failed"),
    ):
        if count:
            counts.append(f"{count} {words}")
    return f"{', '.join(counts)} ({replicas.age_s:.0f} s old)"


def _latency_texts(readings: ClassReadings, rule: LatencyRule) -> Iterator[str]:
    slo = rule.slo_for(readings.request_class)
    for signal, words in _LATENCIES:
        reading: Reading = getattr(readings, signal)
        target_s = None if slo is None else getattr(slo, signal)
        if target_s is not None:
            yield f"P95 {words} {reading_text(reading, ' s')}, SLO {target_s:g} s"
        elif not isinstance(reading, Blind):
            yield f"P95 {words} {reading_text(reading, ' s')}, no SLO"


def _is_unread(reading: Reading) -> bool:
    return isinstance(reading, Blind) and reading.reason is BlindReason.NOT_READ


def _ahead(decision: Decision, snapshot: Snapshot, policy: WorkloadPolicy, after: PolicyState) -> Iterator[Line]:
    lead = timedelta(seconds=snapshot.lead_time_s)
    ready_at = decision.at + lead
    text = f"{in_words(lead)}: what is ordered now is Ready at {_clock(ready_at)}"
    if snapshot.lead_time is not None:
        text += f" ({lead_time.in_short(snapshot.lead_time, configured=policy.start_time)})"
    if lead > HORIZONS[-1] * STEP:
        text += f"; forecasts reach {in_words(HORIZONS[-1] * STEP)}, their last value counts from there on"
    yield Line(part="ahead", topic="lead time", text=text)
    for each in snapshot.forecasts:
        topic = "stand-in" if each.stand_in else "forecast"
        yield Line(part="ahead", topic=topic, text=_forecast_text(each, ready_at, now=decision.at))
    for text in (text for inflow in snapshot.inflows for text in foreseen_texts(inflow, ready_at)):
        yield Line(part="ahead", topic="spill-over", text=text)
    verdict = TRUSTS[decision.trust] if policy.predictive.enabled else "switched off (predictive.enabled is false)"
    yield Line(part="ahead", topic="trust", text=f"the forecast is {verdict}" if snapshot.forecasts else verdict)
    if after.disabled_since is not None and policy.predictive.enabled:
        asks = "what stands in for it may ask" if decision.trust is Trust.STAND_IN else "it asks for nothing"
        text = f"since {_clock(after.disabled_since)} for erring far more than the last value; {asks}"
        yield Line(part="ahead", topic="disabled", text=text)
    if policy.predictive.enabled:
        yield Line(part="ahead", topic="target", text=target_text(policy))


def target_text(policy: WorkloadPolicy) -> str:
    """How many minutes may be missed, and because of what."""
    target, cost = policy.miss_target, policy.cost
    text = f"{_percent(target.ratio)} of the minutes may be missed"
    if cost is None or target.balance_ratio is None:
        return text
    gpus = policy.profile.gpus
    each = f" ({gpus} GPUs at {cost.gpu_minute:g})" if gpus > 1 else ""
    prices = f"a replica's minute costs {gpus * cost.gpu_minute:g}{each}, a missed minute {cost.missed_minute:g}"
    if not target.cut:
        return f"{text}: {prices}"
    end = "fewest" if target.ratio > target.balance_ratio else "most"
    return f"{text}, the {end} that is steered to; the costs balance at {_percent(target.balance_ratio)}: {prices}"


def _percent(ratio: float) -> str:
    return f"{100.0 * ratio:.3g} %" if ratio < 10.0 else f"{100.0 * ratio:.0f} %"


def _forecast_text(each: DemandForecast, ready_at: datetime, *, now: datetime) -> str:
    forecast = each.forecast
    head = f"{forecast.request_class} by {forecast.model}, issued {_clock(forecast.issued_at)}"
    if forecast.expired(now=now):
        return f"{head}, expired {_clock(forecast.expires_at)}"
    quantiles = ", ".join(
        f"{level * 100:g} % {forecast.quantile(ready_at, z=z):.4g}" for level, z in zip(LEVELS, LEVEL_Z, strict=True)
    )
    text = f"{head}, at {_clock(ready_at)}: {quantiles} requests/s"
    quality = each.quality
    if quality is None:
        return f"{text}; not scored yet"
    covered, error, naive = (100 * each for each in (quality.coverage_95, quality.wape, quality.wape_last_value))
    return (
        f"{text}; over {quality.scored_bins} scored minutes {covered:.1f} % lay under its 95 % quantile, "
        f"error {error:.1f} % against {naive:.1f} % of the last value"
    )


def _rules(decision: Decision) -> Iterator[Line]:
    if not decision.proposals:
        yield Line(part="rules", topic="none", text="no rule was asked, or none had anything to go by")
        return
    for each in decision.proposals:
        text = f"want {each.want}, keep {each.keep}: {REASONS[each.reason]}"
        yield Line(part="rules", topic=each.rule, text=f"{text} ({each.detail})" if each.detail else text)
    silent = [rule for rule in ("load", "predictive", "latency", "scheduled") if rule not in _names(decision)]
    if silent:
        yield Line(part="rules", topic="silent", text=", ".join(silent))
    want = max(decision.proposals, key=lambda each: each.want)
    keep = max(decision.proposals, key=lambda each: each.keep)
    text = f"highest want {want.want} ({want.rule}), highest keep {keep.keep} ({keep.rule})"
    yield Line(part="rules", topic="together", text=text)


def _names(decision: Decision) -> frozenset[str]:
    return frozenset(each.rule for each in decision.proposals)


def _clamps(decision: Decision, policy: WorkloadPolicy) -> Iterator[Line]:
    for each in decision.adjustments:
        text = f"{each.before} → {each.after}: {REASONS[each.reason]}"
        yield Line(part="clamps", topic=each.rule, text=f"{text} ({each.detail})" if each.detail else text)
    least, most = _bounds(decision, policy)
    moved = (least, most) != (policy.bounds.min_replicas, policy.bounds.max_replicas)
    text = f"{least} to {most} replicas" + (" by a scheduled window" if moved else "")
    yield Line(part="clamps", topic="bounds", text=text)


def _bounds(decision: Decision, policy: WorkloadPolicy) -> tuple[int, int]:
    bounds = policy.bounds
    return scheduled.bounds_at(policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=decision.at)


_MODES = {
    Mode.OBSERVE: "observe mode: it is only shown, nothing is written",
    Mode.PUBLISH: "publish mode: it is exported, another autoscaler writes it",
    Mode.FLOOR: "floor mode: these are the least that the autoscaler above may hold",
}


def _result(decision: Decision, policy: WorkloadPolicy, *, standby: bool) -> str:
    released = decision.action is Action.IN and decision.reason is Reason.LOAD
    why = "no rule keeps more" if released else REASONS[decision.reason]
    text = f"{headline(decision)} because {why}"
    mode = _MODES.get(policy.mode)
    if policy.mode.writes and standby:
        mode = "in standby it is only shown, nothing is written"
    return text if mode is None or decision.action is Action.HOLD else f"{text}; {mode}"


# ── What comes next ───────────────────────────────────────────────────────────────────────────────────────────


def _next(decision: Decision, snapshot: Snapshot, policy: WorkloadPolicy, after: PolicyState) -> Iterator[str]:
    lead = timedelta(seconds=snapshot.lead_time_s)
    if decision.current is None or decision.target is None:
        yield "the scale stays as it is until the cluster can be read"
        return
    if decision.reason is Reason.HANDS_OFF:
        yield "nothing, until somebody scales it to at least one replica"
        return
    if decision.reason in BY_HAND:
        yield from next_by_hand(decision, snapshot, policy, after)
        return
    if decision.action is Action.OUT:
        added, ready_at = decision.target - decision.current, _clock(decision.at + lead)
        if policy.mode is Mode.OBSERVE:
            yield f"nothing is ordered in observe mode; active, {added} more would be, expected Ready at {ready_at}"
        elif policy.mode is Mode.PUBLISH:
            yield f"{added} more published; Ready at {ready_at} if the other autoscaler follows at once"
        elif snapshot.standby:
            yield f"the daemon that leads orders; this one would order {added} more, expected Ready at {ready_at}"
        elif policy.mode is Mode.FLOOR:
            yield f"the floor rises by {added}; the autoscaler orders what it does not hold yet, Ready at {ready_at}"
        else:
            yield f"{added} more ordered, expected Ready at {ready_at}"
    if decision.action is Action.IN:
        yield f"no further scale-in before {_clock(decision.at + policy.guard.spacing)}"
    if decision.action is Action.HOLD:
        yield from _next_after_hold(decision, snapshot, policy, after)
    yield from _stands_in_the_way(decision, policy, after, lead)


def _next_after_hold(
    decision: Decision, snapshot: Snapshot, policy: WorkloadPolicy, after: PolicyState
) -> Iterator[str]:
    current = decision.current or 0
    window = guard.look_back(timedelta(seconds=snapshot.lead_time_s))
    if after.known_since is None:
        yield f"growth at once when demand is known; release not before {in_words(window)} after that"
        return
    keep = max((each.keep for each in decision.proposals), default=current)
    want = max((each.want for each in decision.proposals), default=current)
    if keep < current:
        yield from _release(decision, policy, after, window)
    elif want <= current:
        yield f"out as soon as a want exceeds {current}; in once every keep stays below {current}"


def _release(decision: Decision, policy: WorkloadPolicy, after: PolicyState, window: timedelta) -> Iterator[str]:
    """When the release that the rules agree on could come."""
    rule = policy.guard
    waits = [(after.known_since, window, "signals known"), (after.calm_since, rule.calm, "calm")]
    if after.last_scale_in_at is not None:
        waits.append((after.last_scale_in_at, rule.spacing, "last scale-in"))
    since = [f"{words} since {_clock(moment)}" for moment, _, words in waits[:2] if moment is not None]
    possible = max((moment + wait for moment, wait, _ in waits if moment is not None), default=decision.at)
    if possible > decision.at:
        yield f"{', '.join(since)}: release possible from {_clock(possible)}"
    elif decision.reason is Reason.SUDDEN_SILENCE and after.outage.fell_at is not None:
        believed = after.outage.fell_at + policy.outage.silence
        yield f"release possible from {_clock(max(believed, decision.at))}, unless requests still are in flight then"
    elif decision.reason is Reason.BLIND_RULE and after.latency_active_at is not None:
        yield f"release once the signal is back, or at {_clock(after.latency_active_at + window)}"
    elif decision.reason is Reason.RECENT_PEAK and after.peaks:
        yield f"release once the peak of {_clock(after.peaks[0].at)} is older than {in_words(window)}"
    elif decision.reason is Reason.SURVIVORS:
        yield "release once the load has fallen, or more replicas are Ready"


def _stands_in_the_way(
    decision: Decision, policy: WorkloadPolicy, after: PolicyState, lead: timedelta
) -> Iterator[str]:
    """Limits that cut what the rules wanted, and an order of the latency rule that is still open."""
    reasons = {each.reason for each in decision.adjustments}
    if Reason.STEP_OUT in reasons:
        yield "the rest is ordered in the next period if it is still wanted"
    if Reason.AFTER_OUTAGE in reasons and after.outage.back is not None:
        yield f"more from {_clock(after.outage.back.at + policy.outage.surge)} on if it is still wanted then"
    if Reason.AT_MAX in reasons:
        if policy.spills_to is None:
            yield "more than the maximum is wanted: raise bounds.max_replicas, or accept what does not fit"
        else:
            yield f"more than the maximum is wanted: {policy.spills_to} makes ready for what does not fit"
    if Reason.GPU_BUDGET in reasons:
        yield "more when other workloads give GPUs back, or budget.gpus or the priority is raised"
    if Reason.FLEET_CHANGE in reasons:
        yield "the rest goes when the fleet's last releases are older than budget.inward_period, if it still may"
    if Reason.UNSCHEDULABLE in reasons:
        yield "more once the waiting pods have found a GPU"
    if after.latency.ordered is not None:
        latest = after.latency.ordered.at + 2 * lead + timedelta(minutes=1)
        ends = f"{after.latency.ordered.replicas} are Ready or have failed, {_clock(latest)} at the latest"
        yield f"latency rule: silent until {ends}"


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}"
