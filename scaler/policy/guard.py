"""The scale-in guard: every reason not to release yet. It sees a release that the rules agree on, and only shrinks it.

Missing data blocks a release and never causes one; a release needs calm, distance from the last one, and survivors
that can carry what is there. It never adds replicas and knows nothing about why the rules want less.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from scaler.policy.types import Adjustment, At, PolicyState, Reason, ReplicaState, in_words

RULE = "guard"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRule:
    """Parameters of the scale-in guard."""

    calm: timedelta = timedelta(minutes=5)
    """How long the highest keep must have been below the scale, at every tick."""
    spacing: timedelta = timedelta(minutes=10)
    """Least time between two scale-ins."""
    most_step_ratio: float = 0.5
    """Share of the replicas that one scale-in may release; one replica always may go."""

    def __post_init__(self) -> None:
        if not 0.0 < self.most_step_ratio <= 1.0:
            raise ValueError(f"guard.most_step_ratio must lie in (0, 1], got {self.most_step_ratio}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release under review: from `current` down to `target`, and what the guard must know about the moment."""

    current: int
    target: int
    replicas: ReplicaState
    load: float
    """Present load with its backlog, in exactly full replicas."""
    trusted: bool
    blind_rule: str = ""
    """The optional signal that is blind although its rule was active within the look-back; empty if none."""
    silence: str = ""
    """Why a demand that has fallen silent is not believed yet; empty if nothing speaks against it."""


def look_back(lead_time: timedelta) -> timedelta:
    """How far back a peak, an outage or an active rule still matters: max(5 min, lead time + 2 min)."""
    return max(timedelta(minutes=5), lead_time + timedelta(minutes=2))


def hold(
    release: Release, rule: GuardRule, state: PolicyState, *, lead_time: timedelta, now: datetime
) -> tuple[int, tuple[Adjustment, ...]]:
    """The part of the release that may happen now, and a trace of every clamp; the target never falls below asked."""
    blocked = _blocked(release, rule, state, window=look_back(lead_time), now=now)
    if blocked is not None:
        reason, detail = blocked
        return release.current, (_clamp(release.target, release.current, reason, detail),)
    target, trace = release.target, []
    if not release.trusted:
        peak = min(release.current, max((each.replicas for each in state.peaks), default=0))
        if peak > target:
            trace.append(
                _clamp(target, peak, Reason.RECENT_PEAK, f"no trusted forecast: highest of the look-back {peak}")
            )
            target = peak
    most = max(1, int(release.current * rule.most_step_ratio + 1e-9))
    if release.current - target > most:
        trace.append(_clamp(target, release.current - most, Reason.STEP_IN, f"at most {most} at once"))
        target = release.current - most
    survivors = min(release.replicas.ready, target)
    if target < release.current and release.load > survivors + 1e-9:
        detail = f"load {release.load:.3f} does not fit {survivors} Ready survivors"
        trace.append(_clamp(target, release.current, Reason.SURVIVORS, detail))
        target = release.current
    return target, tuple(trace)


def _blocked(
    release: Release, rule: GuardRule, state: PolicyState, *, window: timedelta, now: datetime
) -> tuple[Reason, str] | None:
    """The first reason why nothing at all may be released, in the order a person would ask."""
    if state.known_since is None or now - state.known_since < window:
        since = _clock(state.known_since)
        return Reason.REWARM, f"signals known since {since}, a look-back of {in_words(window)} must pass"
    if release.blind_rule:
        return Reason.BLIND_RULE, f"{release.blind_rule} is blind and was active within {in_words(window)}"
    if release.silence:
        return Reason.SUDDEN_SILENCE, release.silence
    if state.calm_since is None or now - state.calm_since < rule.calm:
        return Reason.NOT_CALM, f"calm since {_clock(state.calm_since)}, {in_words(rule.calm)} must pass"
    if state.last_scale_in_at is not None and now - state.last_scale_in_at < rule.spacing:
        since = _clock(state.last_scale_in_at)
        return Reason.RECENT_SCALE_IN, f"last scale-in {since}, {in_words(rule.spacing)} must pass"
    return None


def falling_peaks(peaks: tuple[At, ...], keep: int, *, window: timedelta, now: datetime) -> tuple[At, ...]:
    """The look-back's maxima with this tick's `keep` added: newest last, strictly falling, none older than `window`.

    A peak exactly one window old no longer counts, so that five calm minutes and a five-minute look-back end together.
    """
    higher = tuple(each for each in peaks if each.replicas > keep and now - each.at < window)
    return (*higher, At(at=now, replicas=keep))


def _clamp(before: int, after: int, reason: Reason, detail: str) -> Adjustment:
    return Adjustment(rule=RULE, before=before, after=after, reason=reason, detail=detail)


def _clock(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%H:%M:%S}"
