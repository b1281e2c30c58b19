"""The values that the rules read and return: snapshot in, proposals and decision out, state handed back.

Nothing here decides. Every value is frozen and made of plain numbers, texts and tuples, so that a decision can be
journalled, compared, hashed and made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from forecaster.types import DEFAULT_CLASS, Blind, BlindReason, Forecast, ForecastQuality, Reading, value_of

NOT_READ = Blind(reason=BlindReason.NOT_READ)
"""A signal that nobody asked for: its rule stays silent."""

RELEASES_KEPT = timedelta(hours=1)
"""How long a workload's releases are remembered: the longest period in which the fleet's can be counted."""


class Mode(StrEnum):
    """What becomes of decisions: shown (`observe`), written as replicas (`active`), written as the floor of an
    autoscaler that keeps the replicas (`floor`), or exported for one to follow (`publish`)."""

    OBSERVE = "observe"
    ACTIVE = "active"
    FLOOR = "floor"
    PUBLISH = "publish"

    @property
    def writes(self) -> bool:
        """Whether decisions are written to the cluster; of the other modes no mutating request leaves."""
        return self in (Mode.ACTIVE, Mode.FLOOR)

    @property
    def counts(self) -> bool:
        """Whether somebody acts on the decisions: then they share the fleet's budget, and are steered by misses."""
        return self is not Mode.OBSERVE


class Action(StrEnum):
    """What a decision does to the number of replicas."""

    OUT = "out"
    IN = "in"
    HOLD = "hold"


class Reason(StrEnum):
    """Machine reason of a proposal, of a clamp, or of the whole decision. Add, don't rename."""

    # proposals
    LOAD = "load"
    FORECAST = "forecast"
    FORECAST_EXPIRED = "forecast_expired"
    STAND_IN = "stand_in"
    P95_BREACH = "p95_breach"
    P95_PENDING = "p95_pending"
    P95_WATCH = "p95_watch"
    PROFILE_DOUBTED = "profile_doubted"
    DOUBT_REMEMBERED = "doubt_remembered"
    SCHEDULED = "scheduled"
    SPILL = "spill"
    # why it holds, or why less moves than proposed
    STEADY = "steady"
    BLIND_DEMAND = "blind_demand"
    BLIND_REPLICAS = "blind_replicas"
    BLIND_RULE = "blind_rule"
    REWARM = "rewarm"
    SUDDEN_SILENCE = "sudden_silence"
    NOT_CALM = "not_calm"
    RECENT_SCALE_IN = "recent_scale_in"
    RECENT_PEAK = "recent_peak"
    SURVIVORS = "survivors"
    STEP_OUT = "step_out"
    STEP_IN = "step_in"
    AFTER_OUTAGE = "after_outage"
    AT_MIN = "at_min"
    AT_MAX = "at_max"
    GPU_BUDGET = "gpu_budget"
    FLEET_CHANGE = "fleet_change"
    UNSCHEDULABLE = "unschedulable"
    VARIANT_SWITCH = "variant_switch"
    VARIANT_GPUS = "variant_gpus"
    # people and other writers
    HANDS_OFF = "hands_off"
    PAUSED = "paused"
    OVERRIDE = "override"
    HELD_MANUAL = "held_manual"
    HELD_CONFLICT = "held_conflict"


