"""Workloads by annotation: the same settings, checks and words as in the file, and one mistake costs one Deployment.

Row 37 of the faults is here too: a selector that matches nothing, or suddenly everything.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kube_double import KubeDouble, Rule
from scaler.adapters.connections import floors_of, targets_of
from scaler.adapters.discovered import DiscoveredUnreadable, from_bytes, to_bytes
from scaler.adapters.kubernetes import ApiConnection, FloorRef, ServerAddress
from scaler.adapters.kubernetes.annotated import Found, annotated_in
from scaler.config import Config, parse_config
from scaler.config.annotations import CONTROL, PREFIX, SETTINGS, Annotated, entries_from_annotations
from scaler.config.discovery import GROWTH_RATIO, LEAST_KNOWN, admit
from scaler.config.values import WorkloadEntry
from scaler.daemon.discovery import Discovery, joined
from scaler.policy.types import Mode

FILE = Path("headstart.yaml")
SETTINGS_FILE = """apiVersion: headstart/v1
kind: Config
defaults:
  profile: qwen3-vl-2b-24gb
  bounds: {max_replicas: 6}
discover: {namespaces: [llm, chat]}
"""


def annotated(name: str = "chat", *, namespace: str = "llm", **annotations: str) -> Annotated:
    """A Deployment with annotations under our prefix; enabled unless told otherwise."""
    given = {"enabled": "true", **annotations}
    return Annotated(
        namespace=namespace,
        name=name,
        annotations={f"{PREFIX}{key.replace('_', '-')}": value for key, value in given.items()},
    )


def settings(more: str = "") -> Config:
    return parse_config(SETTINGS_FILE + more, FILE)


def entries_of(*objects: Annotated) -> tuple[tuple[WorkloadEntry, ...], list[str]]:
    """The entries over the file's defaults, and the mistakes as they are printed."""
    entries, issues = entries_from_annotations(objects, settings().defaults, FILE)
    return entries, [str(issue) for issue in issues]


def test_a_deployment_becomes_a_workload_over_the_defaults() -> None:
    (entry,), issues = entries_of(
        annotated(mode="active", min_replicas="2", start_time="3m", priority="7", timezone="Europe/Berlin")
    )
    assert issues == []
    assert (entry.workload, entry.mode, entry.priority, entry.start_time) == (
        "llm/chat",
        Mode.ACTIVE,
        7,
        timedelta(minutes=3),
    )
    assert (entry.bounds.min_replicas, entry.bounds.max_replicas) == (2, 6)
    assert (entry.profile.name, str(entry.scheduled.timezone)) == ("qwen3-vl-2b-24gb", "Europe/Berlin")
    assert (entry.target.kind, entry.target.name) == ("Deployment", "chat")


def test_an_annotation_goes_before_the_defaults_and_observing_is_the_default() -> None:
    (entry,), _ = entries_of(annotated(max_replicas="4", profile="llama-3.1-8b-h100"))
    assert (entry.mode, entry.bounds.max_replicas, entry.profile.name) == (Mode.OBSERVE, 4, "llama-3.1-8b-h100")


def test_only_what_is_enabled_joins() -> None:
    without = Annotated(namespace="llm", name="other", annotations={f"{PREFIX}mode": "active", "app": "x"})
    assert entries_of(annotated(enabled="false"), without) == ((), [])


