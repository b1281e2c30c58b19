"""One connection to the Kubernetes API: the only file that imports `kubernetes`, with one call site.

It decides how long a call may take, when credentials are read again and which error an answer is. It never retries
(but for one 401), never waits, never logs, and knows nothing of workloads.

Why not the typed client: `_request_timeout=5` with default retries took 20 s against a hung server (urllib3 tries
four times and sleeps through `Retry-After`), and a typed list of 2,000 Deployments takes 0.9-3.3 s where parsing the
raw answer takes 0.04-0.34 s.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import urllib3

from forecaster.sources.connection import body_head, without_secrets
from scaler.adapters.kubernetes.calls import METHODS
from scaler.adapters.kubernetes.calls import Call as Call
from scaler.adapters.kubernetes.calls import Verb as Verb
from scaler.adapters.kubernetes.deadline import CurrentCall, Deadline, watched
from scaler.adapters.kubernetes.errors import (
    Conflict,
    CredentialsError,
    Expired,
    Forbidden,
    Invalid,
    KubernetesError,
    NotFound,
    Throttled,
    TimedOut,
    Unauthorised,
    Unavailable,
    WriteRefused,
)

Json = dict[str, Any]

CALL_TIMEOUT_S = 10.0
"""Total bound of one call: name look-up aside, connection, headers and body together."""

CONNECT_TIMEOUT_S = 3.0
"""A loaded API server accepts in milliseconds; one that does not in 3 s is gone."""

MAX_BODY_BYTES = 64 * 2**20
"""A page of 500 pods is 2-5 MB; an answer beyond this is cut before it eats the process's memory."""

DEFAULT_RETRY_AFTER_S = 1.0
"""What priority and fairness sends, for a 429 whose `Retry-After` is missing or a date."""

MAX_RETRY_AFTER_S = 300.0
"""A proxy that asks for an hour would blind the scaler for an hour."""


