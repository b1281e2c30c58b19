"""docs/pools.md: both settings files are accepted and fit each other, and what is shown is what is said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from inference.gateway.metrics import Metrics
from inference.gateway.settings import Slo, parse_settings
from policy_cases import GOOD, NOON, a_forecast, a_snapshot
from scaler.adapters.metrics import SPECS
from scaler.config import parse_config
from scaler.policy.decide import decide
from scaler.policy.explain import as_text, explain
from scaler.policy.overflow import Sender, inflow_from
from scaler.policy.types import PolicyState

PAGE = (Path(__file__).parents[2] / "docs" / "pools.md").read_text(encoding="utf-8")
CONFIG = parse_config(
    next(each for each in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL) if "kind: Config" in each),
    Path("headstart.yaml"),
)
GATEWAY = parse_settings(
    next(each for each in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL) if "kind: Gateway" in each),
    source="the page",
)


def test_the_two_files_fit_each_other() -> None:
    classes = {rule.name: rule for rule in GATEWAY.classes}
    read = {name for selector in CONFIG.selectors.values() for name in selector.classes}
    assert read == {*classes, "default"}
    pools = {f"llm/{backend.name.partition('.')[0]}": backend.pool for backend in GATEWAY.backends.dns}
    for policy in CONFIG.fleet.workloads:
        for name in CONFIG.selectors[policy.workload].classes:
            if name in classes:
                way = [pools[policy.workload], *([pools[policy.spills_to]] if policy.spills_to else [])]
                assert list(classes[name].pools) == way


def test_the_slots_are_what_a_replica_carries() -> None:
    by_name = {each.name: each for each in CONFIG.fleet.workloads[0].profile.classes}
    in_flight = {name: round(by_name[name].max_rps * (by_name[name].p95_s or 0.0)) for name in ("gui", "text")}
    assert in_flight == {"gui": 8, "text": 7}
    assert GATEWAY.routing.slots_per_capacity == 8


def test_the_peak_that_is_shown() -> None:
    gui, text = CONFIG.fleet.workloads
    forecast = a_forecast(30.0, request_class="gui", later_rps={4: 36.0})
    sending = replace(
        a_snapshot(rps={"gui": 30.0}, desired=4, forecasts=(forecast,), quality=GOOD), workload="llm/chat-gui"
    )
    decision, after = decide(sending, PolicyState(), gui, now=NOON)
    sender = Sender(snapshot=sending, policy=gui, decision=decision, after=after)
    inflow = inflow_from(sender, receiver_lead_s=180.0, now=NOON)
    assert inflow is not None
    own = a_snapshot(rps={"text": 9.0}, forecasts=(a_forecast(9.0, request_class="text"),))
    snapshot = replace(own, workload="llm/chat-text", inflows=(inflow,))
    decision, after = decide(snapshot, PolicyState(), text, now=NOON)
    shown = as_text(decision, explain(decision, snapshot, text, after)).splitlines()
    told = re.search(r"llm/chat-text`:\n\n```\n(.*?)```", PAGE, flags=re.DOTALL)
    assert told is not None
    for line in told[1].splitlines():
        assert line in shown


def test_the_metrics_that_are_named_exist() -> None:
    for name in set(re.findall(r"headstart_(spill\w+)", PAGE)):
        assert name in SPECS
    families = {family.name for family in Metrics(Slo()).registry.collect()}
    assert "headstart_gateway_spilled" in families
    assert "headstart_gateway_spilled_total" in PAGE
