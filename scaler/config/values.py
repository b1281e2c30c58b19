"""What a settings file may say beside the rules' own parameters: where metrics, cluster and data are, what is scaled.

Each section checks itself and names the setting in its refusal. A rule's parameters and their limits live in the
rule's own dataclass and are not repeated here: a workload's entry is a `WorkloadPolicy` with two sections more.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from scaler.config.check import did_you_mean
from scaler.config.holidays import holidays_of
from scaler.config.local import LocalConfig
from scaler.policy.budget import BudgetRule
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.placeholders import PlaceholderRule
from scaler.policy.scheduled import ScheduledRule
from scaler.policy.types import Mode
from scaler.policy.variant_groups import VariantGroup

_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
CLASS_LABEL: Final = "request_class"
"""The label in which the gateway tells request classes apart."""
_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_WORKLOAD: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_LEASE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)

MODELS: Final = (
    *("lstm", "trees", "holt-winters", "arima"),
    *("seasonal-delta", "seasonal-naive", "recent-hours", "last-value"),
)
"""Families that forecast unless told otherwise; a test compares them with the registry's."""
ON_REQUEST: Final = ("harmonic", "exp-smoothing", "ewma")
"""Families that forecast where they are named; a test compares them with the registry's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusConfig:
    """Where the metrics are. Secrets are named by file and read on use, so that they can be rotated."""

    url: str = "http://prometheus:9090"
    """Base address of the Prometheus HTTP API (also Thanos, Mimir, VictoriaMetrics)."""
    deadline_s: float = 8.0
    """Total time of one call, connection and body included."""
    bearer_token_file: Path | None = None
    """File that holds a bearer token."""
    username: str | None = None
    """User of basic authentication; needs password_file."""
    password_file: Path | None = None
    """File that holds the password of basic authentication."""
    ca_file: Path | None = None
    """Certificate authority that the server is verified with; the system's if none."""
    cert_file: Path | None = None
    """Client certificate; needs key_file."""
    key_file: Path | None = None
    """Key of the client certificate."""
    tenant: str | None = None
    """Value of the X-Scope-OrgID header, for stores with several tenants."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username is not None or parts.password is not None:
            raise ValueError("url must not contain a user or password; use username and password_file")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be an http or https address such as http://prometheus:9090, got {self.url!r}")
        if not 0.1 <= self.deadline_s <= 60.0:
            raise ValueError(f"deadline_s must lie in [0.1, 60] seconds, got {self.deadline_s}")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together; one of them is missing")
        if self.username is not None and self.bearer_token_file is not None:
            raise ValueError("bearer_token_file and username exclude each other; keep one")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together; one of them is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesConfig:
    """How the cluster is reached: in a pod by its service account, else by a kubeconfig file."""

    kubeconfig: Path | None = None
    """A kubeconfig file; null means the pod's service account, or outside a cluster $KUBECONFIG or ~/.kube/config."""
    context: str | None = None
    """Context of that file; null means its current one."""


