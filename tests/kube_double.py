"""A strict double of the Kubernetes API: a real HTTP server in this process, with real state.

    with KubeDouble(gpus=8, start_time_s=120) as cluster:
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=2)
        connection = ApiConnection(Kubeconfig(path=cluster.kubeconfig(tmp_path)))
        cluster.advance(120)                                     # both pods are Ready now
        cluster.fault(method="PATCH", status=503)                # the next PATCH fails
        assert cluster.mutating_requests == 0

It obeys what was measured on a real control plane (see docs/kubernetes.md, "The double"): versions and uids that
conflict, validation of Leases, Events and replicas, RBAC by stored Roles, paging, watches, tokens. It has no
admission, no server-side apply, no garbage collection beyond pods, and no OpenAPI.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from kube_double_api import Answer, Api
from kube_double_bodies import as_json
from kube_double_pods import GPU, PodBehaviour
from kube_double_rules import ApiKind, ApiRefusal, Json, time_limit_s
from kube_double_store import ADMIN, Rule, Store

__all__ = ["ADMIN", "GPU", "KubeDouble", "Request", "Rule"]

_REVIEW = "/selfsubjectaccessreviews"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One line of the request log; `status` is None where no answer was sent."""

    method: str
    path: str
    query: dict[str, str]
    user: str
    status: int | None
    body: Any = None

    @property
    def mutates(self) -> bool:
        return self.method not in ("GET", "HEAD") and not self.path.endswith(_REVIEW)


@dataclass(kw_only=True)
class _Fault:
    method: str | None
    path: re.Pattern[str]
    skip: int
    times: int
    answer: Answer | None = None
    hang_s: float = 0.0
    drop: str = ""
    drip_s: float = 0.0
    then: Callable[[], object] | None = None
    seen: int = 0
    met: list[str] = field(default_factory=list)
    """The users whose requests it took so far; one that hangs is on the log only when it is over."""

    def takes(self, method: str, path: str) -> bool:
        """Whether this request is one of those to fail; counts it either way."""
        if self.method not in (None, method) or not self.path.search(path):
            return False
        self.seen += 1
        return self.skip < self.seen <= self.skip + self.times


