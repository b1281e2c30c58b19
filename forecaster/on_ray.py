"""The parts of a training on a Ray cluster: the same function as everywhere, on other machines.

Decides how many parts are under way and which asks for a GPU; it starts a cluster of this machine alone where none is
named. The machines need the same release of this package and of the fitting libraries: `fits.fit_part` refuses a part
where they differ, because then the same data would not give the same model. Ray is imported when a run begins, never
before, and its usage reports are switched off.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from forecaster.errors import TrainingError
from forecaster.fits import Device, Fitted, Part, Progress, fit_part, given_up

AHEAD = 2
"""Parts under way for each processor of the cluster: one is fitted while the next one travels."""
ANSWERS_WITHIN_S = 10.0
"""A cluster's port that takes longer to accept is down."""
LOOKED_AFTER_S = 1.0
"""How often Ctrl-C and the budget are looked at while nothing arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ray:
    """The cluster at `address` ("auto", "host:6379", "ray://…"), or one of this machine alone."""

    address: str | None = None
    name: str = "ray"

    def run(self, parts: Sequence[Part], *, until_s: float | None, progress: Progress) -> Generator[Fitted]:
        """See `engines.Engine.run`. A part's progress stays on its machine: only its result is heard of."""
        if not parts:
            return
        ray = _ray()
        with _ctrl_c_told_between_calls() as stop_if_asked:
            _connect(ray, self.address)
            try:
                yield from _results(ray, parts, until_s, stop_if_asked)
                stop_if_asked()
            finally:
                # It ends the parts under way, as the cluster frees what a job held when the job goes. They are not
                # cancelled one by one: a part that is done at that moment makes Ray's own process fail a check and end
                # with status 1 (one interrupted job in eight on a busy machine, Ray 2.60).
                ray.shutdown()


def _ray() -> Any:
    if importlib.util.find_spec("ray") is None:
        raise TrainingError("--engine ray needs Ray: pip install 'headstart[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    return ray


def _connect(ray: Any, address: str | None) -> None:
    if address is not None:
        _knock(address)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    local = {} if address else {"include_dashboard": False, "address": "local"}
    try:
        ray.init(**quiet, **local, **({"address": address} if address else {}))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise TrainingError(f"no Ray cluster at {address or 'this machine'}: {error}; see `ray status`") from error


def _knock(address: str) -> None:
    """Refuse an address that nothing listens at: Ray itself goes on trying for more than five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto": Ray looks for the cluster of this machine, and says at once if there is none
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN_S).close()
    except OSError as error:
        raise TrainingError(f"no Ray cluster at {address}: {error.strerror or error}; see `ray status`") from error


@contextmanager
def _ctrl_c_told_between_calls() -> Iterator[Callable[[], None]]:
    """Answers a check that raises `KeyboardInterrupt` once Ctrl-C was pressed.

    Inside a call Ray may turn the interrupt into an error of its own: the part under way would be given up for good
    and the job would go on.
    """
    asked = threading.Event()

    def stop_if_asked() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop_if_asked  # Python tells signals to the main thread alone
        return
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, before)


def _results(
    ray: Any, parts: Sequence[Part], until_s: float | None, stop_if_asked: Callable[[], None]
) -> Generator[Fitted]:
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0.0)
    most = AHEAD * max(1, int(resources.get("CPU", 1.0)))
    task = ray.remote(num_cpus=1, max_retries=1)(fit_part)
    waiting, under_way = list(reversed(parts)), dict[Any, Part]()
    while waiting or under_way:
        while waiting and len(under_way) < most:
            part = waiting.pop()
            under_way[task.options(num_gpus=_gpus(part, gpus)).remote(part)] = part
        arrived = _arrived(ray, list(under_way), until_s)
        stop_if_asked()
        for reference in arrived:
            result = _result(ray, reference, under_way.pop(reference))
            stop_if_asked()
            yield result
        if until_s is not None and time.monotonic() >= until_s:
            return


def _gpus(part: Part, there_are: float) -> float:
    wanted = part.model == "lstm" and part.device is not Device.CPU
    return 1.0 if wanted and there_are >= 1.0 else 0.0


def _arrived(ray: Any, references: list[Any], until_s: float | None) -> list[Any]:
    """What has arrived within `LOOKED_AFTER_S`; nothing is fine."""
    left_s = LOOKED_AFTER_S if until_s is None else min(LOOKED_AFTER_S, max(0.0, until_s - time.monotonic()))
    ready, _ = ray.wait(references, num_returns=1, timeout=left_s)
    return list(ready)


def _result(ray: Any, reference: Any, part: Part) -> Fitted:
    try:
        result: Fitted = ray.get(reference)
    except ray.exceptions.RayError as error:
        # Ray's texts carry a traceback of the other machine: its last line says what happened there.
        return given_up(part, f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
    return result
