"""A model switch under streaming load: two real vLLM servers as "8B" and "4B", a gateway, Prometheus, the daemon.

One life, told by a fixture that writes down what it saw; each test looks at one thing:

    8B serves → the load rises → 4B is begun, is Ready, takes over, 8B drains → the load falls → and back again

Nothing waits for a time of day: every step waits for what it needs, so a busy machine only takes longer.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e_load import Load
from e2e_parts import free_ports, need_room, whole
from inference import processes
from scaler.adapters.local_vllm import BACKENDS
from scaler.adapters.local_vllm.files import State, load
from scaler.adapters.local_vllm.launches import marks_of
from scaler.adapters.local_vllm.life import Phase
from scaler.rehearsal.load import Shot
from scaler.rehearsal.recipe import CLASS, MODEL, Plan, Recipe
from scaler.rehearsal.stage import Stage
from servers import free_port

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(2400)]

BIG, SMALL = "tiny-8b", "tiny-4b"
CALM_RPS, BUSY_RPS = 0.4, 1.4
STEP_WITHIN_S = 900.0
"""A start takes 23 s on a quiet machine, and before the first release the daemon looks on for five minutes."""

MAX_RPS = {BIG: 0.8, SMALL: 4.0}
"""As the profiles say: one 8B carries 0.85 · 0.8 = 0.68 requests a second, and needs 0.82 to be better than 4B."""

STEP_MS = {BIG: 50, SMALL: 15}


def daemon_settings(plan: Plan, first_ports: dict[str, int]) -> str:
    """headstart.yaml: two workloads of one server each, and the group that they are."""
    recipe, ports = plan.recipe, plan.ports
    shared = {
        "catalogue": "variants.yaml",
        "command": list(recipe.command),
        "arguments": list(recipe.arguments),
        "start_timeout": "15m",
        "grace": "5m",
        "shutdown_timeout": "60s",
        "model": MODEL,
    }
    servers = [
        {
            **shared,
            "workload": f"local/{name}",
            "variant": name,
            "environment": {**recipe.environment, "SLOW_STEP_MS": str(STEP_MS[name])},
            "first_port": first_ports[name],
        }
        for name in (BIG, SMALL)
    ]
    workloads = [
        {
            "workload": f"local/{name}",
            "mode": "active",
            "start_time": "60s",
            "profile": {"name": name, "classes": [{"name": CLASS, "max_rps": MAX_RPS[name]}]},
            "bounds": {"min_replicas": 1, "max_replicas": 1},
            "latency": {"rate_window": "1m"},
            "selector": {"demand_labels": {"model": MODEL}},
        }
        for name in (BIG, SMALL)
    ]
    group = {
        "name": MODEL,
        "gpus": 2,
        "workloads": [{"workload": f"local/{name}"} for name in (BIG, SMALL)],
        "down_after": "10s",
        "up_after": "20s",
        "spacing": "30s",
    }
    document = {
        "apiVersion": "headstart/v1",
        "kind": "Config",
        "prometheus": {"url": ports.url(ports.prometheus)},
        "data_dir": "data",
        "tick": "2s",
        "http": {"port": ports.daemon},
        "local": {"gateways": [ports.url(ports.gateway)], "servers": servers},
        "workloads": workloads,
        "variants": [group],
    }
    return json.dumps(document, indent=1)


class SwitchStage(Stage):
    """The stage of the other stories, with the settings of this one."""

    def _write(self) -> None:
        super()._write()
        plan = self.plan
        first_ports = {BIG: plan.ports.servers, SMALL: free_port()}
        head, _, entry = plan.recipe.catalogue.partition("  - name: tiny\n")
        catalogue = head + "".join(f"  - name: {name}\n{entry}" for name in (BIG, SMALL))
        gateway = {
            "apiVersion": "headstart/v1",
            "kind": "Gateway",
            "listen": {"host": "127.0.0.1", "port": plan.ports.gateway},
            "backends": {
                "file": str(self.local / BACKENDS),
                "shares": {"url": f"{plan.ports.url(plan.ports.daemon)}/api/v1/shares"},
            },
            "models": [{"name": MODEL}],
            # A busy machine is slow and must not be taken for one under load.
            "slo": {"e2e_s": [60.0], "ttft_s": [30.0]},
            "access_log": False,
        }
        for name, text in (
            ("headstart.yaml", daemon_settings(plan, first_ports)),
            ("variants.yaml", catalogue),
            ("gateway.yaml", json.dumps(gateway, indent=1)),
        ):
            (self.folder / name).write_text(text, encoding="utf-8")

    def group(self) -> dict[str, Any]:
        """What the daemon tells of the group; {} while it does not answer."""
        found = (self._json(self.plan.ports.daemon, "/api/v1/workloads") or {}).get("variants", [])
        return found[0] if found else {}

    def gateways_shares(self) -> dict[str, float]:
        """Each variant's part of the traffic as the gateway sends it."""
        rows = (self._json(self.plan.ports.gateway, "/backends") or {}).get("backends", [])
        ready = [row for row in rows if row["state"] == "ready"]
        whole = sum(row["share"] for row in ready)
        sums: dict[str, float] = {}
        for row in ready:
            sums[row["serves"]] = sums.get(row["serves"], 0.0) + (row["share"] / whole if whole else 0.0)
        return sums


