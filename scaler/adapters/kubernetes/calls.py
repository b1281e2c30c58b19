"""One request to the Kubernetes API in RBAC's words, and the REST path that it is. It sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote


class Verb(StrEnum):
    """RBAC's verbs, which are what a Forbidden has to name."""

    GET = "get"
    LIST = "list"
    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"


METHODS = {
    Verb.GET: "GET",
    Verb.LIST: "GET",
    Verb.CREATE: "POST",
    Verb.UPDATE: "PUT",
    Verb.PATCH: "PATCH",
    Verb.DELETE: "DELETE",
}

_REVIEWS = "authorization.k8s.io"
"""Posting a SelfSubjectAccessReview asks a question and stores nothing, so it is no mutation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request in RBAC's words. `resource` may end in a subresource ("deployments/scale"); "" asks for discovery.

    `query` is a tuple of (key, value) pairs.
    """

    verb: Verb
    group: str
    version: str
    resource: str = ""
    namespace: str | None = None
    name: str | None = None
    query: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        """The REST path; every segment is quoted, so that a hostile name cannot climb to another object."""
        resource, _, subresource = self.resource.partition("/")
        namespace = ("namespaces", self.namespace) if self.namespace is not None else ()
        root = ("apis", self.group, self.version) if self.group else ("api", self.version)
        segments = (*root, *namespace, resource, self.name, subresource)
        return "/" + "/".join(quote(segment, safe="") for segment in segments if segment)

    @property
    def mutates(self) -> bool:
        """Whether the server may store something because of this call."""
        return self.verb not in (Verb.GET, Verb.LIST) and self.group != _REVIEWS

    @property
    def words(self) -> str:
        """What is asked, as a person would say it: "patch deployments/scale llm/chat"."""
        name = "/".join(part for part in (self.namespace, self.name) if part)
        return f"{self.verb.value} {self.resource or 'discovery of ' + self.path} {name}".rstrip()
