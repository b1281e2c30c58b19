"""The HTTP server in a thread of its own, so that a slow reader never holds up a tick. It knows no route."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn
from starlette.types import ASGIApp

from scaler.web.crowds import TimelyProtocol

START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 3.0


class WebServer:
    """Serves one application from `start` to `stop`."""

    def __init__(self, app: ASGIApp, *, host: str, port: int) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=15,
            http=TimelyProtocol,
            loop="asyncio",  # whatever else is installed: the same in every place
            server_header=False,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._host, self._asked_port = host, port
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind and serve. `OSError` if the address is taken: said at once, not from a thread."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        bound = socket.socket(family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self._host, self._asked_port))
        except OSError as error:
            bound.close()
            what = f"cannot listen on {self._host}:{self._asked_port}: {error.strerror}"
            raise OSError(f"{what}; end what listens there, or set http.host and http.port") from error
        self._socket = bound
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [bound]}, name="http", daemon=True)
        self._thread.start()
        ends = time.monotonic() + START_TIMEOUT_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < ends:
            time.sleep(0.01)

    @property
    def port(self) -> int:
        """The port that is served; a free one if 0 was asked for."""
        return self._asked_port if self._socket is None else int(self._socket.getsockname()[1])

    def stop(self) -> None:
        """Finish what is being answered and close."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=STOP_TIMEOUT_S)
        if self._socket is not None:
            self._socket.close()
