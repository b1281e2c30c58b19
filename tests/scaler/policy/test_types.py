"""How a stretch of time is told."""

from datetime import timedelta

import pytest

from scaler.policy.types import in_words


@pytest.mark.parametrize(
    ("span", "words"),
    [
        pytest.param(timedelta(0), "0s", id="none"),
        pytest.param(timedelta(seconds=-3), "0s", id="never negative"),
        pytest.param(timedelta(seconds=0.6), "1s", id="rounded"),
        pytest.param(timedelta(seconds=45), "45s", id="seconds"),
        pytest.param(timedelta(minutes=5), "5m", id="whole minutes"),
        pytest.param(timedelta(seconds=250), "4m10s", id="minutes and seconds"),
        pytest.param(timedelta(hours=1), "1h", id="exactly an hour"),
        pytest.param(timedelta(hours=2, minutes=59, seconds=59), "2h59m59s", id="up to the next hour"),
        pytest.param(timedelta(hours=1, minutes=30), "1h30m", id="hours and minutes"),
    ],
)
def test_in_words(span: timedelta, words: str) -> None:
    assert in_words(span) == words
