"""Every error that comes out of the Kubernetes API, as facts: what was asked, on which path, and when to ask again.

    KubernetesError
    ├── CredentialsError   no usable server address, token, certificate or kubeconfig
    ├── Unauthorised       401, and still 401 after the credentials were read again
    ├── Forbidden          403: says the RBAC rule that is missing
    ├── NotFound           404: the object, or the API that serves it
    ├── NoAutoscaler       the HPA or ScaledObject that a floor was to be set on is missing, or scales something else
    ├── Conflict           409: somebody changed or remade the object in between
    ├── Expired            410: a list's continuation or a watch's start was compacted away
    ├── Invalid            400, 415, 422: the server refuses what was sent, and would again
    ├── Throttled          429, or asked within the pause that a 429 ordered
    ├── Unavailable        5xx, no connection, a broken or oversized answer
    │   └── TimedOut           the total deadline passed; a write may or may not have happened
    └── WriteRefused       this process may not write now (observing, or no longer the leader): nothing was sent

No message holds a token, a request body or a query string.
"""

from __future__ import annotations

from typing import Final

MISSHAPEN: Final = (KeyError, TypeError, ValueError, AttributeError)
"""What parsing raises on JSON that is not shaped as the API promises; a bad selector is a ValueError too."""


class KubernetesError(Exception):
    """Base of the tree above.

    `status` is the HTTP status (None without an answer), `path` the request's path, and `retry_after_s` how long
    the server asked to be left alone.
    """

    def __init__(
        self, message: str, *, status: int | None = None, path: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.path = path
        self.retry_after_s = retry_after_s


class CredentialsError(KubernetesError):
    """No usable server address, token, certificate or kubeconfig; nothing was sent."""


class Unauthorised(KubernetesError):
    """The server does not know this token or certificate, not even after it was read again."""


class Forbidden(KubernetesError):
    """The account lacks a permission; the fields are the RBAC rule that would grant it."""

    def __init__(
        self,
        message: str,
        *,
        verb: str,
        group: str,
        resource: str,
        namespace: str | None,
        status: int | None = 403,
        path: str = "",
    ) -> None:
        super().__init__(message, status=status, path=path)
        self.verb = verb
        self.group = group
        self.resource = resource
        self.namespace = namespace

    @property
    def rule(self) -> str:
        """The missing RBAC rule in one line of YAML, ready to paste under `rules:`."""
        return f'- {{apiGroups: ["{self.group}"], resources: ["{self.resource}"], verbs: ["{self.verb}"]}}'


class NotFound(KubernetesError):
    """The object does not exist, or the server does not serve its kind."""


class NoAutoscaler(KubernetesError):
    """There is no autoscaler above the workload whose floor could be read or written."""


class Conflict(KubernetesError):
    """The object was changed, or deleted and made anew, since it was read."""


class Expired(KubernetesError):
    """The version asked for is no longer kept: list again from the start."""


class Invalid(KubernetesError):
    """The server refuses the request itself; sending it again cannot help."""


class Throttled(KubernetesError):
    """The server asked to be left alone for `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float, status: int | None = 429, path: str = "") -> None:
        super().__init__(message, status=status, path=path, retry_after_s=retry_after_s)


class Unavailable(KubernetesError):
    """No usable answer: connection refused or broken, 5xx, or a body that is not what the API promises."""


class TimedOut(Unavailable):
    """The total deadline passed, connection and body included. A write may or may not have happened."""


class WriteRefused(KubernetesError):
    """A mutating request was about to be sent while this process may not write; nothing was sent."""
