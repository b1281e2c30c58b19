"""From a sweep to a profile: the fitted replica, how well it predicts what it was not fitted on, each class's limit.

A class's limit is the lower of two figures: what was measured (between the last level that kept the SLO and the first
that did not) and what the fitted replica keeps. Levels are short and arrivals random, so the first is rough; the
second is only as good as the fit. The lower of both never promises more than either. It reads and writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scaler.errors import DataError
from scaler.profiling.prediction import ATTAINED_RATIO, FIGURES, attainment, limit_rps, replayed, seen, steady
from scaler.profiling.raw_sweep import MIXED, Level, RawSweep
from scaler.service.fit_requests import Met, RequestsFit, Served, classes_of, fit_requests, met
from scaler.service.model import LatencySlo, ServiceModel, TokenShape

FEWEST_TO_CHECK = 10
"""A level with fewer answers is no check: its percentiles are single requests."""
GOOD_CHECK_RATIO = 0.15
"""A figure of a left-out level is predicted well if it is off by no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the sweep cannot know."""

    name: str
    """What the profile is to be called."""
    slo: LatencySlo
    """What 95 % of the requests of each class must keep."""
    gpus: int = 1
    """GPUs of one replica."""
    start_s: float = 180.0
    """From a pod's order to its first request, seconds; for simulations."""
    max_num_seqs: int | None = None
    """--max-num-seqs of the server; what was seen unless given."""
    kv_tokens: int | None = None
    """Size of its KV cache, tokens; what it said unless given."""
    max_num_batched_tokens: int = 8192
    """--max-num-batched-tokens of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelJudged:
    """A level of one class and how many of its requests kept the SLO."""

    arrived_rps: float
    """Requests that really came, a second."""
    throughput_rps: float
    attained: float
    """Share of all that were sent; who failed or was given up missed."""
    beyond: bool
    """Whether the replica fell behind. A short level may still keep its SLO; a longer one would not."""

    @property
    def kept(self) -> bool:
        """Whether a replica could go on like that."""
        return self.attained >= ATTAINED_RATIO and not self.beyond


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLimit:
    """How much of one class alone a replica takes."""

    name: str
    shape: TokenShape
    judged: tuple[LevelJudged, ...]
    """From the lowest rate."""
    kept_rps: float
    """The highest rate measured at which 95 % kept the SLO."""
    missed_rps: float | None
    """The next one measured, at which they did not; None where all kept it."""
    measured_rps: float
    """Between the two, where the share crosses 95 %."""
    modelled_rps: float
    """What the fitted replica keeps."""
    p95_s: float
    """95th percentile of end-to-end latency of the fitted replica at the limit, seconds."""

    @property
    def max_rps(self) -> float:
        """The lower of the two figures."""
        return min(self.measured_rps, self.modelled_rps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A level left out of the fit, and what the fit of all others says of its very arrivals."""

    level: Level
    measured: dict[str, float]
    predicted: dict[str, float]

    @property
    def off(self) -> dict[str, float]:
        """Predicted over measured, less 1, by figure."""
        return {name: self.predicted[name] / self.measured[name] - 1.0 for name in FIGURES}

    @property
    def worst(self) -> tuple[str, float]:
        """The figure that is furthest off, and by how much."""
        name = max(FIGURES, key=lambda each: abs(self.off[each]))
        return name, self.off[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """Everything that a sweep told."""

    sweep: RawSweep
    asked: Asked
    fit: RequestsFit
    service: ServiceModel
    limits: tuple[ClassLimit, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    """What a reader must know before relying on it."""


def derive(sweep: RawSweep, asked: Asked) -> Derived:
    """What the sweep tells of the replica, and the profile that follows.

    Raises:
        DataError: too little was measured, the server's limits are unknown, or a class never kept the SLO.
    """
    names = classes_of(level.served for level in sweep.levels)
    by_level = {level.number: met(level.served, names) for level in sweep.levels if _fits(level)}
    found = _fitted(list(by_level.values()), names)
    limits_of_server, order = _server_limits(sweep, asked), (*sweep.classes, MIXED)
    service = _service(found, asked, limits_of_server)
    limits = tuple(
        _limit(sweep, name, asked, found, _service(found, asked, limits_of_server, name))
        for name in sweep.classes
        if sweep.of(name)
    )
    checks = tuple(
        check
        for level in sorted(sweep.levels, key=lambda each: (order.index(each.name), each.rate_rps))
        if level.number in by_level and len(level.served) >= FEWEST_TO_CHECK
        if (check := _checked(level, by_level, names, asked, limits_of_server)) is not None
    )
    return Derived(
        sweep=sweep,
        asked=asked,
        fit=found,
        service=service,
        limits=limits,
        checks=checks,
        notes=_notes(sweep, found, limits, checks),
    )


def _fits(level: Level) -> bool:
    """Whether all that happened in the level is known: who was given up decoded, too, and nobody knows how much."""
    return len(level.served) > 0 and level.cancelled + level.failed <= 0.02 * level.sent


def _fitted(levels: Sequence[Met], names: Sequence[str]) -> RequestsFit:
    try:
        return fit_requests(levels, names)
    except ValueError as error:
        raise DataError(f"the sweep cannot be fitted: {error}; let it go on, with a larger --budget") from error


def _server_limits(sweep: RawSweep, asked: Asked) -> tuple[int, int]:
    slots, kv_tokens = asked.max_num_seqs or sweep.seen_max_num_seqs, asked.kv_tokens or sweep.kv_tokens
    if slots is None:
        raise DataError(
            "no request ever waited while others ran, so the server's batch is unknown; say --max-num-seqs as the "
            "server was started with, or let the sweep go on"
        )
    if kv_tokens is None:
        raise DataError("the server did not say how large its KV cache is; say it with --kv-tokens")
    longest = max(
        (each.input_tokens + each.output_tokens for level in sweep.levels for each in level.served), default=0
    )
    if longest > kv_tokens:
        raise DataError(f"a KV cache of {kv_tokens} tokens cannot have served a request of {longest}; see --kv-tokens")
    return slots, kv_tokens


def _service(found: RequestsFit, asked: Asked, server: tuple[int, int], name: str | None = None) -> ServiceModel:
    try:
        return found.service(
            max_num_seqs=server[0],
            kv_tokens=server[1],
            max_num_batched_tokens=asked.max_num_batched_tokens,
            request_class=name,
        )
    except ValueError as error:
        raise DataError(f"the sweep does not describe a replica: {error}") from error


# ── A class's limit ───────────────────────────────────────────────────────────────────────────────────────────


def _limit(sweep: RawSweep, name: str, asked: Asked, found: RequestsFit, service: ServiceModel) -> ClassLimit:
    judged = tuple(sorted((_judged(each, asked.slo) for each in sweep.of(name)), key=lambda each: each.arrived_rps))
    shape = next(each.shape for each in found.curves if each.request_class == name)
    missed = next((index for index, each in enumerate(judged) if not each.kept), len(judged))
    if missed == 0:
        first = judged[0]
        raise DataError(
            f"class {name}: at {first.arrived_rps:.3g} requests/s only {100 * first.attained:.0f} % kept the SLO "
            f"({slo_text(asked.slo)}); ask for less with --ttft, --itl or --e2e, or leave the class out"
        )
    kept, over = judged[missed - 1], judged[missed] if missed < len(judged) else None
    modelled_rps = limit_rps(service, found, shape, asked.slo, seed=sweep.seed)
    measured_rps = _crossing(kept, over)
    at_limit = steady(service, found, shape, min(measured_rps, modelled_rps or measured_rps), seed=sweep.seed)
    return ClassLimit(
        name=name,
        shape=shape,
        judged=judged,
        kept_rps=kept.arrived_rps,
        missed_rps=None if over is None else over.arrived_rps,
        measured_rps=measured_rps,
        modelled_rps=modelled_rps if modelled_rps > 0.0 else measured_rps,
        p95_s=seen(at_limit).e2e_p95_s,
    )


def _judged(level: Level, slo: LatencySlo) -> LevelJudged:
    kept = attainment(level.served, slo) * len(level.served)
    return LevelJudged(
        arrived_rps=level.sent / level.length_s,
        throughput_rps=level.throughput_rps,
        attained=kept / level.sent if level.sent else 1.0,
        beyond=level.beyond,
    )


def _crossing(kept: LevelJudged, over: LevelJudged | None) -> float:
    """The rate at which the share crosses 95 %, on a straight line between two levels.

    Where the upper one kept it only because it was over too soon, that is not known, and the lower one is the answer.
    """
    if over is None or over.attained >= ATTAINED_RATIO:
        return kept.arrived_rps
    way = (kept.attained - ATTAINED_RATIO) / (kept.attained - over.attained)
    return kept.arrived_rps + way * (over.arrived_rps - kept.arrived_rps)


# ── The check ─────────────────────────────────────────────────────────────────────────────────────────────────


def _checked(
    level: Level, by_level: dict[int, Met], names: Sequence[str], asked: Asked, server: tuple[int, int]
) -> Check | None:
    """The level predicted from all others; None where those alone cannot be fitted."""
    try:
        found = fit_requests([each for number, each in by_level.items() if number != level.number], names)
    except ValueError:
        return None
    if not any(each.request_class == level.name for each in found.curves) and level.name != MIXED:
        return None
    service = _service(found, asked, server, None if level.name == MIXED else level.name)
    return Check(
        level=level, measured=_figures(level.served), predicted=_figures(replayed(service, found, level.served))
    )


def _figures(requests: Sequence[Served]) -> dict[str, float]:
    figures = seen(requests)
    return {name: getattr(figures, name) for name in FIGURES}


# ── In words ──────────────────────────────────────────────────────────────────────────────────────────────────


def _notes(
    sweep: RawSweep, found: RequestsFit, limits: Sequence[ClassLimit], checks: Sequence[Check]
) -> tuple[str, ...]:
    notes = []
    if not found.identified:
        notes.append(
            "the shapes do not tell β, γ and δ apart, or the formula explains them worse than a line per class: the "
            "figures hold for the classes of the sweep, α + b·n each, and for no other lengths"
        )
    far = [each for each in checks if abs(each.worst[1]) > GOOD_CHECK_RATIO]
    if far:
        worst = max(far, key=lambda each: abs(each.worst[1]))
        notes.append(
            f"{len(far)} of {len(checks)} left-out levels are predicted worse than ±{100 * GOOD_CHECK_RATIO:g} % in a "
            f"figure, the worst {worst.level.name} at {worst.level.rate_rps:.3g} requests/s; close to the knee "
            "small differences are large ones"
        )
    notes += [
        f"class {each.name}: measured {each.measured_rps:.3g}, modelled {each.modelled_rps:.3g} requests/s; the lower "
        "one is in the profile"
        for each in limits
        if abs(math.log(each.measured_rps / each.modelled_rps)) > math.log(1.25)
    ]
    notes += [
        f"class {each.name} kept its SLO at every rate: its limit is higher"
        for each in limits
        if each.missed_rps is None
    ]
    missing = [name for name in sweep.classes if not sweep.of(name)]
    if missing:
        notes.append(f"not measured yet: {', '.join(missing)}")
    return tuple(notes)


def slo_text(slo: LatencySlo) -> str:
    """The SLO in a few words."""
    names = (("TTFT", slo.ttft_s), ("ITL", slo.itl_s), ("end to end", slo.e2e_s))
    return ", ".join(f"{name} {value:g} s" for name, value in names if value is not None) or "none"
