"""`control.json`: what goes in comes out, nobody's order is lost, and what cannot be read changes nothing."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_cases import MINUTE, NOON
from scaler.adapters import control_file
from scaler.adapters.control_desk import ControlDesk, UnknownWorkload, Word
from scaler.adapters.control_file import FILE_NAME, ControlFile, ControlReader, ControlUnreadable, changes_of, summary
from scaler.adapters.orders import LONGEST_OVERRIDE, OrderRefused, Orders, from_json, plain_text, to_json
from scaler.policy.types import NO_CONTROL, Control, Mode, ModeSwitch, Override, Pause, Source

ANA = Word(by="ana", reason="load test")
BOTH = ("llm/chat", "llm/code")

moments = st.timedeltas(timedelta(days=-2000), timedelta(days=20000)).map(lambda span: NOON + span)
texts = st.text(max_size=30).map(lambda text: plain_text(text, "reason"))
controls = st.builds(
    Control,
    pause=st.none() | st.builds(Pause, since=st.none() | moments, by=texts, reason=texts),
    override=st.none()
    | st.builds(Override, replicas=st.integers(0, 2**31 - 1), until=moments, since=moments, by=texts, reason=texts),
    mode=st.none() | st.builds(ModeSwitch, mode=st.sampled_from(Mode), since=moments, by=texts, reason=texts),
    resumed_at=st.none() | moments,
)


@given(
    fleet=st.none() | st.builds(Pause, source=st.just(Source.FLEET), since=moments, by=texts),
    workloads=st.dictionaries(st.sampled_from(["llm/chat", "llm/code", "a/b"]), controls),
)
def test_what_goes_in_comes_out(fleet: Pause | None, workloads: dict[str, Control]) -> None:
    orders = Orders(fleet=Control(pause=fleet), workloads=workloads)
    assert from_json(to_json(orders)) == orders


@given(text=st.text(max_size=200) | st.binary(max_size=200))
def test_anything_else_is_refused_and_never_raises_otherwise(text: str | bytes) -> None:
    with pytest.raises(OrderRefused):
        from_json(text)


def with_chat(**chat: Any) -> dict[str, Any]:
    return {"version": 1, "workloads": {"llm/chat": chat}}


UNTIL = "2026-03-02T18:00:00Z"


@pytest.mark.parametrize(
    ("document", "where"),
    [
        pytest.param([], "the file must be an object", id="a list"),
        pytest.param({"workloads": {}}, "version must be 1, got None: another Headstart wrote it", id="no version"),
        pytest.param({"version": 2}, "version must be 1, got 2", id="a newer version"),
        pytest.param({"version": 1, "workload": {}}, "unknown key 'workload'", id="a misspelt section"),
        pytest.param({"version": 1, "workloads": {"chat": {}}}, "namespace/name, got 'chat'", id="no namespace"),
        pytest.param({"version": 1, "fleet": {"mode": {"mode": "observe"}}}, "only a pause", id="a fleet's mode"),
        pytest.param(with_chat(paused={}), "workloads[llm/chat] has the unknown key 'paused'", id="a misspelt order"),
        pytest.param(with_chat(pause=True), "workloads[llm/chat].pause must be an object, got bool", id="no object"),
        pytest.param(with_chat(pause={"by": 3}), "workloads[llm/chat].pause.by must be a text", id="no text"),
        pytest.param(with_chat(pause={"reason": "x" * 501}), "may have 500 characters, got 501", id="too long"),
        pytest.param(
            with_chat(override={"replicas": 3}), "override.until must be a moment with its zone", id="without an end"
        ),
        pytest.param(
            with_chat(override={"replicas": 3, "until": "2026-03-02T18:00:00"}),
            "override.until must be a moment with its zone",
            id="an end without a zone",
        ),
        pytest.param(
            with_chat(override={"replicas": -1, "until": UNTIL}), "override.replicas must be a whole number", id="minus"
        ),
        pytest.param(
            with_chat(override={"replicas": True, "until": UNTIL}), "override.replicas must be a whole", id="true"
        ),
        pytest.param(
            with_chat(override={"replicas": 1.5, "until": UNTIL}), "override.replicas must be a whole", id="half"
        ),
        pytest.param(with_chat(mode={"mode": "actve"}), "must be one of observe, active", id="a misspelt mode"),
        pytest.param(with_chat(mode={"mode": ["active"]}), "must be one of observe, active", id="a list of modes"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_place(document: Any, where: str) -> None:
    with pytest.raises(OrderRefused) as refused:
        from_json(json.dumps(document))
    assert where in str(refused.value)


def test_control_characters_do_not_come_through() -> None:
    assert plain_text("node\n\tmaintenance \x1b[31m", "reason") == "node maintenance [31m"


# ── The desk ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def desk(tmp_path: Path) -> ControlDesk:
    return ControlDesk(ControlFile(tmp_path), known=lambda: BOTH)


def one(document: dict[str, Any]) -> dict[str, Any]:
    (item,) = document["items"]
    return dict(item)


def test_a_pause_and_its_end(desk: ControlDesk) -> None:
    paused = one(desk.pause("llm/chat", ANA, now=NOON))
    assert paused["pause"] == {
        "source": "workload",
        "since": "2026-03-02T12:00:00+00:00",
        "by": "ana",
        "reason": "load test",
    }
    assert paused["says"] == [
        "paused by ana since 2026-03-02 12:00:00: load test; nothing is written until headstart resume llm/chat"
    ]
    assert one(desk.shown("llm/chat", now=NOON)) == paused
    assert one(desk.end_pause("llm/chat", now=NOON))["says"] == ["nothing is ordered by hand: the rules decide"]


def test_the_fleets_pause_holds_for_everybody_and_only_all_can_end_it(desk: ControlDesk) -> None:
    desk.pause(None, ANA, now=NOON)
    assert one(desk.resume("llm/chat", now=NOON))["pause"]["source"] == "fleet"
    assert "until headstart resume -A" in one(desk.shown("llm/chat", now=NOON))["says"][0]
    assert desk.resume(None, now=NOON)["fleet"]["pause"] is None
    assert one(desk.shown("llm/chat", now=NOON))["pause"] is None


def test_resume_ends_pause_and_override_and_leaves_a_mode_unless_told(desk: ControlDesk) -> None:
    desk.pause("llm/chat", ANA, now=NOON)
    desk.switch("llm/chat", Mode.OBSERVE, ANA, now=NOON)
    desk.override("llm/chat", 8, NOON + timedelta(hours=2), ANA, now=NOON)
    back = one(desk.resume("llm/chat", now=NOON + MINUTE))
    assert (back["pause"], back["override"], back["mode"]["mode"]) == (None, None, "observe")
    assert back["resumed_at"] == "2026-03-02T12:01:00Z"
    assert one(desk.resume("llm/chat", mode=True, now=NOON))["mode"] is None


def test_an_override_is_shown_until_its_end_and_forgotten_after(desk: ControlDesk, tmp_path: Path) -> None:
    ends = NOON + timedelta(hours=2)
    desk.override("llm/chat", 8, ends, ANA, now=NOON)
    assert one(desk.shown("llm/chat", now=ends - MINUTE))["override"]["replicas"] == 8
    assert one(desk.shown("llm/chat", now=ends))["override"] is None
    desk.pause("llm/code", ANA, now=ends)
    assert "llm/chat" not in json.loads((tmp_path / FILE_NAME).read_text())["workloads"], "the file does not grow"


@pytest.mark.parametrize(
    ("replicas", "lasts", "words"),
    [
        pytest.param(8, timedelta(0), "would be over already", id="no time at all"),
        pytest.param(8, -MINUTE, "would be over already", id="in the past"),
        pytest.param(8, LONGEST_OVERRIDE + MINUTE, "7 days at most", id="for ever"),
        pytest.param(2**31, MINUTE, "replicas must lie in [0, 2147483647]", id="more than a scale can be"),
        pytest.param(-1, MINUTE, "replicas must lie in", id="fewer than none"),
    ],
)
def test_an_override_that_cannot_be_is_refused(
    desk: ControlDesk, tmp_path: Path, replicas: int, lasts: timedelta, words: str
) -> None:
    with pytest.raises(OrderRefused) as refused:
        desk.override("llm/chat", replicas, NOON + lasts, ANA, now=NOON)
    assert words in str(refused.value)
    assert not (tmp_path / FILE_NAME).exists()


def test_a_misspelt_workload_is_refused_with_the_one_that_was_meant(desk: ControlDesk) -> None:
    with pytest.raises(UnknownWorkload, match=r"no workload 'llm/chta'; did you mean llm/chat\?"):
        desk.pause("llm/chta", ANA, now=NOON)


# ── The file ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_file_is_no_orders_and_no_folder_is_an_error(tmp_path: Path) -> None:
    assert ControlFile(tmp_path).load() == Orders()
    with pytest.raises(ControlUnreadable, match="its folder is not there"):
        ControlFile(tmp_path / "gone").load()


def test_a_file_that_cannot_be_read_is_never_written_over(tmp_path: Path, desk: ControlDesk) -> None:
    path = tmp_path / FILE_NAME
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ControlUnreadable, match="mend it, or remove it to end all orders"):
        desk.pause("llm/chat", ANA, now=NOON)
    assert path.read_text(encoding="utf-8") == "{"


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / FILE_NAME).open("wb") as file:
        file.truncate(control_file.MAX_BYTES + 1)
    with pytest.raises(ControlUnreadable, match="which no orders take"):
        ControlFile(tmp_path).load()


def test_a_floor_is_ordered_only_where_the_settings_name_it(tmp_path: Path) -> None:
    desk = ControlDesk(ControlFile(tmp_path), known=lambda: BOTH, floors=lambda: {"llm/chat"})
    assert one(desk.switch("llm/chat", Mode.FLOOR, ANA, now=NOON))["mode"]["mode"] == "floor"
    (other,) = set(BOTH) - {"llm/chat"}
    with pytest.raises(OrderRefused, match=f"the settings of {other} do not say mode: floor"):
        desk.switch(other, Mode.FLOOR, ANA, now=NOON)
    assert other not in ControlFile(tmp_path).load().workloads


def test_orders_of_many_at_once_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_file, "LOCK_PATIENCE_S", 60.0)  # 24 of them wait for one slow disk
    names = [f"llm/chat-{i}" for i in range(24)]
    desk = ControlDesk(ControlFile(tmp_path), known=lambda: names)
    threads = [threading.Thread(target=desk.pause, args=(name, ANA), kwargs={"now": NOON}) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ControlFile(tmp_path).load().workloads) == sorted(names)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["control.json", "control.lock"], "no scratch is left"


def test_a_lock_that_is_never_released_is_an_error_not_a_wait(
    tmp_path: Path, desk: ControlDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_file, "LOCK_PATIENCE_S", 0.0)
    file = ControlFile(tmp_path)
    with file._locked(), pytest.raises(OSError, match="is held by another process"):
        desk.pause("llm/chat", ANA, now=NOON)


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path, desk: ControlDesk) -> None:
    desk.pause("llm/chat", ANA, now=NOON)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


# ── The reader ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_change_is_seen_at_once_and_told_once(tmp_path: Path, desk: ControlDesk) -> None:
    told: list[dict[str, str]] = []
    reader = ControlReader(ControlFile(tmp_path), on_change=lambda a, b: told.append(changes_of(a, b)))
    assert reader.of("llm/chat", now=NOON) == NO_CONTROL
    desk.pause("llm/chat", ANA, now=NOON)
    for _ in range(3):
        assert reader.of("llm/chat", now=NOON).pause is not None
    assert reader.of("llm/code", now=NOON) == NO_CONTROL
    desk.pause(None, ANA, now=NOON)
    assert reader.of("llm/code", now=NOON).pause is not None
    assert [sorted(each) for each in told] == [["workloads"], ["fleet"]]
    assert told[0]["workloads"] == "llm/chat: paused by ana since 2026-03-02 12:00:00: load test"


def test_an_override_that_is_over_is_not_read(tmp_path: Path, desk: ControlDesk) -> None:
    desk.override("llm/chat", 8, NOON + MINUTE, ANA, now=NOON)
    reader = ControlReader(ControlFile(tmp_path))
    assert reader.of("llm/chat", now=NOON).override is not None
    assert reader.of("llm/chat", now=NOON + MINUTE) == NO_CONTROL


def test_what_cannot_be_read_leaves_the_last_orders_and_is_told_once(tmp_path: Path, desk: ControlDesk) -> None:
    told: list[str] = []
    reader = ControlReader(ControlFile(tmp_path), on_trouble=told.append)
    desk.pause("llm/chat", ANA, now=NOON)
    paused = reader.of("llm/chat", now=NOON)
    path = tmp_path / FILE_NAME
    path.write_text("{", encoding="utf-8")
    for minute in range(3):
        assert reader.of("llm/chat", now=NOON + minute * MINUTE) == paused
    assert len(told) == 1
    assert reader.trouble == told[0]
    path.unlink()
    assert reader.of("llm/chat", now=NOON + 3 * MINUTE) == NO_CONTROL, "removed, it orders nothing"
    assert told[1:] == [""]


def test_a_read_error_that_passes_is_over_at_the_next_tick(tmp_path: Path, desk: ControlDesk) -> None:
    """The file is the same before and after: nothing but trying tells that it can be read again."""
    desk.pause("llm/chat", ANA, now=NOON)

    class Flaky(ControlFile):
        broken = True

        def load(self) -> Orders:
            if self.broken:
                raise ControlUnreadable("Input/output error")
            return super().load()

    file = Flaky(tmp_path)
    reader = ControlReader(file)
    assert reader.of("llm/chat", now=NOON).pause == Pause(source=Source.UNREADABLE, reason="Input/output error")
    file.broken = False
    assert reader.of("llm/chat", now=NOON + MINUTE).pause == Pause(since=NOON, by="ana", reason="load test")


class Held(ControlFile):
    """A file of which the next read ends only when it is let go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reading, self.let_go = threading.Event(), threading.Event()

    def load(self) -> Orders:
        orders = super().load()
        if not self.reading.is_set():
            self.reading.set()
            assert self.let_go.wait(30.0)
        return orders


