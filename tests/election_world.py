"""Contenders for one lease in a world of virtual time, where everything that can go wrong with them does.

The shipping `LeaderElection` and `LeaseApi` run here, and beside them a writer that keeps the rules of `ApiConnection`
for a write. Threads take turns, one at a time, so that a run with the same seed is the same run. Processes are stopped
and continued (SIGSTOP), also between asking whether they may write and writing; they are cut off, die, are asked to end,
and start again. Their clocks began anywhere and run up to 1 % fast or slow, their time of day is set at random;
requests and answers are slow, late or lost; the server goes away; somebody deletes the lease.

A write counts as overlapping if the server carries it out after another contender took the lease: the server's order of
events is the judge, and no clock of a contender.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from scaler.adapters.election import ElectionRule
from scaler.adapters.kubernetes.calls import Call, Verb
from scaler.adapters.kubernetes.errors import Conflict, KubernetesError, NotFound, TimedOut, Unavailable
from scaler.adapters.kubernetes.leases import LeaseApi, LeaseRef
from scaler.adapters.leadership import Ears, LeaderElection

TROUBLE_S = 150.0
"""Virtual time during which things go wrong; then all of it stops."""

CALM_S = 60.0
"""And after that somebody must lead: the lease runs out, is seen to, and is taken."""

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
NEVER = float("inf")


@dataclass(frozen=True, kw_only=True)
class Flaws:
    """What contenders may get wrong, so that the runs show that they would see it."""

    no_deadline: bool = False
    """Leads until it reads otherwise: a flag that only the election's own thread takes back."""
    claims_from_the_answer: bool = False
    """The claim begins when the answer has come instead of when the request left."""
    replaces_blindly: bool = False
    """Sends no resourceVersion."""
    reads_the_others_clock: bool = False
    """Takes a lease whose renewTime is older than its duration by our own time of day."""
    takes_what_is_new: bool = False
    """Takes a lease that nobody has held yet at once, as if it had been given back."""
    bounds_no_delivery: bool = False
    """Leaves what was sent in the kernel's hands for as long as it likes."""
    bounds_no_work: bool = False
    """Lets the server carry it out whenever it can."""
    no_last_resort: bool = False
    """No timer ends a process that was stopped between asking and writing."""


@dataclass(kw_only=True)
class Count:
    """What happened in the runs: one in which nothing happens proves nothing."""

    runs: int = 0
    writes: int = 0
    terms: int = 0
    lost: int = 0
    given_back: int = 0
    refused: int = 0
    given_up: int = 0
    ended_by_timer: int = 0
    overlaps: list[str] = field(default_factory=list)
    two_leaders: list[str] = field(default_factory=list)
    leaderless: list[str] = field(default_factory=list)


def play(seed: int, count: Count, flaws: Flaws | None = None) -> None:
    """One run; what happened is added to `count`."""
    World(seed, count, flaws or Flaws()).run()


# ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Died(BaseException):
    """Unwinds the threads of a process that is gone."""


class Actor:
    """A thread that runs only when the world lets it."""

    def __init__(self, world: World, process: Process, run: Callable[[], None]) -> None:
        self.process, self.go, self.done = process, threading.Semaphore(0), False
        self._world, self._run = world, run
        threading.Thread(target=self._main, daemon=True).start()

    def _main(self) -> None:
        self.go.acquire()
        try:
            if self.process.alive:
                self._run()
        except Died:
            pass
        finally:
            self.done = True
            self._world.back.release()


@dataclass(frozen=True)
class Trouble:
    """A time in which something is not as it should be."""

    start: float
    end: float


def over(troubles: list[Trouble], t: float) -> float:
    """The first moment from `t` on in which none of them lasts."""
    while True:
        later = [each.end for each in troubles if each.start <= t < each.end]
        if not later:
            return t
        t = max(later)


