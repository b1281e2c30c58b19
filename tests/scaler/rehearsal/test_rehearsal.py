"""The rehearsal's parts without a real vLLM: its rhythm and its made-up past, its load, its settings, notes and picture.

Invariants of the rhythm: it repeats to the second, a day later too, and never leaves its two levels.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.adapters.settings import read_settings
from scaler.rehearsal.load import Ask, Shooter, Shot, Target
from scaler.rehearsal.notes import Change, Notes, in_words
from scaler.rehearsal.page import page
from scaler.rehearsal.recipe import (
    WORKLOAD,
    Plan,
    daemon_settings,
    gateway_settings,
    prometheus_settings,
    tiny_vllm,
)
from scaler.rehearsal.rhythm import DAY, Rhythm, open_metrics
from servers import MisbehavingServer, RawConversation, prometheus_is_installed

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
RHYTHM = Rhythm(first_burst_at=NOON)
MINUTE = timedelta(minutes=1)


# ── Rhythm and past ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("after_s", "rate_rps"),
    [
        pytest.param(-1, 0.5, id="quiet before it"),
        pytest.param(0, 0.5, id="it begins"),
        pytest.param(30, 2.75, id="half way up"),
        pytest.param(60, 5.0, id="up"),
        pytest.param(359, 5.0, id="its last second"),
        pytest.param(360, 0.5, id="over"),
        pytest.param(1200 + 60, 5.0, id="and again"),
    ],
)
def test_what_is_offered(after_s: float, rate_rps: float) -> None:
    assert RHYTHM.rate_rps(NOON + timedelta(seconds=after_s)) == pytest.approx(rate_rps)


@given(after_s=st.integers(-200 * 86_400, 200 * 86_400))
def test_it_comes_back_every_day_and_never_leaves_its_levels(after_s: int) -> None:
    at = NOON + timedelta(seconds=after_s)
    rate = RHYTHM.rate_rps(at)
    assert rate == pytest.approx(RHYTHM.rate_rps(at + DAY))
    assert RHYTHM.quiet_rps <= rate <= RHYTHM.burst_rps
    begin = RHYTHM.next_burst_at(at)
    assert at <= begin < at + RHYTHM.period
    assert RHYTHM.bursting(begin)


def test_a_period_that_does_not_divide_a_day_is_refused() -> None:
    with pytest.raises(ValueError, match="divide a day"):
        Rhythm(first_burst_at=NOON, period=timedelta(minutes=7))


def test_the_past_counts_what_the_rhythm_offers() -> None:
    lines = list(open_metrics(RHYTHM, start=NOON, end=NOON + RHYTHM.period, labels={"model": "tiny"}))
    assert lines[0] == "# TYPE headstart_gateway_requests counter"
    assert lines[-1] == "# EOF"
    counted = float(lines[-2].split()[1])
    # 14 quiet minutes at 0.5, 5.5 of burst at 5, a minute of rise: 2,100 to within a step of 30 s.
    assert counted == pytest.approx(14 * 60 * 0.5 + 5 * 60 * 5 + 60 * 2.75, rel=0.1)


@pytest.mark.skipif(not prometheus_is_installed(), reason="promtool is not installed")
def test_promtool_takes_the_past(tmp_path: Path) -> None:
    source = tmp_path / "past.om"
    lines = open_metrics(RHYTHM, start=NOON - timedelta(hours=3), end=NOON, labels={"model": "tiny"})
    source.write_text("\n".join(lines) + "\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(tmp_path / "data")]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


# ── Settings ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(recipe=tiny_vllm(tmp_path / "vllm", tmp_path / "support"))


def test_the_daemon_takes_its_settings(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "variants.yaml").write_text(plan.recipe.catalogue)
    (tmp_path / "headstart.yaml").write_text(daemon_settings(plan))
    config = read_settings(tmp_path / "headstart.yaml")
    policy = config.policy(WORKLOAD)
    assert policy is not None
    assert (policy.bounds.max_replicas, policy.guard.calm) == (3, MINUTE)
    assert config.local.gateways == (plan.ports.url(plan.ports.gateway),)


def test_prometheus_takes_its_settings(plan: Plan, tmp_path: Path) -> None:
    if not prometheus_is_installed():
        pytest.skip("promtool is not installed")
    (tmp_path / "targets.json").write_text("[]")
    (tmp_path / "prometheus.yml").write_text(prometheus_settings(plan, targets=tmp_path / "targets.json"))
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_gateway_takes_its_settings(plan: Plan, tmp_path: Path) -> None:
    settings = pytest.importorskip("inference.gateway.settings", reason="this tree has no gateway")
    parsed = settings.parse_settings(gateway_settings(plan, backends=tmp_path / "b.json"), source="gateway.yaml")
    assert parsed.listen.port == plan.ports.gateway


# ── Load ──────────────────────────────────────────────────────────────────────────────────────────────────────


CLOSED = "Connection: close\r\n"
"""The server closes after each answer. Unsaid, the next request may go out on a connection that is just being closed."""


def streamed(conversation: RawConversation) -> None:
    """A whole answer."""
    body = b'data: {"n": 1}\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'
    conversation.answer(200, body, content_type="text/event-stream", head=CLOSED)


def cut(conversation: RawConversation) -> None:
    """An answer that ends before its end."""
    conversation.answer(200, b'data: {"n": 1}\n\n', content_type="text/event-stream", head=CLOSED)


def torn(conversation: RawConversation) -> None:
    """A connection that ends in the middle of a body."""
    conversation.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\ndata: {}\n\n")


def busy(conversation: RawConversation) -> None:
    """No answer but a refusal."""
    conversation.answer(503, b"no server", head=CLOSED)


def shoot(url: str, count: int, *, images_share: float = 0.0) -> list[Shot]:
    """Send until `count` have left; answers once all of them have ended."""

    def rate_rps(_: datetime) -> float:
        if len(shooter.target.shots) >= count:
            shooter.ask_to_stop()
        return 200.0

    shooter = Shooter(url, Ask(model="tiny", images_share=images_share), rate_rps)
    asyncio.run(shooter.run())
    return list(shooter.target.shots)


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        pytest.param(streamed, "", id="served"),
        pytest.param(cut, "cut off before its end", id="cut off"),
        pytest.param(torn, "RemoteProtocolError", id="torn"),
        pytest.param(busy, "status 503: no server", id="refused"),
    ],
)
def test_what_became_of_each_request_is_written_down(behaviour, problem: str) -> None:
    with MisbehavingServer(behaviour) as server:
        shots = shoot(server.url, 3)
    assert all(each.is_over for each in shots), "it waits for everything that it sent"
    assert all(each.problem.startswith(problem) for each in shots)
    assert all(each.served == (problem == "") for each in shots)


def test_pictures_are_sent_and_no_two_requests_are_alike() -> None:
    with MisbehavingServer(streamed) as server:
        shots = shoot(server.url, 8, images_share=0.5)
        bodies = [json.loads(each.body) for each in server.received]
    pictures = [each for each in bodies if isinstance(each["messages"][0]["content"], list)]
    assert 0 < len(pictures) == sum(each.image for each in shots) < len(bodies)
    assert len({json.dumps(each) for each in bodies}) == len(bodies)
    assert all(each["stream"] for each in bodies)


def test_the_95th_percentile_is_one_of_the_times() -> None:
    target = Target()
    for number in range(1, 21):
        target.shots.append(Shot(sent_at=NOON, image=False, status=200, e2e_s=float(number), problem=""))
    target.shots.append(Shot(sent_at=NOON, image=False, e2e_s=99.0, problem="torn"))
    assert target.p95_s(NOON) == 19.0
    assert target.p95_s(NOON + MINUTE) is None


# ── Notes and picture ─────────────────────────────────────────────────────────────────────────────────────────


def row(wanted: int, ready: int) -> dict[str, object]:
    return {"replicas": {"desired": wanted, "ready": ready}, "demand_rps": {"other": 0.5}, "state": "OK"}


def decided(at: datetime, current: int, target: int) -> dict[str, object]:
    return {"at": at.isoformat(), "decision": {"current": current, "target": target, "reason": "forecast"}}


@pytest.fixture
def notes() -> Notes:
    found, begin = Notes(rhythm=RHYTHM, max_rps=2.0), NOON - 5 * MINUTE
    points = [{"horizon_s": 60.0 * n, "quantiles": {"0.5": float(n)}} for n in range(1, 9)]
    forecast = {"classes": [{"points": points}]}
    found.look(None, None, None, Target(), now=begin)
    found.look(row(1, 1), decided(begin, 1, 1), forecast, Target(), now=begin + MINUTE)
    for _ in range(2):  # seen twice, it is one change
        found.look(row(2, 1), decided(begin + MINUTE, 1, 2), forecast, Target(), now=begin + 2 * MINUTE)
    found.look(row(3, 3), decided(NOON + MINUTE, 2, 3), forecast, Target(), now=NOON + MINUTE)
    return found


def test_each_change_is_noted_once_with_its_distance_from_the_burst(notes: Notes) -> None:
    assert [(each.before, each.after, each.burst_in_s) for each in notes.changes] == [(1, 2, 240.0), (2, 3, 0.0)]
    assert [in_words(each) for each in notes.ahead] == ["11:56:00  1 → 2, forecast, 240 s before the burst"]


def test_what_is_not_known_is_no_number(notes: Notes) -> None:
    first, second = notes.lines[:2]
    assert (first.wanted, first.soon_rps, first.measured_rps, first.p95_s) == (None, None, None, None)
    assert (second.soon_rps, second.measured_rps) == (5.0, 0.5)


def drawn(text: str) -> Iterator[ElementTree.Element]:
    """The picture's elements; it is whole if it can be read."""
    begin, end = text.index("<svg"), text.index("</svg>") + len("</svg>")
    return ElementTree.fromstring(text[begin:end]).iter()


def test_the_picture_has_every_curve_and_the_burst(notes: Notes) -> None:
    text = page(notes)
    kinds = [each.get("class") for each in drawn(text)]
    assert {"line load", "line soon", "line ready", "line wanted", "area", "burst"} <= set(kinds)
    assert "1 → 2" in text
    assert "http" not in text, "it asks nobody for anything"


def test_a_reason_cannot_write_into_the_page(notes: Notes) -> None:
    notes.changes.append(Change(at=NOON, before=1, after=2, reason="<script>", burst_in_s=0.0))
    assert "<script>" not in page(notes)
