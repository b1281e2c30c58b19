"""Pools in a settings file: what becomes of `classes` and `spills_to`, and which mistakes are named at their places."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaler.adapters.connections import selectors_of
from scaler.config import parse_config
from scaler.errors import ConfigError

HEADER = "apiVersion: headstart/v1\nkind: Config\n"
GUI = "{name: gui, max_rps: 6}"
TEXT = "{name: text, max_rps: 18}"


def pools(*entries: str, more: str = "") -> str:
    return f"{HEADER}{more}workloads:\n" + "".join(f"  - {{{entry}}}\n" for entry in entries)


def a_pool(name: str, classes: str, *, to: str | None = None, profile: str = f"{GUI}, {TEXT}") -> str:
    spill = f", spills_to: {to}" if to else ""
    selector = f"selector: {{demand_labels: {{model: chat}}, classes: [{classes}]}}"
    return f"workload: llm/{name}, profile: {{name: card, classes: [{profile}]}}, {selector}{spill}"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, Path("h.yaml"))
    return str(caught.value).splitlines()


def test_two_pools_of_one_service() -> None:
    config = parse_config(pools(a_pool("gui", "gui", to="llm/text"), a_pool("text", "text, default")), Path("h.yaml"))
    first, second = config.fleet.workloads
    assert (first.spills_to, second.spills_to) == ("llm/text", None)
    assert [each.classes for each in selectors_of(config)] == [("gui",), ("text", "default")]


def test_the_same_pools_with_the_class_among_the_labels() -> None:
    labels = "selector: {{demand_labels: {{model: chat, request_class: {0}}}}}"
    profile = f"profile: {{name: card, classes: [{GUI}, {TEXT}]}}"
    text = pools(
        f"workload: llm/gui, {profile}, spills_to: llm/text, {labels.format('gui')}",
        f"workload: llm/text, {profile}, {labels.format('text')}",
    )
    assert len(parse_config(text, Path("h.yaml")).fleet.workloads) == 2


def test_a_receiver_that_is_discovered_cannot_be_judged() -> None:
    text = pools(a_pool("gui", "gui", to="llm/elsewhere"), more="discover: {namespaces: [llm]}\n")
    assert parse_config(text, Path("h.yaml")).fleet.workloads[0].spills_to == "llm/elsewhere"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            pools(a_pool("gui", "gui", to="llm/txt"), a_pool("text", "text")),
            'workloads[0].spills_to: names "llm/txt", which is no workload; did you mean llm/text?',
            id="an unknown pool",
        ),
        pytest.param(
            pools(a_pool("gui", "gui", to="llm/gui")),
            "spills_to of llm/gui names itself; name another pool, or leave it out",
            id="itself",
        ),
        pytest.param(
            pools(a_pool("gui", "gui", to="text")),
            "spills_to: must be namespace/name in Kubernetes' spelling, got 'text'",
            id="no namespace",
        ),
        pytest.param(
            pools(
                a_pool("gui", "gui", to="llm/text"),
                a_pool("text", "text", to="llm/last"),
                a_pool("last", "default", to="llm/gui"),
            ),
            "workloads[0].spills_to: leads back to where it begins: llm/gui → llm/text → llm/last → llm/gui",
            id="a ring",
        ),
        pytest.param(
            pools(a_pool("gui", "gui", to="llm/text"), a_pool("text", "text", profile=TEXT)),
            "workloads[0].spills_to: sends class gui to llm/text, whose profile does not have it",
            id="a receiver that does not know what the class costs",
        ),
        pytest.param(
            pools(
                a_pool("gui", "gui", to="llm/text"),
                a_pool("text", "text", to="llm/last"),
                a_pool("last", "default", profile=TEXT),
            ),
            "workloads[0].spills_to: sends class gui to llm/last, whose profile does not have it",
            id="the last of a chain does not know it",
        ),
        pytest.param(
            pools(a_pool("gui", "gui, html", to="llm/text"), a_pool("text", "text, html")),
            "workloads[1].selector: reads html, which llm/gui reads of the same service: it would count twice",
            id="a class of two pools",
        ),
        pytest.param(
            pools(
                a_pool("gui", "gui"),
                f"workload: llm/text, profile: {{name: c, classes: [{TEXT}]}}, "
                "selector: {demand_labels: {model: chat}}",
            ),
            "workloads[1].selector: reads every class of a service of which llm/gui reads gui",
            id="one pool's classes and everything",
        ),
        pytest.param(
            pools(
                f"workload: llm/gui, profile: {{name: c, classes: [{GUI}]}}, "
                "selector: {classes: [gui], demand_labels: {model: chat, request_class: gui}}"
            ),
            "demand_labels.request_class and classes say the same; keep classes",
            id="the class twice",
        ),
        pytest.param(
            pools(a_pool("gui", "gui, gui")), "selector.classes: must name each class once", id="a class named twice",
        ),
    ],
)  # fmt: skip
def test_mistakes(text: str, said: str) -> None:
    found = problems(text)
    assert any(said in line for line in found), found


LOCAL = """\
local:
  servers:
    - {{workload: llm/gui, command: [serve, "{{port}}"], model: {0}, pool: {1}}}
    - {{workload: llm/text, command: [serve, "{{port}}"], model: chat, pool: text}}
"""


@pytest.mark.parametrize(
    ("model", "pool", "said"),
    [
        pytest.param("chat", "gui", None, id="two pools of one model"),
        pytest.param("chat", "text", "leads to servers of the same gateway pool 'text'", id="one pool of the gateway"),
        pytest.param("other", "gui", "leads to servers of model chat from those of other", id="two models"),
    ],
)
def test_on_one_machine_the_gateways_pools_are_known(model: str, pool: str, said: str | None) -> None:
    text = pools(
        a_pool("gui", "gui", to="llm/text"), a_pool("text", "text"), more=LOCAL.format(model, pool)
    )  # fmt: skip
    if said is None:
        assert parse_config(text, Path("h.yaml")).local.servers
    else:
        assert any(said in line for line in problems(text))


VARIANTS = """\
variants:
  - name: chat
    gpus: 4
    workloads: [{workload: llm/large}, {workload: llm/small}]
"""


def test_variants_of_one_model_read_the_same_classes() -> None:
    text = pools(a_pool("large", "gui, html"), a_pool("small", "gui, html"), more=VARIANTS)
    assert len(parse_config(text, Path("h.yaml")).fleet.variants) == 1


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        pytest.param(
            (a_pool("large", "gui", to="llm/text"), a_pool("small", "gui"), a_pool("text", "text")),
            "workloads[0].spills_to: llm/large is a variant of chat, and nothing spills from or to one",
            id="from a variant",
        ),
        pytest.param(
            (a_pool("large", "gui"), a_pool("small", "gui"), a_pool("text", "text", to="llm/small")),
            "workloads[2].spills_to: llm/small is a variant of chat, and nothing spills from or to one",
            id="to a variant",
        ),
        pytest.param(
            (a_pool("large", "gui"), a_pool("small", "gui"), a_pool("other", "gui")),
            "workloads[2].selector: reads gui, which llm/large reads of the same service: it would count twice",
            id="and who is none reads their class",
        ),
    ],
)
def test_variants_and_pools(entries: tuple[str, ...], said: str) -> None:
    found = problems(pools(*entries, more=VARIANTS))
    assert any(said in line for line in found), found


def test_one_mistake_is_told_once() -> None:
    assert len(problems(pools(a_pool("gui", "gui", to="llm/txt"), a_pool("text", "text")))) == 1