class World:
    """Virtual time, the server, and the machines."""

    def __init__(self, seed: int, count: Count, flaws: Flaws, *, machines: int = 3) -> None:
        self.seed, self.count, self.flaws = seed, count, flaws
        self.dice = random.Random(seed)
        self.t = 0.0
        self.back = threading.Semaphore(0)
        self.server = Server(self)
        self._due: list[tuple[float, int, Actor | Callable[[], None]]] = []
        self._order = 0
        self._running: Actor | None = None
        self.machines = [Machine(self, f"daemon-{n}") for n in range(machines)]

    def at(self, when: float, what: Actor | Callable[[], None]) -> None:
        """Have something happen, or let somebody run."""
        self._order += 1
        heapq.heappush(self._due, (when, self._order, what))

    def wait_until(self, when: float) -> None:
        """Called by an actor: others run meanwhile, and longer than asked for if its process is stopped."""
        actor = self._running
        assert actor is not None
        self.at(max(when, self.t), actor)
        self.back.release()
        actor.go.acquire()
        if not actor.process.alive:
            raise Died

    def run(self) -> None:
        """Until the trouble and the calm after it are over."""
        self.count.runs += 1
        while self._due and self._due[0][0] <= TROUBLE_S + CALM_S:
            self.t, _, what = heapq.heappop(self._due)
            if not isinstance(what, Actor):
                what()
            elif (until := over(what.process.machine.stops, self.t)) > self.t and what.process.alive:
                self.at(until, what)
            else:
                what.process.end_by_timer()
                self._resume(what)
                self._look_for_two_leaders()
        if not any(machine.process.leads for machine in self.machines):
            self.count.leaderless.append(f"seed {self.seed}: nobody leads after {CALM_S:g} calm seconds")
        for machine in self.machines:
            machine.process.alive = False
        for _, _, what in self._due:
            if isinstance(what, Actor):
                self._resume(what)

    def _resume(self, actor: Actor) -> None:
        if not actor.done:
            self._running = actor
            actor.go.release()
            self.back.acquire()

    def _look_for_two_leaders(self) -> None:
        leaders = [machine.process.identity for machine in self.machines if machine.process.leads]
        if len(leaders) > 1:
            self.count.two_leaders.append(f"seed {self.seed} at {self.t:.1f}: {', '.join(leaders)}")

    def carried_out(self, identity: str) -> None:
        """The server carries out a write to a workload: is it still its sender's to make?"""
        self.count.writes += 1
        if self.server.holder not in (identity, ""):
            self.count.overlaps.append(f"seed {self.seed} at {self.t:.1f}: {identity}, but {self.server.holder} leads")


# ── The server ────────────────────────────────────────────────────────────────────────────────────────────────────


class Server:
    """The API server as far as a lease goes: one object with versions, and one order of events."""

    def __init__(self, world: World) -> None:
        dice, self._world = world.dice, world
        self.outages = _troubles(dice, most=1, longest_s=30.0)
        self.deletions = [dice.uniform(0.0, TROUBLE_S) for _ in range(dice.choice((0, 0, 1)))]
        self.body: dict[str, Any] | None = None
        self._version = 1
        if dice.random() < 0.5:
            self.body = {"metadata": {"resourceVersion": "1"}, "spec": {}}

    @property
    def holder(self) -> str:
        return "" if self.body is None else str(self.body["spec"].get("holderIdentity") or "")

    def serve(self, call: Call, body: dict[str, Any] | None) -> dict[str, Any]:
        """The answer to a request for the lease; `KubernetesError` where it is an error."""
        if over(self.outages, self._world.t) > self._world.t:
            raise Unavailable("503")
        for when in [when for when in self.deletions if when <= self._world.t]:
            self.deletions.remove(when)
            self.body = None
        if call.verb is Verb.CREATE:
            if self.body is not None:
                raise Conflict("already exists")
        elif self.body is None:
            raise NotFound("no such lease")
        if call.verb is Verb.GET:
            assert self.body is not None
            return self.body
        assert body is not None
        version = body["metadata"].get("resourceVersion")
        if version is not None and (self.body is None or version != self.body["metadata"]["resourceVersion"]):
            raise Conflict("the object has been modified")
        self._world.count.terms += body["spec"].get("holderIdentity", "") not in ("", self.holder)
        self._version += 1
        self.body = {"metadata": {"resourceVersion": str(self._version)}, "spec": body["spec"]}
        return self.body


# ── The contenders ────────────────────────────────────────────────────────────────────────────────────────────────


def _troubles(dice: random.Random, *, most: int, longest_s: float) -> list[Trouble]:
    """Short ones and long ones."""
    found = []
    for _ in range(dice.randint(0, most)):
        start, lasts = dice.uniform(0.0, TROUBLE_S - longest_s), dice.choice((0.1, 1.0)) * longest_s
        found.append(Trouble(start, start + dice.uniform(0.1, lasts)))
    return found


