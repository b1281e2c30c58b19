"""The cluster that the stories are told on: always the strict API double, and whatever `KUBECONFIG` names as well.

Of a real cluster nothing is assumed but nodes (fake ones do) whose pods become Ready after a delay. The stories work
in a namespace of their own, which is deleted afterwards, and change nothing outside it.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from kube_double import KubeDouble, workload
from scaler.adapters.kubernetes import HPA, ApiConnection, Feature, FloorRef, Kubeconfig, KubernetesCluster, TargetRef
from scaler.adapters.kubernetes.errors import KubernetesError
from scaler.adapters.kubernetes.http import Call, Verb

T = TypeVar("T")

READY_WITHIN_S = 120.0
"""How long a real cluster's pods may take; the double's clock is moved as far as needed."""

_RBAC = Path(__file__).resolve().parents[2] / "deploy" / "rbac.yaml"


@dataclass(kw_only=True)
class Stage:
    """A namespace on some cluster, and the means to set a scene there as its administrator."""

    kubeconfig: Path
    admin: ApiConnection
    folder: Path
    double: KubeDouble | None
    namespace: str = field(default_factory=lambda: f"headstart-{uuid.uuid4().hex[:8]}")

    @property
    def now(self) -> datetime:
        return self.double.now if self.double else datetime.now(UTC)

    def ask(
        self,
        verb: Verb,
        resource: str,
        *,
        group: str = "",
        name: str | None = None,
        body: dict[str, Any] | None = None,
        namespaced: bool = True,
        version: str = "v1",
    ) -> dict[str, Any]:
        """One request of the administrator."""
        namespace = self.namespace if namespaced else None
        call = Call(verb=verb, group=group, version=version, resource=resource, namespace=namespace, name=name)
        return self.admin.call(call, body=body)

    def deploy(self, name: str, *, replicas: int, gpus: int = 1) -> TargetRef:
        """A Deployment whose pods ask for GPUs and tolerate any taint, as fake nodes have one."""
        manifest = workload("Deployment", self.namespace, name, replicas=replicas, gpus=gpus)
        pod = manifest["spec"]["template"]["spec"]
        pod["tolerations"] = [{"operator": "Exists"}]
        pod["terminationGracePeriodSeconds"] = 0
        pod["containers"][0]["image"] = "registry.k8s.io/pause:3.10"
        self.ask(Verb.CREATE, "deployments", group="apps", body=manifest)
        return TargetRef(namespace=self.namespace, api_version="apps/v1", kind="Deployment", name=name)

    def autoscale(self, target: TargetRef, *, least: int, most: int) -> FloorRef:
        """An HPA above a Deployment; no metrics are needed for what these stories ask of it."""
        reference = {"apiVersion": target.api_version, "kind": target.kind, "name": target.name}
        item = {
            "apiVersion": "autoscaling/v2",
            "kind": HPA,
            "metadata": {"name": target.name},
            "spec": {"scaleTargetRef": reference, "minReplicas": least, "maxReplicas": most},
        }
        self.ask(Verb.CREATE, "horizontalpodautoscalers", group="autoscaling", version="v2", body=item)
        return FloorRef(namespace=self.namespace, kind=HPA, name=target.name)

    def autoscaler(self, floor: FloorRef) -> dict[str, Any]:
        """The HPA as the administrator sees it."""
        return self.ask(Verb.GET, "horizontalpodautoscalers", group="autoscaling", version="v2", name=floor.name)

    def annotate(self, target: TargetRef, **annotations: str) -> None:
        """Set annotations under our prefix on a Deployment."""
        ours = {f"headstart.autoscaling/{key.replace('_', '-')}": value for key, value in annotations.items()}
        body = {"metadata": {"annotations": ours}}
        self.ask(Verb.PATCH, "deployments", group="apps", name=target.name, body=body)

    def quota(self, pods: int) -> None:
        """Let no more pods than these be made in the namespace."""
        if self.double is not None:
            self.double.quota(self.namespace, pods)
            return
        item = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"}}
        self.ask(Verb.CREATE, "resourcequotas", body={**item, "spec": {"hard": {"pods": str(pods)}}})
        self.wait_for(
            lambda: self.ask(Verb.GET, "resourcequotas", name="pods").get("status") or {},
            lambda status: "hard" in status,
            what="the quota to be in force",
        )

    def account(self, role: str) -> KubernetesCluster:
        """Headstart as a service account with one of the roles of deploy/rbac.yaml, bound in this namespace alone."""
        return KubernetesCluster(self.connection(role))

    def connection(self, role: str) -> ApiConnection:
        """As `account`, the bare connection."""
        documents = yaml.safe_load_all(_RBAC.read_text(encoding="utf-8"))
        [rules] = [d["rules"] for d in documents if d and d["kind"] == "ClusterRole" and d["metadata"]["name"] == role]
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": role}}
        self.ask(Verb.CREATE, "serviceaccounts", body=account)
        rbac, shared = "rbac.authorization.k8s.io", {"apiVersion": "rbac.authorization.k8s.io/v1"}
        self.ask(
            Verb.CREATE,
            "roles",
            group=rbac,
            body={**shared, "kind": "Role", "metadata": {"name": role}, "rules": rules},
        )
        binding = {
            **shared,
            "kind": "RoleBinding",
            "metadata": {"name": role},
            "subjects": [{"kind": "ServiceAccount", "name": role, "namespace": self.namespace}],
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": role},
        }
        self.ask(Verb.CREATE, "rolebindings", group=rbac, body=binding)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        issued = self.ask(Verb.CREATE, "serviceaccounts/token", name=role, body=request)
        api = ApiConnection(Kubeconfig(path=self._with_token(role, issued["status"]["token"])))
        cluster = KubernetesCluster(api)
        features = {Feature.ACTIVE if role == "headstart-active" else Feature.OBSERVE}
        anything = TargetRef(namespace=self.namespace, api_version="apps/v1", kind="Deployment", name="anything")
        # A real authoriser learns of a new binding a moment after it was stored.
        self.wait_for(
            lambda: cluster.missing_permissions([anything], features),
            lambda missing: not missing,
            what=f"the rules of {role} to be in force",
        )
        return api

    def _with_token(self, name: str, token: str) -> Path:
        """The administrator's kubeconfig, with a token in the place of its user's credentials."""
        config = yaml.safe_load(self.kubeconfig.read_text(encoding="utf-8"))
        token_file = self.folder / f"{name}-token"
        token_file.write_text(token, encoding="utf-8")
        for user in config["users"]:
            user["user"] = {"tokenFile": str(token_file)}
        for cluster in config["clusters"]:
            if "certificate-authority" in cluster["cluster"]:
                beside = self.kubeconfig.parent / cluster["cluster"]["certificate-authority"]
                cluster["cluster"]["certificate-authority"] = str(beside.resolve())
        path = self.folder / f"{name}-kubeconfig"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def deployment(self, target: TargetRef) -> dict[str, Any]:
        """The Deployment as the administrator sees it."""
        return self.ask(Verb.GET, "deployments", group="apps", name=target.name)

    def events(self, target: TargetRef) -> list[dict[str, Any]]:
        """Our Events on a workload, oldest first."""
        items = self.ask(Verb.LIST, "events", group="events.k8s.io")["items"]
        about = [item for item in items if (item.get("regarding") or {}).get("name") == target.name]
        ours = [item for item in about if item.get("reportingController") == "headstart.autoscaling/scaler"]
        return sorted(ours, key=lambda item: str(item["eventTime"]))

    def wait_for(self, look: Callable[[], T], until: Callable[[T], bool], *, what: str) -> T:
        """Let the cluster's time pass until what `look` sees is as `until` wants it; fail with `what` was awaited."""
        end = self.now.timestamp() + READY_WITHIN_S
        while not until(seen := look()):
            if self.now.timestamp() > end:
                pytest.fail(f"waited {READY_WITHIN_S:g} s for {what}; last seen: {seen}")
            self.pass_time(1.0)
        return seen

    def pass_time(self, seconds: float) -> None:
        """Move the double's clock, or wait."""
        if self.double is not None:
            self.double.advance(seconds)
        else:
            time.sleep(seconds)


