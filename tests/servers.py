"""Real and misbehaving servers for tests: a Prometheus with its exporter, and an HTTP server that breaks promises.

Holds no test. Everything listens on loopback, on a port that the system chose.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import yaml

READY_WITHIN_S = 90.0


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def prometheus_is_installed() -> bool:
    """Whether the server and promtool are on the PATH."""
    return shutil.which("prometheus") is not None and shutil.which("promtool") is not None


# ── An exporter ───────────────────────────────────────────────────────────────────────────────────────────────────


class Exporter:
    """Serves text pages by path; a page is a callable, and one that raises or answers None is a 500."""

    def __init__(self, pages: Mapping[str, Callable[[], str | None]] | None = None) -> None:
        self.pages: dict[str, Callable[[], str | None]] = dict(pages or {})
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = exporter.pages.get(self.path.partition("?")[0])
                text = None
                with contextlib.suppress(Exception):
                    text = page() if page is not None else None
                body = (text or "").encode()
                self.send_response(200 if text is not None else 500)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # whoever asked was killed meanwhile
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


TTFT_EDGES = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
REQUEST_EDGES = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0)
TOKEN_EDGES = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)


@dataclass(slots=True, kw_only=True)
class VllmPage:
    """The metrics page of a vLLM that has served `rate_rps` since `born`, every request alike."""

    model_name: str
    rate_rps: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    kv_cache_usage: float = 0.0
    ttft_s: float = 0.09
    e2e_s: float = 1.4
    queue_s: float = 0.2
    itl_s: float = 0.03
    itl_metric: str = "vllm:request_time_per_output_token_seconds"
    """Today's counts requests; any older one counts the tokens that follow the first."""
    engine: str = "0"
    kv_metric: str = "vllm:kv_cache_usage_perc"
    born: float = field(default_factory=time.time)
    age_s: float = 0.0
    """How long ago its samples say they were taken, at each scrape anew; 0: they say nothing."""

    def __call__(self) -> str:
        """The page as it is now."""
        served = int(self.rate_rps * (time.time() - self.born))
        lines = [
            *self._sample("vllm:num_requests_running", "gauge", self.running),
            *self._sample("vllm:num_requests_waiting", "gauge", self.waiting),
            *self._sample(self.kv_metric, "gauge", self.kv_cache_usage),
            *self._sample("vllm:request_success_total", "counter", served, 'finished_reason="length"'),
            *self._sample("vllm:prompt_tokens_total", "counter", 100 * served),
            *self._sample("vllm:generation_tokens_total", "counter", 50 * served),
            *self._sample("vllm:num_preemptions_total", "counter", 0),
            *self._sample("vllm:prefix_cache_queries_total", "counter", 100 * served),
            *self._sample("vllm:prefix_cache_hits_total", "counter", 25 * served),
            *self._histogram("vllm:time_to_first_token_seconds", TTFT_EDGES, self.ttft_s, served),
            *self._histogram("vllm:e2e_request_latency_seconds", REQUEST_EDGES, self.e2e_s, served),
            *self._histogram("vllm:request_queue_time_seconds", REQUEST_EDGES, self.queue_s, served),
            *self._token_gaps(served),
        ]
        return "\n".join(lines) + "\n"

    def _token_gaps(self, served: int) -> Iterator[str]:
        """Forty-nine gaps of a request of fifty tokens, and its mean where that is told."""
        by_request = self.itl_metric == "vllm:request_time_per_output_token_seconds"
        of_tokens = "vllm:inter_token_latency_seconds" if by_request else self.itl_metric
        yield from self._histogram(of_tokens, TOKEN_EDGES, self.itl_s, 49 * served)
        if by_request:
            yield from self._histogram(self.itl_metric, TOKEN_EDGES, self.itl_s, served)

    def _sample(self, metric: str, kind: str, value: float, labels: str = "") -> Iterator[str]:
        yield f"# TYPE {metric} {kind}"
        yield self._line(metric, value, labels)

    def _line(self, metric: str, value: float, labels: str = "") -> str:
        more = f",{labels}" if labels else ""
        at = f" {int((time.time() - self.age_s) * 1000)}" if self.age_s else ""
        return f'{metric}{{engine="{self.engine}",model_name="{self.model_name}"{more}}} {value}{at}'

    def _histogram(self, metric: str, edges: Sequence[float], value: float, count: int) -> Iterator[str]:
        yield f"# TYPE {metric} histogram"
        for edge in edges:
            yield self._line(f"{metric}_bucket", count if value <= edge else 0, f'le="{edge}"')
        yield self._line(f"{metric}_bucket", count, 'le="+Inf"')
        yield self._line(f"{metric}_count", count)
        yield self._line(f"{metric}_sum", count * value)


