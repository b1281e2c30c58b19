"""What a running daemon follows without a restart: orders on annotations, workloads that are annotated, its settings.

The whole daemon in this process, on a clock that the test moves, over a strict double of the Kubernetes API. Its
Prometheus does not answer, so that nothing is ever released: what is written is the minimum, or what a person orders.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon_process import running, until
from daemon_site import EVERYTHING, Site, a_site
from scaler.daemon.discovery import LOOK_EVERY_S, as_a_start_would, discovered
from scaler.policy.types import Mode
from servers import free_port

pytestmark = pytest.mark.server


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with a_site(tmp_path, monkeypatch) as site:
        yield site


# ── Orders on annotations ─────────────────────────────────────────────────────────────────────────────────────


def test_a_pause_on_the_deployment_counts_from_the_next_tick_until_it_is_removed(site: Site) -> None:
    site.cluster.annotate("llm", "chat", paused="true: new nodes")
    row = site.begin().tick()["llm/chat"]
    assert (row["state"], site.scale(), site.cluster.mutating_requests) == ("PAUSED", 1, 0)
    site.cluster.annotate("llm", "chat", paused=None)
    assert site.tick()["llm/chat"]["state"] != "PAUSED"
    assert site.scale() == 3


def test_a_pause_begins_while_it_runs(site: Site) -> None:
    site.begin().tick()
    site.cluster.annotate("llm", "chat", paused="true")
    site.cluster.set_replicas("llm", "chat", 2)  # below the minimum, and left there
    assert [site.tick()["llm/chat"]["state"] for _ in range(3)] == ["PAUSED"] * 3
    assert site.scale() == 2


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("", 500, id="nothing can be read"),
        pytest.param(r"/deployments(\?|$)", 403, id="only the scale can be read"),
    ],
)
def test_who_paused_stays_paused_while_the_annotation_cannot_be_read(site: Site, path: str, status: int) -> None:
    site.cluster.annotate("llm", "chat", paused="true")
    site.begin().tick()
    site.cluster.fault(method="GET", path=path, status=status, times=EVERYTHING)
    for _ in range(3):
        site.tick()
    view = site.daemon.board.view()
    assert view is not None
    assert view.report.records[0].snapshot.control.pause is not None
    assert (site.scale(), site.cluster.mutating_requests) == (1, 0)


def test_an_annotation_that_nobody_understands_pauses_and_is_told(site: Site) -> None:
    site.cluster.annotate("llm", "chat", paused="yes please")
    row = site.begin().tick()["llm/chat"]
    assert row["state"] == "PAUSED"
    (note,) = [note for note in row["notes"] if "must be" in note]
    assert note == (
        'headstart.autoscaling/paused must be "true" or "false", got \'yes please\'; nothing is written until it is mended'
    )
    site.cluster.annotate("llm", "chat", paused="false")
    row = site.tick()["llm/chat"]
    assert (site.scale(), [note for note in row["notes"] if "must be" in note]) == (3, [])


def test_an_override_on_the_deployment_is_followed_and_ends_by_itself(site: Site) -> None:
    site.begin()
    until = site.now + timedelta(minutes=5)
    site.cluster.annotate("llm", "chat", override=f"7 until {until:%Y-%m-%dT%H:%M:%SZ}: load test")
    row = site.tick()["llm/chat"]
    assert (row["state"], site.scale()) == ("OVERRIDDEN", 7)
    states = [site.tick()["llm/chat"]["state"] for _ in range(5)]
    assert states[:3] == ["OVERRIDDEN"] * 3
    assert states[-1] != "OVERRIDDEN"
    assert site.scale() == 7, "demand is unknown: nothing is released"


def test_an_override_that_nobody_understands_is_told_and_not_followed(site: Site) -> None:
    site.cluster.annotate("llm", "chat", override="seven for an hour")
    row = site.begin().tick()["llm/chat"]
    assert any("it is not followed" in note for note in row["notes"])
    assert site.scale() == 3


# ── Workloads that are annotated ──────────────────────────────────────────────────────────────────────────────


def test_a_deployment_that_is_annotated_joins_at_the_next_search_and_leaves_when_it_is_taken_back(site: Site) -> None:
    site.begin().tick()
    site.annotated("docs")
    assert set(site.look(LOOK_EVERY_S)) == {"llm/chat", "llm/docs"}
    assert site.scale("docs") == 3
    site.cluster.annotate("llm", "docs", min_replicas="5")
    assert set(site.look(LOOK_EVERY_S - 1)) == {"llm/chat", "llm/docs"}
    assert site.scale("docs") == 3, "not looked for yet"
    site.look(1)
    assert site.scale("docs") == 5
    site.cluster.annotate("llm", "docs", enabled="false")
    assert set(site.look()) == {"llm/chat"}
    assert site.scale("docs") == 5, "who leaves keeps his scale"


def test_a_reload_keeps_what_was_found_and_its_memory(site: Site) -> None:
    site.annotated("docs")
    site.begin().tick()
    site.cluster.deployment("llm", "code", replicas=1)
    assert set(site.reload(site.settings("llm/chat llm/code"))) == {"llm/chat", "llm/code", "llm/docs"}
    (reloaded,) = site.log.of("reloaded")
    assert reloaded == {"added": ["llm/code"]}
    records = site.daemon.board.view().report.records  # type: ignore[union-attr]
    assert {each.policy.workload: each.state.last_tick_at is not None for each in records} == {
        "llm/chat": True,
        "llm/code": False,
        "llm/docs": True,
    }


def test_a_search_that_finds_the_same_changes_nothing(site: Site) -> None:
    site.annotated("docs")
    site.begin().tick()
    for _ in range(3):
        site.look()
    assert site.log.of("reloaded") == []
    assert len(site.log.of("discovered")) == 1


def unreachable(site: Site) -> None:
    site.cluster.kill()


def without_credentials(site: Site) -> None:
    (site.folder / "kubeconfig").unlink()


def refused(site: Site) -> None:
    site.cluster.fault(method="GET", path=r"/deployments(\?|$)", status=403, times=EVERYTHING)


@pytest.mark.parametrize("fault", [unreachable, without_credentials, refused])
def test_while_nobody_can_be_asked_the_fleet_stays(site: Site, fault: Any) -> None:
    site.annotated("docs")
    site.begin().tick()
    fault(site)
    assert set(site.look()) == {"llm/chat", "llm/docs"}
    assert len(site.log.of("discovery")) == 1
    assert set(site.look()) == {"llm/chat", "llm/docs"}
    assert len(site.log.of("discovery")) == 1, "told once"
    rows = site.reload(site.settings("llm/chat llm/docs"))  # the file takes it over meanwhile
    assert list(rows) == ["llm/chat", "llm/docs"], "once, and as the file has it"


def test_a_sudden_fleet_waits_until_it_is_confirmed(site: Site) -> None:
    site.annotated("docs")
    site.begin().tick()
    names = [f"n{n:02}" for n in range(12)]
    site.annotated(*names)
    assert set(site.look()) == {"llm/chat", "llm/docs"}
    (told,) = site.log.of("discovery")
    assert "12 are held back; set discover.confirm: 13" in told["detail"]
    assert {site.scale(name) for name in names} == {1}
    rows = site.reload(site.settings(confirm=13))
    assert len(rows) == 14
    assert {site.scale(name) for name in names} == {3}
    (reloaded,) = site.log.of("reloaded")
    assert (reloaded["settings"], "needs_restart" in reloaded) == (["discover.confirm"], False)
    assert len(site.look()) == 14, "and they stay"


def test_whoever_looks_beside_the_daemon_finds_the_fleet_that_it_found(site: Site) -> None:
    """`doctor` holds nobody back whom the daemon knows: its data folder says who that is."""
    names = [f"n{n:02}" for n in range(12)]
    site.annotated(*names)
    site.begin(confirm=13).tick()
    unconfirmed = site.settings()
    (held,) = discovered(unconfirmed, known=()).told
    assert "12 are held back" in held
    seen = as_a_start_would(unconfirmed)
    assert (len(seen.config.fleet.workloads), seen.told) == (13, ())


# ── Settings ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_workload_that_gets_a_floor_is_written_there_from_then_on_and_back(site: Site) -> None:
    site.begin().tick()
    site.cluster.hpa("llm", "chat", least=1, most=10)
    rows = site.reload(site.settings(mode="floor"))
    assert (site.cluster.floor("llm", "chat"), rows["llm/chat"]["mode"]) == (3, Mode.FLOOR)
    assert rows["llm/chat"]["state"] != "HELD(manual)", "a floor of 1 is nobody's change of a scale of 3"
    site.cluster.set_spec("horizontalpodautoscalers", "llm", "chat", minReplicas=1)
    site.cluster.set_replicas("llm", "chat", 2)
    written = len(site.cluster.requests)
    site.reload(site.settings(mode="active"))
    patched = [each.path for each in site.cluster.requests[written:] if each.method == "PATCH"]
    assert patched == ["/apis/apps/v1/namespaces/llm/deployments/chat/scale"]


def test_rivals_are_looked_for_where_the_settings_or_a_person_say_active(site: Site) -> None:
    def rivals() -> list[str]:
        site.daemon.rivals.look()
        return [note for note in site.tick()["llm/chat"]["notes"] if "writes the same replicas" in note]

    site.begin().tick()
    site.cluster.hpa("llm", "chat", least=1, most=10)
    assert len(rivals()) == 1
    site.reload(site.settings(mode="floor"))
    assert rivals() == [], "an autoscaler above a floor is no rival"
    site.reload(site.settings(mode="active"))
    assert len(rivals()) == 1
    site.cluster.annotate("llm", "chat", mode="observe")
    site.tick()
    assert rivals() == [], "whoever writes what a person has us observe is no rival"
    site.cluster.annotate("llm", "chat", mode="active")
    site.reload(site.settings(mode="observe"))
    assert len(rivals()) == 1


# ── The process ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_search_that_hangs_keeps_nobody_from_ending_the_process(site: Site, tmp_path: Path) -> None:
    """A search may take twenty seconds; Kubernetes kills what does not end in time, and a lease would run out."""
    for name in ("other", "third"):  # ten seconds each
        site.cluster.namespace(name)
    site.namespaces, site.port = "other, third", free_port()
    config, searching = site.settings(), threading.Event()
    with running(config.path, site.port, log=tmp_path / "log") as process:
        until(lambda: process.ready)
        site.cluster.fault(
            path="/namespaces/(other|third)/deployments", hang_s=60, times=EVERYTHING, then=searching.set
        )
        process.child.send_signal(signal.SIGHUP)
        assert searching.wait(30)
        code, took_s = process.stop()
        assert (code, took_s < 15) == (0, True)
        assert process.events("stopped")
