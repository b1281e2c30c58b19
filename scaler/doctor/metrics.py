"""Judges what the metrics server says: its clock, its reach, each workload's signals. Pure, over facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from forecaster.sources.catalogue import USAGE, Use
from forecaster.sources.prometheus import SignalCheck
from forecaster.sources.readings import SKEW_BLIND_S, SKEW_WARN_S
from forecaster.types import Blind, BlindReason, Reading, value_of
from scaler.config import Config
from scaler.doctor.finding import FLEET, Finding, Health, skipped, well
from scaler.policy.decide import WorkloadPolicy

WANTED_PAST = timedelta(days=14)
"""What the models look at."""

FULL_SHARE = 1.3
"""Demand over what the profile says a replica serves: beyond a third above it the profile is wrong, not the moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What the metrics server says of itself; None where it does not tell."""

    version: str | None = None
    skew_s: float | None = None
    """Its clock less ours."""
    past: timedelta | None = None
    """How far back it has series of vLLM; zero: none."""
    scrape_s: float | None = None
    """Seconds between two scrapes of an engine, the usual one."""


def judge_server(config: Config, facts: ServerFacts) -> Iterator[Finding]:
    """The server as a whole."""
    yield well("prometheus", f"answers (version {facts.version})" if facts.version else "answers")
    yield _clock(facts.skew_s)
    yield _past(facts.past)
    yield from _scrapes(config, facts.scrape_s)


def _clock(skew_s: float | None) -> Finding:
    if skew_s is None:
        return skipped("clocks", "the server's time could not be read")
    if abs(skew_s) <= SKEW_WARN_S:
        return well("clocks", f"{skew_s:+.1f} s apart")
    blind = abs(skew_s) > SKEW_BLIND_S
    found = f"the server's clock is {skew_s:+.0f} s from ours; beyond {SKEW_BLIND_S:g} s every signal is blind"
    health = Health.FAIL if blind else Health.WARN
    fix = "check NTP on both machines (timedatectl status)"
    return Finding(workload=FLEET, check="clocks", health=health, found=found, fix=fix)


def _past(past: timedelta | None) -> Finding:
    if past is None:
        return skipped("history", "how far back the server's series reach could not be read")
    if past >= WANTED_PAST - timedelta(days=1):
        return well("history", f"series of vLLM reach back {past.days} days")
    learns = "the first day is LEARNING" if past < timedelta(days=1) else "weekly habits are learnt as days pass"
    found = f"series of vLLM reach back {past.days} of the {WANTED_PAST.days} days that the models look at; {learns}"
    fix = f"keep at least {WANTED_PAST.days + 1} days (--storage.tsdb.retention.time), if it is not simply new"
    return Finding(workload=FLEET, check="history", health=Health.WARN, found=found, fix=fix)


def _scrapes(config: Config, scrape_s: float | None) -> Iterator[Finding]:
    if scrape_s is None:
        yield skipped("scrapes", "no series of vLLM to tell the scrape interval by")
        return
    tick_s = config.tick.total_seconds()
    short = [policy for policy in config.fleet.workloads if policy.latency.rate_window.total_seconds() < 2.0 * scrape_s]
    if not short and scrape_s <= tick_s:
        yield well("scrapes", f"every {scrape_s:.3g} s")
    if scrape_s > tick_s:
        found = f"every {scrape_s:.3g} s, a tick every {tick_s:g} s: most ticks see nothing new"
        fix = f"scrape vLLM every {max(1.0, tick_s / 4):.0f} s (scrape_interval), or set tick to {scrape_s:.0f}s"
        yield Finding(workload=FLEET, check="scrapes", health=Health.WARN, found=found, fix=fix)
    for policy in short:
        window_s = policy.latency.rate_window.total_seconds()
        found = f"every {scrape_s:.3g} s, and latency.rate_window of {window_s:g} s holds less than two of them"
        fix = f"latency.rate_window: {4 * scrape_s:.0f}s, or scrape more often"
        yield Finding(workload=policy.workload, check="scrapes", health=Health.FAIL, found=found, fix=fix)


# ── One workload ──────────────────────────────────────────────────────────────────────────────────────────────


_FIXES = {
    Use.REQUIRED: "set selector.labels, selector.deployment_label or selector.demand_metric",
    Use.RULES: "scrape one of them; meanwhile the rule that reads it stays silent",
    Use.REPORTING: "none needed: it is only reported, no rule reads it",
}
"""What to do about a signal without a metric."""


def judge_signal(check: SignalCheck) -> Finding:
    """Where a signal would come from."""
    if check.signal in USAGE and not check.found:
        return well(check.signal, "nothing tells it", check.workload)
    if check.found:
        return well(check.signal, f"{check.metric} by {check.reach}", check.workload)
    health = Health.FAIL if check.use is Use.REQUIRED else Health.WARN
    found = check.detail or "no live metric"
    return Finding(workload=check.workload, check=check.signal, health=health, found=found, fix=_FIXES[check.use])


def judge_edges(check: SignalCheck, policy: WorkloadPolicy) -> Iterator[Finding]:
    """A latency target between two bucket edges is judged at the lower one: say so before it surprises."""
    targets: set[float | None] = {getattr(slo, check.signal, None) for slo in policy.latency.slos}
    for target_s in sorted(each for each in targets if each is not None):
        edge_s = check.judged_at(target_s) if check.edges_s else None
        if edge_s is not None and edge_s < target_s:
            found = f"the SLO of {target_s:g} s lies between buckets and is judged at {edge_s:g} s"
            fix = f"a histogram with an edge at {target_s:g}, or an SLO on an edge"
            yield Finding(workload=check.workload, check=check.signal, health=Health.WARN, found=found, fix=fix)


def judge_demand(workload: str, demand: Sequence[Reading]) -> Iterator[Finding]:
    """What a tick would read of demand now, all request classes; nothing where the signal itself was not found."""
    blind = next((each for each in demand if isinstance(each, Blind)), None)
    if blind is None:
        total = sum(value_of(each) or 0.0 for each in demand)
        yield well("demand now", f"{total:.3g} requests/s", workload)
        return
    shared = blind.reason is BlindReason.AMBIGUOUS
    fix = "give each workload selector.labels of its own" if shared else "look at the scrape targets of its pods"
    found = f"blind ({blind.reason.value}): {blind.detail}"
    health = Health.FAIL if shared else Health.WARN
    yield Finding(workload=workload, check="demand now", health=health, found=found, fix=fix)


def judge_profile(policy: WorkloadPolicy, demand_rps: dict[str, float], ready: int) -> Iterator[Finding]:
    """Whether replicas serve more than the profile says that they can."""
    if ready <= 0 or not demand_rps:
        return
    share = policy.profile.load(demand_rps) / ready
    name = policy.profile.name
    if share <= FULL_SHARE:
        yield well("profile", f"{name}: {ready} Ready replicas are {100.0 * share:.0f} % full by it", policy.workload)
        return
    found = f"{name}: {ready} Ready replicas serve {share:.1f} times what it says that they can"
    fix = "measure max_rps again: while it is too low, too many GPUs are ordered (unless latencies say otherwise)"
    yield Finding(workload=policy.workload, check="profile", health=Health.WARN, found=found, fix=fix)
