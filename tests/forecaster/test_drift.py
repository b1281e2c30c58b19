"""Drift: what starts a refit before the night, how often, and that healthy traffic does not.

Property: whatever the quality, two refits for drift are never closer than the pause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.drift import EVERY, DriftRule, DriftState, Looked, blank, from_bytes, look, refitted, to_bytes
from forecaster.errors import ArtefactError
from forecaster.types import ForecastQuality, SeriesKey

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
KEY = SeriesKey(workload="llm/chat", signal="demand_rps")
OTHER = SeriesKey(workload="llm/code", signal="demand_rps")


def quality(ratio: float = 0.8, coverage: float = 0.95, *, bins: int = 360) -> ForecastQuality:
    """A forecast whose error is so many times last value's."""
    return ForecastQuality(coverage_95=coverage, wape=0.2 * ratio, wape_last_value=0.2, scored_bins=bins)


def watched(
    seen: Sequence[ForecastQuality | Mapping[SeriesKey, ForecastQuality]],
    state: DriftState | None = None,
    *,
    start: datetime = NOON,
) -> tuple[list[Looked], DriftState]:
    """One look an hour."""
    state = blank() if state is None else state
    looks = []
    for hour, each in enumerate(seen):
        looked = look(state, {KEY: each} if isinstance(each, ForecastQuality) else each, now=start + hour * EVERY)
        looks.append(looked)
        state = looked.state
    return looks, state


def refits(looks: Sequence[Looked]) -> list[int]:
    """The hours in which a refit was due."""
    return [hour for hour, looked in enumerate(looks) if looked.refit]


STEADY = [quality()] * 48


@pytest.mark.parametrize(
    ("after", "hours", "reason"),
    [
        pytest.param(
            [quality(1.3)], [48], "error 1.30 of last value's, in the last days 0.80", id="half as large again"
        ),
        pytest.param([quality(1.1)] * 12, [], "", id="a little worse"),
        pytest.param(
            [quality(coverage=0.85)] * 6, [53], "has held 0.850 of the minutes, 6 h in a row", id="too narrow"
        ),
        pytest.param([quality(coverage=0.995)] * 6, [53], "has held 0.995", id="too wide"),
        pytest.param([quality(coverage=0.85)] * 5 + [quality()] * 3, [], "", id="narrow for five hours"),
        pytest.param([quality(coverage=0.85)] * 3 + [quality(coverage=0.995)] * 5, [], "", id="narrow, then wide"),
        pytest.param([quality(9.0, bins=60)] * 8, [], "", id="hardly scored"),
    ],
)
def test_what_starts_a_refit(after: list[ForecastQuality], hours: list[int], reason: str) -> None:
    looks, _ = watched([*STEADY, *after])
    assert refits(looks) == hours
    if hours:
        (drift,) = looks[hours[0]].drifted
        assert drift.key == KEY
        assert reason in drift.reason


def test_errors_of_any_size_are_healthy_as_long_as_last_value_errs_as_much_more() -> None:
    night_and_noon = [
        ForecastQuality(coverage_95=0.95, wape=error, wape_last_value=error / 0.8, scored_bins=360)
        for error in (0.05 + 0.3 * np.sin(np.pi * (np.arange(96) % 24) / 24) ** 2)
    ]
    assert refits(watched(night_and_noon)[0]) == []


def test_nothing_is_said_before_a_day_is_known_and_nothing_of_a_still_workload() -> None:
    assert refits(watched([quality()] * 23 + [quality(5.0)])[0]) == []
    still = ForecastQuality(coverage_95=0.95, wape=0.0, wape_last_value=0.0, scored_bins=360)
    assert refits(watched([still] * 60)[0]) == []


def test_a_series_causes_one_refit_a_day_and_refits_keep_their_distance() -> None:
    fine, bad = quality(), quality(3.0)
    both = [{KEY: fine, OTHER: fine}] * 48
    # The first is bad throughout; the other becomes so an hour after and has to wait until six are over.
    after = [{KEY: bad, OTHER: fine}] + [{KEY: bad, OTHER: bad}] * 40
    looks, _ = watched([*both, *after])
    assert refits(looks)[:2] == [48, 54]
    assert all(later - earlier >= 6 for earlier, later in pairwise(refits(looks)))
    assert len(looks[60].drifted) == 2
    assert not looks[60].refit, "both have had their refit today"


def test_the_nights_refit_counts_as_one() -> None:
    _, state = watched(STEADY)
    at = NOON + 47 * EVERY
    later, _ = watched([quality(3.0)] * 8, refitted(state, now=at), start=at + EVERY)
    assert refits(later) == [5]


def test_looks_within_the_hour_change_nothing_and_missed_hours_are_unknown() -> None:
    _, state = watched([*STEADY, *([quality(coverage=0.85)] * 5)])
    at = NOON + 52 * EVERY
    assert look(state, {KEY: quality(coverage=0.85)}, now=at + timedelta(minutes=59)).state is state
    late = look(state, {KEY: quality(coverage=0.85)}, now=at + 2 * EVERY)
    assert late.drifted == (), "the sixth hour in a row was not seen"
    assert look(state, {KEY: quality(3.0)}, now=at + 30 * 24 * EVERY).drifted == (), "a month away: nothing is known"


def test_series_come_and_go_without_the_others_memory() -> None:
    _, state = watched(STEADY)
    looks, state = watched([{OTHER: quality(), KEY: quality(3.0)}], state, start=NOON + 48 * EVERY)
    assert [drift.key for drift in looks[0].drifted] == [KEY]
    _, state = watched([{OTHER: quality()}], state, start=NOON + 49 * EVERY)
    assert state.keys == (OTHER,)


def test_what_was_seen_survives_a_restart() -> None:
    looks, state = watched([*STEADY, quality(3.0)])
    assert refits(looks) == [48]
    again = from_bytes(to_bytes(state))
    assert (again.keys, again.at, again.refitted_at) == (state.keys, state.at, state.refitted_at)
    for name in ("errors", "coverages", "answered_s"):
        assert np.array_equal(getattr(again, name), getattr(state, name), equal_nan=True)
    assert from_bytes(to_bytes(blank())).keys == ()


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK broken", id="no archive"),
        pytest.param(to_bytes(blank(DriftRule(memory=timedelta(days=2)))), id="another length"),
    ],
)
def test_what_is_damaged_is_refused(stored: bytes) -> None:
    with pytest.raises(ArtefactError, match="begin anew"):
        from_bytes(stored)


@given(
    seen=st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.5, 1.0)), min_size=30, max_size=60),
    names=st.integers(1, 3),
)
def test_refits_are_never_closer_than_the_pause(seen: list[tuple[float, float]], names: int) -> None:
    keys = [SeriesKey(workload=f"llm/w{number}", signal="demand_rps") for number in range(names)]
    looks, _ = watched(
        [{key: quality(ratio * (1 + row), coverage) for row, key in enumerate(keys)} for ratio, coverage in seen]
    )
    due = refits(looks)
    assert all(later - earlier >= 6 for earlier, later in pairwise(due))
