"""`headstart run` as a child process for stories about processes: started, looked at, stopped, killed. Holds no test."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FAILPOINTS = Path(__file__).resolve().parent / "failpoints.py"


class DaemonProcess:
    """One process; its log goes to a file, so that a full pipe never stops it, and its data to another beside it."""

    def __init__(self, config: Path, port: int, *, log: Path, failpoint: str | None = None) -> None:
        self._port = port
        self._log, self._data = log, log.with_name(f"{log.name}.stdout")
        program = ["-m", "scaler.cli"] if failpoint is None else [str(FAILPOINTS), failpoint]
        with log.open("wb") as said, self._data.open("wb") as put:
            self.child = subprocess.Popen(
                [sys.executable, *program, "run", "--config", str(config)],
                stdout=put,
                stderr=said,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body of a page."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text
        finally:
            connection.close()

    @property
    def ready(self) -> bool:
        """Whether a first tick has finished."""
        return self.get("/readyz")[0] == 200

    @property
    def ticks(self) -> int:
        """Finished ticks."""
        lines = self.get("/metrics")[1].splitlines()
        return int(
            float(next(line for line in lines if line.startswith("headstart_tick_duration_seconds_count")).split()[1])
        )

    @property
    def text(self) -> str:
        """All that it said."""
        return self._log.read_text(encoding="utf-8")

    @property
    def data(self) -> str:
        """What it put to stdout."""
        return self._data.read_text(encoding="utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log; a line that a kill cut short is none."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{") and line.endswith("}")]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the log with this name."""
        return [each for each in self.lines if each["event"] == name]

    def died(self, within_s: float = 90.0) -> int:
        """Wait for its end: the exit status, negative for a signal."""
        return self.child.wait(timeout=within_s)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """The exit status, and the seconds until it was there."""
        begun = time.monotonic()
        self.child.send_signal(how)
        return self.died(), time.monotonic() - begun

    def kill(self) -> None:
        """End it for certain, also where it is stopped."""
        self.child.kill()
        self.child.wait(timeout=60)


@contextmanager
def running(config: Path, port: int, *, log: Path, failpoint: str | None = None) -> Iterator[DaemonProcess]:
    """One process that does not outlive its story."""
    process = DaemonProcess(config, port, log=log, failpoint=failpoint)
    try:
        yield process
    finally:
        process.kill()


def until(found: Callable[[], Any], *, within_s: float = 90.0, what: str = "it") -> Any:
    """Wait until `found()` is true; a page that cannot be had yet is not."""
    ends = time.monotonic() + within_s
    while True:
        try:
            value = found()
        except (OSError, http.client.HTTPException):
            value = None
        if value:
            return value
        assert time.monotonic() < ends, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)