@dataclass(slots=True, kw_only=True)
class Life:
    """What was seen: at each look, who was chosen, how the gateway shares, and which servers were Ready."""

    looks: list[tuple[str, dict[str, float], frozenset[str]]] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    alone_at: datetime | None = None
    """When 8B served alone. Before, whichever was Ready first may have served, or both while no demand was known."""
    switches_before: float = 0.0
    down_at: datetime | None = None
    back_at: datetime | None = None
    down_s: float = 0.0
    back_s: float = 0.0
    metrics: str = ""
    left_over: int = -1


@dataclass(slots=True, kw_only=True)
class Teller:
    """Looks, and waits for what it needs."""

    stage: SwitchStage
    life: Life

    def look(self) -> None:
        self.life.looks.append(
            (self.stage.group().get("chosen", ""), self.stage.gateways_shares(), frozenset(self.servers(Phase.READY)))
        )

    def servers(self, *phases: Phase) -> list[str]:
        """The variants of the servers that there are."""
        state = load(self.stage.local, may_set_aside=False) or State()
        return [each.workload.rpartition("/")[2] for each in state.servers if not phases or each.phase in phases]

    def until(self, found: Callable[[], object], *, what: str) -> None:
        ends = time.monotonic() + STEP_WITHIN_S
        while not found():
            assert time.monotonic() < ends, f"not within {STEP_WITHIN_S:g} s: {what}; {self.stage.group()}"
            self.look()
            time.sleep(0.2)

    def serves_alone(self, name: str) -> bool:
        """Whether the other variant is gone, its last stream included."""
        return self.stage.group().get("chosen") == f"local/{name}" and self.servers() == [name]


