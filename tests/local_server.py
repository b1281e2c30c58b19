"""A server for stories of the local scale target: a real process that behaves like a vLLM as far as they look. No test.

Run as a program: `local_server.py --port N [--ready-after S] [--ignore-sigterm] [--engine] [--die-after S]`.
GET /health is 503
until it is ready; /metrics is a page with its requests; POST anything is answered after `--answer-s`; SIGTERM ends it
once what it has in flight is answered. `POST /sicken` makes it unhealthy, `POST /recover` healthy again.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROGRAM = Path(__file__).resolve()


def command(*options: str, port: str = "{port}") -> tuple[str, ...]:
    """The words that start one."""
    return (sys.executable, str(PROGRAM), "--port", port, *options)


class Life:
    """What the handlers share."""

    def __init__(self, ready_after_s: float, answer_s: float) -> None:
        self.ready_at = time.monotonic() + ready_after_s
        self.answer_s = answer_s
        self.sick = False
        self.served = 0
        self.in_flight = 0
        self.lock = threading.Lock()

    @property
    def is_ready(self) -> bool:
        return time.monotonic() >= self.ready_at and not self.sick


def main() -> None:
    options = _options()
    life = Life(options.ready_after, options.answer_s)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self._answer(200 if life.is_ready else 503, "")
            elif self.path == "/whoami":
                self._answer(200, f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}")
            elif self.path == "/metrics":
                self._answer(200, _page(life))
            else:
                self._answer(404, "")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path in ("/sicken", "/recover"):
                life.sick = self.path == "/sicken"
                self._answer(200, "")
                return
            with life.lock:
                life.in_flight += 1
            time.sleep(life.answer_s)
            self._answer(200, '{"choices": []}')
            with life.lock:
                life.in_flight -= 1
                life.served += 1

        def _answer(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", options.port), Handler)

    def end(number: int, frame: object) -> None:
        del number, frame
        if not options.ignore_sigterm:
            threading.Thread(target=_drained, args=(server, life), daemon=True).start()

    signal.signal(signal.SIGTERM, end)
    if options.engine:  # as vLLM's own: a process without our environment, which outlives a server that is killed
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={})
    if options.die_after is not None:
        threading.Timer(options.die_after, lambda: os._exit(3)).start()
    server.serve_forever(0.05)


def _drained(server: ThreadingHTTPServer, life: Life) -> None:
    while life.in_flight:
        time.sleep(0.01)
    server.shutdown()


def _page(life: Life) -> str:
    labels = '{engine="0",model_name="tiny"}'
    return (
        f"# TYPE vllm:request_success_total counter\nvllm:request_success_total{labels} {life.served}\n"
        f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{labels} {life.in_flight}\n"
        f"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{labels} 0\n"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready-after", type=float, default=0.0)
    parser.add_argument("--answer-s", type=float, default=0.0)
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--die-after", type=float)
    return parser.parse_args()


if __name__ == "__main__":
    main()
