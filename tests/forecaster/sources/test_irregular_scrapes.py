"""Demand of each minute from scrapes as they come: 5 s to 60 s apart, jittered, some failed, some never made.

What must hold, on a real Prometheus: a minute whose scrapes came reads what arrived in it; one that reads low because
scrapes did not come is told apart by the evidence; and evidence is not cried where nothing was missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest

from forecaster.sources.connection import Connection
from forecaster.sources.plan import DEMAND, DEMAND_SEEN, SERVICE_UP
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import STEP, SeriesKey
from servers import PrometheusServer, prometheus_is_installed

pytestmark = pytest.mark.server

START = datetime(2026, 3, 2, tzinfo=UTC)
BINS = 180
LEAD_IN_S = 3600
INTERVALS_S = (5, 10, 15, 20, 30, 45, 60)
DOOR = "headstart_gateway_requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraped:
    """One gateway scraped every `interval_s`: a share fails (`up` 0), a share is never made (Prometheus was away)."""

    name: str
    interval_s: int
    failed: float = 0.0
    unmade: float = 0.0

    @property
    def workload(self) -> str:
        return f"llm/{self.name}"

    def scrapes(self) -> Iterator[tuple[float, bool]]:
        """Moments in seconds since the start, and whether the scrape came."""
        dice = np.random.default_rng([self.interval_s, round(1000 * self.failed), round(1000 * self.unmade)])
        phase = dice.uniform(0, self.interval_s)
        for number in range((LEAD_IN_S + 60 * BINS) // self.interval_s):
            moment = number * self.interval_s + phase - LEAD_IN_S + dice.uniform(-0.02, 0.02) * self.interval_s
            lost, made = dice.random() < self.failed, dice.random() >= self.unmade
            if made:
                yield round(moment, 3), not lost

    def lines(self) -> tuple[list[str], list[str]]:
        """Samples of the counter and of `up`."""
        where = f'job="gateway",instance="{self.name}:80"'
        counted, up = [], []
        for moment, came in self.scrapes():
            stamp = f"{START.timestamp() + moment:.3f}"
            up.append(f"up{{{where}}} {int(came)} {stamp}")
            if came:
                counted.append(f'{DOOR}_total{{{where},model="{self.name}"}} {arrived(moment)} {stamp}')
        return counted, up


def arrived(second: float) -> float:
    """Requests since the lead-in began: 10/s on average, an hourly wave between 4/s and 16/s."""
    wave = 6.0 * 3600.0 / (2 * math.pi) * (1.0 - math.cos(2 * math.pi * second / 3600.0))
    return 10.0 * (second + LEAD_IN_S) + wave


TRUE_RPS = np.array([(arrived(60.0 * (one + 1)) - arrived(60.0 * one)) / 60.0 for one in range(BINS)])

STEADY = tuple(Scraped(name=f"steady-{each}", interval_s=each) for each in INTERVALS_S)
LOSSY = tuple(Scraped(name=f"lossy-{each}", interval_s=each, failed=0.05) for each in INTERVALS_S)
AWAY = tuple(Scraped(name=f"away-{each}", interval_s=each, unmade=0.05) for each in INTERVALS_S)


@pytest.fixture(scope="module")
def source() -> Iterator[PrometheusSource]:
    if not prometheus_is_installed():
        pytest.skip("prometheus and promtool are not installed")
    counted, up = [f"# TYPE {DOOR} counter"], ["# TYPE up gauge"]
    for each in (*STEADY, *LOSSY, *AWAY):
        more_counted, more_up = each.lines()
        counted += more_counted
        up += more_up
    server = PrometheusServer()
    server.back_fill("\n".join([*counted, *up, "# EOF\n"]))
    with server:
        yield PrometheusSource(Connection(url=server.url))


def measured(source: PrometheusSource, scraped: Scraped) -> tuple[np.ndarray, np.ndarray]:
    """Demand of each bin, and which bins the evidence speaks against."""
    selector = [WorkloadSelector(workload=scraped.workload, demand_labels=(("model", scraped.name),))]
    end = START + BINS * STEP
    demand = source.history(selector, DEMAND, start=START, end=end).series(
        SeriesKey(workload=scraped.workload, signal=DEMAND)
    )
    evidence = source.evidence(selector, start=START, end=end)
    seen = evidence.series(SeriesKey(workload=scraped.workload, signal=DEMAND_SEEN)).values
    return demand.values, seen < 1.0 - 1e-9


@pytest.mark.parametrize("scraped", STEADY, ids=lambda each: each.name)
def test_jitter_alone_hides_nothing_and_changes_little(source: PrometheusSource, scraped: Scraped):
    demand, doubted = measured(source, scraped)
    assert not doubted.any()
    # At 45 s and 60 s a bin is measured over 113 s and 150 s that end with it, so it lags a wave by up to 6 %.
    assert demand == pytest.approx(TRUE_RPS, rel=0.02 if scraped.interval_s <= 30 else 0.07)


@pytest.mark.parametrize("scraped", [*LOSSY, *AWAY], ids=lambda each: each.name)
def test_a_minute_that_reads_low_for_want_of_scrapes_is_told_apart(source: PrometheusSource, scraped: Scraped):
    """One scrape in twenty is lost. Believed without evidence, minutes read as little as 58 % of what arrived."""
    demand, doubted = measured(source, scraped)
    believed = np.isfinite(demand) & ~doubted
    ratio = demand[believed] / TRUE_RPS[believed]
    assert np.isnan(demand).sum() <= 25
    assert ratio.max() <= 1.08
    assert ratio.mean() == pytest.approx(1.0, abs=0.015)
    # Failed scrapes leave `up` 0 and are all found. Scrapes that were never made must be guessed from the rhythm.
    if scraped.failed and scraped.interval_s <= 30:
        assert ratio.min() >= 0.95
    assert (ratio < 0.85).mean() <= 0.04


def test_the_evidence_finds_lows_that_would_be_learnt(source: PrometheusSource):
    """Where it says nothing is wrong at 20 s, dropping the evidence would let lows of a third through."""
    demand, doubted = measured(source, next(each for each in LOSSY if each.interval_s == 20))
    ratio = demand / TRUE_RPS
    assert np.nanmin(ratio) < 0.7
    assert np.nanmin(ratio[~doubted]) > 0.95


def test_of_engines_that_are_not_there_nothing_is_said(source: PrometheusSource):
    selector = [WorkloadSelector(workload="llm/steady-15", demand_labels=(("model", "steady-15"),))]
    evidence = source.evidence(selector, start=START, end=START + 10 * STEP)
    assert SERVICE_UP not in {key.signal for key in evidence.keys}


def test_a_gateway_that_is_down_for_minutes_makes_a_lower_bound():
    """Two gateways share the traffic; one is down for ten minutes, then for good, and service discovery drops it."""
    if not prometheus_is_installed():
        pytest.skip("prometheus and promtool are not installed")
    server = PrometheusServer()
    lines = {f"{DOOR}_total": [f"# TYPE {DOOR} counter"], "up": ["# TYPE up gauge"]}
    for pod in ("a", "b"):
        for second in range(-3600, 7200, 15):
            where = f'job="gateway",instance="{pod}:80"'
            down = pod == "b" and (1800 <= second < 2400 or second >= 5400)
            if second < 5700 or pod == "a":
                lines["up"].append(f"up{{{where}}} {int(not down)} {int(START.timestamp()) + second}")
            if not down:
                value = 5.0 * (second + 3600)
                lines[f"{DOOR}_total"].append(
                    f'{DOOR}_total{{{where},model="pair"}} {value} {int(START.timestamp()) + second}'
                )
    server.back_fill("\n".join([*lines[f"{DOOR}_total"], *lines["up"], "# EOF\n"]))
    with server:
        demand, doubted = measured(PrometheusSource(Connection(url=server.url)), Scraped(name="pair", interval_s=15))
    assert demand[:30] == pytest.approx(10.0, rel=0.01)
    assert demand[32:39] == pytest.approx(5.0, rel=0.01)
    assert not doubted[:30].any()
    assert doubted[30:40].all()
    assert not doubted[41:90].any()
    assert doubted[90:95].all(), "down, and still expected"
    assert not doubted[96:119].any(), "service discovery has dropped it: half is all there is to count"