class Machine:
    """A place at which a daemon runs, and is started again whenever it ends."""

    def __init__(self, world: World, name: str) -> None:
        dice = world.dice
        self.world, self.name = world, name
        self.rate, self._began = dice.uniform(0.99, 1.01), dice.uniform(0.0, 1e6)
        self.stops = _troubles(dice, most=3, longest_s=60.0)
        self.cuts = _troubles(dice, most=3, longest_s=40.0)
        self.stuck = _troubles(dice, most=2, longest_s=40.0)
        """When the one API server of several that it speaks to takes requests and carries them out later."""
        self._slow_s, self._loses = dice.choice((0.03, 0.03, 1.0, 4.0)), dice.choice((0.0, 0.02, 0.2))
        self._starts = 0
        self.start()

    def start(self) -> None:
        """A new process, under a new name."""
        self._starts += 1
        self.process = Process(self, f"{self.name}_{self._starts}")

    @property
    def clock_s(self) -> float:
        return self._began + self.rate * self.world.t

    @property
    def calm(self) -> bool:
        return self.world.t > TROUBLE_S

    def wall(self) -> datetime:
        """A time of day that nobody can rely on."""
        return START + timedelta(seconds=self.world.t + self.world.dice.choice((0.0, 0.0, -3600.0, 90.0)))

    def way_s(self) -> float:
        """How long a packet takes."""
        return self.world.dice.uniform(0.001, 0.03 if self.calm else self._slow_s)

    def loses(self) -> bool:
        """Whether an answer is lost."""
        return not self.calm and self.world.dice.random() < self._loses


class Process:
    """One daemon: its election's thread, and one that writes."""

    def __init__(self, machine: Machine, identity: str) -> None:
        world = machine.world
        self.machine, self.identity, self.alive = machine, identity, True
        self._world, self._timer_s = world, NEVER
        self.election = _Flawed(self, ElectionRule(identity=identity))
        begins = world.t + world.dice.uniform(0.0, 5.0)
        world.at(begins, Actor(world, self, self.election._run))
        world.at(begins, Actor(world, self, self._write))
        if begins < TROUBLE_S and world.dice.random() < 0.6:
            world.at(world.dice.uniform(begins, TROUBLE_S), self._asked_to_end)

    @property
    def leads(self) -> bool:
        return self.alive and self.election.leads

    def end_in(self, seconds: float) -> None:
        """The last resort: the kernel's timer."""
        self._timer_s = NEVER if self._world.flaws.no_last_resort else self.machine.clock_s + seconds

    def end_by_timer(self) -> None:
        """Before any line of the process runs, the kernel delivers what is due."""
        if self.alive and self.machine.clock_s >= self._timer_s:
            self._world.count.ended_by_timer += 1
            self.die()

    def lose(self) -> None:
        self._world.count.lost += 1
        self.die()

    def die(self) -> None:
        """The process is gone, and its machine starts another."""
        if self.alive:
            self.alive = False
            self._world.at(self._world.t + 2.0, self.machine.start)

    def _asked_to_end(self) -> None:
        """SIGTERM, taken when nothing is being written: gives the lease back, and is gone soon after."""
        if self.alive and not self._writing and over(self.machine.stops, self._world.t) == self._world.t:
            self._world.count.given_back += self.leads
            self._may_write = False
            self.election.end(give_back=True)
            self._world.at(self._world.t + 8.0, self.die)

    # ── writing, by the rules of ApiConnection ────────────────────────────────────────────────────────────────

    _writing = False
    _may_write = True

    def _write(self) -> None:
        while True:
            self._world.wait_until(self._world.t + self._world.dice.uniform(0.2, 2.0))
            if self._may_write and self.election.leads:
                self._writing = True
                self._write_once()
                self._writing = False

    def _write_once(self) -> None:
        world, machine, flaws = self._world, self.machine, self._world.flaws
        limit_s = self.election.rule.write_limit_s
        ends_s = machine.clock_s + limit_s
        if not machine.calm and world.dice.random() < 0.2:  # a handshake
            world.wait_until(world.t + world.dice.uniform(0.0, 3.0))
        delivery_s = max(0.001, ends_s - machine.clock_s)
        if not (self.election.leads and self._may_write):
            world.count.refused += 1
            return
        if not machine.calm and world.dice.random() < 0.03:  # stopped between asking and sending, of all moments
            machine.stops.append(Trouble(world.t, world.t + world.dice.uniform(0.1, 40.0)))
            world.wait_until(world.t)
        arrives = over(machine.cuts, world.t) + machine.way_s()
        if not flaws.bounds_no_delivery and arrives > world.t + delivery_s / machine.rate:
            world.count.given_up += 1
            world.wait_until(world.t + delivery_s)
            return
        done = over(machine.stuck, over(world.server.outages, arrives)) + machine.way_s()
        if not flaws.bounds_no_work and done > arrives + limit_s:
            world.count.given_up += 1
        else:
            world.at(done, lambda: world.carried_out(self.identity))
        world.wait_until(max(world.t, min(done, world.t + limit_s)))