class Trust(StrEnum):
    """Whether the forecast may carry the safety margin, and if not, why."""

    TRUSTED = "trusted"
    NO_FORECAST = "no_forecast"
    EXPIRED = "expired"
    IMPLAUSIBLE = "implausible"
    UNSCORED = "unscored"
    WORSE_THAN_LAST_VALUE = "worse_than_last_value"
    COVERAGE_LOW = "coverage_low"
    COVERAGE_HIGH = "coverage_high"
    CLASS_MISSING = "class_missing"
    STAND_IN = "stand_in"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """What the cluster says of a workload. Terminating pods are in none of the counts.

    `desired` is spec.replicas, `starting` pods are created and neither Ready nor failed, `unschedulable` ones wait
    for a GPU or were not made for lack of quota (they are not in `starting`), `failed` ones crash or were refused.

    In mode `floor`, `desired` is the floor of the autoscaler above the workload and the pods are those up to it;
    `held` is then spec.replicas, and `ceiling` the autoscaler's own maximum. Both are None in the other modes.
    """

    desired: int
    ready: int
    starting: int = 0
    unschedulable: int = 0
    failed: int = 0
    age_s: float = 0.0
    held: int | None = None
    ceiling: int | None = None

    @property
    def taken(self) -> int:
        """Replicas that the workload takes GPUs for, whoever asked for them."""
        return max(self.desired, self.held or 0)

    @property
    def asleep_under_a_floor(self) -> bool:
        """Zero replicas beneath a floor above zero: an autoscaler does not do that, somebody switched it off."""
        return self.held == 0 and self.desired > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassReadings:
    """The signals of one request class; latencies are 95th percentiles in seconds over the rate window."""

    request_class: str = DEFAULT_CLASS
    demand_rps: Reading = NOT_READ
    e2e_p95_s: Reading = NOT_READ
    ttft_p95_s: Reading = NOT_READ
    queue_time_p95_s: Reading = NOT_READ
    itl_p95_s: Reading = NOT_READ


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandForecast:
    """One class's forecast of demand in requests per second, and how far it has earned trust.

    A `stand_in` is no forecast: it is what the day before was like, for the time that nothing newer is known.
    """

    forecast: Forecast
    quality: ForecastQuality | None = None
    stand_in: bool = False


class LeadSource(StrEnum):
    """Whose starts a start time comes from."""

    CONFIGURED = "configured"
    OWN = "own"
    SAME_GPUS = "same_gpus"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadTime:
    """From an order to Ready: what is planned with, and where it comes from; all times in seconds.

    `starts` became Ready, `unfinished` ones count as lower bounds. The three parts are those of the very start that is
    the 90th percentile, so they add up to it before it is rounded; None where its pod does not tell them.
    """

    seconds: float
    source: LeadSource = LeadSource.CONFIGURED
    starts: int = 0
    unfinished: int = 0
    lifted: bool = False
    """Whether slower starts, under way or too few to count alone, speak for more than `source` says."""
    node_wait_s: float | None = None
    """Created → given a node."""
    image_s: float | None = None
    """Given a node → its containers run: the image, and what runs before them."""
    load_s: float | None = None
    """Its containers run → Ready: the model."""


# ── What people ordered ───────────────────────────────────────────────────────────────────────────────────────


