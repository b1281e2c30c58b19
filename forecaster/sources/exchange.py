"""One question to Prometheus and its answer, within a total deadline and a size.

Decides when an answer counts: complete, in time, small enough, JSON of the promised shape, and free of the warnings
that mark a partial one. Never retries (a 401 after a token rotation is the one exception), never follows a redirect,
and never lets a secret into an error.

The stock client sets no total deadline (a server that sends one byte a second keeps it for ever), retries by itself,
and drops `warnings`. So its requests go through a session of ours: the call runs in a thread of its own, and whoever
waits for it shuts the socket down when the time is up.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from forecaster.errors import SourceError, SourceMalformed, SourceRefused, SourceTimeout
from forecaster.sources.answers import Row, document_of, parse_rows
from forecaster.sources.connection import Connection, Credentials, body_head, load_credentials

CHUNK_BYTES = 64 * 1024
GRACE_S = 0.25
"""How long a call that was cut gets to notice."""
MAX_SERIES = 150_000
"""Series that the answers of one round hold together: a tick over 2,000 workloads has at most 100,000. Parsing takes
1.2 kB each, so that five answers just below their limit of bytes came to 1.3 GB; with this bound it is 360 MB."""
MAX_ABANDONED = 8
"""Calls that hang even after their socket was shut (in name resolution); with more, no new one is started."""


class SourcePartial(SourceMalformed):
    """The answer carries warnings: some of the data behind it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer; `infos` are remarks of the server that do not make it partial."""

    rows: tuple[Row, ...]
    infos: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: PromQL, and for a range the times of its first and last evaluation and their distance."""

    text: str
    start: datetime | None = None
    end: datetime | None = None
    step_s: int = 0


class _Room:
    """Room for the series of one round's answers; one answer is parsed at a time, and not at all if it does not fit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = MAX_SERIES

    def parsed(self, content: bytes) -> Any:
        """The JSON of an answer. `SourceMalformed` if it holds too many series, `ValueError` if it is no JSON."""
        series = content.count(b'"metric"')
        with self._lock:
            if series > self._left:
                raise SourceMalformed(
                    f"{series} series in one answer, {self._left} fit; not parsed. Narrow the selectors: something "
                    "gives each request or pod a label of its own",
                    retryable=False,
                )
            self._left -= series
            return document_of(content)


class _Lifeline:
    """A second handle on the socket of one call, by which it can be cut from another thread.

    A duplicate descriptor: it stays valid whatever TLS or the HTTP library do with theirs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: list[socket.socket] = []
        self._cut = False

    def hold(self, connected: socket.socket) -> socket.socket:
        with self._lock:
            if self._cut:
                connected.close()
                raise OSError("the call was cut")
            self._handles.append(connected.dup())
        return connected

    def cut(self) -> None:
        with self._lock:
            self._cut = True
            for handle in self._handles:
                with contextlib.suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        with self._lock:
            for handle in self._handles:
                handle.close()
            self._handles.clear()


class _Adapter(HTTPAdapter):
    """No retries, and every socket on the lifeline."""

    def __init__(self, lifeline: _Lifeline) -> None:
        self._lifeline = lifeline
        super().__init__(max_retries=Retry(0, read=False), pool_connections=1, pool_maxsize=1)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        lifeline = self._lifeline

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return lifeline.hold(super()._new_conn())

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return lifeline.hold(super()._new_conn())

        # typeshed knows the pool by its base class; both kinds take a connection class of their own.
        pool.ConnectionCls = Secure if pool.scheme == "https" else Plain  # type: ignore[attr-defined]
        return pool


class _Body:
    """What the stock client sees of a response: status, content and JSON, already read and checked."""

    def __init__(self, status_code: int, content: bytes, document: Mapping[str, Any]) -> None:
        self.status_code = status_code
        self.content = content
        self._document = document

    def json(self) -> Mapping[str, Any]:
        return self._document