PLACE = "Deployment llm/chat: annotation headstart.autoscaling/"


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        pytest.param({"enabled": "yes"}, f'{PLACE}enabled: must be "true" or "false", got "yes"', id="not a truth"),
        pytest.param(
            {"min_replica": "2"},
            f"{PLACE}min-replica: is no annotation of Headstart; did you mean headstart.autoscaling/min-replicas?",
            id="misspelt",
        ),
        pytest.param({"colour": "red"}, "known: profile, mode, min-replicas", id="nothing like it"),
        pytest.param(
            {"mode": "activ"},
            f'{PLACE}mode: must be one of observe, active, floor, publish, got "activ"; did you mean active?',
            id="no mode",
        ),
        pytest.param({"min_replicas": "two"}, f'{PLACE}min-replicas: must be a whole number, got "two"', id="words"),
        pytest.param({"min_replicas": "1.5"}, 'must be a whole number, got "1.5"', id="half a replica"),
        pytest.param({"min_replicas": "-1"}, f"{PLACE}min-replicas: must be at least 0, got -1", id="below zero"),
        pytest.param(
            {"min_replicas": "9"},
            f"{PLACE}max-replicas: must be at least 9, got 6 (headstart.yaml:5)",
            id="above the default maximum",
        ),
        pytest.param({"start_time": "180"}, f"{PLACE}start-time: must be a duration such as 5m", id="no unit"),
        pytest.param({"profile": "qwen3"}, f'{PLACE}profile: no shipped profile is called "qwen3"', id="profile"),
        pytest.param({"profile": "../x.yaml"}, f"{PLACE}profile: must be the name of a shipped", id="profile file"),
        pytest.param({"profile": "/etc/x"}, f"{PLACE}profile: must be the name of a shipped", id="any file"),
        pytest.param({"timezone": "Berlin"}, "imezone", id="timezone"),
        pytest.param({"floor_kind": "Hpa"}, f"{PLACE}floor-kind: must be one of HorizontalPodAutoscaler", id="floor"),
    ],
)
def test_a_mistake_names_the_object_and_the_annotation_and_costs_nobody_else(
    annotations: dict[str, str], said: str
) -> None:
    entries, issues = entries_of(annotated(**annotations), annotated("embed"))
    assert [entry.workload for entry in entries] == ["llm/embed"]
    assert len(issues) == 1
    assert issues[0].startswith("Deployment llm/chat: ")
    assert said in issues[0]


@pytest.mark.parametrize("word", CONTROL)
def test_what_people_say_for_the_moment_is_no_setting_and_no_mistake(word: str) -> None:
    entries, issues = entries_of(annotated(**{f"{word}d_until": "2026-03-02T12:00Z"}))
    assert ([entry.workload for entry in entries], issues) == (["llm/chat"], [])


def test_without_a_profile_anywhere_the_object_is_told_what_is_missing() -> None:
    entries, issues = entries_from_annotations([annotated()], None, FILE)
    assert entries == ()
    assert "annotation headstart.autoscaling/profile: is required: a shipped profile" in str(issues[0])


@given(
    st.dictionaries(
        st.sampled_from(sorted(SETTINGS)) | st.text(max_size=8).map(lambda text: f"x{text}"),
        st.text(max_size=20),
        max_size=6,
    )
)
def test_whatever_is_written_there_is_an_entry_or_a_mistake_and_never_an_exception(written: dict[str, str]) -> None:
    entries, issues = entries_of(annotated(**written))
    assert (len(entries) == 1) is (not issues)


# ── How many may join ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("found", "known", "confirm", "admitted", "held"),
    [
        pytest.param(0, 12, None, 0, 0, id="nothing is never everything"),
        pytest.param(10, 0, None, 10, 0, id="a first fleet of ten"),
        pytest.param(11, 0, None, 0, 11, id="a first fleet of eleven is to be confirmed"),
        pytest.param(11, 0, 11, 11, 0, id="confirmed"),
        pytest.param(24, 12, None, 24, 0, id="twice as many"),
        pytest.param(25, 12, None, 12, 13, id="more than twice: those known go on"),
        pytest.param(500, 12, 24, 12, 488, id="suddenly 500, where 24 were confirmed"),
        pytest.param(500, 12, 500, 500, 0, id="500 that are meant"),
    ],
)
def test_a_sudden_growth_waits(found: int, known: int, confirm: int | None, admitted: int, held: int) -> None:
    names = [f"llm/{n:03d}" for n in range(found)]
    admission = admit(names, names[:known], confirm=confirm, where="llm")
    assert (len(admission.admitted), len(admission.held)) == (admitted, held)
    assert bool(admission.told) is (held > 0 or found == 0)
    if held:
        assert f"set discover.confirm: {found}" in admission.told