class Source(StrEnum):
    """Where a person's word stands, which is also where it is taken back."""

    WORKLOAD = "workload"
    FLEET = "fleet"
    ANNOTATION = "annotation"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Nothing is written until it is taken back. `since` is None where nothing tells it."""

    source: Source = Source.WORKLOAD
    since: datetime | None = None
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Exactly `replicas` until `until`, exclusive."""

    replicas: int
    until: datetime
    source: Source = Source.WORKLOAD
    since: datetime | None = None
    by: str = ""
    reason: str = ""

    def lasts(self, *, now: datetime) -> bool:
        """Whether it is in force at `now`: its end needs nobody to act (I12)."""
        return now < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSwitch:
    """A person's mode, over the settings'."""

    mode: Mode
    source: Source = Source.WORKLOAD
    since: datetime | None = None
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What people ordered for one workload. `resumed_at` is when they last gave it back: changes before it are over."""

    pause: Pause | None = None
    override: Override | None = None
    mode: ModeSwitch | None = None
    resumed_at: datetime | None = None


NO_CONTROL = Control()
"""Nobody ordered anything."""


# ── Variants of one model ─────────────────────────────────────────────────────────────────────────────────────


class VariantReason(StrEnum):
    """Why this variant serves. Add, don't rename."""

    FIRST = "first"
    COPES = "copes"
    TOO_SLOW = "too_slow"
    WAITS_DOWN = "waits_down"
    ROOM = "room"
    WAITS_UP = "waits_up"
    NOTHING_COPES = "nothing_copes"
    BLIND_DEMAND = "blind_demand"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantState:
    """What is remembered of a group: the choice, and since when another one would have been better."""

    chosen: str = ""
    short_since: datetime | None = None
    roomy_since: datetime | None = None
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantPlace:
    """What a workload may have at this tick as one of several variants of a model, whatever its own rules want.

    `least` replicas are ordered for a variant that takes over, above `most` it gives back what the others need; None
    leaves it alone. `share` of the traffic is its, 0 to 1; None where nobody can tell. `state` is the group's, for the
    next tick.
    """

    group: str
    chosen: str
    reason: VariantReason
    share: float | None
    state: VariantState
    least: int = 0
    most: int | None = None
    detail: str = ""

    @property
    def serves_all(self) -> bool:
        """Whether it is known to get the whole traffic."""
        return self.share is not None and self.share >= 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpilledClass:
    """What of one request class another pool cannot carry, in requests per second.

    `planned_rps` is what this pool is to be ready for: beyond all that the other one may come to have. `now_rps` is
    what comes over at this moment, for what the other one has ordered and is not Ready yet too. `forecast` is the
    part of the other pool's forecast beyond what it may come to have; None where it has none that may speak.
    """

    request_class: str
    planned_rps: float
    now_rps: float
    forecast: DemandForecast | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflow:
    """What spills over from the pool `sender`, and why it cannot have more than `reach` replicas.

    `blind` says that this cannot be told now: what it spilled last counts, and nothing is released on the word of it.
    `reach` is None where it cannot be told.
    """

    sender: str
    classes: tuple[SpilledClass, ...] = ()
    reach: int | None = None
    limit: Reason = Reason.AT_MAX
    blind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything `decide` may know about one workload at one tick.

    `demand_partial` says that some of what counts the demand is down: the readings are a lower bound, good enough to
    grow by and never to release by. `standby` says that another daemon carries out its decisions instead of ours.
    `lead_time` tells where `lead_time_s` comes from; nothing decides by it. `variant` is the workload's place among
    the variants of its model, None where it is the only one. `classes` and `forecasts` are the workload's own;
    `inflows` is what spills over from other pools beside them.
    """

    workload: str
    replicas: ReplicaState | Blind
    classes: tuple[ClassReadings, ...]
    lead_time_s: float
    requests_waiting: Reading = NOT_READ
    forecasts: tuple[DemandForecast, ...] = ()
    demand_partial: bool = False
    standby: bool = False
    control: Control = NO_CONTROL
    lead_time: LeadTime | None = None
    requests_running: Reading = NOT_READ
    variant: VariantPlace | None = None
    inflows: tuple[Inflow, ...] = ()

    @property
    def demand_known(self) -> bool:
        """Whether demand is measured in full, what spills over included: only then may anything be released or
        learnt."""
        return self.own_demand_known and not any(each.blind for each in self.inflows)

    @property
    def own_demand_known(self) -> bool:
        """Whether the demand of its own classes is measured in full."""
        return demand_of(self.classes) is not None and not self.demand_partial

    @property
    def forecasts_in_force(self) -> tuple[DemandForecast, ...]:
        """The forecasts that may speak, expired ones among them: a stand-in only while the demand is not known."""
        if not self.demand_known:
            return self.forecasts
        return tuple(each for each in self.forecasts if not each.stand_in)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One rule's opinion: order up to `want`, do not release below `keep` (`keep` ≥ `want`)."""

    rule: str
    want: int
    keep: int
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """One clamp: `rule` moved the target from `before` to `after`, and why."""

    rule: str
    before: int
    after: int
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with one workload now, and the whole chain that led there.

    `current` and `target` are None when the cluster could not be read: nothing is written then.
    """

    workload: str
    at: datetime
    current: int | None
    target: int | None
    reason: Reason
    proposals: tuple[Proposal, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()
    trust: Trust = Trust.NO_FORECAST
    z: float = 0.0

    @property
    def action(self) -> Action:
        """Out, in or hold: derived, never stored."""
        if self.current is None or self.target is None or self.target == self.current:
            return Action.HOLD
        return Action.OUT if self.target > self.current else Action.IN


# ── State: what one decision leaves for the next ──────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """A number of replicas at a moment."""

    at: datetime
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignChange:
    """Another writer's change of the scale, dated to the tick that saw it."""

    at: datetime
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A latency signal above its SLO without a break since `since`."""

    request_class: str
    signal: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """An SLO broke at a load that fitted by the profile: `replicas` were ordered then to carry `load` full ones."""

    at: datetime
    load: float
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyState:
    """What the latency rule remembers: open breaches, the order it waits for, when the last one settled, since when
    the load with its backlog has fitted the Ready replicas, and when it last was not enough that it did."""

    breaches: tuple[Breach, ...] = ()
    ordered: At | None = None
    settled_at: datetime | None = None
    fits_since: datetime | None = None
    doubt: Doubt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageState:
    """What the outage rule remembers: since when demand has been heard of at every tick, when it was last busy, when it
    last fell silent all at once, since when it has been so, since when it is unknown, how many replicas there were, or
    were forecast to be needed, when it came back, and what still arrived a second when it was silent last."""

    heard_since: datetime | None = None
    busy_at: datetime | None = None
    fell_at: datetime | None = None
    silent_since: datetime | None = None
    blind_since: datetime | None = None
    back: At | None = None
    arrivals_rps: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """All memory of the decision for one workload; an empty one holds the current scale.

    `known_since` starts with the first tick of an unbroken run in which every required signal was known;
    `calm_since` with the first of a run in which the highest keep lay below the current scale; `desired` holds
    the scales seen within the step limit's period; `peaks` the falling maxima of all keeps in the look-back;
    `asked` is the last scale we asked for (0 until a sleeper is seen awake), `ready` what was Ready at the last tick,
    `z` the lasting part of the steered score, `missed_share` the share of late minutes that were missed;
    `disabled_since` is when the forecast was switched off for being worse than the last value; `held` is what the
    workload under a floor was last seen to have; `released` how many replicas went when, as seen, and as ordered since
    the scale was last seen.

    `own` is the scale in which the last tick found or left the workload, None where it writes nothing; `pending` one
    that was ordered and whose write nobody confirmed; `foreign` the recent changes by others; `heeded` the last
    override seen; `by_hand_at` the last tick at which people or other writers had their way; `variant` is the memory of
    the group of variants that the workload belongs to; `inflows` what spilled over at the last tick, without forecasts.
    """

    last_tick_at: datetime | None = None
    known_since: datetime | None = None
    calm_since: datetime | None = None
    last_scale_in_at: datetime | None = None
    desired: tuple[At, ...] = ()
    peaks: tuple[At, ...] = ()
    latency: LatencyState = field(default_factory=LatencyState)
    latency_active_at: datetime | None = None
    model: str = ""
    model_since: datetime | None = None
    z: float | None = None
    missed_share: float = 0.0
    ready: int | None = None
    asked: int | None = None
    unschedulable_since: datetime | None = None
    over_budget: bool = False
    disabled_since: datetime | None = None
    held: int | None = None
    own: int | None = None
    pending: int | None = None
    foreign: tuple[ForeignChange, ...] = ()
    heeded: Override | None = None
    by_hand_at: datetime | None = None
    released: tuple[At, ...] = ()
    outage: OutageState = field(default_factory=OutageState)
    variant: VariantState | None = None
    inflows: tuple[Inflow, ...] = ()


def demand_of(classes: Sequence[ClassReadings]) -> dict[str, float] | None:
    """Requests per second by class, or None as soon as one class cannot be told (unknown is not zero).

    A class that is there twice, its own and what spills over of it, counts with both.
    """
    demand: dict[str, float] = {}
    for readings in classes:
        value = value_of(readings.demand_rps)
        if value is None:
            return None
        name = readings.request_class
        demand[name] = demand[name] + value if name in demand else value
    return demand or None


def in_words(span: timedelta) -> str:
    """300 s is "5m", 250 s "4m10s", 5400 s "1h30m"."""
    seconds = max(0, round(span.total_seconds()))
    parts = [(seconds // 3600, "h"), (seconds % 3600 // 60, "m"), (seconds % 60, "s")]
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"
