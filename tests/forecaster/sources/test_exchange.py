"""One question and its answer, against a server that breaks every promise."""

from __future__ import annotations

import contextlib
import json
import math
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import cycle, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import SourceError, SourceMalformed, SourceRefused, SourceTimeout
from forecaster.sources.answers import parse_rows
from forecaster.sources.catalogue import SIGNAL_NAMES
from forecaster.sources.connection import Connection, body_head, load_credentials, redact_url
from forecaster.sources.exchange import Answer, Exchange, Question, SourcePartial, Wire
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.readings import Readings
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import Blind, BlindReason, Known
from kube_double_tls import make_certificate
from servers import EMPTY_VECTOR, MisbehavingServer, RawConversation, free_port

pytestmark = pytest.mark.server

SECRET = "s3cr3t-t0ken-value"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DEADLINE_S = 0.7
"""Of calls that never get an answer."""

PATIENCE_S = 60.0
"""Of those that get one: a loaded machine is slow, not wrong."""


def ask(
    server: MisbehavingServer, text: str = "up", *, deadline_s: float = PATIENCE_S, **settings: object
) -> Answer | SourceError:
    connection = Connection(url=server.url, deadline_s=deadline_s, **settings)  # type: ignore[arg-type]
    return Wire(connection).ask([Question(text=text)], deadline_s=deadline_s)[0]


def a_row(value: str = "1", labels: dict[str, str] | None = None) -> bytes:
    row = {"metric": labels or {}, "value": [1e9, value]}
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": [row]}}).encode()


def with_remarks(**remarks: list[str]) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}, **remarks}).encode()


def query_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prometheus-query" and thread.is_alive()]


def await_no_more_than(threads: int) -> None:
    """Until calls hold no more threads than that: one that was cut gives its own back."""
    ends = time.monotonic() + PATIENCE_S
    while len(query_threads()) > threads:
        assert time.monotonic() < ends, "the cut call still holds its thread and its socket"
        time.sleep(0.02)


def say(
    status: int, body: bytes, *, content_type: str = "application/json", head: str = ""
) -> Callable[[RawConversation], None]:
    return lambda talk: talk.answer(status, body, content_type=content_type, head=head)


# ── The deadline ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(lambda talk: talk.hang(), id="says nothing"),
        pytest.param(lambda talk: talk.drip(HEAD + b"X: y\r\n" * 500, every_s=0.02), id="drips its headers"),
        pytest.param(
            lambda talk: talk.drip(HEAD + b"Content-Length: 9999\r\n\r\n" + b" " * 9999, every_s=0.005),
            id="drips its body",
        ),
        pytest.param(
            lambda talk: talk.drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n" + b" " * 9999, every_s=0.005),
            id="drips one chunk",
        ),
        pytest.param(lambda talk: talk.send(HEAD) and talk.hang(), id="stops within its headers"),
    ],
)
def test_the_total_deadline_cuts_a_server_that(behaviour: Callable[[RawConversation], None]):
    with MisbehavingServer(behaviour) as server:
        before = len(query_threads())
        outcome = ask(server, deadline_s=DEADLINE_S)
        assert isinstance(outcome, SourceTimeout)
        await_no_more_than(before)
        assert not server.stopping.is_set()


def test_one_query_that_hangs_does_not_use_up_the_time_of_the_others():
    def behaviour(talk: RawConversation) -> None:
        talk.hang() if "slow" in talk.received.body else talk.answer(200, EMPTY_VECTOR)

    with MisbehavingServer(behaviour) as server:
        wire = Wire(Connection(url=server.url))
        answers = wire.ask([Question(text="slow"), Question(text="up"), Question(text="up")], deadline_s=3.0)
        assert [type(answer) for answer in answers] == [SourceTimeout, Answer, Answer]