class KubeDouble:
    """The server; a context manager. Time stands still unless `real_time`, and moves with `advance`."""

    def __init__(
        self,
        *,
        gpus: int | None = None,
        start_time_s: float = 0.0,
        real_time: bool = False,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """`certificate` is (certificate chain, key) as PEM files: the server then speaks TLS."""
        self.store = Store(real_time=real_time, gpus=gpus, behaviour=PodBehaviour(start_time_s=start_time_s))
        self.requests: list[Request] = []
        self.connections = 0
        self.etcd_down = False
        self._certificate = certificate
        self._faults: list[_Fault] = []
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.admin_token = self.store.issue(ADMIN)

    # ── Life ──────────────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> KubeDouble:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Listen; after `kill` on the same port and with the same state."""
        self._closing.clear()
        server = _Server(("127.0.0.1", self._port), _handler_for(self))
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self._server, self._port = server, server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def kill(self) -> None:
        """Stop as SIGKILL does: every connection breaks at once, the state (etcd) stays."""
        self._closing.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        with self.store.changed:
            self.store.changed.notify_all()
        for connected in list(self._open):
            try:
                socket.socket.shutdown(connected, socket.SHUT_RDWR)
            except OSError:
                self._open.discard(connected)

    @property
    def url(self) -> str:
        return f"{'https' if self._certificate else 'http'}://127.0.0.1:{self._port}"

    # ── Time and state ────────────────────────────────────────────────────────────────────────────────────────

    @property
    def now(self) -> datetime:
        return self.store.now

    def advance(self, seconds: float, *, step_s: float = 1.0) -> None:
        """Move the clock on; controllers and scheduler act at every step."""
        with self.store.changed:
            self.store.controllers.reconcile(self.store.now)
            self.store.advance(seconds, step_s=step_s)

    def namespace(self, name: str) -> None:
        """Create a namespace."""
        self.create("namespaces", {"metadata": {"name": name}})

    def deployment(self, namespace: str, name: str, *, replicas: int = 1, gpus: int = 1, **labels: str) -> Json:
        """Create a Deployment whose pods ask for `gpus` GPUs each."""
        return self.create(
            "deployments", workload("Deployment", namespace, name, replicas=replicas, gpus=gpus, **labels)
        )

    def create(self, plural: str, item: Json) -> Json:
        """Create any object, behind the API's back."""
        with self.store.changed:
            created = self.store.create(plural, item)
            self.store.controllers.reconcile(self.store.now)
            return created

    def register(self, kind: ApiKind) -> None:
        """Serve one more kind, as an installed CRD does."""
        self.store.kinds.append(kind)

    def replicas(self, namespace: str, name: str, plural: str = "deployments") -> int:
        """`spec.replicas` as stored."""
        with self.store.changed:
            return int(self.store.get(plural, namespace, name)["spec"]["replicas"])

    def set_replicas(self, namespace: str, name: str, replicas: int, plural: str = "deployments") -> None:
        """What another writer does, behind the API's back."""
        with self.store.changed:
            item = self.store.get(plural, namespace, name)
            self.store.update(plural, {**item, "spec": {**item["spec"], "replicas": replicas}})

    def behave(self, namespace: str, name: str, **changes: float | bool) -> None:
        """Change a workload's `start_time_s`, `crashing` or `grace_s`."""
        with self.store.changed:
            self.store.controllers.behave(namespace, name, **changes)

    def hpa(self, namespace: str, name: str, *, least: int = 1, most: int = 10, target: str = "") -> Json:
        """Create an HPA above a Deployment; its metrics ask for what is there."""
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target or name}
        spec = {"scaleTargetRef": reference, "minReplicas": least, "maxReplicas": most}
        return self.create(
            "horizontalpodautoscalers", {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
        )

    def scaled_object(self, namespace: str, name: str, *, target: str = "", **spec: int) -> Json:
        """Create a ScaledObject above a Deployment, with `minReplicaCount` and so on as given."""
        settings = {"scaleTargetRef": {"name": target or name}, "triggers": [{"type": "cron"}], **spec}
        return self.create("scaledobjects", {"metadata": {"name": name, "namespace": namespace}, "spec": settings})

    def floor(self, namespace: str, name: str, plural: str = "horizontalpodautoscalers") -> int:
        """The floor of an autoscaler, as stored."""
        with self.store.changed:
            spec = self.store.get(plural, namespace, name)["spec"]
            return int(spec["minReplicas" if plural == "horizontalpodautoscalers" else "minReplicaCount"])

    def set_spec(self, plural: str, namespace: str, name: str, **spec: object) -> None:
        """What somebody else changes of an object's spec, behind the API's back."""
        with self.store.changed:
            item = self.store.get(plural, namespace, name)
            self.store.update(plural, {**item, "spec": {**item["spec"], **spec}})

    def quota(self, namespace: str, pods: int) -> None:
        """Allow so many pods in a namespace: more are refused, and their Deployment says so in its conditions."""
        with self.store.changed:
            self.store.controllers.quotas[namespace] = pods
            self.store.controllers.reconcile(self.store.now)

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """Delete an object behind the API's back; a workload takes its pods along."""
        with self.store.changed:
            self.store.remove(plural, self.store.get(plural, namespace, name))
            self.store.controllers.reconcile(self.store.now)

    def annotate(self, namespace: str, name: str, plural: str = "deployments", **annotations: str | None) -> None:
        """Set annotations under our prefix; `min_replicas="2"` is `headstart.autoscaling/min-replicas: "2"`, and None
        removes one."""
        with self.store.changed:
            item = self.store.get(plural, namespace, name)
            ours = {f"headstart.autoscaling/{key.replace('_', '-')}": value for key, value in annotations.items()}
            merged = {**(item["metadata"].get("annotations") or {}), **ours}
            kept = {key: value for key, value in merged.items() if value is not None}
            self.store.update(plural, {**item, "metadata": {**item["metadata"], "annotations": kept}})

    def add_pod(self, namespace: str, name: str, plural: str = "deployments") -> Json:
        """One pod more than wanted, as a rollout's surge; call `pause_controllers` first to keep it."""
        with self.store.changed:
            return self.store.controllers.add_pod(self.store.get(plural, namespace, name), self.store.now)

    def edit_pod(self, pod: Json, *, metadata: Json | None = None, status: Json | None = None) -> None:
        """Set parts of a pod that the double's kubelet would not."""
        with self.store.changed:
            now_there = self.store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
            changed = {**now_there, "metadata": {**now_there["metadata"], **(metadata or {})}}
            self.store.update("pods", {**changed, "status": {**now_there["status"], **(status or {})}})

    def pods(self, namespace: str, name: str, plural: str = "deployments") -> list[Json]:
        """The workload's pods, terminating ones included."""
        with self.store.changed:
            return self.store.controllers.pods_of(self.store.get(plural, namespace, name))

    def pause_controllers(self, paused: bool = True) -> None:
        """Freeze pods as they are."""
        self.store.controllers.paused = paused

    def compact(self) -> None:
        """Forget history: older watches and list continuations are 410."""
        with self.store.changed:
            self.store.compact()

    # ── Accounts ──────────────────────────────────────────────────────────────────────────────────────────────

    def account(self, user: str, *rules: Rule) -> str:
        """A user with these RBAC rules; returns its token."""
        self.store.rules[user] = rules
        return self.store.issue(user)

    def rotate(self, token: str) -> str:
        """Replace a token by a new one of the same user; the old one is 401 from now on."""
        return self.store.issue(*self.store.tokens.pop(token))

    def kubeconfig(self, folder: Path, *, token: str | None = None) -> Path:
        """Write a kubeconfig into `folder`, the token in a file of its own beside it (`token`)."""
        token_file = folder / "token"
        token_file.write_text(token or self.admin_token, encoding="utf-8")
        cluster: Json = {"server": self.url}
        if self._certificate is not None:
            cluster["certificate-authority"] = str(self._certificate[0])
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": cluster}],
            "users": [{"name": "user", "user": {"tokenFile": str(token_file)}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "user"}}],
            "current-context": "double",
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    # ── Faults and the log ────────────────────────────────────────────────────────────────────────────────────

    def fault(
        self,
        *,
        method: str | None = None,
        path: str = "",
        skip: int = 0,
        times: int = 1,
        status: int | None = None,
        text: str | None = None,
        headers: dict[str, str] | None = None,
        hang_s: float = 0.0,
        drop: str = "",
        drip_s: float = 0.0,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Fail the matching requests after the first `skip`, `times` times (`path` is searched as an expression).

        `status` answers with a Status body, or with plain `text`; `hang_s` waits before anything; `drop` closes the
        connection "before" the request is carried out, or "after"; `drip_s` sends the answer a byte at a time;
        `then` runs first, to change something between two of a client's requests.
        """
        answer = None
        if status is not None:
            body = (
                text if text is not None else json.dumps(ApiRefusal(status, "as the test asked", reason="Fault").body)
            )
            kind = "text/plain; charset=utf-8" if text is not None else "application/json"
            answer = Answer(status=status, body=body.encode(), headers={"Content-Type": kind, **(headers or {})})
        self._faults.append(
            _Fault(
                method=method,
                path=re.compile(path),
                skip=skip,
                times=times,
                answer=answer,
                hang_s=hang_s,
                drop=drop,
                drip_s=drip_s,
                then=then,
            )
        )

    def mend(self) -> None:
        """End every fault that was asked for."""
        self._faults.clear()

    @property
    def mutating_requests(self) -> int:
        """Requests so far that could have stored something, refused ones included."""
        return sum(request.mutates for request in self.requests)


def workload(kind: str, namespace: str, name: str, *, replicas: int, gpus: int = 1, **labels: str) -> Json:
    """A Deployment or StatefulSet as the tests deploy it."""
    chosen = {"app": name, **labels}
    container: Json = {"name": "server", "image": "vllm/vllm-openai:latest"}
    if gpus:
        container["resources"] = {"limits": {GPU: str(gpus)}}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": chosen},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            **({"serviceName": name} if kind == "StatefulSet" else {}),
            "template": {"metadata": {"labels": chosen}, "spec": {"containers": [container]}},
        },
    }


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or a test that closed the server, is no error."""


def _handler_for(double: KubeDouble) -> type[BaseHTTPRequestHandler]:
    api = Api(double.store)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            double.connections += 1
            double._open.add(self.connection)

        def finish(self) -> None:
            double._open.discard(self.connection)
            super().finish()
            self.connection.close()

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: the request log is `KubeDouble.requests`."""

        def do_GET(self) -> None:
            self._serve()

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            if len(raw) < length:  # whoever sent the headers went away: nobody was asked anything
                self.close_connection = True
                return
            parts = urlsplit(self.path)
            path, query = unquote(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True))
            fault = next((fault for fault in double._faults if fault.takes(self.command, path)), None)
            user = ""
            answer: Answer | None = None
            try:
                user = double.store.user_of(self.headers.get("Authorization", "").partition(" ")[2])
                answer = self._answer(fault, user, path, query, raw)
            except ApiRefusal as refusal:
                answer = Answer.of(refusal.status, refusal.body)
            finally:
                body = json.loads(raw) if raw and raw[:1] in b"{[" else None
                status = answer.status if answer else None
                double.requests.append(
                    Request(method=self.command, path=path, query=query, user=user, status=status, body=body)
                )
            if answer is None:
                self.close_connection = True
                return
            self._send(answer, drip_s=fault.drip_s if fault else 0.0)

        def _answer(
            self, fault: _Fault | None, user: str, path: str, query: dict[str, str], raw: bytes
        ) -> Answer | None:
            if fault is not None:
                fault.met.append(user)
                if fault.then is not None:
                    fault.then()
                limit_s = time_limit_s(query)
                if fault.hang_s and double._closing.wait(min(fault.hang_s, limit_s)):
                    return None
                if fault.hang_s > limit_s:
                    raise ApiRefusal(504, "Timeout: request did not complete within requested timeout")
                if fault.drop == "before":
                    return None
                if fault.answer is not None:
                    return fault.answer
            if double.etcd_down and (self.command != "GET" or query.get("resourceVersion") != "0"):
                raise ApiRefusal(504, "Timeout: request did not complete within the allotted duration")
            content_type = self.headers.get("Content-Type", "application/json")
            if "protobuf" in content_type and (body := as_json(self.command, raw)) is not None:
                raw, content_type = body, "application/json"
            with double.store.changed:
                double.store.controllers.reconcile(double.store.now)
                answer = api.serve(
                    self.command, path, query, raw, content_type=content_type, user=user, agent=self._agent
                )
                double.store.controllers.reconcile(double.store.now)
            return None if fault is not None and fault.drop == "after" else answer

        @property
        def _agent(self) -> str:
            return self.headers.get("User-Agent", "unknown").split("/")[0]

        def _send(self, answer: Answer, *, drip_s: float) -> None:
            self.send_response_only(answer.status)
            if answer.stream is not None:
                self.send_header("Content-Type", "application/json")
                self.send_header("Connection", "close")
                self.end_headers()
                for line in answer.stream(double._closing):
                    self.wfile.write(line)
                self.close_connection = True
                return
            for key, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(key, value)
            if not drip_s:
                self.end_headers()
                self.wfile.write(answer.body)
                return
            head = b"".join(self._headers_buffer) + b"\r\n"
            self._headers_buffer = []
            for byte in head + answer.body:
                self.wfile.write(bytes([byte]))
                time.sleep(drip_s)

    return Handler