class _Flawed(LeaderElection):
    """The shipping election in virtual time, with the world's flaws put in."""

    def __init__(self, process: Process, rule: ElectionRule) -> None:
        machine = process.machine
        lease = LeaseRef(namespace="headstart", name="headstart")
        leases = LeaseApi(_Api(process), lease, duration_s=rule.duration_s)  # type: ignore[arg-type]
        ears = Ears(log=_Silence(), on_renewed=process.end_in, on_lost=process.lose)
        super().__init__(leases, rule, ears, clock_s=lambda: machine.clock_s, wall=machine.wall)
        self._flaws = machine.world.flaws
        self._ending = _Event(machine.world)  # type: ignore[assignment]

    def _read(self) -> None:
        super()._read()
        new, renewed = self._lease is not None and not self._lease.ever_held, None
        if self._lease is not None and self._lease.body["spec"].get("renewTime"):
            renewed = datetime.fromisoformat(self._lease.body["spec"]["renewTime"])
        old = renewed is not None and self._wall() - renewed > timedelta(seconds=self.rule.duration_s)
        if (new and self._flaws.takes_what_is_new) or (old and self._flaws.reads_the_others_clock):
            self._standing = replace(self._standing, seen_since_s=-NEVER)

    def _claim(self) -> None:
        super()._claim()
        if self._standing.until_s is not None and self._flaws.no_deadline:
            self._standing = replace(self._standing, until_s=NEVER)
            self._ears.on_renewed(NEVER)
        if self._flaws.claims_from_the_answer:
            self._standing = replace(self._standing, until_s=self._clock_s() + self.rule.renew_deadline_s)
            self._ears.on_renewed(self.rule.gone_s)


class _Api:
    """`ApiConnection.call` through a bad network to a server that may be away."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def call(self, call: Call, *, body: dict[str, Any] | None = None, timeout_s: float) -> dict[str, Any]:
        machine, world = self._process.machine, self._process.machine.world
        if body is not None and world.flaws.replaces_blindly and call.verb is Verb.UPDATE:
            body = {**body, "metadata": {}}
        answers: list[dict[str, Any] | KubernetesError] = []

        def serve() -> None:
            try:
                answers.append(world.server.serve(call, body))
            except KubernetesError as error:
                answers.append(error)

        arrives = over(machine.stuck, over(machine.cuts, world.t) + machine.way_s())
        back = NEVER if machine.loses() else over(machine.cuts, arrives) + machine.way_s()
        gives_up = world.t + timeout_s / machine.rate
        world.at(arrives, serve)  # however late: the kernel and the server owe nothing to a lease
        if not machine.calm and world.dice.random() < 0.01:
            machine.stops.append(Trouble(world.t, world.t + world.dice.uniform(0.1, 40.0)))
        world.wait_until(min(back, gives_up))
        # A process that was stopped meanwhile finds the answer and its own timer due, and takes either.
        came = back <= world.t and bool(answers)
        if not came or (gives_up < world.t and world.dice.random() < 0.5):
            raise TimedOut("no answer")
        if isinstance(answers[0], KubernetesError):
            raise answers[0]
        return answers[0]


class _Event:
    """`threading.Event` in virtual time."""

    def __init__(self, world: World) -> None:
        self._world, self._set = world, False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def wait(self, timeout: float) -> bool:
        ends = self._world.t + timeout
        while not self._set and self._world.t < ends:
            self._world.wait_until(min(ends, self._world.t + 0.5))
        return self._set


class _Silence:
    def info(self, *_: object, **__: object) -> None:
        """Nobody reads it."""

    warning = critical = info