@given(found=st.sets(st.integers(0, 60)), known=st.sets(st.integers(0, 60)), confirm=st.none() | st.integers(1, 80))
def test_nobody_is_lost_and_nobody_unknown_slips_in(found: set[int], known: set[int], confirm: int | None) -> None:
    names, before = {f"a/{n}" for n in found}, {f"a/{n}" for n in known & found}
    admission = admit(names, before, confirm=confirm, where="a")
    assert {*admission.admitted, *admission.held} == names
    assert before <= set(admission.admitted)
    assert len(admission.admitted) <= max(GROWTH_RATIO * max(len(before), LEAST_KNOWN), confirm or 0)


# ── Joined with the settings file ─────────────────────────────────────────────────────────────────────────────


def join(config: Config, *objects: Annotated, known: Collection[str] = (), **more: str) -> Discovery:
    return joined(config, Found(objects=objects, unread=more), known=known)


def test_found_workloads_stand_beside_those_of_the_file() -> None:
    config = settings("workloads: [{workload: llm/docs}]\n")
    found = join(config, annotated(mode="floor", floor_name="chat-hpa"))
    assert [policy.workload for policy in found.config.fleet.workloads] == ["llm/docs", "llm/chat"]
    assert targets_of(found.config)["llm/chat"].name == "chat"
    assert floors_of(found.config) == {
        "llm/chat": FloorRef(namespace="llm", kind="HorizontalPodAutoscaler", name="chat-hpa")
    }
    assert set(found.config.selectors) == {"llm/docs", "llm/chat"}
    assert found.told == ()


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param("{workload: llm/chat}", id="by both"),
        pytest.param("{workload: llm/chat, target: {name: chat-v2}}", id="by name"),
        pytest.param("{workload: llm/assistant, target: {name: chat}}", id="by target"),
    ],
)
def test_the_file_goes_before_annotations(workload: str) -> None:
    found = join(settings(f"workloads: [{workload}]\n"), annotated(mode="active"))
    assert len(found.config.fleet.workloads) == 1
    assert found.config.fleet.workloads[0].mode is Mode.OBSERVE
    assert "which goes before its annotations" in found.told[0]


def test_a_namespace_that_could_not_be_searched_keeps_what_was_found_there() -> None:
    config = settings()
    first = join(config, annotated(), annotated("docs", namespace="chat"))
    again = joined(
        config,
        Found(objects=(annotated(),), unread={"chat": "503"}),
        known={"llm/chat", "chat/docs"},
        before=first.objects,
    )
    assert [entry.workload for entry in again.entries] == ["chat/docs", "llm/chat"]
    assert again.told == ("namespace chat was not searched: 503",)
    opted_out = joined(config, Found(objects=(annotated(),)), known={"llm/chat", "chat/docs"}, before=first.objects)
    assert [entry.workload for entry in opted_out.entries] == ["llm/chat"]


FLEET = tuple(annotated(f"n{n:02}") for n in range(12))
NAMES = frozenset(each.workload for each in FLEET)


@pytest.mark.parametrize(
    ("found", "config", "still_known"),
    [
        pytest.param(Found(objects=(), unread={"llm": "503"}), settings(), NAMES, id="not searched"),
        pytest.param(Found(objects=FLEET), settings(), NAMES, id="found"),
        pytest.param(
            Found(objects=FLEET),
            parse_config(SETTINGS_FILE.replace("qwen3-vl-2b-24gb", "{name: chat, classes: []}"), FILE),
            NAMES,
            id="a mistake in the defaults costs all of them their entries",
        ),
        pytest.param(Found(objects=(FLEET[0],)), settings(), {"llm/n00"}, id="taken back"),
        pytest.param(Found(objects=(), unread={"chat": "503"}), settings(), set(), id="another one not searched"),
    ],
)
def test_who_was_known_stays_so_while_it_is_there_or_nobody_can_say(
    found: Found, config: Config, still_known: Collection[str]
) -> None:
    assert joined(config, found, known=NAMES).known == still_known


def test_what_is_remembered_of_a_deployment_are_our_settings_alone() -> None:
    given = {**annotated(min_replicas="2", paused="true: secret plans").annotations, "last-applied": "hunter2"}
    (kept,) = join(settings(), Annotated(namespace="llm", name="chat", annotations=given)).objects
    assert kept == annotated(min_replicas="2")
    assert from_bytes(to_bytes((kept,))) == (kept,)


