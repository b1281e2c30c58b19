"""The history store, as stories.

Properties:
- any sequence of appends, compactions, re-opens and reads equals a dictionary of the last written values
- what is read never depends on whether a day has been folded into blocks
- every point handed in is stored or counted, once
"""

from __future__ import annotations

import math
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecaster.errors import HistoryError, SeriesError
from forecaster.sources.history import HistoryLimits, HistoryStore
from forecaster.sources.history.intake import AppendReport
from forecaster.types import STEP, Panel, SeriesKey

NOW = datetime(2026, 11, 4, 10, 15, 30, tzinfo=UTC)
MINUTE = datetime(2026, 11, 4, 10, 15, tzinfo=UTC)
DAY = timedelta(days=1)
CHAT = SeriesKey(workload="llm/chat", signal="demand_rps")
CODE = SeriesKey(workload="llm/code", signal="demand_rps")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "headstart.db"


def a_panel(values: list[list[float]], *, start: datetime, keys: tuple[SeriesKey, ...] = (CHAT,)) -> Panel:
    return Panel(keys=keys, start=start, step=STEP, values=np.array(values, dtype=float))


def values_of(store: HistoryStore, key: SeriesKey, *, start: datetime, bins: int) -> list[float]:
    return store.read([key], start=start, end=start + bins * STEP).values[0].tolist()


def test_what_is_appended_is_read_back_after_a_restart(path: Path) -> None:
    with HistoryStore.open(path, now=NOW) as store:
        assert store.append([(CHAT, MINUTE, 4.5), (CODE, MINUTE - STEP, 0.0)], now=NOW) == AppendReport(stored=2)
    with HistoryStore.open(path, now=NOW) as store:
        panel = store.read([CODE, CHAT], start=MINUTE - 2 * STEP, end=MINUTE + STEP)
        assert panel.start == MINUTE - 2 * STEP
        np.testing.assert_array_equal(panel.values, [[np.nan, 0.0, np.nan], [np.nan, np.nan, 4.5]])
        assert store.keys() == (CHAT, CODE)
        assert store.span(CHAT) == (MINUTE, MINUTE)
        assert store.span(SeriesKey(workload="llm/none", signal="demand_rps")) is None


def test_file_and_companions_are_the_owners_alone(path: Path) -> None:
    with HistoryStore.open(path, now=NOW) as store:
        store.append([(CHAT, MINUTE, 1.0)], now=NOW)
        modes = {p.name: p.stat().st_mode & 0o777 for p in path.parent.iterdir()}
    assert modes == {f"headstart.db{suffix}": 0o600 for suffix in ("", "-wal", "-shm")}
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("at", "value", "count"),
    [
        pytest.param(MINUTE, math.nan, "unknown", id="a gap is no zero"),
        pytest.param(MINUTE, math.inf, "infinite", id="infinite"),
        pytest.param(MINUTE, -math.inf, "infinite", id="minus infinite"),
        pytest.param(MINUTE, 1e300, "infinite", id="beyond float32"),
        pytest.param(MINUTE, -0.001, "negative", id="negative"),
        pytest.param(MINUTE + STEP, 1.0, "future", id="next minute"),
        pytest.param(MINUTE + timedelta(hours=2), 1.0, "future", id="clock two hours ahead"),
        pytest.param(MINUTE - timedelta(days=28, minutes=1), 1.0, "too_old", id="older than kept"),
        pytest.param(MINUTE, 0.0, "stored", id="zero is a measurement"),
        pytest.param(MINUTE + timedelta(seconds=59), 1.0, "stored", id="any moment of the running minute"),
        pytest.param(MINUTE - timedelta(days=28), 1.0, "stored", id="oldest kept minute"),
    ],
)
def test_counts_every_point_left_out(path: Path, at: datetime, value: float, count: str) -> None:
    with HistoryStore.open(path, now=NOW) as store:
        assert store.append([(CHAT, at, value)], now=NOW) == AppendReport(**{count: 1})
        if at.second == 0:
            assert store.append(a_panel([[value]], start=at), now=NOW) == AppendReport(**{count: 1})
        assert (store.span(CHAT) is not None) == (count == "stored")