# ── Where the API is and how to prove who we are ──────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class InCluster:
    """The service account of the pod this process runs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubeconfig:
    """A kubeconfig file; without a path `$KUBECONFIG` or `~/.kube/config`, without a context the current one."""

    path: Path | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """An address, the file that holds the bearer token, and the CA to verify the server with (system's if None)."""

    server: str
    token_file: Path
    ca_file: Path | None = None


Access = InCluster | Kubeconfig | ServerAddress


def _configuration(access: Access) -> Any:
    """The library's configuration for `access`, with credentials as they are on disk now; `CredentialsError`."""
    from kubernetes import client, config  # lazy: 0.3 s and 38 MB, which no other command should pay

    configuration = client.Configuration()
    with _credentials_read(access):
        match access:
            case InCluster():
                config.load_incluster_config(client_configuration=configuration)
            case Kubeconfig(path=path, context=context):
                config.load_kube_config(
                    config_file=str(path) if path else None,
                    context=context,
                    client_configuration=configuration,
                    persist_config=False,
                )
            case ServerAddress(server=server, token_file=token_file, ca_file=ca_file):
                configuration.host = server.rstrip("/")
                configuration.ssl_ca_cert = str(ca_file) if ca_file else None
                configuration.api_key["BearerToken"] = f"Bearer {token_file.read_text(encoding='utf-8').strip()}"
    configuration.retries = False  # also stops urllib3 from sleeping through Retry-After on GET
    return configuration


@contextmanager
def _credentials_read(access: Access) -> Iterator[None]:
    """Whatever the library raises over files that are missing, empty or half written, as a `CredentialsError`."""
    from kubernetes import config
    from yaml import YAMLError

    try:
        yield
    except (config.ConfigException, OSError, YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CredentialsError(f"no access to Kubernetes through {_named(access)}: {error}") from error


def _named(access: Access) -> str:
    """Where an access comes from, as its owner would look for it."""
    match access:
        case InCluster():
            return "the pod's service account"
        case Kubeconfig(path=path, context=context):
            file = "the kubeconfig ($KUBECONFIG or ~/.kube/config)" if path is None else f"the kubeconfig {path}"
            return file if context is None else f"{file}, context {context}"
        case ServerAddress(server=server, token_file=token_file):
            return f"{server} with the token in {token_file}"


class Observer(Protocol):
    """Told after each attempt: the call, its status (None without an answer) and its duration in seconds."""

    def __call__(self, call: Call, status: int | None, duration_s: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    retry_after_s: float | None
    body: bytes


# ── The connection ────────────────────────────────────────────────────────────────────────────────────────────


class ApiConnection:
    """One `ApiClient`, safe to share between threads.

    `may_write` is asked before each mutating request and again before each piece of it goes into the socket, so that
    a leader that lost its lease, or a process that only observes, sends none: `WriteRefused`. What was sent has
    `write_limit_s` to arrive and as much again to be carried out, and is given up after that.
    """

    def __init__(
        self,
        access: Access,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        may_write: Callable[[], bool] = lambda: True,
        write_limit_s: float = CALL_TIMEOUT_S,
        observer: Observer | None = None,
    ) -> None:
        self.mutating_requests = 0
        self._access = access
        self._timeout_s = timeout_s
        self._may_write = may_write
        self._write_limit_s = write_limit_s
        self._writing = 0
        self._unanswered_until = 0.0  # monotonic seconds: until then a write without an answer may be carried out
        self._observer = observer
        self._current = CurrentCall()
        self._lock = threading.Lock()
        self._quiet_until = 0.0  # monotonic seconds: the end of the pause that the last 429 ordered
        self._api = self._open()

    def call(self, call: Call, *, body: Json | None = None, timeout_s: float | None = None) -> Json:
        """Send one request and return its JSON object; any failure is a `KubernetesError`.

        The total time is at most `timeout_s` or the connection's own bound, whichever is less.
        """
        pause_s = self._quiet_until - time.monotonic()
        if pause_s > 0:
            raise Throttled(
                f"the API server asked for a pause; {pause_s:.1f} s of it are left",
                retry_after_s=pause_s,
                path=call.path,
            )
        limit_s = min(self._timeout_s, timeout_s if timeout_s is not None else self._timeout_s)
        api = self._api
        answer = self._send(api, call, body, limit_s)
        if answer.status == 401:
            answer = self._send(self._reopened(api), call, body, limit_s)
        if answer.status == 429:
            self._quiet_until = time.monotonic() + (answer.retry_after_s or DEFAULT_RETRY_AFTER_S)
        if not 200 <= answer.status < 300:
            raise _refusal(call, answer)
        return _parsed(call, answer)

    @property
    def writes_settled(self) -> bool:
        """Whether every write has its answer, or was given so much time that the server will not carry it out."""
        with self._lock:
            return self._writing == 0 and time.monotonic() >= self._unanswered_until

    def close(self) -> None:
        """Close every pooled connection."""
        self._api.close()

    def _open(self) -> Any:
        from kubernetes.client import ApiClient

        configuration = _configuration(self._access)
        api = ApiClient(configuration)
        api.user_agent = "headstart"
        pool = api.rest_client.pool_manager.connection_from_url(configuration.host)
        pool.ConnectionCls = watched(pool.ConnectionCls, self._current)
        return api

    def _reopened(self, refused: Any) -> Any:
        """The client with credentials read anew; when another thread was faster, the one it opened."""
        with self._lock:
            if self._api is refused:
                self._api = self._open()
                refused.close()
            return self._api

    def _send(self, api: Any, call: Call, body: Json | None, limit_s: float) -> _Answer:
        if not call.mutates:
            return self._observed(api, call, body, limit_s)
        # Counted before it is asked: once writes are forbidden, a count of 0 means that none can leave any more.
        with self._lock:
            self._writing += 1
        try:
            self._require_write(call)
            limit_s = min(limit_s, self._write_limit_s)
            with self._lock:
                self.mutating_requests += 1
            status = 0
            try:
                answer = self._observed(api, call, body, limit_s)
                status = answer.status
                return answer
            finally:
                if not 200 <= status < 500:  # no answer, or one of a server that does not know itself
                    self._unanswered_until = max(self._unanswered_until, time.monotonic() + limit_s)
        finally:
            with self._lock:
                self._writing -= 1

    def _require_write(self, call: Call) -> None:
        if not self._may_write():
            raise WriteRefused(f"not sent, this process may not write now: {call.words}", path=call.path)

    def _observed(self, api: Any, call: Call, body: Json | None, limit_s: float) -> _Answer:
        begun = time.monotonic()
        status: int | None = None
        try:
            answer = self._exchange(api, call, body, limit_s)
            status = answer.status
            return answer
        finally:
            if self._observer is not None:
                self._observer(call, status, time.monotonic() - begun)

    def _exchange(self, api: Any, call: Call, body: Json | None, limit_s: float) -> _Answer:
        from kubernetes.client.exceptions import ApiException

        patch = "application/merge-patch+json"  # a dict goes out as strategic merge otherwise, which CRDs refuse
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = patch if call.verb is Verb.PATCH else "application/json"
        with _credentials_read(self._access):  # which reads a token again here once it is a minute old
            request = api.param_serialize(
                METHODS[call.verb],
                call.path,
                query_params=[*call.query, *_server_limit(call, limit_s)],
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
        deadline = self._current.deadline = Deadline(limit_s)
        self._current.fence = (lambda: self._require_write(call)) if call.mutates else None
        try:
            response = api.call_api(*request, _request_timeout=(min(CONNECT_TIMEOUT_S, limit_s), limit_s)).response
            # Read to the end: an unread body costs a new TLS connection on the next call, 5.7 ms instead of 1.3 ms.
            data = response.read(MAX_BODY_BYTES + 1)
            if len(data) > MAX_BODY_BYTES:
                response.close()
                raise Unavailable(f"{call.words}: answer over {MAX_BODY_BYTES >> 20} MiB, cut off", path=call.path)
            response.release_conn()
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _no_answer(call, error, deadline=deadline, limit_s=limit_s) from error
        finally:
            deadline.end()
            self._current.deadline = self._current.fence = None
        if deadline.passed:  # an answer that ends with its connection looks whole when it was cut
            raise TimedOut(f"{call.words}: no whole answer within {limit_s:g} s", path=call.path)
        return _Answer(status=response.status, retry_after_s=_retry_after(response.headers), body=data)


# ── Answers to errors ─────────────────────────────────────────────────────────────────────────────────────────


def _server_limit(call: Call, limit_s: float) -> tuple[tuple[str, str], ...]:
    """The server's own time limit for a write. Without one it may still carry it out 34 s later, when etcd is back."""
    return (("timeout", f"{math.ceil(1000 * limit_s)}ms"),) if call.mutates else ()


def _no_answer(call: Call, error: Exception, *, deadline: Deadline, limit_s: float) -> Unavailable:
    slow = isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError)
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)  # which urllib3 derives from a timeout
    if deadline.passed or (slow and not refused):
        return TimedOut(f"{call.words}: no answer within {limit_s:g} s", path=call.path)
    # The cause holds the system's own words ("Connection refused", "certificate verify failed") and no header.
    return Unavailable(f"{call.words}: {type(error).__name__}: {error.__cause__ or error}", path=call.path)


def _retry_after(headers: Any) -> float | None:
    text = headers.get("Retry-After", "")
    return min(float(text), MAX_RETRY_AFTER_S) if text.isdecimal() else None


def _refusal(call: Call, answer: _Answer) -> KubernetesError:
    """The error that a non-2xx answer is; its text quotes the server's own message, shortened."""
    message = f"{call.words}: {answer.status} {_server_message(answer.body)}"
    status, path = answer.status, call.path
    if (
        status == 403 and "admission webhook" not in message
    ):  # a webhook's refusal is 403 too, and no RBAC rule mends it
        error = Forbidden(
            message,
            verb=call.verb.value,
            group=call.group,
            resource=call.resource,
            namespace=call.namespace,
            status=status,
            path=path,
        )
        where = f"a Role in namespace {call.namespace}" if call.namespace else "a ClusterRole"
        error.args = (f"{message}; missing from {where}: {error.rule}",)
        return error
    if status == 429:
        return Throttled(message, retry_after_s=answer.retry_after_s or DEFAULT_RETRY_AFTER_S, path=path)
    kinds: dict[int, type[KubernetesError]] = {401: Unauthorised, 404: NotFound, 409: Conflict, 410: Expired}
    kind = kinds.get(status, Invalid if 400 <= status < 500 else Unavailable)
    return kind(message, status=status, path=path, retry_after_s=answer.retry_after_s)


def _server_message(body: bytes) -> str:
    """The message of a Status body, or the head of whatever else came: a real 429 is plain text.

    A proxy before the server may repeat our own request's headers, so both go without what looks like a secret.
    """
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if isinstance(status, dict) and isinstance(status.get("message"), str):
        return without_secrets(str(status["message"]))[:500]
    return body_head(body)


def _parsed(call: Call, answer: _Answer) -> Json:
    try:
        parsed = json.loads(answer.body)
    except ValueError as error:
        head = body_head(answer.body)[:80]
        raise Unavailable(
            f"{call.words}: {answer.status} with a body that is no JSON: {head!r}",
            status=answer.status,
            path=call.path,
        ) from error
    if not isinstance(parsed, dict):
        raise Unavailable(f"{call.words}: JSON, but no object", status=answer.status, path=call.path)
    return parsed