@pytest.mark.parametrize("stored", [b"", b"{}", b'[{"name": 3}]', b"\x00\xff"])
def test_what_cannot_be_read_back_is_told_by_its_faults(stored: bytes) -> None:
    with pytest.raises(DiscoveredUnreadable, match="faults"):
        from_bytes(stored)


def test_nothing_found_is_told_as_a_mistake() -> None:
    found = join(settings())
    assert found.config.fleet.workloads == ()
    assert found.told == ('no Deployment in llm, chat carries headstart.autoscaling/enabled: "true"',)


def test_where_all_that_was_found_is_refused_only_the_mistakes_are_told() -> None:
    assert join(settings(), annotated(mode="activ")).told[0].startswith("Deployment llm/chat: annotation")
    assert len(join(settings(), annotated(mode="activ")).told) == 1


# ── Searched ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_search_asks_only_where_it_was_told_and_writes_nothing(tmp_path: Path) -> None:
    with KubeDouble() as double:
        for namespace in ("llm", "chat", "secret", "other"):
            double.namespace(namespace)
            double.deployment(namespace, "model", replicas=1, team="ml")
            double.deployment(namespace, "batch", replicas=1)
            for name in ("model", "batch"):
                double.annotate(namespace, name, enabled="true")
        double.deployment("llm", "plain", replicas=1, team="ml")
        lists = Rule(verbs=("list",), groups=("apps",), resources=("deployments",), namespaces=("llm", "chat"))
        token = tmp_path / "token"
        token.write_text(double.account("reader", lists))
        api = ApiConnection(ServerAddress(server=double.url, token_file=token))
        found = annotated_in(api, ("llm", "secret", "chat"), {"team": "ml"})
        assert [str(each) for each in found.objects] == ["Deployment llm/model", "Deployment chat/model"]
        assert list(found.unread) == ["secret"]
        assert '- {apiGroups: ["apps"], resources: ["deployments"], verbs: ["list"]}' in found.unread["secret"]
        double.fault(path="/llm/deployments", status=200, text='{"items": [{"metadata": 7}]}')
        assert "answered no Deployments" in annotated_in(api, ("llm",), {}).unread["llm"]
        assert double.mutating_requests == 0
        assert not [request for request in double.requests if "/other/" in request.path]


@pytest.mark.parametrize(
    ("discover", "said"),
    [
        pytest.param("{namespaces: ['*']}", "there is none that means all", id="everything"),
        pytest.param("{namespaces: [a, a]}", "none twice", id="twice"),
        pytest.param("{selector: {team: ml}}", "selector without namespaces", id="nowhere"),
        pytest.param("{namespaces: [a], selector: {team: ''}}", "must be the value of a label", id="empty label"),
        pytest.param("{namespaces: [a], selector: {'x,y': b}}", "must name labels", id="two labels in one"),
        pytest.param("{namespaces: [a], confirm: 0}", "confirm: must be at least 1", id="nobody confirmed"),
    ],
)
def test_what_discover_refuses(discover: str, said: str) -> None:
    from scaler.errors import ConfigError

    with pytest.raises(ConfigError, match=said):
        parse_config(f"apiVersion: headstart/v1\nkind: Config\ndiscover: {discover}\nworkloads: []\n", FILE)


# ── The page ──────────────────────────────────────────────────────────────────────────────────────────────────

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "annotations.md").read_text(encoding="utf-8")


def test_the_page_lists_the_annotations_and_what_they_stand_for() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| `([\w.]+)`", PAGE, re.MULTILINE))
    assert rows == {name: ".".join(setting) for name, setting in SETTINGS.items()}


def test_the_pages_example_is_a_workload() -> None:
    file, deployment = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    config, metadata = parse_config(yaml.safe_dump(file), FILE), deployment["metadata"]
    assert config.discover.selector.items() <= metadata["labels"].items()
    one = Annotated(namespace=metadata["namespace"], name=metadata["name"], annotations=metadata["annotations"])
    found = join(config, one)
    assert (found.told, [entry.mode for entry in found.entries]) == ((), [Mode.ACTIVE])
    assert config.discover.namespaces == ("llm", "chat")