class _Session(requests.Session):
    """The session of one call. Keeps nothing, follows nothing, and reads no environment (netrc, proxies)."""

    def __init__(
        self, connection: Connection, credentials: Credentials, lifeline: _Lifeline, room: _Room, ends_at: float
    ) -> None:
        super().__init__()
        self._room = room
        self._connection = connection
        self._credentials = credentials
        self._adapter = _Adapter(lifeline)
        self._ends_at = ends_at
        self.infos: tuple[str, ...] = ()
        self.trust_env = False
        self.verify = connection.ca_file or True
        if connection.cert_file:
            self.cert = (connection.cert_file, connection.key_file) if connection.key_file else connection.cert_file

    def get_adapter(self, url: str | bytes) -> HTTPAdapter:
        """Ours: the stock client mounts its own over any other."""
        return self._adapter

    def request(self, method: str | bytes, url: str | bytes, **kwargs: Any) -> Any:  # type: ignore[override]
        """Send, read within size and time, and check. Parameters go into the body: a batch outgrows a URL."""
        left = max(0.05, self._ends_at - time.monotonic())
        kwargs |= {"timeout": (left, left), "stream": True, "allow_redirects": False}
        if method == "POST":
            kwargs["data"] = kwargs.pop("params", None)
        response = super().request(method, url, **kwargs)
        try:
            content = self._read(response)
        finally:
            response.close()
        document = self._checked(response, content)
        return _Body(response.status_code, content, document)

    def _read(self, response: requests.Response) -> bytes:
        limit = self._connection.max_answer_bytes
        parts: list[bytes] = []
        size = 0
        for part in response.iter_content(CHUNK_BYTES):
            size += len(part)
            if size > limit:
                raise SourceMalformed(
                    f"answer longer than {limit} bytes; the stream was cut. Narrow the selectors",
                    retryable=False,
                )
            parts.append(part)
        return b"".join(parts)

    def _checked(self, response: requests.Response, content: bytes) -> Mapping[str, Any]:
        def head() -> str:
            # Only of what is refused: to look for secrets in it takes longer than to read a good answer of that size.
            return body_head(content, self._credentials.secrets)

        if response.status_code != 200:
            raise SourceRefused(
                f"HTTP {response.status_code}: {head()}",
                retryable=response.status_code not in (400, 422),
                status=response.status_code,
            )
        try:
            document = self._room.parsed(content)
        except (ValueError, RecursionError):
            kind = response.headers.get("Content-Type", "no content type").split(";")[0][:40]
            raise SourceMalformed(f"HTTP 200 but not JSON ({kind}, {len(content)} bytes): {head()}") from None
        if not isinstance(document, dict) or document.get("status") != "success":
            raise SourceMalformed(f"HTTP 200 but not a Prometheus answer: {head()}")
        data = document.get("data")
        if not isinstance(data, dict) or not isinstance(data.get("result"), list):
            raise SourceMalformed(f"HTTP 200 but no result in the answer: {head()}")
        self.infos = self._remarks(document)
        return document

    def _remarks(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        warnings = [str(text) for text in document.get("warnings") or ()]
        # Prometheus 2.48 to 2.54 sent its remarks on PromQL under `warnings`; they say nothing about missing data.
        partial = [text for text in warnings if not text.startswith("PromQL info")]
        if partial:
            heads = "; ".join(body_head(text.encode(), self._credentials.secrets) for text in partial[:3])
            raise SourcePartial(f"partial answer, {len(partial)} warnings: {heads}")
        infos = [str(text) for text in document.get("infos") or ()]
        return tuple(body_head(text.encode()) for text in (*warnings, *infos)[:10])


class Exchange:
    """One question under way in a thread of its own. `start`, then `finish` by the deadline."""

    def __init__(
        self, connection: Connection, question: Question, *, deadline_s: float, room: _Room | None = None
    ) -> None:
        self._connection = connection
        self._room = room or _Room()
        self._question = question
        self._ends_at = time.monotonic() + deadline_s
        self._deadline_s = deadline_s
        self._lifeline = _Lifeline()
        self._thread = threading.Thread(target=self._run, daemon=True, name="prometheus-query")
        self._outcome: Answer | SourceError | None = None

    def start(self) -> None:
        """Send the question."""
        self._thread.start()

    def finish(self) -> Answer | SourceError:
        """Wait for the answer until the deadline, then cut the connection."""
        self._thread.join(max(0.0, self._ends_at - time.monotonic()))
        if self._thread.is_alive():
            self._lifeline.cut()
            self._thread.join(GRACE_S)
            return SourceTimeout(
                f"no complete answer within {self._deadline_s:g} s; connection cut", query=self._question.text
            )
        return self._outcome or SourceMalformed("the call ended without an outcome", query=self._question.text)

    @property
    def hangs(self) -> bool:
        """Whether the thread is still alive: only after a cut that it could not notice."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._outcome = self._ask()
        except SourceError as error:
            error.query = self._question.text
            self._outcome = error
        except (requests.RequestException, HTTPError, PrometheusApiClientException, OSError, ValueError) as error:
            self._outcome = self._translated(error)
        finally:
            self._lifeline.release()

    def _translated(self, error: Exception) -> SourceError:
        # Only the kind is told: texts of requests repeat the URL, its password and the whole query.
        text = f"{_kind_of(error)} at {self._connection.base_url}"
        if time.monotonic() >= self._ends_at or isinstance(error, requests.Timeout):
            return SourceTimeout(f"{text} (deadline {self._deadline_s:g} s)", query=self._question.text)
        if isinstance(error, (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)):
            return SourceMalformed(f"{text}: the body ended early or cannot be decoded", query=self._question.text)
        return SourceRefused(text, query=self._question.text)

    def _ask(self) -> Answer:
        try:
            return self._call()
        except SourceRefused as error:
            if error.status != 401 or not self._connection.bearer_token_file:
                raise
            return self._call()  # the token file is read again: it may just have been rotated

    def _call(self) -> Answer:
        credentials = load_credentials(self._connection)
        session = _Session(self._connection, credentials, self._lifeline, self._room, self._ends_at)
        with PrometheusConnect(
            url=self._connection.base_url,
            headers=dict(credentials.headers),
            auth=credentials.auth,
            retry=Retry(0),
            session=session,
            method=self._connection.http_method,
        ) as client:
            return Answer(rows=parse_rows(self._result(client)), infos=session.infos)

    def _result(self, client: Any) -> list[Any]:
        question = self._question
        limit = {"timeout": f"{max(1, round(self._deadline_s))}s"}
        if question.start is None or question.end is None:
            result: list[Any] = client.custom_query(question.text, params=limit)
            return result
        ranged: list[Any] = client.custom_query_range(
            question.text, question.start, question.end, str(question.step_s), params=limit
        )
        return ranged


class Wire:
    """All questions to one Prometheus; bounds the calls that hang in spite of the cut."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._lock = threading.Lock()
        self._abandoned: list[Exchange] = []

    def ask(self, questions: Sequence[Question], *, deadline_s: float) -> list[Answer | SourceError]:
        """The answers, in the order of the questions, all within one deadline.

        All are asked at once, because one query that hangs must not use up the time of the others.
        """
        with self._lock:
            self._abandoned = [exchange for exchange in self._abandoned if exchange.hangs]
            hung = len(self._abandoned)
        if hung >= MAX_ABANDONED:
            text = f"{hung} earlier calls to {self.connection.base_url} still hang; not asking"
            return [SourceTimeout(text, query=question.text) for question in questions]
        room = _Room()
        exchanges = [Exchange(self.connection, question, deadline_s=deadline_s, room=room) for question in questions]
        for exchange in exchanges:
            exchange.start()
        answers = [exchange.finish() for exchange in exchanges]
        with self._lock:
            self._abandoned += [exchange for exchange in exchanges if exchange.hangs]
        return answers


def _kind_of(error: BaseException) -> str:
    """The innermost kind of an error, in words: what a human looks for."""
    kinds: tuple[tuple[type[BaseException] | str, str], ...] = (
        (ssl.SSLCertVerificationError, "certificate not trusted (prometheus.ca_file)"),
        (ssl.SSLError, "TLS refused"),
        (ConnectionRefusedError, "connection refused"),
        (socket.gaierror, "name not resolved"),
        ("NameResolutionError", "name not resolved"),
        (ConnectionResetError, "connection reset"),
    )
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        for kind, words in kinds:
            if (isinstance(kind, str) and type(link).__name__ == kind) or (
                not isinstance(kind, str) and isinstance(link, kind)
            ):
                return words
        reason = getattr(link, "reason", None)
        chain += [link.__cause__, link.__context__, reason if isinstance(reason, BaseException) else None]
        chain += [arg for arg in link.args if isinstance(arg, BaseException)]
    return type(error).__name__