def test_the_last_written_value_of_a_minute_counts(path: Path) -> None:
    with HistoryStore.open(path, now=NOW) as store:
        store.append([(CHAT, MINUTE, 1.0), (CHAT, MINUTE, 2.0)], now=NOW)
        assert values_of(store, CHAT, start=MINUTE, bins=1) == [2.0]
        store.append(a_panel([[3.0]], start=MINUTE), now=NOW)
        assert values_of(store, CHAT, start=MINUTE, bins=1) == [3.0]
        store.append(a_panel([[math.nan]], start=MINUTE), now=NOW)
        assert values_of(store, CHAT, start=MINUTE, bins=1) == [3.0]


def test_naive_times_and_other_steps_are_bugs_not_guesses(path: Path) -> None:
    with HistoryStore.open(path, now=NOW) as store:
        with pytest.raises(SeriesError, match="aware UTC"):
            store.append([(CHAT, MINUTE.replace(tzinfo=None), 1.0)], now=NOW)
        with pytest.raises(SeriesError, match="whole minutes"):
            store.append(Panel(keys=(CHAT,), start=MINUTE, step=5 * STEP, values=np.ones((1, 1))), now=NOW)
        with pytest.raises(SeriesError, match="whole minutes"):
            store.read([CHAT], start=MINUTE, end=MINUTE + STEP, step=timedelta(seconds=90))
        with pytest.raises(SeriesError, match="twice"):
            store.read([CHAT, CHAT], start=MINUTE, end=MINUTE + STEP)
        assert store.keys() == ()


def test_a_coarser_step_is_the_mean_of_at_least_half_the_minutes(path: Path) -> None:
    start = MINUTE - 10 * STEP
    with HistoryStore.open(path, now=NOW) as store:
        store.append(a_panel([[1.0, 3.0, math.nan, 4.0, 6.0, math.nan, math.nan, 9.0, 9.0]], start=start), now=NOW)
        panel = store.read([CHAT], start=start, end=start + 9 * STEP, step=4 * STEP)
    np.testing.assert_allclose(panel.values, [[8 / 3, 7.5]])
    assert panel.end == start + 8 * STEP


def test_more_values_than_memory_allows_are_refused_with_the_way_out(path: Path) -> None:
    with (
        HistoryStore.open(path, now=NOW, limits=HistoryLimits(max_cells=1000)) as store,
        pytest.raises(HistoryError, match="read fewer series or a shorter span"),
    ):
        store.read([CHAT], start=MINUTE - DAY, end=MINUTE)


def test_series_beyond_the_limit_are_counted_and_the_known_ones_go_on(path: Path) -> None:
    with HistoryStore.open(path, now=NOW, limits=HistoryLimits(max_series=1)) as store:
        report = store.append([(CHAT, MINUTE, 1.0), (CODE, MINUTE, 1.0)], now=NOW)
        assert report == AppendReport(stored=1, over_limit=1)
        assert store.append([(CHAT, MINUTE, 2.0)], now=NOW).stored == 1
        assert store.keys() == (CHAT,)


def test_folded_days_read_as_before_and_late_points_still_count(path: Path) -> None:
    start = datetime(2026, 10, 30, tzinfo=UTC)
    rng = np.random.default_rng(7)
    values = rng.gamma(2.0, 3.0, (2, 3 * 1440))
    values[:, 100:700] = np.nan
    with HistoryStore.open(path, now=NOW) as store:
        store.append(a_panel(values.tolist(), start=start, keys=(CHAT, CODE)), now=NOW)
        before = store.read([CHAT, CODE], start=start, end=NOW).values
        assert [store.compact(now=NOW) for _ in range(4)] == [2, 2, 2, 0]
        np.testing.assert_array_equal(store.read([CHAT, CODE], start=start, end=NOW).values, before)
        np.testing.assert_array_equal(before[:, : values.shape[1]], values.astype(np.float32))

        store.append([(CODE, start + 100 * STEP, 5.0), (CODE, start, 6.0)], now=NOW)
        assert values_of(store, CODE, start=start + 99 * STEP, bins=3)[1] == 5.0
        assert store.compact(now=NOW) == 1
        assert values_of(store, CODE, start=start + 100 * STEP, bins=1) == [5.0]
        assert values_of(store, CODE, start=start, bins=1) == [6.0]
        assert store.span(CODE) == (start, start + (3 * 1440 - 1) * STEP)