def test_calls_that_cannot_be_cut_are_bounded(monkeypatch: pytest.MonkeyPatch):
    release = threading.Event()
    monkeypatch.setattr(Exchange, "_ask", lambda self: release.wait(20) and Answer(rows=()))
    wire = Wire(Connection(url="http://127.0.0.1:9"))
    for _ in range(3):
        answers = wire.ask([Question(text="up")] * 4, deadline_s=0.05)
    assert all(isinstance(answer, SourceTimeout) and "still hang" in str(answer) for answer in answers)
    release.set()


# ── Answers that do not count ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("behaviour", "kind", "says"),
    [
        pytest.param(say(200, b"<html>Login</html>", content_type="text/html"), SourceMalformed, "text/html", id="HTML"),
        pytest.param(say(200, a_row()[:-9]), SourceMalformed, "not JSON", id="truncated JSON"),
        pytest.param(
            lambda talk: talk.send(HEAD + b"Content-Length: 999\r\n\r\n" + a_row()), SourceMalformed, "ended early",
            id="shorter than promised",
        ),
        pytest.param(say(200, b"[1, 2]"), SourceMalformed, "not a Prometheus answer", id="JSON of another shape"),
        pytest.param(say(200, b'{"status":"success","data":{}}'), SourceMalformed, "no result", id="no result"),
        pytest.param(
            say(200, b'{"status":"success","data":{"result":[{"metric":{},"histogram":[1,{}]}]}}'), SourceMalformed,
            "another shape", id="a row without a value",
        ),
        pytest.param(say(200, b'{"status":"error","error":"x"}'), SourceMalformed, "not a Prometheus", id="200 error"),
        pytest.param(say(200, b"\xff\xfe\x00"), SourceMalformed, "not JSON", id="bytes"),
        pytest.param(say(429, b"slow down"), SourceRefused, "HTTP 429: slow down", id="429"),
        pytest.param(say(503, b"no"), SourceRefused, "HTTP 503", id="503"),
        pytest.param(say(422, b'{"status":"error"}'), SourceRefused, "HTTP 422", id="422"),
        pytest.param(say(302, b"", head="Location: http://elsewhere/\r\n"), SourceRefused, "HTTP 302", id="redirect"),
        pytest.param(lambda talk: talk.send(b"nonsense\r\n\r\n"), SourceRefused, "at http", id="not HTTP"),
        pytest.param(lambda talk: None, SourceRefused, "at http", id="closes without a word"),
        pytest.param(
            say(200, with_remarks(warnings=["store-3 is unavailable"])), SourcePartial, "store-3", id="warnings"
        ),
    ],
)  # fmt: skip
def test_does_not_count(behaviour: Callable[[RawConversation], None], kind: type[SourceError], says: str):
    with MisbehavingServer(behaviour) as server:
        outcome = ask(server)
        assert type(outcome) is kind
        assert says in str(outcome)
        assert len(server.received) == 1, "a call was retried"


def test_nobody_listens():
    outcome = Wire(Connection(url=f"http://127.0.0.1:{free_port()}")).ask([Question(text="up")], deadline_s=PATIENCE_S)[
        0
    ]
    assert isinstance(outcome, SourceRefused)
    assert outcome.status is None
    assert "connection refused" in str(outcome)


def test_a_name_that_does_not_resolve():
    outcome = Wire(Connection(url="http://nowhere.invalid")).ask([Question(text="up")], deadline_s=5)[0]
    assert isinstance(outcome, SourceRefused | SourceTimeout)
    assert outcome.query == "up"


@pytest.mark.parametrize(
    "remarks",
    [
        pytest.param({"infos": ["PromQL info: metric might not be a counter"]}, id="3.x"),
        pytest.param({"warnings": ["PromQL info: metric might not be a counter"]}, id="2.48 to 2.54"),
    ],
)
def test_remarks_on_the_query_do_not_make_an_answer_partial(remarks: dict[str, list[str]]):
    with MisbehavingServer(say(200, with_remarks(**remarks))) as server:
        outcome = ask(server)
        assert isinstance(outcome, Answer)
        assert outcome.infos == ("PromQL info: metric might not be a counter",)


