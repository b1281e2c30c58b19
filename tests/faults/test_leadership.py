"""Two daemons and one writer, whatever happens to them.

- Thousands of runs of the shipping election in virtual time: no write is carried out while another contender has the
  lease, never do two lead at once, and once the trouble is over somebody leads.
- Real processes against the API double: stopped, cut off, ended. Rows 22, 23 and 42 of the list of faults.

`make soak` plays more runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from election_world import Count, Flaws, play
from kube_double import KubeDouble, Request, Rule
from servers import free_port

RUNS = 200
CHUNKS = 25 if os.environ.get("HEADSTART_SOAK") else 1


# ── Runs in virtual time ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_write_overlaps_anothers_lease(chunk: int) -> None:
    count = Count()
    for seed in range(chunk * RUNS, (chunk + 1) * RUNS):
        play(seed, count)
    assert count.overlaps == []
    assert count.two_leaders == []
    assert count.leaderless == []
    # Nothing is proven by runs in which nothing goes wrong.
    assert count.runs == RUNS
    assert count.writes > 50 * RUNS
    assert count.terms > 2 * RUNS
    assert min(count.lost, count.given_back, count.ended_by_timer, count.given_up) > RUNS / 10


@pytest.mark.parametrize(
    ("flaws", "seeds"),
    [
        pytest.param(Flaws(no_deadline=True), range(40), id="a flag without a deadline"),
        pytest.param(Flaws(claims_from_the_answer=True), range(20, 300), id="a claim that begins with the answer"),
        pytest.param(Flaws(replaces_blindly=True), range(80), id="no resourceVersion"),
        pytest.param(Flaws(reads_the_others_clock=True), range(40), id="renewTime against our own time of day"),
        pytest.param(Flaws(takes_what_is_new=True), range(200), id="a lease that was just made is taken at once"),
        pytest.param(Flaws(bounds_no_delivery=True), range(200), id="the kernel sends it again after a partition"),
        pytest.param(Flaws(bounds_no_work=True), range(200), id="a server that hangs carries it out later"),
        pytest.param(Flaws(no_last_resort=True), range(100), id="stopped between asking and writing"),
    ],
)
def test_the_runs_see_a_contender_with_a_flaw(flaws: Flaws, seeds: range) -> None:
    count = Count()
    for seed in seeds:
        play(seed, count, flaws)
        if count.overlaps or count.two_leaders:
            return
    pytest.fail(f"{flaws} went unnoticed in {len(seeds)} runs")


def test_a_run_with_the_same_seed_is_the_same_run() -> None:
    counts = [Count(), Count()]
    for count in counts:
        play(7, count)
    assert counts[0] == counts[1]


# ── Real processes ────────────────────────────────────────────────────────────────────────────────────────────────

LEASE = "/apis/coordination.k8s.io/v1/namespaces/headstart/leases/headstart"
EVERYTHING = Rule(verbs=("*",), groups=("*",), resources=("*",))

GIVEN_BACK = {
    "metadata": {"namespace": "headstart", "name": "headstart"},
    "spec": {"holderIdentity": "", "leaseDurationSeconds": 10, "renewTime": "2026-01-05T09:00:00.000001Z"},
}
"""A lease that is taken at once."""

DURATION_S, RENEW_S = 10, 7
"""Shorter than by default, and long enough that a busy machine does not cost a leader its lease."""

GRACE_S = 30.0
"""What a pod has from SIGTERM to SIGKILL, by the chart."""


class Wire:
    """A connection to the API server that can be cut: packets are dropped, nobody is told."""

    def __init__(self, to: str) -> None:
        host, _, port = to.rpartition("/")[2].partition(":")
        self._to, self._cut, self._ends = (host, int(port)), False, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut = True

    def close(self) -> None:
        self._ends.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(self._to) as server,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while not self._ends.is_set():
                for key, _ in ready.select(0.2):
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    if not self._cut:
                        key.data.sendall(data)


@dataclass
class Daemon:
    """`headstart run` with an account and a data folder of its own."""

    name: str
    child: subprocess.Popen[str]
    log_file: Path
    wire: Wire | None = None

    @property
    def log(self) -> list[dict[str, Any]]:
        lines = self.log_file.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def told(self, event: str) -> bool:
        return any(line["event"] == event for line in self.log)

    def ended(self, within_s: float = 60.0) -> int:
        return self.child.wait(timeout=within_s)


@dataclass
class Site:
    """The cluster, and the daemons that were started on it."""

    cluster: KubeDouble
    folder: Path
    daemons: list[Daemon] = field(default_factory=list)

    def start(self, name: str, *, wired: bool = False, mode: str = "active") -> Daemon:
        """A daemon that wants two replicas: nothing tells it demand, and the minimum is kept whatever is unknown."""
        folder = self.folder / name
        folder.mkdir()
        kubeconfig = self.cluster.kubeconfig(folder, token=self.cluster.account(name, EVERYTHING))
        wire = Wire(self.cluster.url) if wired else None
        if wire is not None:
            kubeconfig.write_text(kubeconfig.read_text().replace(self.cluster.url, wire.url))
        config = folder / "headstart.yaml"
        config.write_text(
            f"""apiVersion: headstart/v1