def asked_by_two(reader: ControlReader, file: Held, *, between: Callable[[], object] = lambda: None) -> list[Control]:
    """What two writes hear: the second one asks, after `between`, while the first one's read is still under way."""
    heard: dict[int, Control] = {}

    def hear(number: int) -> None:
        heard[number] = reader.of("llm/chat", now=NOON)

    ask = [threading.Thread(target=hear, args=(number,)) for number in range(2)]
    ask[0].start()
    assert file.reading.wait(30.0)
    between()
    ask[1].start()
    ask[1].join(timeout=0.2)  # it has to wait; one that does not has time to answer wrongly here
    file.let_go.set()
    for thread in ask:
        thread.join(timeout=30.0)
    return [heard[0], heard[1]]


def test_no_write_hears_the_orders_before_those_that_another_one_is_reading(tmp_path: Path, desk: ControlDesk) -> None:
    file = Held(tmp_path)
    desk.pause("llm/chat", ANA, now=NOON)
    heard = asked_by_two(ControlReader(file), file)
    assert [each.pause for each in heard] == [Pause(since=NOON, by="ana", reason="load test")] * 2


def test_a_slow_read_of_older_orders_does_not_replace_newer_ones(tmp_path: Path, desk: ControlDesk) -> None:
    file = Held(tmp_path)
    desk.pause("llm/code", ANA, now=NOON)
    reader = ControlReader(file)
    first, second = asked_by_two(reader, file, between=lambda: desk.pause("llm/chat", ANA, now=NOON))
    assert (first.pause, second.pause is not None) == (None, True)
    assert reader.of("llm/chat", now=NOON).pause is not None


