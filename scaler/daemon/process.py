"""The daemon: wires the parts, runs the jobs, and ends cleanly. It has no rule of its own.

What runs when, and in which thread, is said by `schedule`; the process around it is `serving`'s.
If this process dies, nothing moves: the scale stays as it was written last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from forecaster.sources.prometheus import PrometheusSource
from scaler.adapters import logs
from scaler.adapters.board import Board
from scaler.adapters.connections import access_of, connection_of, floors_of, selectors_of, targets_of
from scaler.adapters.control_annotations import AnnotatedControls
from scaler.adapters.control_desk import ControlDesk
from scaler.adapters.control_file import ControlFile
from scaler.adapters.forecasts import DemandForecaster, ForecastBoard
from scaler.adapters.in_flight import PodRequests
from scaler.adapters.intake import HistoryIntake
from scaler.adapters.jobs import Schedule, Trouble, due_time
from scaler.adapters.kubernetes import ApiConnection, TargetRef
from scaler.adapters.kubernetes.calls import Call
from scaler.adapters.leadership import Ears
from scaler.adapters.ledger import NoJournal, StoreJournal
from scaler.adapters.refit import Refit
from scaler.adapters.signals import SourceSignals
from scaler.adapters.starts import StartLedger
from scaler.adapters.store import Store
from scaler.adapters.targets import ScaleTargets
from scaler.adapters.telemetry import Telemetry
from scaler.adapters.together import Together
from scaler.adapters.turns import TickFirst
from scaler.adapters.watchdog import Health, ProgressWatchdog
from scaler.adapters.writes import BEGIN_WITHIN_S, ParallelWrites
from scaler.config import Config
from scaler.daemon.derived import days_off, known_of, latency_of, shelf_of, train_command
from scaler.daemon.ground import ClusterGround, Ground, MachineGround
from scaler.daemon.leading import contender_of
from scaler.daemon.orders import orders_of
from scaler.daemon.placeholders import placeholder_job
from scaler.daemon.reload import LiveParts, LiveSettings, started
from scaler.daemon.rivals import RivalWatch
from scaler.daemon.round import Outlets, Round
from scaler.daemon.schedule import jobs_of
from scaler.daemon.upkeep import Parts, Upkeep
from scaler.loop import NoControls, Ports
from scaler.policy.types import Mode, PolicyState
from scaler.web.app import Sources, create_app
from scaler.web.server import WebServer

STOP_TICK_S = 5.0
"""A tick under way when the daemon is asked to stop may finish within this time; then it may write no more."""

STOP_JOBS_S = 1.5
"""And the other jobs within this; a forecast that is lost costs nothing."""

REFIT_BUDGET = timedelta(hours=1)
"""Time for one refit: 1,000 workloads take 50 minutes of CPU time."""


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
        self._turns = TickFirst(config.tick)
        self.telemetry = Telemetry(
            self.board,
            in_force=self._in_force,
            leads=lambda: self.leading.leads,
            give_way=self._turns.give_way_to_page,
        )
        self._forecasts = ForecastBoard()
        self._starts = StartLedger()
        self._pod_requests = PodRequests(connection_of(config.prometheus))
        self._no_writes = threading.Event()
        if dry_run:
            self._no_writes.set()
        ears = Ears(log=self.log, on_renewed=end_in, on_lost=on_lost)
        self.leading = contender_of(config, ears, stands=self._has_something_to_write, observer=self._requested)
        self.ground = self._ground(dry_run=dry_run)
        self.journal = StoreJournal(store, on_recovery=lambda text: self.log.critical("store_recovered", detail=text))
        self._control = ControlFile(config.data_dir)
        self.round = self._round(dry_run=dry_run)
        self.upkeep = self._upkeep()
        self.rivals = RivalWatch(
            self.ground.rivals,
            self._active_targets,
            tell=self.round.set_remarks,
            log=self.log,
            give_way=self._turns.give_way,
        )
        # On a connection of its own: what placeholders write is no write of a round.
        self._placeholder_api = self._connection() if config.placeholders and not dry_run else None
        self.watchdog = ProgressWatchdog(config.tick, on_stall=self._stalled)
        self.web = WebServer(self._app(), host=config.http.host, port=config.http.port)
        jobs = jobs_of(config, self)
        if self._placeholder_api is not None:
            jobs += (placeholder_job(config, self._placeholder_api, self.board, self.log),)
        self._ticked_for: datetime | None = None
        self._tick_job = next(job for job in jobs if job.name == "tick")
        self._schedule = Schedule(jobs, on_trouble=self._trouble)
        self._live = LiveSettings(
            LiveParts(
                signals=self._signals,
                pod_requests=self._pod_requests,
                targets=self._targets,
                starts=self._starts,
                round=self.round,
                upkeep=self.upkeep,
                board=self.board,
                log=self.log,
                move_refit=lambda offset, now: self._schedule.move("refit", offset, now=now),
            )
        )

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _modes(self) -> dict[str, Mode]:
        """The mode of each workload: a person's over the settings', as of the last tick."""
        view = self.board.view()
        ordered = {} if view is None else {each.policy.workload: each.policy.mode for each in view.report.records}
        return {each.workload: ordered.get(each.workload, each.mode) for each in self.round.fleet.workloads}

    def _has_something_to_write(self) -> bool:
        """A daemon that only observes leaves the lease to others.

        Where the settings write it stands whatever people ordered: another daemon may not have heard of the order.
        """
        configured = (policy.mode for policy in self.round.fleet.workloads)
        return any(mode.counts for mode in (*configured, *self._modes().values())) or bool(self.config.placeholders)

    def _in_force(self) -> bool:
        """Whether the last decisions are still to be followed: ticks finish, and no other daemon may lead instead."""
        return self.watchdog.health().alive and (self.leading.leads or not self._has_something_to_write())

    def _requested(self, call: Call, status: int | None, duration_s: float) -> None:
        self.telemetry.requested(call.verb.value, status, duration_s)

    def _may_write(self) -> bool:
        return self.leading.leads and not self._no_writes.is_set()

    def _ground(self, *, dry_run: bool) -> Ground:
        on_pods = self._starts.note
        if self.config.local.servers:
            return MachineGround(self.config, self.log, dry_run=dry_run, may_write=self._may_write, on_pods=on_pods)
        return ClusterGround(
            self.config,
            may_write=self._may_write,
            write_limit_s=self.leading.write_limit_s,
            observer=self._requested,
            on_pods=on_pods,
            pod_requests=self._pod_requests,
        )

    def _connection(self) -> ApiConnection:
        return ApiConnection(
            access_of(self.config),
            may_write=self._may_write,
            write_limit_s=self.leading.write_limit_s,
            observer=self._requested,
        )

    def _round(self, *, dry_run: bool) -> Round:
        config = self.config
        states = self._last_states()
        signals = self._signals = SourceSignals(
            PrometheusSource(connection_of(config.prometheus)),
            selectors_of(config),
            latency_of(config),
            observer=self.telemetry.queried,
            on_read=self.telemetry.read,
        )
        targets = self._targets = self.ground.targets
        orders = orders_of(self._control, self.journal, self.log)
        controls = AnnotatedControls(orders, targets.annotations)
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
                writes=ParallelWrites(
                    begin_within_s=min(BEGIN_WITHIN_S, config.tick.total_seconds() / 3), wait=self.stopping.wait
                ),
                lead_times=self._starts,
            ),
            Outlets(
                board=self.board,
                telemetry=self.telemetry,
                log=self.log,
                announce=lambda now: targets.announce(now=now),
                tell_conflict=targets.tell_conflict,
                control_trouble=lambda: orders.trouble,
                mutating_requests=lambda: self.ground.mutating_requests,
                target_remarks=lambda: _remarks(targets, controls),
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
        # A source of its own: a check or a range query that hangs must not make a tick wait for its lock.
        source = PrometheusSource(connection_of(config.prometheus))
        selectors = selectors_of(config)
        self._forecaster = DemandForecaster(
            self.store,
            workloads=workloads,
            ttl=config.forecast.ttl,
            known=known_of(config),
            holidays=days_off(config),
            give_way=self._turns.give_way,
        )
        upkeep = Upkeep(
            Parts(
                selectors=selectors,
                source=source,
                store=self.store,
                intake=HistoryIntake(source, selectors, self.store, on_stored=self.telemetry.stored),
                forecaster=self._forecaster,
                shelf=shelf_of(config),
                forecasts=self._forecasts,
                starts=self._starts,
                board=self.board,
                telemetry=self.telemetry,
                round=self.round,
                refit=Refit(train_command(config), budget=REFIT_BUDGET),
                log=self.log,
                stopping=self.stopping.is_set,
                give_way=self._turns.give_way,
            )
        )
        upkeep.restore_starts()
        return upkeep

    def _active_targets(self) -> dict[str, TargetRef]:
        modes = self._modes()
        return {each: target for each, target in targets_of(self.config).items() if modes.get(each) is Mode.ACTIVE}

    def _app(self) -> Any:
        sources = Sources(
            board=self.board,
            registry=self.telemetry.registry,
            health=lambda: self.watchdog.health(),
            ready=lambda: self.watchdog.ready,
            records=self.journal,
            accounts=self._forecaster.accounts,
            desk=ControlDesk(
                self._control,
                known=lambda: [each.workload for each in self.config.fleet.workloads],
                floors=lambda: floors_of(self.config),
            ),
        )
        return create_app(sources, token_file=self.config.http.token_file)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to serve and to decide; the first tick runs at once. `OSError` if the port is taken."""
        self.upkeep.leave_known(known_of(self.config), now=datetime.now(UTC))
        started(self.board)
        self.web.start()
        self.ground.start()  # behind the page: where its port is taken nothing is begun
        self.watchdog.start()
        self.leading.start()
        self._turns.expect()
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

    def reload(self, config: Config) -> None:
        """Take these settings up between this tick and the next; what needs a restart is told and stays as it is.

        States of workloads that stay are kept, those of workloads that go are dropped. Safe from any thread.
        """
        self._live.put(config)

    def tick(self) -> None:
        """One round now; a round that raises is a defect: it is logged with its traceback, the next one runs."""
        if self.stopping.is_set():
            return
        self.config = self._live.take_up(self.config, now=datetime.now(UTC))
        due = due_time(self._tick_job, now=datetime.now(UTC))
        # The run at the start and the regular one may belong to one moment: it is decided once.
        if due != self._ticked_for:
            with self._turns.under_way():
                self.round.run(now=due)
            self._ticked_for = due
        self.watchdog.progressed()

    def realign(self) -> None:
        """Plan the jobs anew after the clock was set."""
        self._schedule.realign(now=datetime.now(UTC))

    def stop(self) -> bool:
        """Finish or abandon what runs, keep what was learnt, close. False if a thread could not be ended."""
        self.stopping.set()
        self._turns.release()
        self._schedule.stop()
        self.upkeep.stop()
        finished = self._schedule.wait("tick", timeout_s=STOP_TICK_S)
        self._no_writes.set()
        parts = [part for part in (self.ground, self._placeholder_api) if part is not None]
        self.leading.hand_over(lambda: all(part.writes_settled for part in parts))
        idle = self._schedule.wait(timeout_s=STOP_JOBS_S)
        self.watchdog.stop()
        self.web.stop()
        if idle:
            self.upkeep.save_engine(now=datetime.now(UTC))
            self.store.close()
        for part in parts:
            part.close()
        self.leading.close()
        self.log.info("stopped", tick="finished" if finished else "abandoned", jobs="ended" if idle else "abandoned")
        return idle

    def _stalled(self, health: Health) -> None:
        self.log.critical("stalled", reason=health.reason, since=health.since.isoformat(), stacks="on stderr")

    def _trouble(self, trouble: Trouble) -> None:
        if trouble.error is not None:
            self.telemetry.job_failed(trouble.job)
            self.log.error("job_failed", job=trouble.job, exc_info=trouble.error, meanwhile="the next run tries again")
        else:
            self.telemetry.job_late(trouble.job)
            self.log.warning("job_late", job=trouble.job, what=trouble.what)


def _remarks(targets: ScaleTargets, controls: AnnotatedControls) -> dict[str, tuple[str, ...]]:
    """What the last read of the cluster has to tell of workloads: pods that are not made, annotations nobody reads."""
    said, now = targets.remarks, datetime.now(UTC)
    for workload in targets.workloads:
        problems = controls.problems(workload, now=now)
        if problems:
            said[workload] = (*said.get(workload, ()), *problems)
    return said
