"""A total deadline for one HTTP call, which urllib3 does not have.

It ends a call by cutting its socket, whoever is reading from it. It never starts a call, and knows nothing of HTTP.
"""

from __future__ import annotations

import socket
import threading
from typing import Any


class Deadline:
    """Cuts the socket of one call when its time is over.

    A socket timeout bounds each `recv`, not their sum: a server that drips a byte a second would hold a call for
    ever. Cutting beats giving up in another thread, which would leave a PATCH that may still be sent later.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connected: socket.socket) -> None:
        """Name the socket that this call waits on."""
        with self._lock:
            self._socket = connected
        if self.passed:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            self.passed = True
            if self._socket is not None:
                try:
                    # On the plain socket, below TLS: SSLSocket.shutdown would drop its state under the reader.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    self._socket = None  # already closed by the other side: nothing is left to cut

    def end(self) -> None:
        """The call is over; its socket belongs to the pool again."""
        self._timer.cancel()
        with self._lock:
            self._socket = None


class CurrentCall(threading.local):
    """The deadline of the call that this thread is waiting for."""

    deadline: Deadline | None = None


def watched(connection: type[Any], current: CurrentCall) -> type[Any]:
    """`connection` with its sockets named to the deadline of the call that waits for an answer on them."""

    class Watched(connection):  # type: ignore[misc]
        def getresponse(self) -> Any:
            if current.deadline is not None and self.sock is not None:
                current.deadline.watch(self.sock)
            return super().getresponse()

    return Watched