def _double_stage(folder: Path) -> Iterator[Stage]:
    with KubeDouble(gpus=8, start_time_s=45) as double:
        path = double.kubeconfig(folder)
        admin = ApiConnection(Kubeconfig(path=path))
        stage = Stage(kubeconfig=path, admin=admin, folder=folder, double=double)
        double.namespace(stage.namespace)
        yield stage


def _real_stage(path: Path, folder: Path) -> Iterator[Stage]:
    """A namespace of its own on a real cluster, gone when the story is over."""
    stage = Stage(kubeconfig=path, admin=ApiConnection(Kubeconfig(path=path)), folder=folder, double=None)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": stage.namespace}}
    stage.ask(Verb.CREATE, "namespaces", body=namespace, namespaced=False)
    try:
        yield stage
    finally:
        stage.ask(Verb.DELETE, "namespaces", name=stage.namespace, namespaced=False)


@pytest.fixture(scope="session")
def real_cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of a cluster on which a pod with a GPU was seen to become Ready; skips with the reason why not."""
    named = os.environ.get("KUBECONFIG", "")
    if not named:
        pytest.skip("KUBECONFIG names no cluster: this story was told on the API double alone")
    path = Path(named.split(os.pathsep)[0])
    stages = contextlib.contextmanager(_real_stage)
    try:
        with stages(path, tmp_path_factory.mktemp("probe")) as stage:
            target = stage.deploy("probe", replicas=1)
            cluster = KubernetesCluster(stage.admin)
            end = time.monotonic() + READY_WITHIN_S
            while getattr(cluster.read([target], now=stage.now)[target], "ready", 0) < 1:
                if time.monotonic() > end:
                    pytest.skip(f"no pod with nvidia.com/gpu: 1 became Ready within {READY_WITHIN_S:g} s")
                time.sleep(1)
    except KubernetesError as error:
        pytest.skip(f"the cluster of KUBECONFIG cannot be used: {error}")
    return path


@pytest.fixture(params=["double", "kubeconfig"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A namespace on the double, and then one on the cluster of `KUBECONFIG`."""
    if request.param == "double":
        yield from _double_stage(tmp_path)
    else:
        yield from _real_stage(request.getfixturevalue("real_cluster"), tmp_path)