def test_a_flood_is_cut_at_its_limit_and_not_read_to_its_end():
    sent: list[int] = []

    def flood(talk: RawConversation) -> None:
        talk.send(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        while len(sent) < 15_000 and talk.send(b" " * 65536):
            sent.append(1)

    with MisbehavingServer(flood) as server:
        outcome = ask(server, max_answer_bytes=1_000_000)
        assert isinstance(outcome, SourceMalformed)
        assert "1000000 bytes" in str(outcome)
    assert len(sent) * 65536 < 100_000_000


def test_a_large_batch_is_sent_in_the_body():
    with MisbehavingServer(say(200, EMPTY_VECTOR)) as server:
        assert isinstance(ask(server, text="up + " * 20_000 + "up"), Answer)
        assert server.received[0].path == "/api/v1/query"


def test_a_proxy_that_lets_only_get_pass_can_be_served():
    with MisbehavingServer(say(200, EMPTY_VECTOR)) as server:
        assert isinstance(ask(server, http_method="GET"), Answer)
        assert server.received[0].path.startswith("/api/v1/query?query=up")


def test_values_keep_their_meaning():
    rows = parse_rows(
        [{"metric": {"a": "b"}, "value": [1.5, "NaN"]}, {"metric": {}, "values": [[1, "+Inf"], [2, "3"]]}]
    )
    assert rows[0].values[0] != rows[0].values[0]
    assert rows[1].values == (float("inf"), 3.0)
    assert rows[1].times == (1.0, 2.0)


# ── Credentials ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rotated_token_is_picked_up_after_one_401(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("old\n")

    def behaviour(talk: RawConversation) -> None:
        if talk.received.headers["Authorization"] == "Bearer new":
            talk.answer(200, EMPTY_VECTOR)
        else:
            token.write_text("new\n")
            talk.answer(401, b"expired")

    with MisbehavingServer(behaviour) as server:
        assert isinstance(ask(server, bearer_token_file=str(token)), Answer)
        assert [r.headers["Authorization"] for r in server.received] == ["Bearer old", "Bearer new"]


def test_a_token_that_stays_wrong_is_tried_twice_and_no_more(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("wrong")
    with MisbehavingServer(say(401, b"no")) as server:
        outcome = ask(server, bearer_token_file=str(token))
        assert isinstance(outcome, SourceRefused)
        assert outcome.status == 401
        assert len(server.received) == 2


def test_basic_auth_and_tenant_are_sent(tmp_path: Path):
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    with MisbehavingServer(say(200, EMPTY_VECTOR)) as server:
        ask(server, username="ali", password_file=str(password), tenant="team-a")
        headers = server.received[0].headers
        assert headers["Authorization"] == "Basic YWxpOm9wZW4gc2VzYW1l"
        assert headers["X-Scope-OrgID"] == "team-a"


def test_a_password_in_the_url_works_and_is_never_told():
    with MisbehavingServer(say(500, f"denied for Bearer {SECRET} at http://ali:{SECRET}@x/".encode())) as server:
        connection = Connection(url=server.url.replace("http://", f"http://ali:{SECRET}@"))
        outcome = Wire(connection).ask([Question(text="up")], deadline_s=PATIENCE_S)[0]
        assert "Authorization" in server.received[0].headers
        said = f"{outcome} {outcome!r} {connection!r} {PrometheusSource(connection)!r} {load_credentials(connection)!r}"
        assert SECRET not in said


@pytest.mark.parametrize("contents", [None, "", "two\nlines"], ids=["missing", "empty", "two lines"])
def test_a_token_file_that_cannot_be_used_is_named(tmp_path: Path, contents: str | None):
    token = tmp_path / "token"
    if contents is not None:
        token.write_text(contents)
    with MisbehavingServer(say(200, EMPTY_VECTOR)) as server:
        outcome = ask(server, bearer_token_file=str(token))
        assert isinstance(outcome, SourceRefused)
        assert str(token) in str(outcome)
        assert not server.received, "the question was asked without its token"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f"token={SECRET}", id="assignment"),
        pytest.param(f'{{"password": "{SECRET}"}}', id="JSON"),
        pytest.param(f"Authorization: Bearer {SECRET}", id="header"),
        pytest.param(f"see https://bob:{SECRET}@host/path", id="URL"),
    ],
)
def test_a_body_head_holds_no_secret(body: str):
    assert SECRET not in body_head(body.encode())


