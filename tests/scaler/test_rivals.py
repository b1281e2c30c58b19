"""Another autoscaler on replicas that we write: seen where that is permitted, told once, never fought, never an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kube_double import KubeDouble, Rule
from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster, ServerAddress, TargetRef
from scaler.daemon.rivals import RivalWatch


def target(name: str, namespace: str = "llm") -> TargetRef:
    return TargetRef(namespace=namespace, api_version="apps/v1", kind="Deployment", name=name)


CHAT, EMBED = target("chat"), target("embed")


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble() as double:
        for namespace in ("llm", "secret"):
            double.namespace(namespace)
            double.deployment(namespace, "chat", replicas=2)
        yield double


@pytest.fixture
def cluster(double: KubeDouble, tmp_path: Path) -> KubernetesCluster:
    """As an account that may list HPAs in llm alone."""
    token = tmp_path / "token"
    lists = Rule(verbs=("list",), groups=("autoscaling",), resources=("horizontalpodautoscalers",), namespaces=("llm",))
    token.write_text(double.account("watcher", lists))
    return KubernetesCluster(ApiConnection(ServerAddress(server=double.url, token_file=token), timeout_s=2))


def keda_hpa(double: KubeDouble, name: str) -> None:
    """What KEDA makes of a ScaledObject."""
    double.create(
        "horizontalpodautoscalers",
        {
            "metadata": {
                "name": f"keda-hpa-{name}",
                "namespace": "llm",
                "ownerReferences": [{"kind": "ScaledObject", "name": name, "controller": True}],
            },
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}, "maxReplicas": 9},
        },
    )


def test_what_scales_the_same_deployment_is_named_by_who_keeps_it(
    double: KubeDouble, cluster: KubernetesCluster
) -> None:
    double.hpa("llm", "by-hand", target="chat")
    double.hpa("llm", "of-another", target="other")
    keda_hpa(double, "chat")
    secret = target("chat", "secret")
    double.hpa("secret", "chat")
    seen = cluster.rivals([CHAT, EMBED, secret])
    assert seen == {CHAT: ("HorizontalPodAutoscaler llm/by-hand", "ScaledObject llm/chat"), EMBED: ()}
    assert double.mutating_requests == 0


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 503}, id="5xx"),
        pytest.param({"status": 404}, id="a server without autoscaling/v2"),
        pytest.param({"status": 200, "text": "{}"}, id="no list"),
        pytest.param({"status": 200, "text": '{"items": [{"spec": 7}]}'}, id="a list of nonsense"),
        pytest.param({"drop": "before"}, id="no answer"),
    ],
)
def test_what_cannot_be_read_is_unknown_and_no_error(
    double: KubeDouble, cluster: KubernetesCluster, fault: dict[str, Any]
) -> None:
    double.hpa("llm", "chat")
    double.fault(path="horizontalpodautoscalers", **fault)
    assert cluster.rivals([CHAT]) == {}


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def warning(self, name: str, **keys: object) -> None:
        self.lines.append((name, str(keys["workload"])))

    info = warning


def test_a_look_waits_for_its_turn() -> None:
    """The first tick of a large fleet has the cluster's API to itself."""
    course: list[str] = []

    def look(targets: Sequence[TargetRef]) -> dict[TargetRef, tuple[str, ...]]:
        course.append("look")
        return {}

    RivalWatch(
        look,
        lambda: {"llm/chat": CHAT},
        tell=lambda found, about: None,
        log=Log(),
        give_way=lambda: course.append("give way"),
    ).look()
    assert course == ["give way", "look"]


def test_it_is_told_when_it_begins_and_when_it_ends_and_stays_in_sight_meanwhile() -> None:
    log, remarks = Log(), list[Mapping[str, tuple[str, ...]]]()
    seen: dict[TargetRef, tuple[str, ...]] = {CHAT: (), EMBED: ()}
    watch = RivalWatch(
        lambda _: dict(seen),
        lambda: {"llm/chat": CHAT, "llm/embed": EMBED},
        tell=lambda found, about: remarks.append(found),
        log=log,
    )
    watch.look()
    seen[CHAT] = ("HorizontalPodAutoscaler llm/chat",)
    watch.look()
    watch.look()
    del seen[CHAT]  # it may not look any more, or the server has trouble
    watch.look()
    assert log.lines == [("rival", "llm/chat")]
    assert [list(each) for each in remarks] == [[], ["llm/chat"], ["llm/chat"], ["llm/chat"]]
    assert "mode floor or publish" in remarks[-1]["llm/chat"][0]
    seen[CHAT] = ()
    watch.look()
    assert log.lines[-1] == ("rival_gone", "llm/chat")
    assert remarks[-1] == {}