@pytest.fixture(scope="module")
def life(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Life:
    if not whole():
        pytest.skip("ten minutes, five of them the look-back before a first release: make e2e tells it")
    plan = Plan(recipe=recipe, ports=free_ports(), max_replicas=2)
    need_room(plan)
    seen, folder = Life(), tmp_path_factory.mktemp("stage")
    with SwitchStage(folder, plan) as stage:
        teller = Teller(stage=stage, life=seen)
        teller.until(lambda: BIG in teller.servers(Phase.READY), what="8B Ready")
        teller.until(stage.takes_requests, what="the gateway knows it")
        traffic = Load(stage.gateway_url)
        with traffic.running():
            traffic.rate_rps = CALM_RPS
            teller.until(lambda: teller.serves_alone(BIG), what="8B alone")
            seen.looks.clear()
            seen.alone_at, seen.switches_before = datetime.now(UTC), switches(stage.page("/metrics"))
            answered = len([each for each in traffic.shots if each.served])
            teller.until(lambda: len([each for each in traffic.shots if each.served]) > answered + 3, what="8B answers")
            seen.down_at, begun = datetime.now(UTC), time.monotonic()
            traffic.rate_rps = BUSY_RPS
            teller.until(lambda: teller.serves_alone(SMALL), what="4B alone")
            seen.down_s = time.monotonic() - begun
            answered = len([each for each in traffic.shots if each.served])
            teller.until(
                lambda: len([each for each in traffic.shots if each.served]) > answered + 10, what="4B answers"
            )
            seen.back_at, begun = datetime.now(UTC), time.monotonic()
            traffic.rate_rps = CALM_RPS
            teller.until(lambda: teller.serves_alone(BIG), what="8B alone again")
            seen.back_s = time.monotonic() - begun
            answered = len([each for each in traffic.shots if each.served])
            teller.until(lambda: len([each for each in traffic.shots if each.served]) > answered + 3, what="8B answers")
        seen.shots = traffic.shots
        seen.metrics = stage.page("/metrics")
    seen.left_over = len(list(processes.find(marks_of(stage.local))))
    return seen


def switches(page: str) -> float:
    """How often the group went over so far, as the daemon's page of metrics says."""
    found = re.search(rf'^headstart_variant_switches_total{{model="{MODEL}"}} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def failed(shots: list[Shot]) -> list[str]:
    return [each.problem for each in shots if not each.served]


def test_no_request_fails_and_no_stream_is_cut(life: Life) -> None:
    by = {name: sum(each.answered_by == name for each in life.shots) for name in (BIG, SMALL)}
    sys.stdout.write(
        f"model switch: 8B → 4B in {life.down_s:.0f} s, back in {life.back_s:.0f} s; {len(life.shots)} streamed "
        f"requests ({by[BIG]} by 8B, {by[SMALL]} by 4B), {len(failed(life.shots))} failed\n"
    )
    assert len(life.shots) > 30
    assert failed(life.shots) == []


def test_each_answer_says_which_variant_it_is_from_and_both_have_served(life: Life) -> None:
    assert {each.answered_by for each in life.shots} == {BIG, SMALL}


@pytest.mark.parametrize(("new", "old"), [pytest.param(SMALL, BIG, id="down"), pytest.param(BIG, SMALL, id="up")])
def test_while_the_new_variant_starts_everything_is_the_old_ones(life: Life, new: str, old: str) -> None:
    starting = [shares for chosen, shares, ready in life.looks if chosen == f"local/{new}" and ready == {old}]
    assert any(shares for shares in starting)
    # A look asks the gateway first and the servers last: what was not Ready then could have had nothing before.
    assert all(shares == {old: pytest.approx(1.0)} for shares in starting if shares)


def test_the_traffic_goes_over_and_comes_back(life: Life) -> None:
    leads = [max(shares, key=lambda name: shares[name]) for _, shares, _ in life.looks if shares]
    course = [name for name, before in zip(leads, [None, *leads], strict=False) if name != before]
    assert course == [BIG, SMALL, BIG]


def test_two_switches_and_no_more(life: Life) -> None:
    assert switches(life.metrics) == life.switches_before + 2


def test_no_promise_was_broken(life: Life) -> None:
    broken = [line for line in life.metrics.splitlines() if line.startswith("headstart_invariant_violations_total")]
    assert broken
    assert all(line.endswith(" 0.0") for line in broken), broken


def test_nothing_is_left_behind(life: Life) -> None:
    assert life.left_over == 0


def test_the_load_was_what_moved_it(life: Life) -> None:
    """No switch came before the load rose, nor back before it fell."""
    assert life.alone_at is not None
    assert life.down_at is not None
    assert life.back_at is not None
    calm = [each for each in life.shots if life.alone_at <= each.sent_at < life.down_at - timedelta(seconds=1)]
    assert {each.answered_by for each in calm} == {BIG}
