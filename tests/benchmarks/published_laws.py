"""The tables of docs/published-laws.md: other people's published scaling laws in our simulator, then ours. `make laws`.

It decides what is run (llm-d's staged ramp as published, the same ramp with a past, slower and slower starts, every
knob) and how a result becomes a cell. The replica is data/profiles/qwen3-32b-h100x2.yaml, fixed before any of this ran;
nothing is picked for what it shows, and where a published figure does not come out, the table says so.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.published import Table, placed, rendered
from forecaster.trace import Trace, read_trace
from forecaster.types import Series
from scaler.config import read_profile
from scaler.policy.capacity import CapacityProfile, RequestTokens
from scaler.service.model import max_rate_rps
from scaler.simulate.read_off import Cliff
from scaler.simulate.serving.outcome import Interval, Outcome
from scaler.simulate.serving.pool import PoolRule
from scaler.simulate.serving.stage import ServingSetting
from scaler.simulate.serving.sweep import (
    LIMIT_TTFT_S,
    ServingColdStartSweep,
    ServingParetoSweep,
    ServingPoint,
    serving_cold_start_sweep,
    serving_pareto_sweep,
)
from scaler.simulate.sweep import grids

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs" / "published-laws.md"
PROFILE = REPO / "data" / "profiles" / "qwen3-32b-h100x2.yaml"
MOONCAKE = REPO.parent / "shared" / "traces" / "mooncake_conversation_trace_persec.csv.gz"

MINUTE = timedelta(minutes=1)
START = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday; nothing depends on which."""
SEEDS = (1, 2, 3, 4, 5)
STAGES = ((2, 330), (4, 360), (6, 360), (8, 360), (10, 360), (4, 360), (1, 300))
"""Requests a second and seconds, as in llm-d's scored-config.yml."""
LEAD_IN_S = 30
"""The load begins half a minute into the first bin, so that every later stage begins with one."""
DRAIN_MIN = 20
"""Minutes without a request after the load: the slowest rule takes one pod in two minutes from 8 to 3."""
FLOOR, CAP = 3, 8
PATIENT = PoolRule(most_waiting=1_000_000, door_s=900.0)
"""Nobody is turned away, as in the published run: its front door has no limit, and clients wait for 15 minutes."""
RIVALS = ("reactive", "llmd", "llmd:mean", "hpa", "kpa", "dynamo")
FAMILIES = ("headstart", "hpa", "kpa", "llmd", "dynamo", "seasonal-naive")
KNOW_A_PAST = ("headstart", "dynamo", "seasonal-naive")
"""Families that a week of history makes a difference to; the others' day one stands for every day."""
AT_THEIR_RISK = ("headstart:target=4.2%", "headstart:target=20%")
"""Headstart told to miss what the published law missed (1 - 95.8 %), and the most that it can be told."""
TARGETS = ("headstart:target=20%", "headstart:target=10%", "headstart:target=5%", "headstart", "headstart:target=0.1%")
"""Of the product's knob, whose grid would take half of the time."""
CLIFF_POLICIES: tuple[str, ...] = ("dynamo", "llmd", "hpa", "reactive", "headstart")
PUBLISHED_ATTAINMENT = 0.958
GPU_HOURS_AT_S = 120
"""Of a cold-start sweep, the start whose bill is shown."""


# ── Traffic ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A trace by the minute and where its last episode begins."""

    name: str
    trace: Trace
    opens: datetime


def ramp_rps() -> list[float]:
    """The staged ramp by the minute, then the drain: mean requests a second; who comes when is Poisson."""
    seconds = [0.0] * LEAD_IN_S + [float(rate) for rate, span_s in STAGES for _ in range(span_s)]
    minutes = np.array(seconds).reshape(-1, 60).mean(axis=1)
    return [*minutes.tolist(), *[0.0] * DRAIN_MIN]


LOAD_MIN = len(ramp_rps()) - DRAIN_MIN


def day_one() -> Case:
    """Never seen before: an hour in which nothing comes, the pool settled at its floor, then the ramp."""
    return _case("day one", [0.0] * 60)


def daily() -> Case:
    """The same ramp at ten o'clock on each of the seven days before."""
    day = [*[0.0] * 600, *ramp_rps()]
    day += [0.0] * (1440 - len(day))
    return _case("daily", [*day * 7, *[0.0] * 600])


def two_hourly() -> Case:
    """The same ramp every two hours for the seven days before."""
    return _case("every two hours", [*ramp_rps(), *[0.0] * (120 - len(ramp_rps()))] * 84)


