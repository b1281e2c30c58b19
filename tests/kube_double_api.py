"""The double's routes: from a method and a path to what the store holds, as a real API server answers."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kube_double_rules import ApiKind, ApiRefusal, Json, patched
from kube_double_store import Asked, Store

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(kw_only=True)
class Answer:
    """What goes back; `stream` yields a watch's lines until its time is over."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: Callable[[threading.Event], Iterator[bytes]] | None = None

    @classmethod
    def of(cls, status: int, body: Json) -> Answer:
        return cls(status=status, body=json.dumps(body).encode(), headers={"Content-Type": "application/json"})


@dataclass(frozen=True, kw_only=True)
class Route:
    """A path, taken apart."""

    kind: ApiKind
    namespace: str | None
    name: str | None
    subresource: str

    @property
    def resource(self) -> str:
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural


class Api:
    """Answers requests from the store; the caller holds the store's lock."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def serve(
        self, method: str, path: str, query: dict[str, str], raw: bytes, *, content_type: str, user: str, agent: str
    ) -> Answer:
        """The answer to one request of an authenticated user; `ApiRefusal` for every error."""
        parts = [part for part in path.split("/") if part]
        if "protobuf" in content_type:
            raise ApiRefusal(415, f"the body of the request was in an unknown format - {content_type}")
        if method == "GET" and (found := self._discovery(parts)) is not None:
            return Answer.of(200, found)
        if parts[:2] == ["apis", "authorization.k8s.io"] and method == "POST":
            return Answer.of(201, self._review(user, self._body(raw)))
        route = self._route(parts)
        if route is None:
            return Answer(status=404, body=b"404 page not found\n", headers={"Content-Type": "text/plain"})
        watching = query.get("watch") in ("1", "true")
        self._authorise(user, method, route, watching=watching)
        manager = query.get("fieldManager") or agent
        if len(manager) > 128:
            raise ApiRefusal(422, "fieldManager: Invalid value: may not be longer than 128")
        if route.subresource:
            return self._subresource(method, route, raw, content_type=content_type, manager=manager, query=query)
        if route.name is None:
            return self._collection(method, route, query, raw, manager=manager, watching=watching)
        return self._object(method, route, query, raw, content_type=content_type, manager=manager)

    # ── Finding the way ───────────────────────────────────────────────────────────────────────────────────────

    def _discovery(self, parts: list[str]) -> Json | None:
        kinds = self._store.kinds
        match parts:
            case ["version"]:
                return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
            case ["readyz" | "livez" | "healthz"]:
                return {"status": "ok"}
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                names = sorted({(kind.group, kind.version) for kind in kinds if kind.group})
                groups = [{"name": g, "versions": [{"groupVersion": f"{g}/{v}", "version": v}]} for g, v in names]
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
            case ["api", version]:
                return self._resources("", version)
            case ["apis", group, version]:
                return self._resources(group, version)
            case _:
                return None

    def _resources(self, group: str, version: str) -> Json | None:
        found = [kind for kind in self._store.kinds if (kind.group, kind.version) == (group, version)]
        if not found:
            return None
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        entries: list[Json] = []
        for kind in found:
            shared = {"singularName": "", "namespaced": kind.namespaced}
            entries.append({"name": kind.plural, "kind": kind.kind, "verbs": verbs, **shared})
            if kind.scalable:
                scale = {"name": f"{kind.plural}/scale", "group": "autoscaling", "version": "v1", "kind": "Scale"}
                entries.append({**scale, "verbs": ["get", "patch", "update"], **shared})
        group_version = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}

    def _route(self, parts: list[str]) -> Route | None:
        match parts:
            case ["api", version, *rest]:
                group = ""
            case ["apis", group, version, *rest]:
                pass
            case _:
                return None
        namespace = None
        if len(rest) >= 3 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        if not rest or len(rest) > 3:
            return None
        kind = self._store.kind(group, version, rest[0])
        subresource = rest[2] if len(rest) == 3 else ""
        known = {"", "token"} if rest[0] == "serviceaccounts" else {"", "status"}
        if kind is None or subresource not in ({*known, "scale"} if kind.scalable else known):
            return None
        return Route(kind=kind, namespace=namespace, name=rest[1] if len(rest) > 1 else None, subresource=subresource)

    def _authorise(self, user: str, method: str, route: Route, *, watching: bool) -> None:
        verb = _VERBS.get(method) or ("watch" if watching else "get" if route.name else "list")
        if verb == "delete" and route.name is None:
            verb = "deletecollection"
        namespace = route.namespace if route.kind.namespaced else None
        asked = Asked(verb=verb, group=route.kind.group, resource=route.resource, namespace=namespace, name=route.name)
        if self._store.allows(user, asked):
            return
        name = f' "{route.name}"' if route.name else ""
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        raise ApiRefusal(
            403,
            f'{route.kind.qualified}{name} is forbidden: User "{user}" cannot {verb} resource "{route.resource}" '
            f'in API group "{route.kind.group}" {where}',
            details={"name": route.name, "group": route.kind.group, "kind": route.kind.plural},
        )

    def _review(self, user: str, body: Json) -> Json:
        asked = body["spec"]["resourceAttributes"]
        resource = asked.get("resource", "") + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        allowed = self._store.allows(
            user,
            Asked(
                verb=asked.get("verb", ""),
                group=asked.get("group", ""),
                resource=resource,
                namespace=asked.get("namespace") or None,
                name=asked.get("name") or None,
            ),
        )
        return {**body, "status": {"allowed": allowed}}

    # ── Carrying it out ───────────────────────────────────────────────────────────────────────────────────────

    def _collection(
        self, method: str, route: Route, query: dict[str, str], raw: bytes, *, manager: str, watching: bool
    ) -> Answer:
        if method == "GET" and watching:
            return self._watch(route, query)
        if method == "GET":
            return Answer.of(200, self._store.page(route.kind, route.namespace, query))
        if method != "POST":
            raise ApiRefusal(405, "the server does not allow this method on the requested resource")
        item = self._body(raw)
        self._same_kind(route.kind, item)
        metadata = item.setdefault("metadata", {})
        if route.kind.namespaced and metadata.setdefault("namespace", route.namespace) != route.namespace:
            raise ApiRefusal(400, "the namespace of the object does not match the namespace on the request")
        _sign(item, None, manager, subresource="")
        return Answer.of(201, self._store.create(route.kind.plural, item))

    def _object(
        self, method: str, route: Route, query: dict[str, str], raw: bytes, *, content_type: str, manager: str
    ) -> Answer:
        old = self._store.get(route.kind.plural, route.namespace, str(route.name))
        match method:
            case "GET":
                return Answer.of(200, old)
            case "DELETE":
                return self._delete(route, old, query, raw)
            case "PUT":
                new = self._body(raw)
                self._same_kind(route.kind, new)
            case "PATCH":
                new = patched(route.kind, old, json.loads(raw), content_type)
            case _:
                raise ApiRefusal(405, "the server does not allow this method on the requested resource")
        new = {"apiVersion": route.kind.api_version, "kind": route.kind.kind, **new}
        self._same_object(route, old, new)
        new["metadata"] = {"namespace": old["metadata"].get("namespace", ""), **new["metadata"]}
        _sign(new, old, manager, subresource="")
        return self._written(route, old, new, query)

    def _subresource(
        self, method: str, route: Route, raw: bytes, *, content_type: str, manager: str, query: dict[str, str]
    ) -> Answer:
        old = self._store.get(route.kind.plural, route.namespace, str(route.name))
        if route.subresource == "token":
            user = f"system:serviceaccount:{route.namespace}:{route.name}"
            token = self._store.issue(user, old["metadata"]["uid"])
            return Answer.of(201, {"kind": "TokenRequest", "status": {"token": token}})
        if route.subresource == "status":
            if method != "GET":
                raise ApiRefusal(405, "the server does not allow this method on the requested resource")
            return Answer.of(200, old)
        scale = self._store.scale_of(route.kind, old)
        if method == "GET":
            return Answer.of(200, scale)
        if method not in ("PUT", "PATCH"):
            raise ApiRefusal(405, "the server does not allow this method on the requested resource")
        builtin = ApiKind(group="autoscaling", version="v1", kind="Scale", plural="scales", custom=route.kind.custom)
        written = self._body(raw) if method == "PUT" else patched(builtin, scale, json.loads(raw), content_type)
        self._same_object(route, old, written)
        new = self._store.rescaled(old, written)
        new["metadata"] = copy.deepcopy(old["metadata"])
        _sign(new, old, manager, subresource="scale")
        answer = self._written(route, old, new, query)
        return Answer.of(200, self._store.scale_of(route.kind, json.loads(answer.body)))

    def _written(self, route: Route, old: Json, new: Json, query: dict[str, str]) -> Answer:
        if query.get("dryRun") == "All":
            return Answer.of(200, new)
        return Answer.of(200, self._store.update(route.kind.plural, new, validate=True))

    def _delete(self, route: Route, old: Json, query: dict[str, str], raw: bytes) -> Answer:
        # A body is the whole of the options: with one, the query's gracePeriodSeconds is ignored.
        options = self._body(raw) if raw else query
        grace = float(options.get("gracePeriodSeconds") or 0)
        preconditions = options.get("preconditions") or {} if raw else {}
        for key, value in preconditions.items():
            if old["metadata"].get(key) != value:
                raise ApiRefusal(409, f"Precondition failed: {key} in precondition: {value}")
        if route.kind.plural == "pods" and grace > 0:
            self._store.controllers.terminate(old, self._store.now, grace_s=grace)
            return Answer.of(200, self._store.get("pods", route.namespace, str(route.name)))
        self._store.remove(route.kind.plural, old)
        return Answer.of(200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    def _watch(self, route: Route, query: dict[str, str]) -> Answer:
        store = self._store
        since = int(query.get("resourceVersion") or store.version)
        end = time.monotonic() + float(query.get("timeoutSeconds") or 30)

        def stream(closing: threading.Event) -> Iterator[bytes]:
            seen = since
            with store.changed:
                if seen and seen < store.compacted:
                    expired = ApiRefusal(410, f"too old resource version: {since} ({store.compacted})")
                    yield _line("ERROR", expired.body)
                    return
                while not closing.is_set() and (left := end - time.monotonic()) > 0:
                    for version, plural, change, item in list(store.history):
                        here = route.namespace is None or item["metadata"].get("namespace") == route.namespace
                        if version > seen and plural == route.kind.plural and here:
                            seen = version
                            yield _line(change, item)
                    store.changed.wait(min(left, 0.2))

        return Answer(status=200, stream=stream)

    # ── Checks of every write ─────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def _body(raw: bytes) -> Json:
        try:
            body = json.loads(raw)
        except ValueError:
            raise ApiRefusal(400, "couldn't get version/kind; json parse error") from None
        if not isinstance(body, dict):
            raise ApiRefusal(400, "the object provided is unrecognized (must be of type Object)")
        return body

    @staticmethod
    def _same_kind(kind: ApiKind, item: Json) -> None:
        given = (item.get("apiVersion", kind.api_version), item.get("kind", kind.kind))
        if given != (kind.api_version, kind.kind):
            raise ApiRefusal(400, f"the API version in the data ({given[0]}, {given[1]}) does not match the request's")

    @staticmethod
    def _same_object(route: Route, old: Json, new: Json) -> None:
        """Name, uid and version of a write must be those of the object; an absent uid or version is not checked."""
        metadata = new.get("metadata") or {}
        if metadata.get("name", route.name) != route.name:
            raise ApiRefusal(400, "the name of the object does not match the name on the URL")
        about = f'Operation cannot be fulfilled on {route.kind.qualified} "{route.name}"'
        uid, version = metadata.get("uid"), metadata.get("resourceVersion")
        if uid and uid != old["metadata"]["uid"]:
            raise ApiRefusal(409, f"{about}: Precondition failed: UID in precondition: {uid}")
        if version and version != old["metadata"]["resourceVersion"]:
            raise ApiRefusal(
                409, f"{about}: the object has been modified; please apply your changes to the latest version"
            )


def _line(change: str, item: Any) -> bytes:
    return json.dumps({"type": change, "object": item}).encode() + b"\n"


def _sign(new: Json, old: Json | None, manager: str, *, subresource: str) -> None:
    """Note who wrote `spec.replicas`, in the shape of managedFields."""
    before, after = ((item or {}).get("spec") or {} for item in (old, new))
    kept = ((old or {}).get("metadata") or {}).get("managedFields") or []
    if "replicas" not in after or before.get("replicas") == after["replicas"]:
        if kept:
            new["metadata"]["managedFields"] = kept
        return
    entry = {
        "manager": manager,
        "operation": "Update",
        "apiVersion": new.get("apiVersion", ""),
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:replicas": {}}},
        **({"subresource": subresource} if subresource else {}),
    }
    new["metadata"]["managedFields"] = [entry]