def test_a_start_that_cannot_read_goes_on_with_what_was_known_and_writes_nothing_for_the_others(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("{", encoding="utf-8")
    known = {"llm/chat": Control(override=Override(replicas=8, until=NOON + MINUTE)), "llm/code": NO_CONTROL}
    reader = ControlReader(ControlFile(tmp_path), last=lambda: known)
    assert reader.of("llm/chat", now=NOON) == known["llm/chat"]
    assert reader.of("llm/code", now=NOON) == NO_CONTROL
    fresh = reader.of("llm/new", now=NOON)
    assert fresh.pause is not None
    assert fresh.pause.source is Source.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_trouble(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(to_json(Orders()), encoding="utf-8")
    path.chmod(0)
    with pytest.raises(ControlUnreadable, match="Permission denied"):
        ControlFile(tmp_path).load()


def test_in_one_line() -> None:
    control = Control(
        pause=Pause(by="ana"),
        override=Override(replicas=8, until=NOON, by="bo", reason="sale"),
        mode=ModeSwitch(mode=Mode.OBSERVE),
    )
    assert summary(control) == "paused by ana; 8 replicas until 2026-03-02T12:00:00Z by bo: sale; observe"
    assert summary(replace(control, pause=None, override=None, mode=None)) == "nothing ordered"
