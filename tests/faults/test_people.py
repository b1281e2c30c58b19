"""People and other writers (rows 34, 35 and 44 of the list of faults): left alone, obeyed, and not imitated.

The daemon's own round over a real HTTP server that is as strict as a Kubernetes API, its real journal and its real
control file; what is asserted is what reached the server. Time is the server's and moves a minute a tick.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from forecaster.types import Known
from kube_double import KubeDouble
from policy_cases import a_policy
from scaler.adapters.board import Board
from scaler.adapters.control_annotations import AnnotatedControls
from scaler.adapters.control_desk import ControlDesk, Word
from scaler.adapters.control_file import ControlFile
from scaler.adapters.documents import workloads_document
from scaler.adapters.journal import replay
from scaler.adapters.kubernetes import ApiConnection, Kubeconfig, KubernetesCluster, TargetRef
from scaler.adapters.ledger import StoreJournal
from scaler.adapters.store import Store
from scaler.adapters.targets import KubernetesTargets
from scaler.adapters.telemetry import Telemetry
from scaler.adapters.watchdog import Health
from scaler.daemon.orders import orders_of
from scaler.daemon.round import Outlets, Round
from scaler.loop import Fleet, Ports
from scaler.policy.decide import WorkloadPolicy, decide_within
from scaler.policy.types import ClassReadings, DemandForecast, Mode
from scaler.ports import WorkloadSignals
from scaler.web.app import Sources, create_app
from scaler.web.server import WebServer

pytestmark = pytest.mark.server

CHAT = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="chat")
ANA = Word(by="ana", reason="load test")


class NoForecasts:
    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        return {}


@dataclass
class Demand:
    """Requests per second at the front door; one replica serves ten."""

    rps: float = 21.0

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return {"llm/chat": WorkloadSignals(classes=(ClassReadings(demand_rps=Known(value=self.rps)),))}


@dataclass
class Log:
    """What the daemon logged."""

    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **keys: Any) -> None:
        self.told.append((event, keys))

    warning = error = critical = info

    def names(self) -> list[str]:
        return [name for name, _ in self.told]


@dataclass
class World:
    """A cluster, a data folder, and the daemon's round on top; `run` may be left and begun again, as a process is."""

    cluster: KubeDouble
    folder: Path
    demand: Demand = field(default_factory=Demand)
    policy: WorkloadPolicy = field(default_factory=lambda: a_policy(least=1, most=12))
    log: Log = field(default_factory=Log)

    @property
    def now(self) -> datetime:
        return self.cluster.now

    @property
    def desk(self) -> ControlDesk:
        return ControlDesk(ControlFile(self.folder), known=lambda: ["llm/chat"])

    @property
    def scale(self) -> int:
        return self.cluster.replicas("llm", "chat")

    def patches(self) -> list[int]:
        """The scales that we asked the server for."""
        return [each.body["spec"]["replicas"] for each in self.cluster.requests if each.method == "PATCH"]

    def events(self) -> list[Any]:
        return [each.body for each in self.cluster.requests if each.method == "POST" and "/events" in each.path]

    @contextmanager
    def run(self) -> Iterator[Daemon]:
        with ExitStack() as stack:
            api = ApiConnection(Kubeconfig(path=self.cluster.kubeconfig(self.folder)))
            stack.callback(api.close)
            store = stack.enter_context(Store.open(self.folder, now=self.now))
            journal, board = StoreJournal(store), Board()
            targets = KubernetesTargets(KubernetesCluster(api), {"llm/chat": CHAT})
            orders = orders_of(ControlFile(self.folder), journal, self.log)
            ports = Ports(
                signals=self.demand,
                forecasts=NoForecasts(),
                targets=targets,
                journal=journal,
                controls=AnnotatedControls(orders, targets.annotations),
            )
            outlets = Outlets(
                board=board,
                telemetry=Telemetry(board),
                log=self.log,
                announce=lambda now: targets.announce(now=now),
                tell_conflict=targets.tell_conflict,
                mutating_requests=lambda: api.mutating_requests,
                control_trouble=lambda: orders.trouble,
            )
            fleet = Fleet(workloads=(self.policy,))
            tour = Round(fleet, ports, outlets, states=journal.states(now=self.now))
            yield Daemon(world=self, tour=tour, board=board, store=store, telemetry=outlets.telemetry)