kind: Config
prometheus: {{url: "http://127.0.0.1:{free_port()}", deadline_s: 1}}
kubernetes: {{kubeconfig: "{kubeconfig}"}}
data_dir: data
tick: 1s
http: {{port: 0}}
ha: {{lease: headstart/headstart, duration: {DURATION_S}s, renew_deadline: {RENEW_S}s, retry: 500ms}}
forecast: {{models: [last-value]}}
workloads:
  - workload: llm/chat
    mode: {mode}
    profile: {{name: chat, classes: [{{name: default, max_rps: 2}}]}}
    bounds: {{min_replicas: 2, max_replicas: 8}}
    selector: {{labels: {{model_name: chat}}}}
""",
            encoding="utf-8",
        )
        log_file = folder / "log"
        with log_file.open("w") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "scaler.cli", "run", "--config", str(config)],
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
                env={**os.environ, "HOSTNAME": name},
            )
        self.daemons.append(Daemon(name=name, child=child, log_file=log_file, wire=wire))
        return self.daemons[-1]

    @property
    def holder(self) -> str:
        """Whose the lease is."""
        with self.cluster.store.changed:
            leases = list(self.cluster.store.items("leases"))
        return str(leases[0]["spec"].get("holderIdentity") or "") if leases else ""

    def leads(self, daemon: Daemon) -> bool:
        """Whether it has the lease, and the taking of it is on the log of requests: that comes a moment later."""
        return self.holder.startswith(f"{daemon.name}_") and any(
            _takes_lease(request, daemon) for request in list(self.cluster.requests)
        )

    def somebody_else_lowers_the_scale(self) -> None:
        """Below the minimum, while nobody leads. A standby cannot tell it from what the leader did, and brings it up when it
        leads; a leader that has looked already would take it for a person's order, and leave it alone for a while."""
        self.cluster.set_replicas("llm", "chat", 1)

    def scaled_by(self, daemon: Daemon) -> bool:
        """Whether the daemon has sent a change of the scale."""
        return any(request.user == daemon.name and request.method == "PATCH" for request in self.cluster.requests)

    def writes_of(self, daemon: Daemon, *, after: Daemon) -> list[Request]:
        """What `daemon` changed, or tried to, once `after` had the lease; the lease itself counts too."""
        requests = list(self.cluster.requests)
        taken = next(n for n, request in enumerate(requests) if _takes_lease(request, after))
        return [request for request in requests[taken:] if request.user == daemon.name and request.mutates]


def _takes_lease(request: Request, daemon: Daemon) -> bool:
    return request.user == daemon.name and request.method == "PUT" and request.status == 200


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with KubeDouble(gpus=16, real_time=True) as cluster:
        for name in ("llm", "headstart"):
            cluster.namespace(name)
        cluster.deployment("llm", "chat", replicas=1)
        cluster.create("leases", GIVEN_BACK)
        site = Site(cluster=cluster, folder=tmp_path)
        yield site
        for daemon in site.daemons:
            daemon.child.kill()
            daemon.child.wait()
            if daemon.wire is not None:
                daemon.wire.close()


def until(found: Callable[[], Any], within_s: float = 90.0) -> None:
    ends = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < ends, "not in time"
        time.sleep(0.05)


def leader_and_standby(site: Site, *, wired: bool = False) -> tuple[Daemon, Daemon]:
    """Two daemons of which the first leads and has written, and the second stands by and has not."""
    first = site.start("first", wired=wired)
    until(lambda: site.leads(first))
    second = site.start("second")
    until(lambda: site.cluster.replicas("llm", "chat") == 2 and second.told("standby") and second.told("blind"))
    assert not site.scaled_by(second)
    return first, second


server = pytest.mark.server


