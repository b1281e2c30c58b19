"""A total deadline for one HTTP call, which urllib3 does not have, and a fence that a write passes or does not.

It ends a call by cutting its socket, whoever is reading from it, and lets the kernel end what lies in the socket's
buffer. It never starts a call, and knows nothing of HTTP.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux


class Deadline:
    """Cuts the socket of one call when its time is over.

    A socket timeout bounds each `recv`, not their sum: a server that drips a byte a second would hold a call for
    ever. Cutting beats giving up in another thread, which would leave a PATCH that may still be sent later.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._ends_s = time.monotonic() + seconds
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

    def bound_delivery(self, connected: socket.socket) -> None:
        """Have the kernel give up what the other side has not acknowledged by then.

        Cutting a socket leaves in the kernel's hands what was sent: in a partition it would be sent again and again,
        and a write could arrive minutes later, even after this process has ended.
        """
        if _USER_TIMEOUT is not None:
            left_ms = math.ceil(1000 * (self._ends_s - time.monotonic()))
            connected.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, max(1, left_ms))

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
    """The call that this thread is waiting for: its deadline, and what must hold (or raise) before it may send."""

    deadline: Deadline | None = None
    fence: Callable[[], object] | None = None


def watched(connection: type[Any], current: CurrentCall) -> type[Any]:
    """`connection` with its sockets named to the deadline of the call that waits for an answer on them.

    The fence is asked as late as Python can: connected, a line before the bytes go to the kernel. Headers and body are
    sent apart, and a server does nothing before it has the body.
    """

    class Watched(connection):  # type: ignore[misc]
        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()  # here and not in super: a handshake may take seconds
            if current.deadline is not None:
                current.deadline.bound_delivery(self.sock)
            if current.fence is not None:
                current.fence()
            super().send(data)

        def getresponse(self) -> Any:
            if current.deadline is not None and self.sock is not None:
                current.deadline.watch(self.sock)
            return super().getresponse()

    return Watched