LONGEST_LEASE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class HaConfig:
    """Several daemons of which one writes. They share a Lease object; each keeps a data folder of its own."""

    lease: str | None = None
    """The Lease that decides who writes, as namespace/name; null means that this is the only daemon."""
    duration: timedelta = timedelta(seconds=15)
    """How long the lease must have been seen unchanged before another daemon takes it."""
    renew_deadline: timedelta = timedelta(seconds=10)
    """How long after its last renewal a daemon may write; then it ends, and its successor waits for the rest."""
    retry: timedelta = timedelta(seconds=2)
    """Time between two looks at the lease."""

    def __post_init__(self) -> None:
        if self.lease is not None and not _LEASE.fullmatch(self.lease):
            raise ValueError(f"lease must be namespace/name in Kubernetes' spelling, got {self.lease!r}")
        if not timedelta(seconds=3) <= self.duration <= LONGEST_LEASE or self.duration.microseconds:
            raise ValueError(f"duration must be whole seconds between 3s and 5m, got {self.duration}")
        # The rest is for clocks that run differently fast: a write must never meet its successor's.
        if not timedelta(seconds=1) <= self.renew_deadline <= 0.8 * self.duration:
            raise ValueError(
                f"renew_deadline must lie between 1s and 80 % of the duration ({0.8 * self.duration}), "
                f"got {self.renew_deadline}"
            )
        if not timedelta(milliseconds=100) <= self.retry <= self.renew_deadline / 3:
            raise ValueError(
                f"retry must lie between 100ms and a third of renew_deadline ({self.renew_deadline / 3}), "
                f"got {self.retry}: one lost answer must not end a daemon"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The daemon's own web page, API and /metrics."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs token_file."""
    port: int = 8090
    """TCP port; 0 takes a free one."""
    token_file: Path | None = None
    """File that holds the token which every request must carry, those for /healthz and /readyz aside."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must lie in [0, 65535], got {self.port}")
        if self.token_file is None and not _is_loopback(self.host):
            raise ValueError(f"host {self.host!r} is reachable from outside: set token_file, or listen on 127.0.0.1")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverConfig:
    """Deployments that become workloads by their own annotations, beside those that are listed here."""

    namespaces: tuple[str, ...] = ()
    """Where to look; none means that nothing is discovered."""
    selector: Mapping[str, str] = field(default_factory=dict)
    """Labels and exact values that a Deployment must have beside its annotation."""
    confirm: int | None = None
    """Workloads that are expected at most. More than twice as many as before, and more than ten, wait for this."""

    def __post_init__(self) -> None:
        for name in self.namespaces:
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
                raise ValueError(f"namespaces must be names of namespaces, got {name!r}; there is none that means all")
        if len(set(self.namespaces)) != len(self.namespaces):
            raise ValueError(f"namespaces must name none twice, got {', '.join(self.namespaces)}")
        if self.selector and not self.namespaces:
            raise ValueError("selector without namespaces discovers nothing; name the namespaces")
        for label, value in self.selector.items():
            if not re.fullmatch(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", label):
                raise ValueError(f"selector must name labels, got {label!r}")
            if not re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value):
                raise ValueError(f"selector.{label} must be the value of a label, got {value!r}")
        if self.confirm is not None and self.confirm < 1:
            raise ValueError(f"confirm must be at least 1, got {self.confirm}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastConfig:
    """Which models forecast, and when they are fitted again."""

    models: tuple[str, ...] = MODELS
    """Members of the ensemble; one that cannot run here (no artefact, no extra) is left out and named in `get`. On
    request also harmonic, exp-smoothing and ewma."""
    refit: time = time(3, 10)
    """UTC wall-clock time of the daily refit."""
    ttl: timedelta = timedelta(minutes=10)
    """Age after which a forecast is ignored."""

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in (*MODELS, *ON_REQUEST):
                hint = did_you_mean(name, (*MODELS, *ON_REQUEST)) or f"there are {', '.join((*MODELS, *ON_REQUEST))}"
                raise ValueError(f"models names {name!r}, which is no model; {hint}")
        if not self.models or len(set(self.models)) != len(self.models):
            raise ValueError(f"models must name at least one model and none twice, got {', '.join(self.models)}")
        if self.refit.tzinfo is not None:
            raise ValueError(f'refit is a UTC time without a zone, such as "03:10", got {self.refit}')
        if not timedelta(minutes=2) <= self.ttl <= timedelta(minutes=30):
            raise ValueError(f"ttl must lie between 2m and 30m (the horizon of a forecast), got {self.ttl}")


class FloorKind(StrEnum):
    """Autoscalers whose floor can be set."""

    HPA = "HorizontalPodAutoscaler"
    SCALED_OBJECT = "ScaledObject"


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorConfig:
    """Of mode floor: the autoscaler that scales the target, and whose minimum is raised and lowered."""

    kind: FloorKind = FloorKind.HPA
    """HorizontalPodAutoscaler (autoscaling/v2), or ScaledObject where KEDA keeps the HPA."""
    name: str = ""
    """Its name; the target's name if empty."""

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """What is scaled: anything with a scale subresource, in the workload's namespace."""

    api_version: str = "apps/v1"
    """Group and version of the resource."""
    kind: str = "Deployment"
    """Kind of the resource: Deployment, StatefulSet, LeaderWorkerSet, …"""
    name: str = ""
    """Its name; the workload's own name if empty."""
    floor: FloorConfig = field(default_factory=FloorConfig)
    """Of mode floor: the autoscaler that scales the target."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([a-z0-9.-]+/)?v[a-z0-9]+", self.api_version):
            raise ValueError(f"api_version must look like apps/v1, got {self.api_version!r}")
        if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", self.kind):
            raise ValueError(f"kind must look like Deployment, got {self.kind!r}")
        _check_name(self.name)


def _check_name(name: str) -> None:
    if name and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
        raise ValueError(f"name must be a Kubernetes name (lower-case letters, digits, - and .), got {name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorConfig:
    """How a workload's series are found in Prometheus. The first that is given counts: labels, deployment_label,
    pod_pattern; else pods named as the target would name them."""

    namespace: str = ""
    """Value of the series' namespace label; the workload's own namespace if empty."""
    namespaced: bool = True
    """False where series carry no namespace label; then labels must tell workloads apart."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Label names and exact values, such as {model_name: chat}."""
    deployment_label: str | None = None
    """A label whose value is the workload's name."""
    pod_pattern: str | None = None
    """Regular expression (RE2) that the whole pod label must match."""
    class_label: str | None = None
    """Label of the demand metric that tells request classes apart."""
    classes: tuple[str, ...] = ()
    """Request classes that are this workload's, where several pools serve one model, such as [gui, html]; all if
    empty. Each is forecast by itself."""
    demand_metric: str | None = None
    """A counter of arrivals that goes before the built-in ones, such as nginx_ingress_controller_requests."""
    demand_labels: Mapping[str, str] = field(default_factory=dict)
    """Label names and values that tell this workload's arrivals apart at the front door."""

    def __post_init__(self) -> None:
        if not self.namespaced and not self.labels:
            raise ValueError("namespaced is false, so labels are needed: a query without them would match every series")
        for where, pairs in (("labels", self.labels), ("demand_labels", self.demand_labels)):
            for name, value in pairs.items():
                self._check_label(where, name)
                if not value:
                    raise ValueError(f"{where}.{name} is empty, which would match every series; give its value")
        for where, label in (("deployment_label", self.deployment_label), ("class_label", self.class_label)):
            if label is not None:
                self._check_label(where, label)
        if not all(self.classes) or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must name each class once, and none that is empty, got {list(self.classes)}")
        label = self.class_label or CLASS_LABEL
        if self.classes and label in self.demand_labels:
            raise ValueError(f"demand_labels.{label} and classes say the same; keep classes")
        if self.demand_metric is not None and not _METRIC_NAME.fullmatch(self.demand_metric):
            raise ValueError(f"demand_metric must be the name of one counter, got {self.demand_metric!r}")
        if self.pod_pattern is not None:
            _check_pattern(self.pod_pattern)

    @staticmethod
    def _check_label(where: str, name: str) -> None:
        if not _LABEL_NAME.fullmatch(name) or name.startswith("__"):
            raise ValueError(f"{where} must name a label (letters, digits and _), got {name!r}")


def _check_pattern(pattern: str) -> None:
    """Refuse what Prometheus would: its RE2 knows no look-ahead and no back-reference, which Python's would accept."""
    import promql_parser  # lazy: few files have a pattern

    try:
        re.compile(pattern)
        promql_parser.parse(f"up{{pod=~{json.dumps(pattern)}}}")
    except (re.error, ValueError) as error:
        raise ValueError(f"pod_pattern is not a regular expression for Prometheus (RE2): {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledEntry(ScheduledRule):
    """What is known in advance of one workload."""

    holidays: str | None = None
    """Public holidays that its people keep: a country's ISO code or that of a part of it, such as DE, DE-BY or US-CA.
    Then days are forecast by days of their kind: working days, Saturdays, and Sundays with holidays, each from
    midnight of timezone to midnight. Null means that every day is forecast by the day before."""

    def __post_init__(self) -> None:
        # not super(): a dataclass with slots is a new class, and the zero-argument form would name the old one
        ScheduledRule.__post_init__(self)
        if self.holidays is not None:
            holidays_of(self.holidays)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEntry(WorkloadPolicy):
    """One entry of `workloads`: everything that its decisions follow, what is scaled, and where its metrics are."""

    scheduled: ScheduledEntry = field(default_factory=ScheduledEntry)
    """What is known in advance: events, windows, and the calendar of its people."""
    target: TargetConfig = field(default_factory=TargetConfig)
    """What is scaled."""
    selector: SelectorConfig = field(default_factory=SelectorConfig)
    """How its series are found."""

    def __post_init__(self) -> None:
        # not super(): a dataclass with slots is a new class, and the zero-argument form would name the old one
        WorkloadPolicy.__post_init__(self)
        if not _WORKLOAD.fullmatch(self.workload):
            raise ValueError(f"workload must be namespace/name in Kubernetes' spelling, got {self.workload!r}")
        if self.spills_to is not None and not _WORKLOAD.fullmatch(self.spills_to):
            raise ValueError(f"spills_to must be namespace/name in Kubernetes' spelling, got {self.spills_to!r}")
        if not timedelta(seconds=15) <= self.latency.rate_window <= timedelta(hours=1):
            raise ValueError(f"latency.rate_window must lie between 15s and 1h, got {self.latency.rate_window}")
        if self.mode is Mode.FLOOR and self.target.floor.kind is FloorKind.HPA and self._least() == 0:
            raise ValueError("mode is floor, and an HPA's floor is at least 1: bounds and windows may not have a 0")

    def _least(self) -> int:
        """The lowest minimum that may be in force, by the bounds or a window's maximum of 0."""
        tops = [each.max_replicas for each in self.scheduled.windows if each.max_replicas is not None]
        return min([self.bounds.min_replicas, *tops])


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceholderEntry(PlaceholderRule):
    """One entry of `placeholders`: pods of low priority that hold GPUs, so that nodes are there before the peak."""

    target: TargetConfig = field(default_factory=TargetConfig)
    """What is scaled."""

    def __post_init__(self) -> None:
        # not super(): a dataclass with slots is a new class, and the zero-argument form would name the old one
        PlaceholderRule.__post_init__(self)
        if not _WORKLOAD.fullmatch(self.placeholder):
            raise ValueError(f"placeholder must be namespace/name in Kubernetes' spelling, got {self.placeholder!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """The whole file, after defaults, profiles and event files have been put in."""

    workloads: tuple[WorkloadEntry, ...] = ()
    """What is scaled, one entry a workload."""
    discover: DiscoverConfig = field(default_factory=DiscoverConfig)
    prometheus: PrometheusConfig = field(default_factory=PrometheusConfig)
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    data_dir: Path = Path("headstart-data")
    """Folder of the daemon's own file and models, relative to this file."""
    tick: timedelta = timedelta(minutes=1)
    """Time between two decision rounds."""
    http: HttpConfig = field(default_factory=HttpConfig)
    ha: HaConfig = field(default_factory=HaConfig)
    budget: BudgetRule = field(default_factory=BudgetRule)
    placeholders: tuple[PlaceholderEntry, ...] = ()
    """Pods of low priority that hold GPUs ahead of the forecast; none by default."""
    deletion_cost: bool = False
    """Before a Deployment is scaled in, mark the pods that should go: idle ones first. Needs `patch` on pods."""
    forecast: ForecastConfig = field(default_factory=ForecastConfig)
    variants: tuple[VariantGroup, ...] = ()
    """Workloads that run variants of one model, of which one serves at a time: a smaller one while the larger cannot
    cope. None by default."""

    def __post_init__(self) -> None:
        if not self.workloads and not self.discover.namespaces:
            raise ValueError("workloads must list at least one workload, or discover.namespaces name where to look")
        if not timedelta(seconds=1) <= self.tick <= timedelta(minutes=5):
            raise ValueError(f"tick must lie between 1s and 5m, got {self.tick}")