# ── Prometheus ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One scrape target: a path on an address, and the labels that discovery would give it."""

    address: str
    path: str
    labels: Mapping[str, str]
    job: str = "vllm"


class PrometheusServer:
    """A real Prometheus in a temporary folder. Back-fill before `start`; `kill` leaves it as a crash would.

    The interval is also the time that a scrape may take: with 250 ms a busy machine failed now and then, and a failed
    scrape is a blind minute.
    """

    def __init__(self, targets: Sequence[Target] = (), *, scrape_interval: str = "500ms") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._interval = scrape_interval
        self.port = free_port()
        self.write_config(targets)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        return None if self._process is None else self._process.pid

    def write_config(self, targets: Sequence[Target]) -> None:
        """The scrape configuration; takes effect at the next start."""
        jobs: dict[str, list[Target]] = {}
        for target in targets:
            jobs.setdefault(target.job, []).append(target)
        config = {
            "global": {"scrape_interval": self._interval, "scrape_timeout": self._interval},
            "scrape_configs": [
                {"job_name": job, "static_configs": [self._static(target) for target in members]}
                for job, members in jobs.items()
            ],
        }
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")

    @staticmethod
    def _static(target: Target) -> dict[str, object]:
        return {"targets": [target.address], "labels": {"__metrics_path__": target.path, **target.labels}}

    def back_fill(self, open_metrics: str) -> None:
        """Write samples of the past, in the OpenMetrics format with timestamps, into its storage. Not while it runs."""
        source = self._folder / "history.om"
        source.write_text(open_metrics if open_metrics.endswith("# EOF\n") else open_metrics + "# EOF\n")
        # One block instead of one for every two hours: ten times faster over two weeks.
        command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=2000h"]
        command += [str(source), str(self._folder / "data")]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    def start(self) -> None:
        """Start and wait until it answers."""
        command = [
            "prometheus",
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            "--storage.tsdb.retention.time=1000d",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=error",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        ends_at = time.monotonic() + READY_WITHIN_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > ends_at:
                raise RuntimeError(f"prometheus did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
            self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


# ── A server that breaks promises ─────────────────────────────────────────────────────────────────────────────────

EMPTY_VECTOR = b'{"status":"success","data":{"resultType":"vector","result":[]}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as the misbehaving server saw it."""

    path: str
    headers: Mapping[str, str]
    body: str


Behaviour = Callable[["RawConversation"], None]


class RawConversation:
    """One accepted connection, to be answered in any way at all."""

    def __init__(self, handler: BaseHTTPRequestHandler, received: Received, stopping: threading.Event) -> None:
        self._handler = handler
        self.received = received
        self.stopping = stopping

    def send(self, data: bytes) -> bool:
        """Raw bytes; False once the other side is gone."""
        try:
            self._handler.wfile.write(data)
            self._handler.wfile.flush()
        except OSError:
            return False
        return True

    def answer(self, status: int, body: bytes, *, content_type: str = "application/json", head: str = "") -> None:
        """A well-formed response, with any body."""
        lines = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        self.send(lines.encode() + body)

    @property
    def connection(self) -> socket.socket:
        """The socket, to break it."""
        connection: socket.socket = self._handler.connection
        return connection

    def hang(self) -> None:
        """Say nothing until the server stops."""
        self.stopping.wait(60)

    def drip(self, data: bytes, *, every_s: float) -> None:
        """One byte at a time, so that no socket timeout is ever reached."""
        for byte in data:
            if not self.send(bytes([byte])) or self.stopping.wait(every_s):
                return


class MisbehavingServer:
    """Answers every request as `behaviour` says and keeps what it received."""

    def __init__(self, behaviour: Behaviour, *, tls: ssl.SSLContext | None = None) -> None:
        self.behaviour = behaviour
        self._scheme = "http" if tls is None else "https"
        self.received: list[Received] = []
        self.stopping = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                received = Received(
                    path=self.path, headers=dict(self.headers.items()), body=self.rfile.read(length).decode()
                )
                outer.received.append(received)
                outer.behaviour(RawConversation(self, received, outer.stopping))
                self.close_connection = True

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                """Silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