@dataclass
class Daemon:
    """One life of the daemon."""

    world: World
    tour: Round
    board: Board
    store: Store
    telemetry: Telemetry

    def tick(self) -> str:
        """A minute passes, one round is run; answers the state that people see."""
        self.world.cluster.advance(60)
        self.tour.run(now=self.world.now)
        return str(self.row["state"])

    def ticks(self, count: int) -> list[str]:
        return [self.tick() for _ in range(count)]

    @property
    def row(self) -> dict[str, Any]:
        (row,) = workloads_document(self.board.view())["items"]
        return dict(row)

    def broken(self) -> float:
        """Promises that were broken, by the daemon's own count."""
        registry = self.telemetry.registry
        name = "headstart_invariant_violations_total"
        return sum(registry.get_sample_value(name, {"invariant": each}) or 0.0 for each in ("I1", "I2", "I8"))

    def replays(self) -> bool:
        """Whether every record of the journal decides the same again."""
        return all(row.equal for row in replay(self.store.journal.records(), decide_within))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with KubeDouble() as cluster:
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=4)
        yield World(cluster=cluster, folder=tmp_path)


# ── 34 · another autoscaler ───────────────────────────────────────────────────────────────────────────────────


def test_row_34_an_autoscaler_that_sets_every_value_back_is_held_after_two_changes_told_and_not_fought(
    world: World,
) -> None:
    world.demand.rps = 60.0  # wants nine replicas; the other one wants three
    seen = []
    with world.run() as daemon:
        for _ in range(60):
            if world.scale != 3:
                world.cluster.set_replicas("llm", "chat", 3)
            seen.append(daemon.tick())
        row, replays, broken = daemon.row, daemon.replays(), daemon.broken()
    first = seen.index("HELD(conflict)")
    assert "HELD(manual)" in seen[:first], "one change may be a hand"
    assert set(seen[first : first + 30]) == {"HELD(conflict)"}
    assert len(world.patches()) <= 3, "no war: in an hour of two a minute would be 120"
    warnings = [each for each in world.events() if each["type"] == "Warning"]
    begun = sum(now == "HELD(conflict)" != before for before, now in pairwise(["", *seen]))
    assert len(warnings) == begun, "one Event each time it begins"
    assert (warnings[0]["reason"], warnings[0]["regarding"]["name"]) == ("HeldForOtherWriter", "chat")
    assert warnings[0]["regarding"]["uid"], "kubectl describe looks for it"
    assert "headstart resume llm/chat" in warnings[0]["note"]
    assert "remove the other autoscaler" in warnings[0]["note"]
    assert "other_writer" in world.log.names()
    assert row["state"] != "HELD(conflict)" or "resume" in row["way_out"]
    assert replays
    assert broken == 0


def test_row_34_a_writer_that_never_rests_is_never_answered(world: World) -> None:
    with world.run() as daemon:
        daemon.ticks(3)
        before = len(world.patches())
        seen = []
        for minute in range(40):
            world.cluster.set_replicas("llm", "chat", 3 + minute % 3)
            seen.append(daemon.tick())
        assert len(world.patches()) == before
    assert seen[0] == "HELD(manual)"
    assert set(seen[1:]) == {"HELD(conflict)"}


def test_row_34_a_value_set_back_during_a_restart_is_seen(world: World) -> None:
    world.demand.rps = 60.0
    with world.run() as daemon:
        daemon.tick()
        assert world.scale > 4
    world.cluster.set_replicas("llm", "chat", 4)
    with world.run() as daemon:
        assert daemon.tick() == "HELD(manual)", "the journal says that our write had happened"


def test_row_34_once_the_other_is_gone_a_person_gives_it_back_at_once(world: World) -> None:
    with world.run() as daemon:
        daemon.ticks(2)
        for value in (3, 5):
            world.cluster.set_replicas("llm", "chat", value)
            last = daemon.tick()
        assert last == "HELD(conflict)"
        world.demand.rps = 100.0
        world.desk.resume("llm/chat", now=world.now)
        assert "HELD" not in daemon.tick()
        assert world.scale > 5


# ── 35 · a person with kubectl ────────────────────────────────────────────────────────────────────────────────


