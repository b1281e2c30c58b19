"""The daemon: wires the parts, runs the jobs, and ends cleanly. It has no rule of its own.

Lanes (one thread each, so that none delays another): `tick` decides and writes; `forecast` takes in the last minute
and runs the models; `upkeep` folds history and checks histograms; `train` looks for drift and waits for the refit.
If this process dies, nothing moves: the scale stays as it was written last.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from forecaster import drift
from forecaster.errors import HistoryError
from forecaster.models.stored import KINDS
from forecaster.sources.prometheus import PrometheusSource
from scaler.adapters import folder_lock, heap, logs
from scaler.adapters.board import Board
from scaler.adapters.connections import access_of, connection_of, floors_of, selectors_of, targets_of
from scaler.adapters.control_desk import ControlDesk
from scaler.adapters.control_file import ControlFile
from scaler.adapters.demand import KNOWN_BLOB, known_to_bytes
from scaler.adapters.forecasts import DemandForecaster, ForecastBoard
from scaler.adapters.intake import HistoryIntake
from scaler.adapters.jobs import Job, Schedule, Trouble, due_time
from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster
from scaler.adapters.kubernetes.calls import Call
from scaler.adapters.kubernetes.errors import KubernetesError
from scaler.adapters.leadership import Ears
from scaler.adapters.ledger import NoJournal, StoreJournal
from scaler.adapters.models import ModelShelf
from scaler.adapters.refit import Refit
from scaler.adapters.signals import SourceSignals
from scaler.adapters.store import Store
from scaler.adapters.targets import KubernetesTargets
from scaler.adapters.telemetry import Telemetry
from scaler.adapters.together import Together
from scaler.adapters.watchdog import Health, ProgressWatchdog
from scaler.config import Config
from scaler.config.holidays import holidays_of
from scaler.daemon import discovery, rivals
from scaler.daemon.leading import contender_of, end_at_once, prepare_last_resort
from scaler.daemon.orders import orders_of
from scaler.daemon.rivals import RivalWatch
from scaler.daemon.round import Outlets, Round
from scaler.daemon.upkeep import Parts, Upkeep
from scaler.loop import NoControls, Ports, TickReport
from scaler.policy.scheduled import ScheduledRule
from scaler.policy.types import Mode, PolicyState
from scaler.web.app import Sources, create_app
from scaler.web.server import WebServer

SCRAPE_DELAY = timedelta(seconds=3)
"""After a minute's end until its last scrape is stored; the forecast begins then."""

TICK_DELAY = timedelta(seconds=8)
"""After a minute's end until the tick: the forecast of that minute is usually out by then, and not waited for."""

STOP_TICK_S = 5.0
"""A tick under way when the daemon is asked to stop may finish within this time; then it may write no more."""

STOP_JOBS_S = 1.5
"""And the other jobs within this; a forecast that is lost costs nothing."""

REFIT_BUDGET = timedelta(hours=1)
"""Time for one refit: 1,000 workloads take 50 minutes of CPU time."""

MODELS_FOLDER = "models"


