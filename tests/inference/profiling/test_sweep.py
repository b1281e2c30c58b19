"""A sweep against a server over real HTTP: what it measures, how it goes on, and when it keeps its hands off.

The server's time is real, so nothing here asserts a rate; that is done on a simulated replica and on a real vLLM.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ProfilingError, RawFileError, ServerBusy
from inference.profiling import level as module
from inference.profiling.plan import RequestClass, SweepPlan
from inference.profiling.sweep import Outcome, sweep
from slow_server import Faults, SlowServer, Speed

pytestmark = pytest.mark.server

CHAT = RequestClass(name="chat", prompt_tokens=40, output_tokens=6)
LONG = RequestClass(name="long", prompt_tokens=200, output_tokens=3)
GUI = RequestClass(name="gui", prompt_tokens=20, output_tokens=4, image_width=64, image_height=48)
PLAN = SweepPlan(classes=(CHAT, LONG, GUI), level_s=0.25, budget_s=150.0, max_in_flight=40)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's levels are a quarter of a second: one look each would see nothing."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.05)


def measure(server: SlowServer, raw: Path, plan: SweepPlan = PLAN, **more: Any) -> Outcome:
    return asyncio.run(sweep(server.url, plan, raw, **more))


def lines(raw: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(text) for text in raw.read_text().splitlines()]
    return [each for each in found if each["kind"] == kind]


def test_every_class_is_driven_past_its_knee_and_then_mixed(tmp_path: Path) -> None:
    raw, told = tmp_path / "raw.jsonl", []
    with SlowServer() as server:
        outcome = measure(server, raw, progress=lambda share, text: told.append((share, text)))
        assert server.completions >= len(lines(raw, "request"))
        assert server.pictures > 0
        assert server.in_flight == 0

    assert outcome.complete, outcome
    assert lines(raw, "facts") == [{"kind": "facts", "kv_tokens": 16_000}]
    levels = lines(raw, "level")
    assert [each["level"] for each in levels] == sorted({each["level"] for each in levels})
    for name in ("chat", "long", "gui"):
        own = [each for each in levels if each["class"] == name]
        assert any(each["beyond"] for each in own)
        assert not all(each["beyond"] for each in own)
    assert {"chat", "long", "gui"} == {
        each["class"] for each in lines(raw, "request") if each["level"] == levels[-1]["level"]
    }
    assert [each["class"] for each in levels[-2:]] == ["mixed", "mixed"]
    assert all(0.0 <= share <= 1.0 for share, _ in told)


def test_prompts_have_the_tokens_that_were_asked_for_and_pictures_are_told_apart(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    with SlowServer() as server:
        measure(server, raw, replace(PLAN, classes=(CHAT, GUI)))

    by_class = {each["class"]: each for each in lines(raw, "request") if each["status"] == "ok"}
    assert by_class["chat"]["prompt_tokens"] == pytest.approx(40, abs=1)
    assert by_class["gui"]["prompt_tokens"] == pytest.approx(20 + 50, abs=1)
    assert (by_class["chat"]["image_tokens"], by_class["gui"]["image_tokens"]) == (0, 50)
    assert (by_class["chat"]["output_tokens"], by_class["gui"]["output_tokens"]) == (6, 4)
    assert 0.0 < by_class["chat"]["ttft_s"] < by_class["chat"]["e2e_s"]


def test_a_spent_budget_is_gone_on_with(tmp_path: Path) -> None:
    raw, small = tmp_path / "raw.jsonl", replace(PLAN, max_requests=60)
    with SlowServer() as server:
        first = measure(server, raw, small)
        begun = raw.read_text()
        rest = measure(server, raw, PLAN)

    assert not first.complete
    assert "budget of 60 requests" in first.why
    assert rest.complete
    assert raw.read_text().startswith(begun), "what was measured is kept as it was"
    assert len(lines(raw, "sweep")) == 1
    assert len([each for each in lines(raw, "calibrated") if each["class"] == "chat"]) == 1


def test_a_level_torn_by_an_interruption_does_not_count(tmp_path: Path) -> None:
    raw, plan = tmp_path / "raw.jsonl", replace(PLAN, classes=(CHAT,))
    with SlowServer() as server:
        measure(server, raw, plan)
        whole = raw.read_text().splitlines(keepends=True)
        last = next(index for index in reversed(range(len(whole))) if '"kind":"request"' in whole[index])
        torn = json.loads(whole[-1])["level"]
        raw.write_text("".join(whole[:last]) + whole[last][:30])
        measure(server, raw, plan)

    numbers = [each["level"] for each in lines(raw, "level")]
    assert torn not in numbers
    assert torn + 1 in numbers, "a number is not used twice: its torn requests would join the new level"


@pytest.mark.slow  # a sender that waits for a core crowds nobody
def test_a_level_ends_early_once_too_many_wait(tmp_path: Path) -> None:
    raw, plan = tmp_path / "raw.jsonl", replace(PLAN, classes=(CHAT,), level_s=2.0, max_in_flight=6)
    with SlowServer(Speed(slots=1)) as server:
        assert measure(server, raw, plan).complete
    crowded = [each for each in lines(raw, "level") if each["ended"] == "crowded"]
    assert crowded
    for each in crowded:
        assert each["beyond"]
        assert each["length_s"] < 2.0, "a rate is what was sent over the time it was sent in"


@pytest.mark.parametrize(
    ("faults", "error", "said"),
    [
        pytest.param(Faults(strangers=2), ServerBusy, "serves somebody else: 2 requests run", id="others use it"),
        pytest.param(Faults(has_metrics=False), ProfilingError, "--force", id="nobody knows whether others use it"),
        pytest.param(Faults(refuse=True), ProfilingError, "status 503", id="it refuses"),
        pytest.param(Faults(break_off=True), ProfilingError, "the stream ended early", id="it breaks off"),
        pytest.param(Faults(hide_usage=True), ProfilingError, "how many tokens", id="it does not count"),
    ],
)
def test_it_does_not_begin_where(tmp_path: Path, faults: Faults, error: type[Exception], said: str) -> None:
    raw = tmp_path / "raw.jsonl"
    with SlowServer(faults=faults) as server, pytest.raises(error, match=said):
        measure(server, raw, replace(PLAN, classes=(CHAT,)))
    assert not raw.exists() or not lines(raw, "level")


@pytest.mark.parametrize("faults", [Faults(strangers=2), Faults(has_metrics=False)], ids=["others", "no page"])
def test_it_begins_all_the_same_when_told_to(tmp_path: Path, faults: Faults) -> None:
    raw = tmp_path / "raw.jsonl"
    with SlowServer(faults=faults) as server:
        outcome = measure(server, raw, replace(PLAN, classes=(CHAT,)), force=True)
    assert outcome.complete


def test_nobody_there_is_said_with_the_address(tmp_path: Path) -> None:
    with pytest.raises(ProfilingError, match=r"http://127\.0\.0\.1:9: /v1/models cannot be read"):
        asyncio.run(sweep("http://127.0.0.1:9", PLAN, tmp_path / "raw.jsonl"))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://user:secret@host"])
def test_what_is_no_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ProfilingError, match="no address"):
        asyncio.run(sweep(url, PLAN, tmp_path / "raw.jsonl"))


def test_it_stops_when_others_come_and_keeps_what_it_has(tmp_path: Path) -> None:
    raw, plan = tmp_path / "raw.jsonl", replace(PLAN, classes=(CHAT,))
    with SlowServer() as server:

        def come(_share: float, text: str) -> None:
            if "requests/s" in text and raw.exists() and len(lines(raw, "level")) == 1:
                server.faults.strangers = 50

        with pytest.raises(ServerBusy, match="to go on"):
            measure(server, raw, plan, progress=come)
        assert len(lines(raw, "level")) == 1
        server.faults.strangers = 0
        assert measure(server, raw, plan).complete


def test_another_sweeps_file_is_not_written_into(tmp_path: Path) -> None:
    raw, plan = tmp_path / "raw.jsonl", replace(PLAN, classes=(CHAT,))
    with SlowServer() as server:
        measure(server, raw, plan)
        before = raw.read_bytes()
        with pytest.raises(RawFileError, match="begun with another seed: 1, now 2"):
            measure(server, raw, replace(plan, seed=2))
        with pytest.raises(RawFileError, match="another classes"):
            measure(server, raw, replace(plan, classes=(LONG,)))
    assert raw.read_bytes() == before


def test_an_interruption_gives_up_what_is_in_flight(tmp_path: Path) -> None:
    """A server whose tokens take for ever is left alone within moments, and its connections are closed."""
    slow = Speed(step_s=0.05, slots=2)
    plan = replace(PLAN, classes=(CHAT,), level_s=60.0)
    raw = tmp_path / "raw.jsonl"

    async def interrupted(server: SlowServer) -> None:
        task = asyncio.create_task(sweep(server.url, plan, raw))
        while not (raw.exists() and lines(raw, "calibrated") and server.in_flight):
            assert not task.done(), task
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.in_flight == 0 and server.aborted > 0)

    with SlowServer(slow) as server:
        asyncio.run(interrupted(server))
    assert not lines(raw, "level")


async def until(holds: Callable[[], bool]) -> None:
    """Waits as long as it takes; the test's own limit ends it."""
    while not holds():  # noqa: ASYNC110 - the server lives in another thread
        await asyncio.sleep(0.02)


def test_the_key_is_sent_and_written_nowhere(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    with SlowServer() as server:
        measure(server, raw, replace(PLAN, classes=(CHAT,)), api_key="s3cret")
        assert server.keys == {"Bearer s3cret"}
    assert "s3cret" not in raw.read_text()