def test_row_35_a_scale_by_hand_is_respected_for_manual_hold_and_then_released(world: World) -> None:
    with world.run() as daemon:
        daemon.ticks(12)
        before = world.patches()
        world.cluster.set_replicas("llm", "chat", 7)
        held = daemon.ticks(15)
        assert held == ["HELD(manual)"] * 15
        assert daemon.row["way_out"].endswith("or headstart resume llm/chat")
        assert (world.patches(), world.scale) == (before, 7)
        after = daemon.ticks(25)
        assert "HELD(manual)" not in after
        assert world.scale in (3, 4), "what 21 requests a second need"
        assert daemon.replays()
        assert daemon.broken() == 0


def test_row_35_a_hold_outlives_a_restart_and_a_restart_is_no_change(world: World) -> None:
    with world.run() as daemon:
        daemon.ticks(3)
        world.cluster.set_replicas("llm", "chat", 7)
        assert daemon.tick() == "HELD(manual)"
    with world.run() as daemon:
        assert daemon.ticks(3) == ["HELD(manual)"] * 3
    world.cluster.advance(1800)
    with world.run() as daemon:
        assert "HELD" not in daemon.tick()


def test_row_35_our_own_write_whose_answer_was_lost_is_no_hand_also_after_a_restart(world: World) -> None:
    world.demand.rps = 60.0
    with world.run() as daemon:
        world.cluster.fault(method="PATCH", drop="after")
        world.cluster.fault(method="GET", path="/scale", skip=1, status=503)
        assert daemon.tick() == "DEGRADED"
    assert world.scale > 4, "the write happened"
    with world.run() as daemon:
        assert "HELD" not in daemon.tick()


def test_row_35_observed_workloads_are_changed_by_whoever_likes(world: World) -> None:
    world.policy = a_policy(least=1, most=12, mode=Mode.OBSERVE)
    with world.run() as daemon:
        for value in (3, 6, 2, 7):
            world.cluster.set_replicas("llm", "chat", value)
            assert "HELD" not in daemon.tick()
    assert world.cluster.mutating_requests == 0


# ── Taking over ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("everybody", [pytest.param(False, id="one"), pytest.param(True, id="the fleet")])
def test_paused_the_server_is_sent_nothing_that_changes_anything(world: World, everybody: bool) -> None:
    whom = None if everybody else "llm/chat"
    with world.run() as daemon:
        daemon.ticks(2)
        world.desk.pause(whom, ANA, now=world.now)
        before = world.cluster.mutating_requests
        for rps in (90.0, 0.0, 300.0, 5.0):
            world.demand.rps = rps
            assert set(daemon.ticks(12)) == {"PAUSED"}
        assert world.cluster.mutating_requests == before
        assert "by ana" in daemon.row["cause"]
        world.demand.rps = 90.0
        world.desk.resume(whom, now=world.now)
        assert daemon.tick() != "PAUSED"
        assert world.cluster.mutating_requests > before
        assert daemon.replays()
        assert daemon.broken() == 0


def test_a_pause_that_comes_while_a_tick_is_reading_counts_for_that_tick(world: World) -> None:
    world.demand.rps = 90.0
    with world.run() as daemon:
        world.cluster.fault(
            method="GET",
            path="/pods",
            hang_s=0.001,
            then=lambda: world.desk.pause("llm/chat", ANA, now=world.now),
        )
        assert daemon.tick() == "PAUSED"
        assert world.patches() == []


def test_an_override_is_followed_across_a_restart_and_ends_while_nobody_looks(world: World) -> None:
    with world.run() as daemon:
        daemon.ticks(2)
        ends = world.now + timedelta(minutes=40)
        world.desk.override("llm/chat", 9, ends, ANA, now=world.now)
        assert daemon.tick() == "OVERRIDDEN"
        assert world.scale == 9
        assert "load test" in daemon.row["cause"]
    with world.run() as daemon:
        assert daemon.ticks(5) == ["OVERRIDDEN"] * 5
        assert world.scale == 9
    world.cluster.advance(3600)
    with world.run() as daemon:
        assert "OVERRIDDEN" not in daemon.ticks(30)
        assert world.scale < 9, "then the rules decide again"
        assert daemon.replays()
        assert daemon.broken() == 0


