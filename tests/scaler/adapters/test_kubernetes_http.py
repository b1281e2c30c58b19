"""The one connection: its deadline, its errors, its credentials, and that nothing goes around it."""

from __future__ import annotations

import ast
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
import yaml

from kube_double import KubeDouble, Rule
from kube_double_tls import make_certificate
from scaler.adapters.kubernetes import errors
from scaler.adapters.kubernetes.deadline import Deadline
from scaler.adapters.kubernetes.http import ApiConnection, Call, InCluster, Kubeconfig, ServerAddress, Verb

REPOSITORY = Path(__file__).resolve().parents[3]

GET = Call(verb=Verb.GET, group="apps", version="v1", resource="deployments/scale", namespace="llm", name="chat")
PATCH = Call(verb=Verb.PATCH, group="apps", version="v1", resource="deployments/scale", namespace="llm", name="chat")
FIVE = {"spec": {"replicas": 5}}


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble() as double:
        double.namespace("llm")
        double.deployment("llm", "chat", replicas=2)
        yield double


def connect(double: KubeDouble, folder: Path, *, timeout_s: float = 60.0) -> ApiConnection:
    return ApiConnection(Kubeconfig(path=double.kubeconfig(folder)), timeout_s=timeout_s)


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "path"),
    [
        pytest.param(GET, "/apis/apps/v1/namespaces/llm/deployments/chat/scale", id="subresource"),
        pytest.param(Call(verb=Verb.GET, group="", version="v1"), "/api/v1", id="discovery of the core"),
        pytest.param(Call(verb=Verb.GET, group="apps", version="v1"), "/apis/apps/v1", id="discovery of a group"),
        pytest.param(
            Call(verb=Verb.LIST, group="", version="v1", resource="pods", namespace="llm"),
            "/api/v1/namespaces/llm/pods",
            id="collection",
        ),
        pytest.param(
            Call(verb=Verb.GET, group="", version="v1", resource="pods", namespace="a/../b", name="x?y#z"),
            "/api/v1/namespaces/a%2F..%2Fb/pods/x%3Fy%23z",
            id="hostile names stay one segment",
        ),
    ],
)
def test_paths(call: Call, path: str) -> None:
    assert call.path == path


def test_asking_what_one_may_is_no_mutation() -> None:
    review = Call(verb=Verb.CREATE, group="authorization.k8s.io", version="v1", resource="selfsubjectaccessreviews")
    assert (review.mutates, PATCH.mutates, GET.mutates) == (False, True, False)


# ── Deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"hang_s": 30.0}, id="a server that never answers"),
        pytest.param({"drip_s": 0.05}, id="a server that drips a byte every 50 ms, headers included"),
    ],
)
def test_the_total_time_is_bounded_and_nothing_is_tried_again(
    double: KubeDouble, tmp_path: Path, fault: dict[str, float]
) -> None:
    api = connect(double, tmp_path, timeout_s=0.5)
    double.fault(path="/scale$", times=99, **fault)  # type: ignore[arg-type]
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut):
        api.call(GET)
    assert time.monotonic() - begun < 25  # the whole answer takes 30 s either way; not a speed, a bound
    assert double.connections == 1  # each of urllib3's own tries would have opened another


def test_a_connection_works_again_after_a_deadline(double: KubeDouble, tmp_path: Path) -> None:
    api = connect(double, tmp_path)
    double.fault(path="/scale$", drip_s=0.05)
    with pytest.raises(errors.TimedOut):
        api.call(GET, timeout_s=0.3)
    assert api.call(GET)["spec"] == {"replicas": 2}


def test_one_connection_serves_many_calls(double: KubeDouble, tmp_path: Path) -> None:
    api = connect(double, tmp_path)
    for _ in range(10):
        api.call(GET)
        with pytest.raises(errors.NotFound):
            api.call(Call(verb=Verb.GET, group="", version="v1", resource="pods", namespace="llm", name="gone"))
    assert double.connections == 1