def _case(name: str, before: Sequence[float]) -> Case:
    """The past is drawn once, Poisson too; the episode's requests are drawn anew for each seed."""
    past = np.random.default_rng(7).poisson(np.array(before) * 60.0) / 60.0
    values = np.concatenate([past, ramp_rps()])
    trace = Trace(name=name, column="requests", series=Series(start=START, step=MINUTE, values=values))
    return Case(name=name, trace=trace, opens=START + MINUTE * len(before))


def mooncake(path: Path, profile: CapacityProfile) -> tuple[Case, CapacityProfile]:
    """Mooncake's conversations by the minute after an idle one, and the replica under requests of that kind.

    Whoever sizes the opening fleet sees the idle minute, so all begin with one replica (the published run with two).
    """
    columns = {each: read_trace(path, column=each) for each in ("requests", "prompt_tokens", "output_tokens")}
    counts = {name: trace.series.values for name, trace in columns.items()}
    whole = counts["requests"].size // 60 * 60
    minutes = counts["requests"][:whole].reshape(-1, 60).mean(axis=1)
    tokens = RequestTokens(
        input_tokens=float(counts["prompt_tokens"].sum() / counts["requests"].sum()),
        output_tokens=float(counts["output_tokens"].sum() / counts["requests"].sum()),
        input_cv=_cv(counts["prompt_tokens"], counts["requests"]),
        output_cv=_cv(counts["output_tokens"], counts["requests"]),
    )
    series = Series(start=columns["requests"].series.start, step=MINUTE, values=np.concatenate([[0.0], minutes]))
    trace = Trace(name="mooncake", column="requests", series=series)
    (one,) = profile.classes
    assert profile.service is not None
    assert one.slo is not None
    rate = max_rate_rps(profile.service, tokens.shape, one.slo)
    other = replace(profile, classes=(replace(one, name="conversation", tokens=tokens, max_rps=rate),))
    return Case(name="mooncake", trace=trace, opens=series.start), other


def _cv(tokens: np.ndarray, requests: np.ndarray) -> float:
    """Spread of a request's tokens from sums over few: Var(sum of n) is n times that of one."""
    mean = tokens.sum() / requests.sum()
    return float(np.sqrt(((tokens - requests * mean) ** 2).sum() / requests.sum()) / mean)


def setting(case: Case, *, floor: int = FLOOR, cap: int | None = CAP, seeds: tuple[int, ...] = SEEDS) -> ServingSetting:
    """The published bounds; traffic as it is."""
    return ServingSetting(
        score_from=case.opens, peak_replicas=None, min_replicas=floor, max_replicas=cap, seeds=seeds, pool=PATIENT
    )


# ── Tables ────────────────────────────────────────────────────────────────────────────────────────────────────


def episode(outcome: Outcome, floor: int = FLOOR) -> tuple[float, int]:
    """Average replicas from the load's begin until the pool is back at its floor, draining ones included, and the
    minutes that takes: the published cost."""
    back = np.flatnonzero(outcome.course.billed[LOAD_MIN:] <= floor)
    minutes = LOAD_MIN + int(back[0]) if back.size else outcome.billed_s.size
    return float(outcome.billed_s[:minutes].sum()) / (60.0 * minutes), minutes


def shown(interval: Interval, digits: int = 2, factor: float = 1.0) -> str:
    """ "99.97 ± 0.05"."""
    if not math.isfinite(interval.mean):
        return "∞" if interval.mean == math.inf else "–"
    half = "" if math.isnan(interval.half_width) else f" ± {interval.half_width * factor:.{digits}f}"
    return f"{interval.mean * factor:.{digits}f}{half}"


EPISODE_HEAD = ["policy", "attained %", "bad minutes", "P90 TTFT, s", "average replicas", "of static 8", "GPU-hours"]
PUBLISHED_ROWS = [
    ["published: llm-d, P90", "95.8", "", "", "5.93", "0.74", ""],
    ["published: llm-d, mean", "84.7", "", "", "as P90", "0.74", ""],
    ["published: static 8", "100", "", "", "8", "1", ""],
]


def episode_table(points: Sequence[ServingPoint], static: ServingPoint | None) -> Table:
    """A row a policy, the published figures first."""
    rows = [_episode_row(each, FLOOR) for each in points]
    if static is not None:
        rows.append(["static 8", *_episode_row(static, CAP)[1:]])
    return [EPISODE_HEAD, *PUBLISHED_ROWS, *rows]