def test_a_mode_by_hand_goes_over_the_settings(world: World) -> None:
    world.demand.rps = 90.0
    world.desk.switch("llm/chat", Mode.OBSERVE, ANA, now=world.now)
    with world.run() as daemon:
        daemon.ticks(3)
        assert (daemon.row["mode"], world.cluster.mutating_requests) == ("observe", 0)
        world.desk.switch("llm/chat", Mode.ACTIVE, ANA, now=world.now)
        daemon.tick()
        assert (daemon.row["mode"], len(world.patches())) == ("active", 1)
        assert daemon.broken() == 0


@pytest.mark.parametrize("configured", [Mode.OBSERVE, Mode.ACTIVE, Mode.PUBLISH])
def test_a_floor_by_hand_writes_no_replicas_where_the_settings_name_no_floor(world: World, configured: Mode) -> None:
    """An HPA holds the replicas, and which one it is stands in the settings alone: until then nobody writes."""
    world.cluster.hpa("llm", "chat", least=2)
    world.demand.rps = 90.0
    world.policy = a_policy(least=1, most=12, mode=configured)
    order = {"mode": {"mode": "floor"}}
    (world.folder / "control.json").write_text(
        json.dumps({"version": 1, "fleet": {}, "workloads": {"llm/chat": order}})
    )
    with world.run() as daemon:
        daemon.ticks(3)
        assert (daemon.row["mode"], world.cluster.mutating_requests) == ("observe", 0)
        assert any("the settings do not say mode: floor" in note for note in daemon.row["notes"])
        assert daemon.replays()
        assert daemon.broken() == 0


def test_a_floor_on_the_workload_writes_no_replicas_until_its_settings_name_one(world: World) -> None:
    """`mode: active` changed to `floor` on a discovered Deployment: its settings are found up to a minute later."""
    world.cluster.hpa("llm", "chat", least=2)
    world.cluster.annotate("llm", "chat", mode="active")
    world.demand.rps = 40.0
    with world.run() as daemon:
        daemon.ticks(2)
        asked = len(world.patches())
        world.cluster.annotate("llm", "chat", mode="floor")
        world.demand.rps = 90.0
        daemon.ticks(3)
        assert (daemon.row["mode"], len(world.patches())) == ("observe", asked)
        assert daemon.broken() == 0


def damaged(path: Path) -> None:
    path.write_text('{"version": 1, "workloads": {"llm/chat": {"pause":', encoding="utf-8")


def of_another_version(path: Path) -> None:
    path.write_text('{"version": 7, "workloads": {}}', encoding="utf-8")


def misspelt(path: Path) -> None:
    path.write_text('{"version": 1, "workloads": {"llm/chat": {"paused": {}}}}', encoding="utf-8")


@pytest.mark.parametrize("harm", [damaged, of_another_version, misspelt])
def test_a_control_file_that_cannot_be_read_leaves_the_last_orders_in_force_and_is_told(
    world: World, harm: Callable[[Path], None]
) -> None:
    world.demand.rps = 90.0
    world.desk.pause("llm/chat", ANA, now=world.now)
    path = world.folder / "control.json"
    good = path.read_text(encoding="utf-8")
    with world.run() as daemon:
        assert daemon.tick() == "PAUSED"
        harm(path)
        assert daemon.ticks(3) == ["PAUSED"] * 3
        assert any(str(path) in note for note in daemon.row["notes"])
    with world.run() as daemon:
        assert daemon.tick() == "PAUSED", "a restart goes on with what the journal knows"
        assert "by ana" in daemon.row["cause"]
        path.write_text(good, encoding="utf-8")
        assert daemon.tick() == "PAUSED"
        assert daemon.row["notes"] == []
    assert world.log.names().count("control_unreadable") == 2, "once a life"
    assert world.patches() == []


def test_a_first_start_with_a_damaged_control_file_writes_nothing_until_it_is_mended(world: World) -> None:
    world.demand.rps = 90.0
    damaged(world.folder / "control.json")
    with world.run() as daemon:
        assert daemon.tick() == "PAUSED"
        assert daemon.row["way_out"] == "mend or remove control.json in the data folder"
        (world.folder / "control.json").unlink()
        daemon.tick()
        assert world.patches() != []


# ── 44 · the page of somebody else ────────────────────────────────────────────────────────────────────────────


