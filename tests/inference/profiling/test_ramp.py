"""At which rate a sweep goes on.

Property: whatever the server's limit, the knee ends between two levels that are close enough, in few levels.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.profiling.ramp import (
    CLOSE_ENOUGH_RATIO,
    MOST_LEVELS,
    Alone,
    Ended,
    LevelSeen,
    beyond,
    bracketed,
    knee_rps,
    next_rate_rps,
)

ALONE = Alone(ttft_s=0.1, e2e_s=1.0)


def seen(
    rate_rps: float,
    *,
    late_ttft_s: float | None = 0.1,
    e2e_s: float | None = 1.0,
    ended: Ended = Ended.FULL,
    sent: int = 100,
    failed: int = 0,
) -> LevelSeen:
    return LevelSeen(
        rate_rps=rate_rps, ended=ended, sent=sent, failed=failed, e2e_p50_s=e2e_s, late_ttft_p50_s=late_ttft_s
    )


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        pytest.param(seen(1.0), False, id="as alone"),
        pytest.param(seen(1.0, e2e_s=4.0), False, id="four times slower, but nobody waits for a place"),
        pytest.param(seen(1.0, late_ttft_s=0.69), False, id="waits for less than half a lone answer"),
        pytest.param(seen(1.0, late_ttft_s=0.71), True, id="waits for more"),
        pytest.param(seen(1.0, failed=5), False, id="five in a hundred failed"),
        pytest.param(seen(1.0, failed=6), True, id="six in a hundred failed"),
        pytest.param(seen(1.0, ended=Ended.CROWDED), True, id="crowded"),
        pytest.param(seen(1.0, late_ttft_s=None, e2e_s=None), True, id="no answer at all"),
        pytest.param(seen(1.0, late_ttft_s=None, e2e_s=None, sent=0), False, id="nobody came"),
    ],
)
def test_what_is_beyond_the_knee(level: LevelSeen, expected: bool) -> None:
    assert beyond(level, ALONE) is expected


SLOWER = 1.3
OVER = 5.0


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        pytest.param([], 0.5, id="first: every other lone answer's time"),
        pytest.param([seen(0.5)], 1.25, id="as fast as alone: a wide step"),
        pytest.param([seen(0.5), seen(1.25, e2e_s=SLOWER)], 1.875, id="slower: a narrow one"),
        pytest.param([seen(4.0), seen(6.0, late_ttft_s=OVER)], 24.0**0.5, id="passed: in between"),
        pytest.param([seen(4.0), seen(4.5, late_ttft_s=OVER)], None, id="close enough"),
        pytest.param([seen(0.5, late_ttft_s=OVER)], 0.2, id="not even the first: down"),
        pytest.param(
            [seen(4.0), seen(5.0, late_ttft_s=OVER), seen(5.5), seen(8.0, late_ttft_s=OVER)],
            20.0**0.5,
            id="a kept level above a missed one is luck",
        ),
        pytest.param([seen(float(each)) for each in range(1, MOST_LEVELS + 1)], None, id="no limit found: enough"),
    ],
)
def test_the_next_rate(levels: list[LevelSeen], expected: float | None) -> None:
    assert next_rate_rps(levels, ALONE) == pytest.approx(expected)


def test_the_knee_lies_below_every_level_that_was_beyond() -> None:
    levels = [seen(4.0), seen(5.0, late_ttft_s=OVER), seen(5.5)]
    assert knee_rps(levels, ALONE) == 4.0
    assert bracketed(levels, ALONE)
    assert not bracketed([seen(4.0)], ALONE)
    assert knee_rps([seen(5.0, late_ttft_s=OVER)], ALONE) is None


@given(st.floats(0.1, 500.0))
def test_any_limit_is_found(limit_rps: float) -> None:
    levels: list[LevelSeen] = []
    while (rate := next_rate_rps(levels, ALONE)) is not None:
        over = rate > limit_rps
        slower = 1.0 + rate / limit_rps
        levels.append(seen(rate, late_ttft_s=OVER if over else 0.1, e2e_s=slower))
    assert len(levels) <= MOST_LEVELS
    knee = knee_rps(levels, ALONE)
    assert knee is not None
    assert knee <= limit_rps
    if len(levels) < MOST_LEVELS:
        assert limit_rps <= knee * CLOSE_ENOUGH_RATIO
