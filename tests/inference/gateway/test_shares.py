"""Shares of a model's variants: what the daemon may say, what the gateway makes of it, and what a fault leaves.

Properties: the shares of what is there are those that were said, whatever the replicas' sizes; a variant whose share is
0 is left out while another one has a slot, and answers where none has.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_world import FakeVllm, GatewayServer, eventually, get
from inference.errors import DocumentError
from inference.gateway.backends import Backend, BackendState
from inference.gateway.fleet import Fleet
from inference.gateway.routing import RoutingRule, choose
from inference.gateway.settings import Settings, SharesSource, Sources
from inference.gateway.shares import LAST_RESORT, parse_shares, worth_of


def document(shares: dict[str, float] | None = None, *, leads: bool = True, model: str = "chat") -> dict[str, Any]:
    models = [] if shares is None else [{"model": model, "shares": shares}]
    return {"apiVersion": "headstart/v1", "kind": "Shares", "leads": leads, "models": models}


# ── What may be said ──────────────────────────────────────────────────────────────────────────────────────────


def test_shares_by_model_and_variant() -> None:
    assert parse_shares(json.dumps(document({"8b": 0.6, "4b": 0.4})), source="d") == {"chat": {"8b": 0.6, "4b": 0.4}}
    assert parse_shares(json.dumps(document()), source="d") == {}


def test_a_writer_that_does_not_lead_says_nothing() -> None:
    assert parse_shares(json.dumps(document({"8b": 1.0}, leads=False)), source="d") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("{", "cannot be read as JSON", id="cut off"),
        pytest.param("<html>", "cannot be read as JSON", id="a page"),
        pytest.param("[]", "is no document of shares", id="a list"),
        pytest.param('{"kind": "Backends"}', "is no document of shares", id="another kind"),
        pytest.param('{"kind": "Shares", "leads": "yes", "models": []}', "is no document", id="leads is a text"),
        pytest.param('{"kind": "Shares", "leads": true}', "has no list of models", id="no models"),
        pytest.param('{"kind": "Shares", "leads": true, "models": [1]}', "has no list of models", id="no mapping"),
        pytest.param('{"kind": "Shares", "leads": true, "models": [{"shares": {}}]}', "is no name", id="no name"),
        pytest.param('{"kind": "Shares", "leads": true, "models": [{"model": "m"}]}', "says no shares of m", id="none"),
        *(
            pytest.param(
                f'{{"kind": "Shares", "leads": true, "models": [{{"model": "m", "shares": {{"a": {value}}}}}]}}',
                "a share lies between 0 and 1",
                id=f"a share of {value}",
            )
            for value in ("-0.1", "1.5", "NaN", "Infinity", '"1"', "true", "null")
        ),
    ],
)
def test_what_is_no_share_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DocumentError, match=problem):
        parse_shares(text, source="http://headstart/api/v1/shares")


@pytest.mark.parametrize("url", ["headstart/shares", "ftp://h/s", "http://user:word@h/s"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url is no address"):
        SharesSource(url=url)


# ── What the fleet makes of it ────────────────────────────────────────────────────────────────────────────────


def a_fleet(*backends: Backend) -> Fleet:
    fleet = Fleet(Settings(backends=Sources(file=Path("backends.json"))), clock=lambda: 0.0)
    fleet.replace("file", backends)
    return fleet


def a_backend(number: int, serves: str, **more: Any) -> Backend:
    return Backend(url=f"http://10.0.0.{number}:8000", model="chat", serves=serves, **more)


@given(
    share=st.floats(0.01, 0.99),
    sizes=st.lists(st.floats(0.1, 10.0), min_size=2, max_size=6),
    split=st.integers(1, 5),
)
def test_a_variant_gets_its_share_however_many_replicas_it_has(share: float, sizes: list[float], split: int) -> None:
    cut = min(split, len(sizes) - 1)
    fleet = a_fleet(*(a_backend(i, "8b" if i < cut else "4b", capacity=size) for i, size in enumerate(sizes)))
    fleet.share({"chat": {"8b": share, "4b": 1.0 - share}})
    assert fleet.shares("chat") == pytest.approx({"8b": share, "4b": 1.0 - share})


def test_shares_hold_for_replicas_that_come_later() -> None:
    fleet = a_fleet(a_backend(1, "8b"))
    fleet.share({"chat": {"8b": 0.6, "4b": 0.4}})
    fleet.replace("file", (a_backend(1, "8b"), a_backend(2, "8b"), a_backend(3, "4b")))
    assert fleet.shares("chat") == pytest.approx({"8b": 0.6, "4b": 0.4})
    fleet.replace("file", (a_backend(1, "8b"), a_backend(2, "8b", state=BackendState.DRAINING), a_backend(3, "4b")))
    assert fleet.shares("chat") == pytest.approx({"8b": 0.6, "4b": 0.4})


def test_a_model_of_which_nothing_is_said_goes_by_weights() -> None:
    fleet = a_fleet(a_backend(1, "8b", weight=3.0), a_backend(2, "4b"))
    fleet.share({"other": {"x": 1.0}})
    assert fleet.shares("chat") == pytest.approx({"8b": 0.75, "4b": 0.25})
    fleet.share({"chat": {"4b": 1.0}})
    assert fleet.shares("chat")["4b"] == pytest.approx(1.0, abs=1e-5)
    fleet.share({})
    assert fleet.shares("chat") == pytest.approx({"8b": 0.75, "4b": 0.25})


def test_a_weight_of_0_in_the_file_stays_0() -> None:
    assert worth_of({"8b": 0.0, "4b": 2.0}, {"8b": 0.5, "4b": 0.5}) == {"8b": 0.0, "4b": 0.25}


def test_a_share_of_0_gets_nothing_but_answers_where_nobody_else_can() -> None:
    fleet = a_fleet(a_backend(1, "8b"), a_backend(2, "4b"))
    fleet.share({"chat": {"4b": 1.0}})
    old, new = sorted(fleet.replicas, key=lambda each: each.variant, reverse=True)
    assert old.share == LAST_RESORT
    rule = RoutingRule()
    got = Counter(
        getattr(choose([old, new], key=None, spread=spread, rule=rule), "variant", None) for spread in range(2000)
    )
    assert got == {"4b": 2000}
    new.in_flight = new.slots
    assert choose([old, new], key=None, spread=1, rule=rule) is old
    assert choose([old], key=None, spread=1, rule=rule) is old
    assert fleet.is_up("chat")


# ── Asked over HTTP ───────────────────────────────────────────────────────────────────────────────────────────


class Daemon:
    """What answers /api/v1/shares."""

    def __init__(self) -> None:
        self.body = json.dumps(document({"8b": 1.0}))
        self.status = 200
        self.tokens: set[str | None] = set()
        self.asked = 0
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told.asked += 1
                told.tokens.add(self.headers.get("authorization"))
                body = told.body.encode()
                self.send_response(told.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/api/v1/shares"

    @contextmanager
    def running(self) -> Iterator[Daemon]:
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join(timeout=30)


@pytest.mark.server
def test_the_gateway_follows_the_daemon_and_goes_on_without_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-word\n")
    with FakeVllm("old") as old, FakeVllm("new") as new, Daemon().running() as daemon:
        rows = [
            {"url": old.url, "model": "chat", "serves": "8b"},
            {"url": new.url, "model": "chat", "serves": "4b"},
        ]
        source = f"{{url: '{daemon.url}', token_file: token, ask_every_s: 0.05}}"
        settings = f"backends: {{file: backends.json, reread_every_s: 0.05, shares: {source}}}\n"
        with GatewayServer(tmp_path, settings, backends=rows) as gateway:

            def shares() -> dict[str, float]:
                found = {row["serves"]: row["share"] for row in get(f"{gateway.url}/backends").json()["backends"]}
                return {name: round(share, 3) for name, share in found.items()}

            def told(outcome: str) -> list[str]:
                return [each["detail"] for each in gateway.log.of("source") if each["outcome"] == outcome]

            eventually(lambda: shares() == {"8b": 1.0, "4b": 0.0}, "all of it is 8B's")
            daemon.body = json.dumps(document({"8b": 0.25, "4b": 0.75}))
            eventually(lambda: shares() == {"8b": 0.25, "4b": 0.75}, "the shares move")
            assert 'variant_share{model="chat",variant="4b"} 0.75' in get(f"{gateway.url}/metrics").text
            daemon.body = json.dumps(document({"8b": 1.0}, leads=False))
            before = daemon.asked
            eventually(lambda: daemon.asked > before + 3, "a standby is asked")
            assert shares() == {"8b": 0.25, "4b": 0.75}
            assert told("kept") == []
            for body, status in (("{", 200), ("{}", 503), ("x" * 2_000_000, 200)):
                daemon.body, daemon.status = body, status
                before = daemon.asked
                eventually(lambda before=before: daemon.asked > before + 3, "what is broken is asked")  # type: ignore[misc]
                assert shares() == {"8b": 0.25, "4b": 0.75}
            assert len(told("kept")) == 3, "each trouble is told once"
            assert daemon.tokens == {"Bearer secret-word"}
            daemon.server.shutdown()
            assert shares() == {"8b": 0.25, "4b": 0.75}
