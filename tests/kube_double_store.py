"""The double's state: objects with versions, their history for watches, accounts and what RBAC lets them do."""

from __future__ import annotations

import base64
import copy
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kube_double_pods import Controllers, PodBehaviour
from kube_double_rules import (
    KINDS,
    ApiKind,
    ApiRefusal,
    Json,
    check,
    check_names,
    fields_match,
    matches,
    replicas_of,
    selector_text,
)

EPOCH = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
"""Where the explicit clock starts."""

ADMIN = "admin"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An RBAC rule of an account that is given its rules directly; `namespaces` None is everywhere."""

    verbs: tuple[str, ...]
    groups: tuple[str, ...]
    resources: tuple[str, ...]
    namespaces: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What RBAC is asked: `resource` includes the subresource."""

    verb: str
    group: str
    resource: str
    namespace: str | None
    name: str | None


@dataclass
class Store:
    """Everything the API server keeps. Not safe by itself: the server holds `changed` around each use."""

    real_time: bool = False
    gpus: int | None = None
    behaviour: PodBehaviour = field(default_factory=PodBehaviour)
    kinds: list[ApiKind] = field(default_factory=lambda: list(KINDS))
    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    version: int = 1000
    compacted: int = 0
    history: list[tuple[int, str, str, Json]] = field(default_factory=list)  # version, plural, type, object
    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)  # token -> user, service account's uid
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    _offset: timedelta = timedelta(0)
    _objects: dict[str, dict[tuple[str, str], Json]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.controllers = Controllers(store=self, gpus=self.gpus, default=self.behaviour)

    # ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def now(self) -> datetime:
        return (datetime.now(UTC) if self.real_time else EPOCH) + self._offset

    def advance(self, seconds: float, *, step_s: float = 1.0) -> None:
        """Move the clock, a second at a time, so that one pod's end is the next one's beginning."""
        end = self._offset + timedelta(seconds=seconds)
        while self._offset < end:
            self._offset = min(end, self._offset + timedelta(seconds=step_s))
            self.controllers.reconcile(self.now)

    # ── Objects ───────────────────────────────────────────────────────────────────────────────────────────────

    def kind(self, group: str, version: str, plural: str) -> ApiKind | None:
        found = (k for k in self.kinds if (k.group, k.version, k.plural) == (group, version, plural))
        return next(found, None)

    def items(self, plural: str) -> Iterator[Json]:
        yield from list(self._objects.get(plural, {}).values())

    def find(self, plural: str, key: tuple[str, str]) -> Json | None:
        """The object under (namespace, name), or None."""
        return self._objects.get(plural, {}).get(key)

    def get(self, plural: str, namespace: str | None, name: str) -> Json:
        found = self._objects.get(plural, {}).get((namespace or "", name))
        if found is None:
            kind = next(k for k in self.kinds if k.plural == plural)
            raise ApiRefusal(404, f'{kind.qualified} "{name}" not found', details={"name": name, "kind": plural})
        return found

    def create(self, plural: str, item: Json, *, now: datetime | None = None) -> Json:
        """Store a new object, which gets its name, uid, version and time."""
        kind = next(k for k in self.kinds if k.plural == plural)
        item = {"apiVersion": kind.api_version, "kind": kind.kind, **copy.deepcopy(item)}
        metadata = item.setdefault("metadata", {})
        check_names(kind, metadata)
        if kind.namespaced and not self._objects.get("namespaces", {}).get(("", metadata["namespace"])):
            raise ApiRefusal(404, f'namespaces "{metadata["namespace"]}" not found')
        if not metadata.get("name"):
            metadata["name"] = metadata["generateName"][:58] + uuid.uuid4().hex[:5]
        key = (metadata.get("namespace", "") if kind.namespaced else "", metadata["name"])
        if key in self._objects.setdefault(plural, {}):
            raise ApiRefusal(409, f'{kind.qualified} "{key[1]}" already exists', reason="AlreadyExists")
        if metadata.get("resourceVersion"):
            raise ApiRefusal(400, "resourceVersion should not be set on objects to be created")
        if kind.scalable:
            item.setdefault("spec", {}).setdefault("replicas", 1)
        check(kind, item, None)
        stamp = (now or self.now).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": stamp, "generation": 1}
        return self._keep(plural, key, item, "ADDED")

    def update(self, plural: str, item: Json, *, validate: bool = False) -> Json:
        """Replace an object. A change of nothing keeps the version, as the real store does."""
        kind = next(k for k in self.kinds if k.plural == plural)
        key = (item["metadata"].get("namespace", "") if kind.namespaced else "", item["metadata"]["name"])
        old = self.get(plural, key[0], key[1])
        if validate:
            check(kind, item, old)
        fixed = {name: old["metadata"][name] for name in ("uid", "creationTimestamp", "resourceVersion", "generation")}
        item = {**copy.deepcopy(item), "metadata": {**copy.deepcopy(item["metadata"]), **fixed}}
        if item == old:
            return old
        if item.get("spec") != old.get("spec"):
            item["metadata"]["generation"] += 1
        return self._keep(plural, key, item, "MODIFIED")

    def remove(self, plural: str, item: Json) -> None:
        """Delete an object at once; a namespace takes what it holds along."""
        metadata = item["metadata"]
        self._objects[plural].pop((metadata.get("namespace", ""), metadata["name"]), None)
        self._note(plural, "DELETED", item)
        if plural == "namespaces":
            for other in self._objects:
                for key in [key for key in self._objects[other] if key[0] == metadata["name"]]:
                    self.remove(other, self._objects[other][key])

    def _keep(self, plural: str, key: tuple[str, str], item: Json, change: str) -> Json:
        self._note(plural, change, item)
        self._objects[plural][key] = item
        return item

    def _note(self, plural: str, change: str, item: Json) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, plural, change, copy.deepcopy(item)))
        self.changed.notify_all()

    def compact(self) -> None:
        """Forget history: older watches and list continuations are answered 410."""
        self.compacted = self.version
        self.history.clear()

    # ── Lists ─────────────────────────────────────────────────────────────────────────────────────────────────

    def page(self, kind: ApiKind, namespace: str | None, query: dict[str, str]) -> Json:
        """One page of a list, ordered by key; its continuation is tied to the version it was begun at."""
        selector, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        try:
            limit = int(query.get("limit") or 0)
        except ValueError:
            raise ApiRefusal(400, f"limit: invalid value {query['limit']!r}") from None
        after, version = self._continued(query.get("continue", ""))
        chosen = [
            (key, item)
            for key, item in sorted(self._in(kind.plural, namespace))
            if matches(selector, item["metadata"].get("labels") or {})
            and fields_match(fields, item)
            and list(key) > after
        ]
        page, rest = (chosen[:limit], chosen[limit:]) if limit else (chosen, [])
        metadata: Json = {"resourceVersion": str(version)}
        if rest:
            token = json.dumps({"after": list(page[-1][0]), "version": version}).encode()
            metadata["continue"] = base64.urlsafe_b64encode(token).decode()
            if not selector and not fields:
                metadata["remainingItemCount"] = len(rest)
        return {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api_version,
            "metadata": metadata,
            "items": [item for _, item in page],
        }

    def _in(self, plural: str, namespace: str | None) -> Iterator[tuple[tuple[str, str], Json]]:
        stored = self._objects.get(plural, {})
        yield from ((key, item) for key, item in stored.items() if namespace is None or key[0] == namespace)

    def _continued(self, token: str) -> tuple[list[str], int]:
        if not token:
            return [], self.version
        try:
            begun = json.loads(base64.urlsafe_b64decode(token))
        except ValueError:
            raise ApiRefusal(400, "continue key is not valid") from None
        if begun["version"] < self.compacted:
            raise ApiRefusal(410, "The provided continue parameter is too old to display a consistent list result.")
        return begun["after"], begun["version"]

    # ── Scale ─────────────────────────────────────────────────────────────────────────────────────────────────

    def scale_of(self, kind: ApiKind, item: Json) -> Json:
        """The Scale of an object. Zero replicas are left out of `spec`, as Go's omitempty does."""
        metadata, replicas = item["metadata"], int(item["spec"]["replicas"])
        if kind.plural == "leaderworkersets":
            name, prefix = metadata["name"], "leaderworkerset.sigs.k8s.io"
            selector = f"{prefix}/name={name},{prefix}/worker-index=0"
        elif item["spec"].get("selector"):
            selector = selector_text(item["spec"]["selector"])
        else:
            selector = str((item.get("status") or {}).get("selector", f"app={metadata['name']}"))
        kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {key: metadata[key] for key in kept},
            "spec": {"replicas": replicas} if replicas else {},
            "status": {"replicas": int((item.get("status") or {}).get("replicas", 0)), "selector": selector},
        }

    def rescaled(self, item: Json, scale: Json) -> Json:
        """The object with the replicas of a written Scale."""
        replicas = replicas_of((scale.get("spec") or {}).get("replicas", 0))
        return {**item, "spec": {**item["spec"], "replicas": replicas}}

    # ── Accounts ──────────────────────────────────────────────────────────────────────────────────────────────

    def user_of(self, token: str) -> str:
        """Who a bearer token is, or 401. A deleted and remade service account is another one."""
        user, uid = self.tokens.get(token, ("", ""))
        if user.startswith("system:serviceaccount:"):
            _, _, namespace, name = user.split(":")
            account = self._objects.get("serviceaccounts", {}).get((namespace, name))
            user = user if account and account["metadata"]["uid"] == uid else ""
        if not user:
            raise ApiRefusal(401, "Unauthorized")
        return user

    def issue(self, user: str, uid: str = "") -> str:
        """A new bearer token for a user."""
        token = f"token-{uuid.uuid4().hex}"
        self.tokens[token] = (user, uid)
        return token

    def allows(self, user: str, asked: Asked) -> bool:
        """RBAC: the account's own rules, and those bound to it by Role and ClusterRole bindings."""
        return user == ADMIN or any(_grants(rule, asked) for rule in (*self.rules.get(user, ()), *self._bound(user)))

    def _bound(self, user: str) -> Iterator[Rule]:
        for plural in ("rolebindings", "clusterrolebindings"):
            for binding in self.items(plural):
                if not any(_is_subject(subject, user) for subject in binding.get("subjects") or ()):
                    continue
                namespace = binding["metadata"].get("namespace")
                reference = binding["roleRef"]
                roles = {"Role": "roles", "ClusterRole": "clusterroles"}[reference["kind"]]
                home = namespace if reference["kind"] == "Role" else ""
                role = self._objects.get(roles, {}).get((home or "", reference["name"]), {})
                for rule in role.get("rules") or ():
                    yield Rule(
                        verbs=tuple(rule["verbs"]),
                        groups=tuple(rule["apiGroups"]),
                        resources=tuple(rule["resources"]),
                        namespaces=(namespace,) if namespace else None,
                        names=tuple(rule.get("resourceNames") or ()),
                    )


def _is_subject(subject: dict[str, Any], user: str) -> bool:
    if subject["kind"] == "ServiceAccount":
        return user == f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
    return subject["kind"] == "User" and user == subject["name"]


def _grants(rule: Rule, asked: Asked) -> bool:
    return (
        any(verb in ("*", asked.verb) for verb in rule.verbs)
        and any(group in ("*", asked.group) for group in rule.groups)
        and any(resource in ("*", asked.resource) for resource in rule.resources)
        and (rule.namespaces is None or asked.namespace in rule.namespaces)
        and (not rule.names or asked.name in rule.names)
    )