def test_an_oversized_answer_is_cut(double: KubeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.adapters.kubernetes.http.MAX_BODY_BYTES", 1000)
    double.fault(path="/scale$", status=200, text="x" * 5000)
    with pytest.raises(errors.Unavailable, match="cut off"):
        connect(double, tmp_path).call(GET)


# ── Answers ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.Invalid),
        (401, errors.Unauthorised),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (405, errors.Invalid),
        (409, errors.Conflict),
        (410, errors.Expired),
        (415, errors.Invalid),
        (422, errors.Invalid),
        (429, errors.Throttled),
        (500, errors.Unavailable),
        (503, errors.Unavailable),
        (504, errors.Unavailable),
    ],
)
@pytest.mark.parametrize("text", [None, "in plain text\n"], ids=["Status", "plain"])
def test_every_refusal_is_one_error_of_the_tree(
    double: KubeDouble, tmp_path: Path, status: int, kind: type[errors.KubernetesError], text: str | None
) -> None:
    double.fault(path="/scale$", status=status, text=text, times=2)
    with pytest.raises(errors.KubernetesError) as caught:
        connect(double, tmp_path).call(GET)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.path) == (status, GET.path)
    assert ("in plain text" if text else "as the test asked") in str(error)


def test_a_pause_that_the_server_orders_is_kept(
    double: KubeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("scaler.adapters.kubernetes.http.time.monotonic", lambda: clock[0])
    api = connect(double, tmp_path)
    too_many = "Too many requests, please try again later.\n"
    double.fault(method="PATCH", status=429, text=too_many, headers={"Retry-After": "7"})
    with pytest.raises(errors.Throttled) as caught:
        api.call(PATCH, body=FIVE)
    assert caught.value.retry_after_s == 7
    clock[0] += 5
    with pytest.raises(errors.Throttled) as caught:
        api.call(GET)
    assert caught.value.retry_after_s == pytest.approx(2)
    assert len(double.requests) == 1  # the second one was not even sent
    clock[0] += 2
    assert api.call(PATCH, body=FIVE)["spec"] == FIVE["spec"]


@pytest.mark.parametrize(("header", "seconds"), [("0", 1.0), ("86400", 300.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0)])
def test_odd_pauses_are_bounded(double: KubeDouble, tmp_path: Path, header: str, seconds: float) -> None:
    double.fault(path="/scale$", status=429, text="later", headers={"Retry-After": header})
    with pytest.raises(errors.Throttled) as caught:
        connect(double, tmp_path).call(GET)
    assert caught.value.retry_after_s == seconds


def test_a_refused_connection_says_so(double: KubeDouble, tmp_path: Path) -> None:
    api = connect(double, tmp_path)
    double.kill()
    with pytest.raises(errors.Unavailable, match="Connection refused") as caught:
        api.call(GET)
    assert caught.value.status is None
    double.start()
    assert api.call(GET)["spec"] == {"replicas": 2}


def test_a_killed_server_breaks_the_call_and_comes_back(double: KubeDouble, tmp_path: Path) -> None:
    api = connect(double, tmp_path)
    api.call(GET)
    double.kill()
    double.start()
    assert api.call(GET)["spec"] == {"replicas": 2}  # the dead pooled connection is noticed before it is used


def test_each_attempt_is_observed(double: KubeDouble, tmp_path: Path) -> None:
    seen: list[tuple[str, int | None]] = []
    api = ApiConnection(
        Kubeconfig(path=double.kubeconfig(tmp_path)),
        observer=lambda call, status, duration_s: seen.append((call.verb.value, status)),
    )
    api.call(GET)
    double.fault(path="/scale$", drop="before")
    with pytest.raises(errors.Unavailable):
        api.call(PATCH, body=FIVE)
    assert seen == [("get", 200), ("patch", None)]


# ── Credentials ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_deleted_and_remade_service_account_needs_its_new_token(double: KubeDouble, tmp_path: Path) -> None:
    admin = connect(double, tmp_path)
    account = Call(verb=Verb.CREATE, group="", version="v1", resource="serviceaccounts", namespace="llm")
    named = Call(verb=Verb.DELETE, group="", version="v1", resource="serviceaccounts", namespace="llm", name="scaler")
    token = Call(
        verb=Verb.CREATE, group="", version="v1", resource="serviceaccounts/token", namespace="llm", name="scaler"
    )
    admin.call(account, body={"metadata": {"name": "scaler"}})
    double.store.rules["system:serviceaccount:llm:scaler"] = (Rule(verbs=("*",), groups=("*",), resources=("*",)),)
    token_file = tmp_path / "service-account"
    token_file.write_text(admin.call(token, body={})["status"]["token"])
    api = ApiConnection(ServerAddress(server=double.url, token_file=token_file))
    api.call(GET)
    admin.call(named)
    admin.call(account, body={"metadata": {"name": "scaler"}})
    with pytest.raises(errors.Unauthorised):
        api.call(GET)
    token_file.write_text(admin.call(token, body={})["status"]["token"])
    assert api.call(GET)["spec"] == {"replicas": 2}


def test_tls_is_verified_and_the_connection_kept(tmp_path: Path) -> None:
    with KubeDouble(certificate=make_certificate(tmp_path)) as double:
        double.namespace("llm")
        double.deployment("llm", "chat", replicas=2)
        api = connect(double, tmp_path)
        for _ in range(5):
            assert api.call(GET)["spec"] == {"replicas": 2}
        assert double.connections == 1
        double.fault(path="/scale$", drip_s=0.05)
        with pytest.raises(errors.TimedOut):
            api.call(GET, timeout_s=0.4)
        stranger, _ = make_certificate(tmp_path, name="stranger")
        token = tmp_path / "token"
        known = len(double.requests)
        for ca_file in (stranger, None):
            api = ApiConnection(ServerAddress(server=double.url, token_file=token, ca_file=ca_file), timeout_s=60)
            with pytest.raises(errors.Unavailable, match="certificate verify failed"):
                api.call(GET)
        assert len(double.requests) == known  # the token never left


@pytest.mark.parametrize(
    ("access", "named"),
    [
        pytest.param(InCluster(), "the pod's service account: ", id="not in a cluster"),
        pytest.param(
            Kubeconfig(path=Path("no-such-file"), context="test"),
            "the kubeconfig no-such-file, context test: ",
            id="no kubeconfig",
        ),
        pytest.param(
            ServerAddress(server="http://127.0.0.1:1", token_file=Path("no-such-token")),
            "http://127.0.0.1:1 with the token in no-such-token: ",
            id="no token",
        ),
    ],
)
def test_missing_credentials_say_which(
    access: InCluster | Kubeconfig | ServerAddress, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(errors.CredentialsError, match=f"no access to Kubernetes through {named}"):
        ApiConnection(access)


def test_a_broken_kubeconfig_is_a_credentials_error(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump({"contexts": [], "current-context": "gone", "clusters": [], "users": []}))
    with pytest.raises(errors.CredentialsError):
        ApiConnection(Kubeconfig(path=path))


def test_a_kubeconfig_that_is_half_written_when_the_token_was_rotated(double: KubeDouble, tmp_path: Path) -> None:
    """A 401 makes the file be read again, at a moment that nobody chose: an error of the tree, and the next call is fine."""
    api = connect(double, tmp_path)
    config = (tmp_path / "kubeconfig").read_text()
    (tmp_path / "kubeconfig").write_text(config[: config.index("server")] + '  {"server": [')
    double.fault(path="/scale$", status=401)
    with pytest.raises(errors.CredentialsError):
        api.call(GET)
    (tmp_path / "kubeconfig").write_text(config)
    assert api.call(GET)["spec"] == {"replicas": 2}


def test_a_service_account_token_that_is_empty_for_a_moment(
    double: KubeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library reads it again in the middle of a call, a minute after the last time."""
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("secret")
    ca.write_text("not looked at before a connection is made")
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(ca))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    api = ApiConnection(InCluster())
    token.write_text("")
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=2)), pytest.raises(errors.CredentialsError):
        api.call(GET)


def test_no_error_holds_the_token(double: KubeDouble, tmp_path: Path) -> None:
    api = connect(double, tmp_path)
    seen: list[str] = []
    for fault in ({"status": 500}, {"status": 403}, {"drop": "before"}, {"status": 401, "times": 2}):
        double.fault(path="/scale$", **fault)  # type: ignore[arg-type]
        with pytest.raises(errors.KubernetesError) as caught:
            api.call(PATCH, body=FIVE)
        seen.append(str(caught.value))
    assert all(double.admin_token not in text and "replicas" not in text for text in seen), seen


# ── One door ──────────────────────────────────────────────────────────────────────────────────────────────────


def python_files() -> Iterator[Path]:
    for folder in ("forecaster", "scaler", "inference", "tests"):
        yield from (REPOSITORY / folder).rglob("*.py")


def test_only_one_file_imports_the_client_library() -> None:
    imports = re.compile(r"^\s*(?:from|import)\s+kubernetes\b", re.MULTILINE)
    importers = [path for path in python_files() if imports.search(path.read_text(encoding="utf-8"))]
    assert [path.relative_to(REPOSITORY).as_posix() for path in importers] == ["scaler/adapters/kubernetes/http.py"]


def test_the_library_is_called_in_one_place_with_a_timeout() -> None:
    tree = ast.parse((REPOSITORY / "scaler/adapters/kubernetes/http.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    sends = [node for node in calls if node.func.attr in ("call_api", "request", "urlopen")]  # type: ignore[attr-defined]
    assert len(sends) == 1
    assert [keyword.arg for keyword in sends[0].keywords] == ["_request_timeout"]


# ── Writes and who may send them ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(1, id="before it is prepared"),
        pytest.param(2, id="connected, before its headers"),
        pytest.param(3, id="before its body"),
    ],
)
def test_a_write_is_asked_for_until_the_last_moment(double: KubeDouble, tmp_path: Path, asked: int) -> None:
    """A server does nothing before it has the body, so that leadership that ends meanwhile still keeps it back."""
    answers = iter([*[True] * (asked - 1), False])
    api = ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path)), may_write=lambda: next(answers))
    with pytest.raises(errors.WriteRefused):
        api.call(PATCH, body=FIVE)
    assert list(answers) == []
    assert double.replicas("llm", "chat") == 2
    assert double.mutating_requests == 0
    assert api.call(GET)["spec"] == {"replicas": 2}


def test_the_server_is_told_how_long_a_write_may_take(double: KubeDouble, tmp_path: Path) -> None:
    """Without its own limit it may carry a write out half a minute after we gave it up, when etcd is back."""
    double.fault(method="PATCH", hang_s=6.0)
    api = ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path)), write_limit_s=2.0)
    with pytest.raises(errors.Unavailable):
        api.call(PATCH, body=FIVE)
    ends = time.monotonic() + 60.0
    while not double.mutating_requests:
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert [(request.query["timeout"], request.status) for request in double.requests] == [("2000ms", 504)]
    assert double.replicas("llm", "chat") == 2


def test_reads_are_not_limited_as_writes_are(double: KubeDouble, tmp_path: Path) -> None:
    api = ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path)), write_limit_s=0.01)
    double.fault(method="GET", hang_s=0.1)
    assert api.call(GET)["spec"] == {"replicas": 2}
    assert "timeout" not in double.requests[-1].query


def test_writes_are_settled_once_nothing_of_them_can_be_carried_out(double: KubeDouble, tmp_path: Path) -> None:
    api = connect(double, tmp_path)
    assert api.writes_settled
    settled: list[bool] = []
    double.fault(method="PATCH", then=lambda: settled.append(api.writes_settled))
    api.call(PATCH, body=FIVE)
    assert settled == [False]
    assert api.writes_settled


def test_a_write_without_an_answer_is_unsettled_for_as_long_as_the_server_may_take(
    double: KubeDouble, tmp_path: Path
) -> None:
    api = ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path)), write_limit_s=0.3)
    double.fault(method="PATCH", drop="before")
    begun = time.monotonic()
    with pytest.raises(errors.Unavailable):
        api.call(PATCH, body=FIVE)
    unsettled_until = api._unanswered_until
    assert unsettled_until >= begun + 0.3
    while time.monotonic() < unsettled_until:
        assert not api.writes_settled or time.monotonic() >= unsettled_until
    assert api.writes_settled


def test_the_kernel_gives_up_what_nobody_acknowledges() -> None:
    """Cutting a socket leaves to the kernel what was sent: it would send it again when a partition ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sent:
        deadline = Deadline(2.0)
        deadline.bound_delivery(sent)
        deadline.end()
        assert 0 < sent.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 2000