def test_days_younger_than_two_days_stay_rows(path: Path) -> None:
    with HistoryStore.open(path, now=NOW) as store:
        store.append([(CHAT, NOW - timedelta(hours=48), 1.0)], now=NOW)
        assert store.compact(now=NOW) == 0
        assert store.compact(now=NOW + DAY) == 1


def test_only_the_retention_remains_and_series_without_points_go(path: Path) -> None:
    start = datetime(2026, 10, 1, tzinfo=UTC)
    with HistoryStore.open(path, now=start, limits=HistoryLimits(keep_for=5 * DAY)) as store:
        store.append([(CODE, start, 1.0)], now=start)
        for day in range(12):
            now = start + day * DAY
            store.append([(CHAT, now, float(day))], now=now)
            store.compact(now=now)
        first, last = store.span(CHAT) or (None, None)
        assert (first, last) == (start + 6 * DAY, start + 11 * DAY)
        assert store.keys() == (CHAT,)


def test_a_clock_years_ahead_costs_one_day_of_history_a_call_not_all(path: Path) -> None:
    start = datetime(2026, 10, 30, tzinfo=UTC)
    with HistoryStore.open(path, now=NOW) as store:
        store.append(a_panel([[1.0] * 3 * 1440], start=start), now=NOW)
        while store.compact(now=NOW):
            pass
        store.compact(now=NOW + timedelta(days=3650))
        assert store.span(CHAT) == (start + DAY, start + 3 * DAY - STEP)


def test_points_of_a_clock_that_ran_ahead_are_taken_back(path: Path) -> None:
    wrong = NOW + timedelta(hours=2)
    with HistoryStore.open(path, now=NOW) as store:
        store.append([(CHAT, MINUTE - STEP, 1.0)], now=NOW)
        store.append([(CHAT, wrong, 99.0)], now=wrong)
        store.append([(CHAT, MINUTE, 2.0)], now=NOW)
        assert store.span(CHAT) == (MINUTE - STEP, MINUTE)


def test_a_clock_years_behind_deletes_nothing(path: Path) -> None:
    with HistoryStore.open(path, now=NOW) as store:
        store.append([(CHAT, MINUTE, 1.0)], now=NOW)
    with HistoryStore.open(path, now=datetime(1999, 1, 1, tzinfo=UTC)) as store:
        assert store.span(CHAT) == (MINUTE, MINUTE)


def test_a_forgotten_series_is_gone_and_its_name_starts_anew(path: Path) -> None:
    old = NOW - 4 * DAY
    with HistoryStore.open(path, now=NOW) as store:
        store.append([(CHAT, old, 1.0), (CODE, old, 2.0), (CHAT, MINUTE, 3.0)], now=NOW)
        store.compact(now=NOW)
        store.forget([CHAT, SeriesKey(workload="llm/none", signal="demand_rps")])
        assert store.keys() == (CODE,)
        store.append([(CHAT, MINUTE - STEP, 4.0)], now=NOW)
        assert store.span(CHAT) == (MINUTE - STEP, MINUTE - STEP)
        assert values_of(store, CODE, start=old, bins=1) == [2.0]
        store.compact(now=NOW + 4 * DAY)
        assert store.span(CHAT) == (MINUTE - STEP, MINUTE - STEP)


def test_readers_work_beside_the_writer(path: Path) -> None:
    """A reader sees whole appends only, while a writer appends and folds."""
    done = threading.Event()
    torn: list[np.ndarray] = []

    def look() -> None:
        with HistoryStore.open(path, now=NOW, read_only=True) as reader:
            while not done.is_set():
                values = reader.read([CHAT, CODE], start=NOW - 5 * DAY, end=NOW).values
                if (np.isnan(values[0]) != np.isnan(values[1])).any():
                    torn.append(values)

    with HistoryStore.open(path, now=NOW) as store:
        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            for minute in range(0, 4 * 1440, 60):
                at = MINUTE - 5 * DAY + minute * STEP
                store.append([(CHAT, at, 1.0), (CODE, at, 1.0)], now=NOW)
                store.compact(now=NOW)
        finally:
            done.set()
            watcher.join()
    assert torn == []


