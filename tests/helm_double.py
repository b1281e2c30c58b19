"""Real helm and kubectl, and what they need of the Kubernetes double: more kinds, TLS, a kubeconfig.

Holds no test.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kube_double import KubeDouble
from kube_double_rules import ApiKind
from kube_double_tls import make_certificate

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = REPOSITORY / ".tools" / "kubectl-2.2.2"
"""Where tests/setup/chart_tools.sh puts them."""


@functools.cache
def tool(name: str) -> str:
    """The path of helm or kubectl: the pinned one, else the PATH's; without one the test is skipped, under CI failed."""
    pinned = TOOLS / name / name
    found = str(pinned) if pinned.is_file() else shutil.which(name)
    if found is None:
        assert not os.environ.get("CI"), f"no {name}: tests/setup/chart_tools.sh did not run"
        pytest.skip(f"no {name}: run tests/setup/chart_tools.sh")
    return found


def run(name: str, *arguments: str, folder: Path, expect: int = 0, stdin: str | None = None) -> str:
    """Run helm or kubectl with nothing of this machine's own configuration; what it printed."""
    own = {"KUBECONFIG": str(folder / "kubeconfig"), "PATH": os.environ["PATH"], "HOME": str(folder)}
    own |= {f"HELM_{kind}_HOME": str(folder / "helm") for kind in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(
        [tool(name), *arguments], env=own, capture_output=True, text=True, timeout=120, input=stdin, check=False
    )
    assert done.returncode == expect, f"{name} {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if expect == 0 else done.stdout + done.stderr


MORE_KINDS = (
    ApiKind(group="", version="v1", kind="Secret", plural="secrets"),
    ApiKind(group="", version="v1", kind="Service", plural="services"),
    ApiKind(group="", version="v1", kind="PersistentVolumeClaim", plural="persistentvolumeclaims"),
    ApiKind(group="policy", version="v1", kind="PodDisruptionBudget", plural="poddisruptionbudgets"),
    ApiKind(group="networking.k8s.io", version="v1", kind="NetworkPolicy", plural="networkpolicies"),
    ApiKind(group="batch", version="v1", kind="CronJob", plural="cronjobs"),
    ApiKind(group="scheduling.k8s.io", version="v1", kind="PriorityClass", plural="priorityclasses", namespaced=False),
    ApiKind(group="monitoring.coreos.com", version="v1", kind="ServiceMonitor", plural="servicemonitors"),
    ApiKind(group="monitoring.coreos.com", version="v1", kind="PrometheusRule", plural="prometheusrules"),
)


def cluster(folder: Path, *namespaces: str) -> KubeDouble:
    """The double as helm finds it by `folder`/kubeconfig; to be entered."""
    double = KubeDouble(certificate=make_certificate(folder))
    double.store.kinds += [
        kind for kind in MORE_KINDS if kind.plural not in {each.plural for each in double.store.kinds}
    ]
    for namespace in namespaces:
        double.namespace(namespace)
    return double


def write_kubeconfig(double: KubeDouble, folder: Path, *, token: str | None = None) -> None:
    """`folder`/kubeconfig with the administrator's token, or another one."""
    server = {"server": double.url, "certificate-authority": str(folder / "server.crt")}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "double", "cluster": server}],
        "users": [{"name": "user", "user": {"token": token or double.admin_token}}],
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "user"}}],
        "current-context": "double",
    }
    (folder / "kubeconfig").write_text(json.dumps(document), encoding="utf-8")