def _episode_row(point: ServingPoint, floor: int) -> list[str]:
    average = Interval.of([episode(each, floor)[0] for each in point.outcomes])
    return [
        f"**{point.policy}**" if point.policy == "headstart" else point.policy,
        shown(point.attainment, factor=100.0),
        shown(point.violation_minutes, 1),
        shown(point.ttft_p90_s),
        shown(average),
        f"{average.mean / CAP:.2f}",
        shown(point.gpu_hours),
    ]


def pareto_table(sweep: ServingParetoSweep) -> Table:
    """What each family pays for as much as was published, and for as much as the product attains by default."""
    table = [["family", "to attain", "setting", "attained %", "GPU-hours", "against headstart's default"]]
    assert sweep.default is not None
    for target in (PUBLISHED_ATTAINMENT, sweep.default.attainment.mean):
        for row in replace(sweep, target_attainment=target).matched:
            family = row.family if row.tuned_in_hindsight else f"**{row.family}**, untuned"
            cells = ["none", "", "", ""]
            if row.point is not None:
                ratio = shown(row.point.cost_against(sweep.default), 3)
                cells = [row.point.policy, shown(row.point.attainment, factor=100.0), shown(row.point.gpu_hours), ratio]
            table.append([family, f"{100 * target:.2f} %", *cells])
    return table


def with_the_others(seen: ServingParetoSweep, unseen: ServingParetoSweep) -> ServingParetoSweep:
    """The sweep with a past, and what knows none from the sweep without: it meets the same requests in both."""
    others = [each for each in unseen.points if each.family not in KNOW_A_PAST]
    return replace(seen, points=(*seen.points, *others))


def cliff_table(sweeps: Mapping[str, ServingColdStartSweep]) -> Table:
    """P90 time to the first token by start-up time, attained share after it, and where each policy falls off.

    Twice: over the SLO, and over ten times the SLO, which is a backlog that nobody works off; the published cliff is of
    the second kind.
    """
    starts = sorted({round(each.cold_start_s) for sweep in sweeps.values() for each in sweep.points})
    limits = (LIMIT_TTFT_S, 10.0 * LIMIT_TTFT_S)
    head = ["traffic, policy", *(f"{each} s" for each in starts), *(f"over {each:g} s" for each in limits)]
    table = [[*head, f"GPU-hours at {GPU_HOURS_AT_S} s"]]
    for name, sweep in sweeps.items():
        cliffs = [replace(sweep, limit_ttft_s=limit).cliffs for limit in limits]
        for pair in zip(*cliffs, strict=True):
            points = [each for each in sweep.points if each.policy == pair[0].policy]
            cells = [f"{shown(each.ttft_p90_s, 1)} ({100 * each.attainment.mean:.1f})" for each in points]
            shown_as = f"**{pair[0].policy}**" if pair[0].policy == "headstart" else pair[0].policy
            bill = next(each.gpu_hours for each in points if round(each.cold_start_s) == GPU_HOURS_AT_S)
            table.append([f"{name}, {shown_as}", *cells, *map(_fell, pair), shown(bill)])
    return table


def _fell(cliff: Cliff[float]) -> str:
    if cliff.over is None:
        return "never"
    return "always" if cliff.within is None else f"{cliff.within:.0f}–{cliff.over:.0f} s"


# ── Running them ──────────────────────────────────────────────────────────────────────────────────────────────


class Told:
    """A line on stderr whenever another tenth of a part is done."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._began, self._last = say, time.monotonic(), -1

    def part(self, name: str) -> Callable[[float, str], None]:
        """Progress of the part of that name."""
        self._last = -1

        def tell(share: float, what: str) -> None:
            if int(share * 10) > self._last:
                self._last = int(share * 10)
                self._say(f"[{time.monotonic() - self._began:4.0f} s] {name}: {share:4.0%} {what}")

        return tell


def sensitivity(profile: CapacityProfile) -> dict[str, CapacityProfile]:
    """Replicas a little unlike the profile's: what the published law hangs on. Never used for any other table."""
    service = profile.service
    assert service is not None
    others = {
        "the profile": service,
        "KV cache × 1.25": replace(service, kv_tokens=round(service.kv_tokens * 1.25)),
        "KV cache × 1.5": replace(service, kv_tokens=round(service.kv_tokens * 1.5)),
        "α + 5 ms, KV cache × 1.5": replace(
            service, alpha_s=service.alpha_s + 0.005, kv_tokens=round(service.kv_tokens * 1.5)
        ),
    }
    (one,) = profile.classes
    assert one.tokens is not None
    assert one.slo is not None
    return {
        name: replace(
            profile,
            service=each,
            classes=(replace(one, max_rps=max_rate_rps(each, one.tokens.shape, one.slo)),),
        )
        for name, each in others.items()
    }