@dataclass
class Api:
    """The daemon's API over a data folder."""

    port: int
    folder: Path

    def send(
        self, method: str, path: str, body: object = None, *, host: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            named = {"Host": host or f"127.0.0.1:{self.port}"} | {k.replace("_", "-"): v for k, v in headers.items()}
            data = None
            if body is not None:
                named.setdefault("Content-Type", "application/json")
                data = json.dumps(body)
            connection.request(method, path, body=data, headers=named)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if text.startswith("{") else text
        finally:
            connection.close()

    @property
    def ordered(self) -> bool:
        return (self.folder / "control.json").exists()


@contextmanager
def served(folder: Path, *, token_file: Path | None = None) -> Iterator[Api]:
    board = Board()
    sources = Sources(
        board=board,
        registry=Telemetry(board).registry,
        health=lambda: Health(alive=True, since=datetime.fromisoformat("2026-03-02T12:00:00Z"), reason="ticks finish"),
        ready=lambda: True,
        records=NoRecords(),
        desk=ControlDesk(ControlFile(folder), known=lambda: ["llm/chat"]),
    )
    server = WebServer(create_app(sources, token_file=token_file), host="127.0.0.1", port=0)
    server.start()
    try:
        yield Api(port=server.port, folder=folder)
    finally:
        server.stop()


class NoRecords:
    def find(self, workload: str, *, at: datetime) -> None:
        return None


ORDERS = [
    pytest.param("POST", "/api/v1/workloads/llm/chat/pause", {"reason": "x"}, id="pause"),
    pytest.param("DELETE", "/api/v1/workloads/llm/chat/pause", None, id="end of a pause"),
    pytest.param("POST", "/api/v1/workloads/llm/chat/override", {"replicas": 8, "for_s": 60}, id="override"),
    pytest.param("POST", "/api/v1/workloads/llm/chat/mode", {"mode": "active"}, id="mode"),
    pytest.param("POST", "/api/v1/workloads/llm/chat/resume", {}, id="resume"),
    pytest.param("POST", "/api/v1/pause", {}, id="pause of the fleet"),
]


@pytest.mark.parametrize(("method", "path", "body"), ORDERS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Origin": "https://evil.example"}, 403, id="a page of another site"),
        pytest.param({"Origin": "http://127.0.0.1:1"}, 403, id="a page of another port"),
        pytest.param({"Origin": "null"}, 403, id="a page that hides its origin"),
        pytest.param({"Sec_Fetch_Site": "cross-site"}, 403, id="a browser that says so"),
        pytest.param({"host": "rebound.example:8090"}, 421, id="DNS rebinding"),
        pytest.param(
            {"host": "rebound.example:8090", "Origin": "http://rebound.example:8090"}, 421, id="and of one origin"
        ),
    ],
)
def test_row_44_orders_of_another_sites_page_are_refused(
    tmp_path: Path, method: str, path: str, body: object, headers: dict[str, str], status: int
) -> None:
    with served(tmp_path) as api:
        assert api.send(method, path, body, **headers)[0] == status
        assert not api.ordered


@pytest.mark.parametrize(("method", "path", "body"), ORDERS)
def test_row_44_without_the_token_no_order_is_taken(tmp_path: Path, method: str, path: str, body: object) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("s3cret\n", encoding="utf-8")
    with served(tmp_path, token_file=token_file) as api:
        assert api.send(method, path, body)[0] == 401
        assert api.send(method, path, body, Authorization="Bearer wrong")[0] == 401
        assert not api.ordered
        assert api.send(method, path, body, Authorization="Bearer s3cret")[0] == 200


def test_row_44_a_form_cannot_pass_for_an_order(tmp_path: Path) -> None:
    with served(tmp_path) as api:
        status, _ = api.send("POST", "/api/v1/workloads/llm/chat/pause", {}, Content_Type="text/plain")
        assert (status, api.ordered) == (415, False)
        assert api.send("OPTIONS", "/api/v1/workloads/llm/chat/pause")[0] == 405, "no site is told that it may"


def test_row_44_this_machine_and_our_own_page_are_heard(tmp_path: Path) -> None:
    with served(tmp_path) as api:
        assert api.send("POST", "/api/v1/workloads/llm/chat/pause", {"reason": "x", "by": "ana"})[0] == 200
        own = f"http://127.0.0.1:{api.port}"
        status, document = api.send(
            "DELETE", "/api/v1/workloads/llm/chat/pause", Origin=own, Sec_Fetch_Site="same-origin"
        )
        assert (status, document["items"][0]["pause"]) == (200, None)
