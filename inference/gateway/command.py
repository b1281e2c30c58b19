"""`headstart gateway`: read the settings, listen, serve until told to stop. One process is one copy."""

from __future__ import annotations

import gc
import logging
import signal
import socket
from pathlib import Path

import uvicorn

from inference.gateway.access_log import JsonLog
from inference.gateway.app import application
from inference.gateway.settings import Settings, read_settings, redis_url, secret

KEEP_ALIVE_S = 75
"""Idle connections of clients: above the 60 s of nginx and of most load balancers, so that they close first."""

STOP_WITHIN_S = 130
"""How long streams may go on after SIGTERM: vLLM's own shutdown of 120 s, and a little."""


def run(path: Path) -> int:
    """Serve; the exit code. Raises `DocumentError` before anything is bound where the settings cannot work."""
    settings = read_settings(path)
    _check_secrets(settings)
    log = JsonLog()
    app = application(settings, log=log)
    config = uvicorn.Config(
        app,
        host=settings.listen.host,
        port=settings.listen.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_WITHIN_S,
    )
    logging.getLogger("uvicorn.error").addFilter(_not_a_cut_off)
    listener = _listener(settings)
    log.event("listening", {"host": settings.listen.host, "port": settings.listen.port})
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn ends its streams and then raises the signal again: being told to stop is no failure.
        signal.signal(number, lambda *_: None)
    config.load()
    _leave_alone_what_is_here()
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listener(settings: Settings) -> socket.socket:
    """The bound socket; each connection inherits its options."""
    host, port = settings.listen.host, settings.listen.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle off only where it is: else each stream's first token waits 40 ms
    # for the acknowledgement of the headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # What was written for a client that takes nothing stays in the kernel after its request was given up; after
        # this time the kernel ends the connection as well.
        limit_ms = int(settings.limits.write_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
    listener.bind((host, port))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


def _leave_alone_what_is_here() -> None:
    """Take code and settings, which stay, out of the searches for unused cycles.

    A search through all of them took 30 ms, once every few hundred streams, and each stream's next token waited for it.
    """
    gc.collect()
    gc.freeze()


def _check_secrets(settings: Settings) -> None:
    """A secret that cannot be read is found now, not at the first request."""
    redis_url(settings.cache)
    if settings.upstream.api_key_file is not None:
        secret(settings.upstream.api_key_file)


def _not_a_cut_off(record: logging.LogRecord) -> bool:
    """An answer that its replica broke off is left unfinished on purpose, and is in the access log."""
    return "without completing response" not in record.getMessage()
