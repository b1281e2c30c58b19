"""Sets the rehearsal up and takes it down: folders, a past for Prometheus, the processes, and nothing left behind.

It decides the order and waits for each part to answer. It scales nothing: that is what is being rehearsed.
"""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from scaler.adapters.local_vllm import BACKENDS, FOLDER, TARGETS, end_everything
from scaler.rehearsal import recipe as recipes
from scaler.rehearsal.recipe import Plan
from scaler.rehearsal.rhythm import Rhythm, open_metrics

PAST = timedelta(days=3)
"""What the models look back on: a day to learn from, and two in which it came back."""

ANSWERS_WITHIN_S = 120.0
END_WITHIN_S = 15.0


class StageError(Exception):
    """A part that is missing or did not start; the text says which, why, and what to do."""


class Stage:
    """Everything that runs, as a context: on the way out all of it is gone."""

    def __init__(
        self, folder: Path, plan: Plan, *, gateway: Sequence[str] | None = None, past: Rhythm | None = None
    ) -> None:
        """`gateway` starts another one than the product's, with the settings file as its last word; `past` is the
        rhythm of the last days, as Prometheus will tell it."""
        self.folder = folder.resolve()
        self.plan = plan
        self._gateway = tuple(gateway or (sys.executable, "-m", "scaler.cli", "gateway", "--config"))
        self._past = past
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()
        self._took_requests = False

    # ── up and down ───────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        for program in ("prometheus", "promtool"):
            if shutil.which(program) is None:
                raise StageError(f"{program} is not installed: apt-get install prometheus")
        self._stack.callback(self.close)
        try:
            self._write()
            self._start("prometheus", self._prometheus(), self.plan.ports.prometheus, "/-/ready")
            self._start("gateway", (*self._gateway, str(self.folder / "gateway.yaml")), self.plan.ports.gateway)
            self.start_daemon()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def close(self) -> None:
        """End what was started, the daemon first: it would mend what ends around it."""
        for name in reversed(list(self._children)):
            _end(self._children.pop(name))
        end_everything(self.local, patience_s=END_WITHIN_S)

    def start_daemon(self) -> None:
        """The daemon, as `headstart run` starts it."""
        command = (sys.executable, "-m", "scaler.cli", "run", "--config", str(self.folder / "headstart.yaml"))
        self._start("headstart", command, self.plan.ports.daemon, "/healthz")

    def kill(self, name: str) -> None:
        """SIGKILL to one of the parts: prometheus, gateway or headstart."""
        child = self._children.pop(name)
        child.kill()
        child.wait(timeout=END_WITHIN_S)

    # ── what can be asked ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def local(self) -> Path:
        """The folder of the local target."""
        return self.folder / "data" / FOLDER

    @property
    def gateway_url(self) -> str:
        """Where requests go."""
        return self.plan.ports.url(self.plan.ports.gateway)

    def workload(self) -> dict[str, Any] | None:
        """What the daemon tells of its workload; None before its first tick, and while it does not answer."""
        items = (self._json(self.plan.ports.daemon, "/api/v1/workloads") or {}).get("items", [])
        return items[0] if items else None

    def decision(self) -> dict[str, Any] | None:
        """Its last decision, whole."""
        return self._json(self.plan.ports.daemon, f"/api/v1/workloads/{recipes.WORKLOAD}/explain")

    def forecast(self) -> dict[str, Any] | None:
        """The forecast in force."""
        return self._json(self.plan.ports.daemon, f"/api/v1/workloads/{recipes.WORKLOAD}/forecast")

    def backends(self) -> list[dict[str, Any]]:
        """The servers as the gateway is told of them."""
        try:
            rows: list[dict[str, Any]] = json.loads((self.local / BACKENDS).read_text())["backends"]
        except FileNotFoundError:
            return []
        return rows

    def takes_requests(self) -> bool:
        """Whether the gateway has ever known of a server that it may send to: before that a request is refused."""
        if not self._took_requests:
            rows = (self._json(self.plan.ports.gateway, "/backends") or {}).get("backends", [])
            self._took_requests = any(row["state"] == "ready" and row.get("healthy", True) for row in rows)
        return self._took_requests

    def in_flight(self) -> dict[str, float]:
        """Requests by server address, as the gateway says."""
        rows = (self._json(self.plan.ports.gateway, "/backends") or {}).get("backends", [])
        return {str(row["url"]): float(row["in_flight"]) for row in rows}

    def page(self, path: str) -> str:
        """A page of the daemon's, as text; "" where it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.plan.ports.daemon, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def log(self, name: str) -> str:
        """What a part has said."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def override(self, replicas: int, *, lasts: str) -> None:
        """`headstart override` on the workload, for a duration such as "10m"."""
        command = (sys.executable, "-m", "scaler.cli", "override", recipes.WORKLOAD, "--replicas", str(replicas))
        words = ("--for", lasts, "--reason", "rehearsal", "--url", self.plan.ports.url(self.plan.ports.daemon))
        done = subprocess.run((*command, *words), capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise StageError(f"override failed: {done.stderr.strip() or done.stdout.strip()}")

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self) -> None:
        end_everything(self.local, patience_s=END_WITHIN_S)  # of a rehearsal that was killed
        for name in ("data", "prometheus"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {
            "headstart.yaml": recipes.daemon_settings(self.plan),
            "gateway.yaml": recipes.gateway_settings(self.plan, backends=self.local / BACKENDS),
            "prometheus.yml": recipes.prometheus_settings(self.plan, targets=self.local / TARGETS),
            "variants.yaml": self.plan.recipe.catalogue,
        }
        for name, text in files.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        self.local.mkdir(parents=True, mode=0o700)
        # Both are there before their readers: the gateway begins with no replica, not without a file.
        (self.local / BACKENDS).write_text('{"apiVersion": "headstart/v1", "kind": "Backends", "backends": []}\n')
        (self.local / TARGETS).write_text("[]\n")
        if self._past is not None:
            self._back_fill(self._past)

    def _back_fill(self, rhythm: Rhythm) -> None:
        now = datetime.now(UTC)
        labels = {
            **{"model": recipes.MODEL, "request_class": recipes.CLASS, "priority": "normal"},
            **{"job": "gateway", "instance": "yesterday:1"},
        }
        source = self.folder / "past.om"
        lines = open_metrics(rhythm, start=now - PAST, end=now - timedelta(seconds=30), labels=labels)
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = ("promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=2000h")
        folder = str(self.folder / "prometheus")
        done = subprocess.run((*command, str(source), folder), capture_output=True, text=True, timeout=120, check=False)
        source.unlink()
        if done.returncode:
            raise StageError(f"promtool refused the past: {done.stderr.strip()[-500:]}")

    def _prometheus(self) -> tuple[str, ...]:
        return (
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.plan.ports.prometheus}",
            "--log.level=warn",
        )

    def _start(self, name: str, command: Sequence[str], port: int, path: str = "/healthz") -> None:
        """Start a part and wait until it answers. Should we be killed, the kernel ends it too (setpriv)."""
        guard = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
        with (self.folder / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                (*guard, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._children[name] = child
        ends = time.monotonic() + ANSWERS_WITHIN_S
        while _status(port, path) != http.client.OK:
            if (code := child.poll()) is not None:
                raise StageError(f"{name} ended with {code}: {self.log(name)[-1000:]}")
            if time.monotonic() >= ends:
                raise StageError(f"{name} did not answer on port {port}: {self.log(name)[-1000:]}")
            time.sleep(0.1)

    def _json(self, port: int, path: str) -> dict[str, Any] | None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            return json.loads(body) if answer.status == http.client.OK else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()


def _status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=END_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(timeout=END_WITHIN_S)