class Daemon:
    """All parts of one running daemon, joined."""

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        dry_run: bool = False,
        on_lost: Callable[[], None] = lambda: None,
        end_in: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Connects nothing but the credentials. Raises `KubernetesError` where there are none.

        `on_lost` is called once this process may never write again; `end_in` sets a timer that ends it whatever it
        does, at each renewal of the lease.
        """
        self.config = config
        self.store = store
        self.log = logs.logger()
        self.stopping = threading.Event()
        self.board = Board()
        self.telemetry = Telemetry(
            self.board,
            in_force=lambda: self.watchdog.health().alive and self.leading.leads,
            leads=lambda: self.leading.leads,
        )
        self._forecasts = ForecastBoard()
        self._no_writes = threading.Event()
        if dry_run:
            self._no_writes.set()
        ears = Ears(log=self.log, on_renewed=end_in, on_lost=on_lost)
        self.leading = contender_of(config, ears, stands=self._has_something_to_write, observer=self._requested)
        self._api = ApiConnection(
            access_of(config),
            may_write=lambda: self.leading.leads and not self._no_writes.is_set(),
            write_limit_s=self.leading.write_limit_s,
            observer=self._requested,
        )
        self._cluster = KubernetesCluster(self._api, instance=os.environ.get("HOSTNAME", "headstart"))
        self.journal = StoreJournal(store, on_recovery=lambda text: self.log.critical("store_recovered", detail=text))
        self._control = ControlFile(config.data_dir)
        self.round = self._round(dry_run=dry_run)
        self.upkeep = self._upkeep()
        self.rivals = self._rivals()
        self.watchdog = ProgressWatchdog(config.tick, on_stall=self._stalled)
        self.web = WebServer(self._app(), host=config.http.host, port=config.http.port)
        jobs = self._jobs()
        self._tick_job = next(job for job in jobs if job.name == "tick")
        self._schedule = Schedule(jobs, on_trouble=self._trouble)

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _has_something_to_write(self) -> bool:
        """A daemon that only observes leaves the lease to others."""
        return any(policy.mode is not Mode.OBSERVE for policy in self.round.fleet.workloads)

    def _requested(self, call: Call, status: int | None, duration_s: float) -> None:
        self.telemetry.requested(call.verb.value, status, duration_s)

    def _round(self, *, dry_run: bool) -> Round:
        config = self.config
        states = self._last_states()
        signals = SourceSignals(
            PrometheusSource(connection_of(config.prometheus)),
            selectors_of(config),
            {policy.workload: policy.latency for policy in config.fleet.workloads},
            observer=self.telemetry.queried,
        )
        targets = KubernetesTargets(self._cluster, targets_of(config), floors_of(config))
        controls = orders_of(self._control, self.journal, self.log)
        fleet = config.fleet
        if dry_run:
            observed = tuple(replace(policy, mode=Mode.OBSERVE) for policy in fleet.workloads)
            fleet = replace(fleet, workloads=observed)
        at_once = Together(signals, targets)
        return Round(
            fleet,
            Ports(
                signals=at_once.signals,
                forecasts=self._forecasts,
                targets=at_once.targets,
                journal=NoJournal() if dry_run else self.journal,
                controls=NoControls() if dry_run else controls,
            ),
            Outlets(
                board=self.board,
                telemetry=self.telemetry,
                log=self.log,
                announce=lambda now: targets.announce(now=now),
                tell_conflict=targets.tell_conflict,
                control_trouble=lambda: controls.trouble,
                mutating_requests=lambda: self._api.mutating_requests,
                target_remarks=lambda: targets.remarks,
                source_notes=lambda: signals.notes,
            ),
            states=states,
            leadership=self.leading.election,
        )

    def _last_states(self) -> Mapping[str, PolicyState]:
        """Where the last decisions left off; without them every workload begins by holding its scale."""
        now = datetime.now(UTC)
        try:
            self._forecasts.publish(self.journal.forecasts(now=now))
            return self.journal.states(now=now)
        except Exception as error:
            # Not only what the file can fail with: a decision of an older version that this one cannot make again
            # would otherwise keep every later start from succeeding.
            self.log.warning("states_not_restored", error=repr(error), meanwhile="every workload holds its scale first")
            return {}

    def _upkeep(self) -> Upkeep:
        config, workloads = self.config, {policy.workload for policy in self.config.fleet.workloads}
        models = config.data_dir / MODELS_FOLDER
        # A source of its own: a check or a range query that hangs must not make a tick wait for its lock.
        source = PrometheusSource(connection_of(config.prometheus))
        selectors = selectors_of(config)
        self._forecaster = DemandForecaster(
            self.store,
            workloads=workloads,
            ttl=config.forecast.ttl,
            known=known_of(config),
            holidays={workload: holidays_of(name) for workload, name in config.holidays.items()},
        )
        upkeep = Upkeep(
            Parts(
                selectors=selectors,
                source=source,
                store=self.store,
                intake=HistoryIntake(source, selectors, self.store),
                forecaster=self._forecaster,
                shelf=ModelShelf(models, config.forecast.models),
                forecasts=self._forecasts,
                board=self.board,
                telemetry=self.telemetry,
                round=self.round,
                refit=Refit(train_command(config), budget=REFIT_BUDGET),
                log=self.log,
                stopping=self.stopping.is_set,
            )
        )
        upkeep.restore_engine()
        return upkeep

    def _rivals(self) -> RivalWatch:
        active = {policy.workload for policy in self.round.fleet.workloads if policy.mode is Mode.ACTIVE}
        targets = {workload: target for workload, target in targets_of(self.config).items() if workload in active}
        return RivalWatch(self._cluster.rivals, targets, tell=self.round.set_remarks, log=self.log)

    def _app(self) -> Any:
        sources = Sources(
            board=self.board,
            registry=self.telemetry.registry,
            health=lambda: self.watchdog.health(),
            ready=lambda: self.watchdog.ready,
            records=self.journal,
            accounts=self._forecaster.accounts,
            desk=ControlDesk(self._control, known=lambda: [each.workload for each in self.config.fleet.workloads]),
        )
        return create_app(sources, token_file=self.config.http.token_file)

    def _jobs(self) -> tuple[Job, ...]:
        minute, tick, refit = timedelta(minutes=1), self.config.tick, self.config.forecast.refit
        night = timedelta(hours=refit.hour, minutes=refit.minute, seconds=refit.second)
        # A short tick has no room to wait for the forecast: it takes the last one.
        delay = TICK_DELAY if tick >= timedelta(seconds=30) else timedelta(0)
        return (
            Job(name="tick", run=self.tick, interval=tick, lane="tick", offset=delay, at_start=True),
            Job(
                name="forecast",
                run=lambda: self.upkeep.forecast(now=datetime.now(UTC)),
                interval=minute,
                lane="forecast",
                offset=SCRAPE_DELAY,
                at_start=True,
            ),
            Job(
                name="edges",
                run=lambda: self.upkeep.judge_edges(now=datetime.now(UTC)),
                interval=minute,
                lane="upkeep",
                offset=timedelta(seconds=20),
            ),
            Job(
                name="rivals",
                run=lambda: self.rivals.look(),
                interval=rivals.EVERY,
                lane="upkeep",
                offset=timedelta(seconds=40),
                at_start=True,
            ),
            Job(
                name="compact",
                run=lambda: self.upkeep.compact(now=datetime.now(UTC)),
                interval=timedelta(hours=1),
                lane="upkeep",
                offset=timedelta(minutes=7, seconds=30),
            ),
            Job(
                name="refit",
                run=lambda: self.upkeep.refit(now=datetime.now(UTC)),
                interval=timedelta(days=1),
                lane="train",
                offset=night,
            ),
            Job(
                name="drift",
                run=lambda: self.upkeep.watch_drift(now=datetime.now(UTC)),
                interval=drift.EVERY,
                lane="train",
                offset=timedelta(minutes=37),
            ),
        )

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to serve and to decide; the first tick runs at once. `OSError` if the port is taken."""
        self._leave_for_the_refit()
        self.web.start()
        self.watchdog.start()
        self.leading.start()
        self._schedule.start(now=datetime.now(UTC))
        fleet = self.config.fleet.workloads
        self.log.info(
            "started",
            workloads=len(fleet),
            active=sum(policy.mode.writes for policy in fleet),
            tick_s=self.config.tick.total_seconds(),
            http=f"{self.config.http.host}:{self.web.port}",
            data=str(self.store.path),
        )

    def _leave_for_the_refit(self) -> None:
        """The refit is a process that has not read the settings: leave it the events and clocks in the data file."""
        try:
            self.store.save_blob(KNOWN_BLOB, known_to_bytes(known_of(self.config)), now=datetime.now(UTC))
        except OSError as error:
            self.log.warning("known_not_saved", error=str(error), meanwhile="refits see events as ordinary demand")

    def tick(self) -> None:
        """One round now; a round that raises is a defect: it is logged with its traceback, the next one runs."""
        if self.stopping.is_set():
            return
        self.round.run(now=due_time(self._tick_job, now=datetime.now(UTC)))
        self.watchdog.progressed()

    def realign(self) -> None:
        """Plan the jobs anew after the clock was set."""
        self._schedule.realign(now=datetime.now(UTC))

    def stop(self) -> bool:
        """Finish or abandon what runs, keep what was learnt, close. False if a thread could not be ended."""
        self.stopping.set()
        self._schedule.stop()
        self.upkeep.stop()
        finished = self._schedule.wait("tick", timeout_s=STOP_TICK_S)
        self._no_writes.set()
        self.leading.hand_over(lambda: self._api.writes_settled)
        idle = self._schedule.wait(timeout_s=STOP_JOBS_S)
        self.watchdog.stop()
        self.web.stop()
        if idle:
            self.upkeep.save_engine(now=datetime.now(UTC))
            self.store.close()
        self._api.close()
        self.leading.close()
        self.log.info("stopped", tick="finished" if finished else "abandoned", jobs="ended" if idle else "abandoned")
        return idle

    def _stalled(self, health: Health) -> None:
        self.log.critical("stalled", reason=health.reason, since=health.since.isoformat(), stacks="on stderr")

    def _trouble(self, trouble: Trouble) -> None:
        self.telemetry.job_failed(trouble.job)
        if trouble.error is not None:
            self.log.error("job_failed", job=trouble.job, exc_info=trouble.error, meanwhile="the next run tries again")
        else:
            self.log.warning("job_late", job=trouble.job, what=trouble.what)