def test_a_reader_changes_nothing_and_needs_a_file(path: Path) -> None:
    with pytest.raises(HistoryError, match="does not exist"):
        HistoryStore.open(path, now=NOW, read_only=True)
    assert not path.parent.exists()
    HistoryStore.open(path, now=NOW).close()
    with (
        HistoryStore.open(path, now=NOW, read_only=True) as reader,
        pytest.raises(HistoryError, match="reading only"),
    ):
        reader.append([(CHAT, MINUTE, 1.0)], now=NOW)


def test_a_locked_file_is_an_error_and_the_next_append_succeeds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecaster.sources.history.file.BUSY_S", 0.05)
    with HistoryStore.open(path, now=NOW) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(HistoryError, match="locked"):
            store.append([(CHAT, MINUTE, 1.0)], now=NOW)
        other.close()
        assert store.append([(CHAT, MINUTE, 1.0)], now=NOW).stored == 1


_KEYS = st.sampled_from([CHAT, CODE, SeriesKey(workload="llm/code", signal="demand_rps", request_class="batch")])
_START = datetime(2026, 10, 25, tzinfo=UTC)
_OFFSETS = st.integers(0, 10 * 1440)
_SAMPLES = st.lists(
    st.tuples(_KEYS, _OFFSETS, st.floats(0, 1e6) | st.just(math.nan) | st.just(-1.0) | st.just(math.inf)), max_size=8
)
_STEPS = st.one_of(
    st.tuples(st.just("append"), _SAMPLES),
    st.tuples(st.just("compact"), st.integers(0, 12)),
    st.tuples(st.just("forget"), _KEYS),
    st.tuples(st.just("reopen"), st.none()),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEPS, max_size=12))
def test_any_sequence_equals_a_dictionary(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    path = tmp_path_factory.mktemp("history") / "headstart.db"
    now = _START + 10 * DAY
    model: dict[tuple[SeriesKey, int], float] = {}
    store = HistoryStore.open(path, now=now)
    for kind, what in steps:
        match kind:
            case "append":
                report = store.append([(key, _START + m * STEP, v) for key, m, v in what], now=now)
                kept = {(key, m): float(np.float32(v)) for key, m, v in what if 0 <= v < math.inf}
                assert report.stored == len(kept)
                model |= kept
            case "compact":
                store.compact(now=_START + what * DAY)
            case "forget":
                store.forget([what])
                model = {at: v for at, v in model.items() if at[0] != what}
            case _:
                store.close()
                store = HistoryStore.open(path, now=now)
        keys = sorted({key for key, _ in model})
        panel = store.read(keys, start=_START, end=now + STEP)
        found = {
            (keys[row], int(column)): float(panel.values[row, column])
            for row, column in zip(*np.nonzero(~np.isnan(panel.values)), strict=True)
        }
        assert found == model
        for key in keys:
            minutes = [m for k, m in model if k == key]
            assert store.span(key) == (_START + min(minutes) * STEP, _START + max(minutes) * STEP)
    store.close()


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.lists(st.floats(), min_size=5, max_size=5), min_size=2, max_size=2),
    ahead=st.integers(-5, 5),
)
def test_every_point_is_stored_or_counted(
    tmp_path_factory: pytest.TempPathFactory, values: list[list[float]], ahead: int
) -> None:
    path = tmp_path_factory.mktemp("history") / "headstart.db"
    start = MINUTE + ahead * STEP
    with HistoryStore.open(path, now=NOW) as store:
        as_panel = store.append(a_panel(values, start=start, keys=(CHAT, CODE)), now=NOW)
        samples = [
            (k, start + m * STEP, v) for k, row in zip((CHAT, CODE), values, strict=True) for m, v in enumerate(row)
        ]
        as_samples = store.append(samples, now=NOW)
    assert as_panel == as_samples
    assert as_panel.stored + as_panel.dropped + as_panel.unknown == 10