def test_a_body_head_is_short_printable_and_without_known_secrets():
    head = body_head(f"a\x1b[31m{SECRET}\r\n".encode() + b"x" * 5000, (SECRET,))
    assert head.isprintable()
    assert len(head) <= 160
    assert SECRET not in head


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://u:p@host:9090/x?token=1", "http://***@host:9090/x"),
        ("http://host/", "http://host/"),
        ("http://[oops", "<not a URL>"),
    ],
)
def test_redacts(url: str, told: str):
    assert redact_url(url) == told


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "host:9090"},
        {"url": f"ftp://u:{SECRET}@host"},
        {"url": "http://h", "deadline_s": 0},
        {"url": "http://h", "max_answer_bytes": 0},
        {"url": "http://h", "key_file": "k"},
        {"url": "http://h", "bearer_token_file": "t", "username": "u"},
        {"url": "http://h", "tenant": "a\r\nX: y"},
    ],
)
def test_a_connection_refuses(settings: dict[str, object]):
    with pytest.raises(ValueError) as refusal:
        Connection(**settings)  # type: ignore[arg-type]
    assert SECRET not in str(refusal.value)


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def tls_of(certificate: Path, key: Path, *, clients: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context


def test_a_certificate_counts_only_if_its_authority_is_known(tmp_path: Path):
    certificate, key = make_certificate(tmp_path)
    with MisbehavingServer(say(200, EMPTY_VECTOR), tls=tls_of(certificate, key)) as server:
        assert isinstance(ask(server, ca_file=str(certificate)), Answer)
        outcome = ask(server)
        assert isinstance(outcome, SourceRefused)
        assert "certificate not trusted" in str(outcome)
        assert len(server.received) == 1


def test_a_client_certificate_is_presented(tmp_path: Path):
    certificate, key = make_certificate(tmp_path)
    client, client_key = make_certificate(tmp_path, name="client")
    with MisbehavingServer(say(200, EMPTY_VECTOR), tls=tls_of(certificate, key, clients=client)) as server:
        assert isinstance(
            ask(server, ca_file=str(certificate), cert_file=str(client), key_file=str(client_key)), Answer
        )
        assert isinstance(ask(server, ca_file=str(certificate)), SourceRefused)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_port_that_accepts_and_never_speaks_is_cut(scheme: str):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        before = len(query_threads())
        wire = Wire(Connection(url=f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"))
        outcome = wire.ask([Question(text="up")], deadline_s=DEADLINE_S)[0]
        assert isinstance(outcome, SourceTimeout)
        await_no_more_than(before)


# ── What a read makes of it ───────────────────────────────────────────────────────────────────────────────────────

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
CHAT = WorkloadSelector(workload="llm/chat")


def demand_of(readings: Readings) -> Blind:
    reading = next(r for key, r in readings.values.items() if key.signal == "demand_rps")
    assert isinstance(reading, Blind)
    return reading


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(lambda talk: talk.hang(), BlindReason.TIMEOUT, id="hangs"),
        pytest.param(say(200, b"<html>"), BlindReason.MALFORMED, id="HTML with status 200"),
        pytest.param(say(200, with_remarks(warnings=["x"])), BlindReason.PARTIAL, id="partial"),
        pytest.param(say(422, b"x"), BlindReason.REFUSED, id="422"),
        pytest.param(say(403, b"x"), BlindReason.FORBIDDEN, id="403"),
        pytest.param(lambda talk: None, BlindReason.UNREACHABLE, id="closes"),
    ],
)
def test_a_failed_read_is_blind(behaviour: Callable[[RawConversation], None], reason: BlindReason):
    with MisbehavingServer(behaviour) as server:
        deadline_s = DEADLINE_S if reason is BlindReason.TIMEOUT else PATIENCE_S
        source = PrometheusSource(Connection(url=server.url, deadline_s=deadline_s))
        readings = source.read([CHAT], now=NOW)
        assert demand_of(readings).reason is reason
        assert all(isinstance(reading, Blind) for reading in readings.values.values())


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
rows = st.fixed_dictionaries(
    {
        "metric": st.fixed_dictionaries(
            {
                "headstart_term": st.integers(-1, 40).map(str) | st.text(max_size=3),
                "namespace": st.just("llm"),
                "headstart_owner": st.sampled_from(["chat", "other"]),
                "le": st.sampled_from(["0.1", "+Inf", "x"]),
            }
        ),
        "value": st.tuples(st.floats(0, 4e9), st.sampled_from(["1", "0", "-3", "NaN", "+Inf", "-Inf", "1e300"])),
    }
)
bodies = st.one_of(
    st.binary(max_size=30),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.lists(rows | json_values, max_size=5).map(
        lambda result: json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
    ),
)


@given(bodies=st.lists(bodies, min_size=1, max_size=4))
@settings(max_examples=60)
def test_whatever_is_answered_a_read_never_raises_and_never_tells_nonsense(bodies: list[bytes]):
    turns = cycle(bodies)
    with MisbehavingServer(lambda talk: talk.answer(200, next(turns))) as server:
        source = PrometheusSource(Connection(url=server.url, deadline_s=PATIENCE_S))
        readings = source.read([CHAT], now=NOW)
        with contextlib.suppress(SourceError):
            source.check([CHAT], now=NOW)
        with contextlib.suppress(SourceError):
            source.history([CHAT], "demand_rps", start=NOW, end=NOW + timedelta(minutes=5))
    assert {key.signal for key in readings.values} == set(SIGNAL_NAMES)
    assert all(0 <= r.value < math.inf for r in readings.values.values() if isinstance(r, Known))


def test_json_nested_without_end_is_malformed():
    with MisbehavingServer(say(200, b"[" * 200_000)) as server:
        assert isinstance(ask(server), SourceMalformed)


def test_an_overloaded_server_is_left_alone_longer_each_time_and_then_asked_again():
    with MisbehavingServer(say(503, b"overloaded")) as server:
        source = PrometheusSource(Connection(url=server.url, deadline_s=PATIENCE_S), jitter=random.Random(7))
        asked_at = []
        for second in range(0, 200, 5):
            before = len(server.received)
            reading = demand_of(source.read([CHAT], now=NOW + timedelta(seconds=second)))
            assert reading.reason is BlindReason.REFUSED
            if len(server.received) > before:
                asked_at.append(second)
                assert len(server.received) == before + 1, "more than one try a tick"
        waits = [later - earlier for earlier, later in pairwise(asked_at)]
        assert waits == sorted(waits)
        assert 60 <= waits[-1] <= 95
        server.behaviour = say(200, EMPTY_VECTOR)
        source.read([CHAT], now=NOW + timedelta(seconds=400))
        before = len(server.received)
        source.read([CHAT], now=NOW + timedelta(seconds=405))
        assert len(server.received) > before


def test_the_source_loads_no_heavy_library():
    """The daemon imports the source: pandas and its like would triple its memory."""
    code = (
        "import sys, forecaster.sources.prometheus, prometheus_api_client.prometheus_connect;"
        "print(sorted({'pandas', 'scipy', 'matplotlib', 'torch', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