def known_of(config: Config) -> dict[str, ScheduledRule]:
    """What is known in advance, by workload."""
    return {policy.workload: policy.scheduled for policy in config.fleet.workloads}


def train_command(config: Config) -> tuple[str, ...]:
    """The refit as a command line of this very Python: those of the wanted models that need a fit."""
    fitted = [model for model in config.forecast.models if model in KINDS]
    return (sys.executable, "-m", "scaler.refit_job", str(config.data_dir), ",".join(fitted))


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT; answers the exit status. Says on stderr why it could not start."""
    heap.keep_little()
    logs.configure()
    log = logs.logger()
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock.held(config.data_dir))
            store = Store.open(config.data_dir, now=datetime.now(UTC))
            at_start = discovery.at_start(config, store, log).config
            daemon = Daemon(at_start, store, on_lost=asked.set, end_in=prepare_last_resort())
            daemon.start()
        except (OSError, HistoryError, KubernetesError) as error:
            log.critical("not_started", error=str(error), meanwhile="nothing is scaled")
            return 1
        return _serve(daemon, asked)


def _serve(daemon: Daemon, asked: threading.Event) -> int:
    """Until asked to stop; answers the exit status."""
    log, store = daemon.log, daemon.store
    if store.report.quarantined is not None:
        log.critical("store_quarantined", file=str(store.report.quarantined), damage=store.report.damage)
    _watch_clock(daemon, asked)
    if daemon.leading.lost is not None:
        end_at_once(log, daemon.leading.lost)
    if not daemon.stop():
        # A thread is still in a call; the interpreter would wait for its end. What is on disk is whole at any moment.
        sys.stderr.flush()
        os._exit(0)
    return 0


def _watch_clock(daemon: Daemon, asked: threading.Event) -> None:
    """Wait to be asked to stop, or to lose the lease; plan anew when the clock was set by more than a second."""
    skew_s = time.time() - time.monotonic()
    while not asked.wait(1.0) and daemon.leading.lost is None:
        now_s = time.time() - time.monotonic()
        if abs(now_s - skew_s) > 1.0:
            daemon.log.warning("clock_set", by_s=round(now_s - skew_s, 1), meanwhile="jobs are planned anew")
            daemon.realign()
        skew_s = now_s


def tick_once(config: Config, *, dry_run: bool) -> TickReport:
    """One decision round now, forecasts included; a dry run writes nothing to the cluster or to the data folder.

    Raises `OSError`, `HistoryError` or `KubernetesError` where the data folder or the credentials are unusable.
    """
    logs.configure(level=logging.WARNING)
    now = datetime.now(UTC)
    with ExitStack() as stack:
        folder = stack.enter_context(_scratch()) if dry_run else config.data_dir
        stack.enter_context(folder_lock.held(folder))
        store = stack.enter_context(Store.open(folder, now=now))
        daemon = Daemon(discovery.at_start(config, store, logs.logger()).config, store, dry_run=dry_run)
        daemon.upkeep.forecast(now=now)
        daemon.upkeep.judge_edges(now=now)
        return daemon.round.run(now=now)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A data folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        yield Path(folder)