def made(
    profile: CapacityProfile, traces: Path, *, say: Callable[[str], None], processes: int | None
) -> dict[str, Table]:
    """Every table of the page, by the name of its place; without the Mooncake trace its rows are left out."""
    told, tables = Told(say), {}
    first, known = day_one(), daily()
    for case, policies in (
        (first, (*RIVALS, "oracle", *AT_THEIR_RISK)),
        (known, ("dynamo", "seasonal-naive")),
        (two_hourly(), ("dynamo", "seasonal-naive")),
    ):
        asked = {name: [name] for name in (*policies, "headstart")}
        run = _pareto(case, profile, asked, told, processes)
        static = _pareto(case, profile, {"hpa": ["hpa"]}, told, processes, floor=CAP) if case is first else None
        tables[f"ramp-{case.name.replace(' ', '-')}"] = episode_table(run.points, static.points[0] if static else None)
    knobs = {**grids(FAMILIES, own=setting(first).missed_target_ratio), "headstart": TARGETS}
    unseen = _pareto(first, profile, knobs, told, processes)
    seen = _pareto(known, profile, {each: knobs[each] for each in KNOW_A_PAST}, told, processes)
    tables["pareto-day-one"] = pareto_table(unseen)
    tables["pareto-daily"] = pareto_table(with_the_others(seen, unseen))
    tables["sensitivity"] = _sensitivity_table(first, profile, told, processes)
    tables["cliff"] = cliff_table(_cliffs(first, known, profile, traces, told, say, processes))
    return tables


def _pareto(
    case: Case,
    profile: CapacityProfile,
    asked: Mapping[str, Sequence[str]],
    told: Told,
    processes: int | None,
    floor: int = FLOOR,
) -> ServingParetoSweep:
    return serving_pareto_sweep(
        case.trace, profile, asked, setting(case, floor=floor), progress=told.part(case.name), processes=processes
    )


def _sensitivity_table(case: Case, profile: CapacityProfile, told: Told, processes: int | None) -> Table:
    table = [["replica", "policy", *EPISODE_HEAD[1:]]]
    for name, other in sensitivity(profile).items():
        run = _pareto(case, other, {each: [each] for each in ("llmd", "llmd:mean", "headstart")}, told, processes)
        table += [[name, *_episode_row(each, FLOOR)] for each in run.points]
    return table


def _cliffs(
    first: Case,
    known: Case,
    profile: CapacityProfile,
    traces: Path,
    told: Told,
    say: Callable[[str], None],
    processes: int | None,
) -> dict[str, ServingColdStartSweep]:
    asked = [("ramp, day one", first, profile, setting(first), CLIFF_POLICIES)]
    with_past = tuple(each for each in CLIFF_POLICIES if each in KNOW_A_PAST)
    asked.append(("ramp, daily", known, profile, setting(known), with_past))
    if traces.is_file():
        case, other = mooncake(traces, profile)
        asked.append(("mooncake from one replica", case, other, setting(case, floor=1, cap=None), CLIFF_POLICIES))
    else:
        say(f"{traces.name} is not there: its rows are left out")
    return {
        name: serving_cold_start_sweep(
            case.trace, each, policies, how, progress=told.part(f"starts, {name}"), processes=processes
        )
        for name, case, each, how, policies in asked
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Play everything, print the tables, renew the page and say what changed in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=None, metavar="N", help="all cores unless given")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="where the tables go")
    parser.add_argument("--mooncake", type=Path, default=MOONCAKE, metavar="FILE", help="requests and tokens a second")
    options = parser.parse_args(arguments)
    tables = made(read_profile(PROFILE), options.mooncake, say=_say, processes=options.processes)
    for name, table in tables.items():
        sys.stdout.write(f"{name}\n{rendered(table)}\n")
    page, changes = placed(options.page.read_text(encoding="utf-8"), tables)
    options.page.write_text(page, encoding="utf-8")
    for change in changes:
        _say(change)
    _say(f"{len(changes)} cells changed in {options.page}; over a limit: even the low end of the interval is")
    return 0


if __name__ == "__main__":
    sys.exit(main())
