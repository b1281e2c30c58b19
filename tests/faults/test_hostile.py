"""Rows 43 and 45 of the table: names that are code somewhere else, and secrets that want to get out."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fault_proxy import Fault, Proxied
from fault_world import HOSTILE, USUAL_RPS, FaultWorld, Life, Scraped
from forecaster.sources.connection import Connection
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import Blind, BlindReason, Reading, SeriesKey
from kube_double import KubeDouble
from scaler.adapters.kubernetes import ApiConnection, Kubeconfig
from scaler.adapters.kubernetes.errors import NotFound
from scaler.adapters.kubernetes.http import Call, Verb
from scaler.adapters.states import State
from scaler.config import read_config
from scaler.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


# ── Row 43 ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _demand(scraped: Scraped, **selector: object) -> Reading:

    chosen = WorkloadSelector(workload="llm/victim", rate_window_s=15, **selector)  # type: ignore[arg-type]
    source = PrometheusSource(Connection(url=scraped.prometheus.url))
    return source.read([chosen], now=datetime.now(UTC)).values[SeriesKey(workload="llm/victim", signal="demand_rps")]


@pytest.mark.server
def test_row_43_a_hostile_label_is_one_value_and_finds_its_own_series_alone(scraped: Scraped) -> None:
    found = _demand(scraped, labels=(("model_name", HOSTILE),))
    assert found.value == pytest.approx(2 * USUAL_RPS, rel=0.2)  # type: ignore[union-attr]


@pytest.mark.server
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(".*", id="everything, as an expression"),
        pytest.param('x"} or vllm:request_success_total{model_name!="', id="another selector"),
        pytest.param("chat|surge", id="two, as an expression"),
        pytest.param('chat"\n} #', id="a comment"),
        pytest.param("\\", id="a lonely backslash"),
        pytest.param("чат\u2028", id="no ASCII"),
    ],
)
def test_row_43_a_hostile_label_never_widens_the_query(scraped: Scraped, value: str) -> None:
    found = _demand(scraped, labels=(("model_name", value),))
    assert isinstance(found, Blind)
    assert found.reason is BlindReason.NO_SERIES, "a syntax error would be REFUSED, a wider query would find something"


@pytest.mark.parametrize("name", ["../../secrets/admin", "chat/scale?fieldManager=x", "a%2f..", "ch at", "чат"])
def test_row_43_a_hostile_name_reaches_no_other_object(tmp_path: Path, name: str) -> None:
    with KubeDouble() as cluster:
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=2)
        api = ApiConnection(Kubeconfig(path=cluster.kubeconfig(tmp_path)))
        call = Call(verb=Verb.GET, group="apps", version="v1", resource="deployments/scale", namespace="llm", name=name)
        with pytest.raises(NotFound):
            api.call(call)
        api.close()
        (request,) = cluster.requests
    assert call.path.count("/") == "/apis/apps/v1/namespaces/llm/deployments/X/scale".count("/")
    assert request.query == {}


# ── Row 45 ────────────────────────────────────────────────────────────────────────────────────────────────────────

PROMETHEUS_TOKEN = "prom-7f3a9c11d2e84b60"
CLUSTER_TOKEN = "kube-c0ffee5511aa22bb"
HTTP_TOKEN = "http-99ee88dd77cc66bb"
SECRETS = (PROMETHEUS_TOKEN, CLUSTER_TOKEN, HTTP_TOKEN)

PAGES = (
    "/metrics",
    "/healthz",
    "/readyz",
    "/api/v1/workloads",
    "/api/v1/workloads/llm/chat",
    "/api/v1/workloads/llm/chat/explain",
    "/api/v1/workloads/llm/chat/forecast",
    "/api/v1/workloads/llm/nobody",
)


def _echo(code: int) -> Fault:
    """A server that answers with what it was sent, headers and all."""

    def fault(request: Proxied) -> None:
        headers = "\n".join(f"{name}: {value}" for name, value in request.received.headers.items())
        request.conversation.answer(code, f"refused:\n{headers}".encode(), content_type="text/plain")

    return fault


@pytest.fixture
def secretive(world: FaultWorld) -> Iterator[Life]:
    """A daemon with a token for everything."""
    token = world.folder / "prometheus-token"
    token.write_text(PROMETHEUS_TOKEN)
    world.cluster.store.tokens[CLUSTER_TOKEN] = world.cluster.store.tokens[world.cluster.admin_token]
    world.cluster.admin_token = CLUSTER_TOKEN
    (world.folder / "http-token").write_text(HTTP_TOKEN)
    settings = f'{{url: "{world.proxy.url}", bearer_token_file: {token}}}'
    with world.life(world.config(prometheus=settings, port="0, token_file: http-token")) as life:
        yield life


@pytest.mark.server
def test_row_45_no_token_gets_into_logs_errors_pages_or_the_data_folder(world: FaultWorld, secretive: Life) -> None:
    life = secretive
    said = [life.round().records[0].snapshot.classes[0].demand_rps]
    for code in (200, 401, 403, 500, 503):
        world.proxy.always(_echo(code))
        life.minute()
        said.append(life.snapshot.classes[0].demand_rps)
    for status in (401, 403, 500):
        world.cluster.fault(status=status, text=f"Authorization: Bearer {CLUSTER_TOKEN}", times=20)
        life.minute()
        world.cluster._faults.clear()
    assert life.state is State.DEGRADED
    life.daemon.start()
    try:
        pages = [_page(life.daemon.web.port, path, token=HTTP_TOKEN) for path in PAGES]
        pages += [_page(life.daemon.web.port, path, token="wrong") for path in PAGES]
    finally:
        life.daemon.stop()
    stored = b"".join(file.read_bytes() for file in (world.folder / "data").rglob("*") if file.is_file())
    for secret in SECRETS:
        assert secret not in life.stream.getvalue()
        assert secret not in "".join(pages)
        assert secret not in repr(said)
        assert secret.encode() not in stored


def _page(port: int, path: str, *, token: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())
    except urllib.request.HTTPError as error:
        with error:
            return f"{error.headers}{error.read().decode()}"


def test_row_45_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "headstart.yaml"
    file.write_text(
        'apiVersion: headstart/v1\nkind: Config\nprometheus: {url: "http://me:hunter2@prom:9090"}\n'
        "workloads:\n  - workload: llm/chat\n    profile: {name: p, classes: [{name: default, max_rps: 2}]}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert "hunter2" not in str(caught.value)


_TOKEN = re.compile(
    r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}|(?i:bearer)\s+(?!\$|…|\{)[A-Za-z0-9._~+/-]{16,}"
    r"|https?://[^\s/:@\"']+:[^\s/@\"'*\[…]+@|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


def test_row_45_notebooks_pages_and_examples_hold_no_secret() -> None:
    files = [
        file
        for folder in ("notebooks", "docs", "deploy", "data")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".ipynb", ".md", ".yaml", ".yml", ".json", ".html")
    ]
    assert any(file.suffix == ".ipynb" for file in files)
    found = {str(file.relative_to(ROOT)): _TOKEN.findall(file.read_text(encoding="utf-8")) for file in files}
    assert {name: hits for name, hits in found.items() if hits} == {}
    for notebook in (file for file in files if file.suffix == ".ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") for cell in cells), f"{notebook}: outputs are made anew, never stored"
