"""A real daemon on what the chart installs: its settings, its account's permissions, its token, its probes' pages.

What a kubelet would do is done by hand: the settings file and the token are laid where the daemon finds them, and the
account's token goes into a kubeconfig.
"""

from __future__ import annotations

import base64
import http.client
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from chart_cases import CHART, NAMESPACE, pods_of
from helm_double import cluster, run, write_kubeconfig
from kube_double import KubeDouble
from promql_names import names_in
from scaler.config.values import ConfigFile
from servers import free_port

pytestmark = pytest.mark.server

VALUES = {
    "config": {
        "prometheus": {"url": "http://127.0.0.1:9"},  # nobody listens there: the daemon is blind, and well
        "tick": "1s",
        "workloads": [{"workload": "llm/chat", "profile": "qwen3-vl-2b-24gb", "mode": "active"}],
    }
}
USER = "system:serviceaccount:headstart:headstart"


def laid_out(double: KubeDouble, folder: Path, port: int) -> Path:
    """The settings file as the daemon's container sees it, with this machine's places in it."""
    account = double.store.get("serviceaccounts", NAMESPACE, "headstart")["metadata"]["uid"]
    write_kubeconfig(double, folder, token=double.store.issue(USER, account))
    secret = double.store.get("secrets", NAMESPACE, "headstart-token")["data"]["token"]
    (folder / "http-token").write_bytes(base64.b64decode(secret))
    settings = yaml.safe_load(double.store.get("configmaps", NAMESPACE, "headstart")["data"]["headstart.yaml"])
    settings["http"] |= {"host": "127.0.0.1", "port": port, "token_file": str(folder / "http-token")}
    settings |= {"data_dir": str(folder / "data"), "kubernetes": {"kubeconfig": str(folder / "kubeconfig")}}
    if "ha" not in {each.name for each in fields(ConfigFile)}:
        settings.pop("ha")
    file = folder / "headstart.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def get(port: int, path: str, token: str | None = None) -> tuple[int, str]:
    """Status and text of a page; status 0 where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


RIVALS = ("/horizontalpodautoscalers", "/scaledobjects")


def test_it_starts_is_probed_is_scraped_and_is_refused_nothing(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(VALUES), encoding="utf-8")
    port = free_port()
    with cluster(tmp_path, NAMESPACE, "llm") as double:
        write_kubeconfig(double, tmp_path)
        double.deployment("llm", "chat", replicas=2)
        own = ["--server-side=false", "--disable-openapi-validation", "-f", str(tmp_path / "values.yaml")]
        run("helm", "install", "headstart", str(CHART), "-n", NAMESPACE, *own, folder=tmp_path)
        container = pods_of([double.store.get("statefulsets", NAMESPACE, "headstart")])["headstart"]["spec"][
            "containers"
        ][0]
        installed_at = len(double.requests)
        file = laid_out(double, tmp_path, port)
        arguments = [str(file) if each.endswith("headstart.yaml") else each for each in container["args"]]
        daemon = subprocess.Popen([sys.executable, "-m", "scaler.cli", *arguments], stderr=subprocess.PIPE, text=True)
        try:
            while get(port, container["readinessProbe"]["httpGet"]["path"])[0] != 200:
                assert daemon.poll() is None, daemon.communicate()[1]
                time.sleep(0.05)
            assert get(port, container["livenessProbe"]["httpGet"]["path"])[0] == 200
            assert get(port, "/metrics")[0] == 401
            token = (tmp_path / "http-token").read_text()
            status, text = get(port, "/metrics", token)
            assert status == 200
            assert (
                'headstart_blind{namespace="llm",reason="unreachable",signal="demand_rps",workload="chat"} 1.0' in text
            )
            for name in names_in("headstart_tick_last_success_timestamp_seconds + headstart_replicas_current"):
                assert f"\n{name}" in text
        finally:
            daemon.terminate()
            _, log = daemon.communicate()
        assert daemon.returncode == 0, log
        asked = [each for each in double.requests[installed_at:] if each.user == USER]
        assert asked
        # Whether another autoscaler writes the same replicas is looked at where that is allowed; refused, it is not told.
        refused = [each for each in asked if each.status == 403 and not each.path.endswith(RIVALS)]
        assert [(each.method, each.path) for each in refused] == []
        assert double.replicas("llm", "chat") == 2