@server
def test_row_22_cut_off_from_the_api_the_leader_ends_and_nothing_of_it_comes_late(site: Site) -> None:
    first, second = leader_and_standby(site, wired=True)
    assert first.wire is not None
    first.wire.cut()
    site.somebody_else_lowers_the_scale()
    assert first.ended() == 1
    assert first.log[-1]["event"] == "leader_lost"
    assert first.log[-1]["reason"] == f"not renewed for {RENEW_S} s"
    until(lambda: site.leads(second))
    until(lambda: site.scaled_by(second) and site.cluster.replicas("llm", "chat") == 2)
    assert site.writes_of(first, after=second) == []


@server
def test_row_23_stopped_and_continued_the_old_leader_writes_nothing(site: Site) -> None:
    first, second = leader_and_standby(site)
    first.child.send_signal(signal.SIGSTOP)
    site.somebody_else_lowers_the_scale()
    until(lambda: site.leads(second))
    until(lambda: site.scaled_by(second) and site.cluster.replicas("llm", "chat") == 2)
    first.child.send_signal(signal.SIGCONT)
    # By the kernel's timer before a line of it runs, or by its own look at the clock.
    assert first.ended() in (int(signal.SIGALRM), 1)
    assert site.writes_of(first, after=second) == []
    assert second.child.poll() is None


@server
@pytest.mark.parametrize("mid_tick", [False, True], ids=["between ticks", "in mid-tick"])
def test_row_42_asked_to_end_the_leader_gives_the_lease_back(site: Site, mid_tick: bool) -> None:
    first, second = leader_and_standby(site)
    if mid_tick:
        site.cluster.fault(method="GET", path="/scale$|/pods$", hang_s=60.0, times=1000)
        until(lambda: "first" in site.cluster._faults[-1].met)
    begun = time.monotonic()
    first.child.send_signal(signal.SIGTERM)
    assert first.ended() == 0
    took_s = time.monotonic() - begun
    assert first.told("lease_given_back")
    until(lambda: site.leads(second))
    given_back = [
        request.body["spec"]["holderIdentity"]
        for request in site.cluster.requests
        if request.user == "first" and request.method == "PUT" and request.status == 200
    ]
    assert given_back[-1] == ""
    assert site.writes_of(first, after=second) == []
    assert first.log[-1]["event"] == "stopped"
    assert first.log[-1]["tick"] == ("abandoned" if mid_tick else "finished")
    assert took_s < GRACE_S


@server
def test_when_the_leader_is_killed_the_standby_takes_over_and_grows_at_once(site: Site) -> None:
    first, second = leader_and_standby(site)
    first.child.kill()
    site.somebody_else_lowers_the_scale()
    until(lambda: site.leads(second))
    until(lambda: site.cluster.replicas("llm", "chat") == 2 and site.scaled_by(second))
    until(lambda: second.told("leader_acquired"))


@server
def test_daemons_that_only_observe_send_nothing_that_changes_anything(site: Site) -> None:
    daemons = [site.start(name, mode="observe") for name in ("first", "second")]
    until(lambda: all(daemon.told("blind") for daemon in daemons))
    assert site.cluster.requests
    assert site.cluster.mutating_requests == 0


# ── Between asking and writing ────────────────────────────────────────────────────────────────────────────────────

STOPS_ITSELF = """
import os, signal, sys
from pathlib import Path
from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster, Kubeconfig, TargetRef
from scaler.daemon.leading import prepare_last_resort

end_in, asked = prepare_last_resort(), 0
def may_write():
    global asked
    asked += 1
    if asked == 3:  # before the call, before its headers, and now before its body
        if sys.argv[2] == "timer":
            end_in(2.0)
        os.kill(os.getpid(), signal.SIGSTOP)
    return True

api = ApiConnection(Kubeconfig(path=Path(sys.argv[1])), may_write=may_write)
cluster = KubernetesCluster(api)
chat = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="chat")
cluster.scale(chat, 5, expected=1)
"""


@server
@pytest.mark.parametrize(
    ("how", "status", "replicas"),
    [
        pytest.param("timer", int(signal.SIGALRM), 1, id="the kernel ends it before it writes"),
        pytest.param("no timer", 0, 5, id="without the timer it would write: nobody asks again"),
    ],
)
def test_stopped_between_asking_and_writing(site: Site, how: str, status: int, replicas: int) -> None:
    command = [sys.executable, "-c", STOPS_ITSELF, str(site.cluster.kubeconfig(site.folder)), how]
    child = subprocess.Popen(command)
    _, waited = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(waited)
    if how == "timer":
        time.sleep(2.2)  # it runs in the kernel while the process stands still
    child.send_signal(signal.SIGCONT)
    assert child.wait(timeout=60) == status
    assert site.cluster.replicas("llm", "chat") == replicas
    assert site.cluster.mutating_requests == (how != "timer")
