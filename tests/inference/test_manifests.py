"""The Kubernetes objects of a variant: valid against the real schemas, unchanged by accident, safe to roll out.

Properties, over all valid variants: the grace period outlasts the preStop wait and vLLM's own drain; the start budget
is covered by the startup probe; the selector selects the pods; rendering gives the manifest back.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InvalidValue
from inference.launch import environment, serve_arguments
from inference.manifests import (
    PRE_STOP_S,
    Manifest,
    Placement,
    deployment,
    disruption_budget,
    grace_period_s,
    pod_monitor,
    render,
    service,
)
from inference.prepull import image_prepuller
from inference.variants import Variant, Weights, shipped_catalogue

GOLDEN = Path(__file__).parents[1] / "golden" / "inference"
CATALOGUE = {variant.name: variant for variant in shipped_catalogue()}
EVERYTHING = Placement(
    namespace="team-a",
    gpu_resource="nvidia.com/mig-3g.40gb",
    gpu_taint=None,
    node_selector={"nvidia.com/gpu.product": "NVIDIA-H100", "disk": "nvme"},
    cpu="7500m",
    service_account="inference",
    priority_class="serving",
    image_pull_secrets=("registry",),
)


def a_variant(**changes: Any) -> Variant:
    """The shipped 2B on one 24 GB card, with changes."""
    return replace(CATALOGUE["qwen3-vl-2b"], **changes)


def pod_of(manifest: Manifest) -> Manifest:
    pod: Manifest = manifest["spec"]["template"]["spec"]
    return pod


def container_of(manifest: Manifest) -> Manifest:
    (container,) = pod_of(manifest)["containers"]
    assert isinstance(container, dict)
    return container


OBJECTS = {
    **{f"deployment {name}": deployment(variant) for name, variant in CATALOGUE.items()},
    "deployment placed": deployment(CATALOGUE["qwen3-vl-32b"], placement=EVERYTHING, replicas=2),
    "deployment claim": deployment(a_variant(weights=Weights(claim="models"))),
    "deployment host path": deployment(a_variant(weights=Weights(host_path="/srv/models"))),
    "service": service(a_variant()),
    "disruption budget": disruption_budget(a_variant()),
    "prepull": image_prepuller(shipped_catalogue(), placement=EVERYTHING),
}


@pytest.mark.parametrize("kubernetes", ["1.33", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", list(OBJECTS))
def test_kubernetes_own_schema_accepts(name: str, kubernetes: str) -> None:
    """Strict: an unknown key is an error, as with kubectl's server-side validation."""
    assert kubernetes.startswith(kubernetes_validate.validate(OBJECTS[name], kubernetes, strict=True))


def test_the_schema_check_does_find_a_misspelt_key() -> None:
    manifest = deployment(a_variant())
    pod_of(manifest)["terminationGracePeriodSecond"] = 1

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("file", "manifests"),
    [
        pytest.param(
            "qwen3-vl-8b.yaml",
            [
                deployment(CATALOGUE["qwen3-vl-8b"]),
                service(CATALOGUE["qwen3-vl-8b"]),
                disruption_budget(CATALOGUE["qwen3-vl-8b"]),
                pod_monitor(CATALOGUE["qwen3-vl-8b"]),
            ],
            id="8B as shipped",
        ),
        pytest.param(
            "qwen3-vl-32b-placed.yaml",
            [
                deployment(
                    replace(CATALOGUE["qwen3-vl-32b"], weights=Weights(host_path="/srv/models")),
                    placement=EVERYTHING,
                    replicas=2,
                ),
                image_prepuller([CATALOGUE["qwen3-vl-32b"]], placement=EVERYTHING),
            ],
            id="32B on two GPUs, every placement set",
        ),
    ],
)
def test_rendered_yaml_is_what_was_reviewed(file: str, manifests: list[Manifest]) -> None:
    """A difference here rolls every replica of every user: if it is meant, write the new text into the golden file."""
    assert render(*manifests) == (GOLDEN / file).read_text(encoding="utf-8")


def test_a_scaler_owns_the_number_of_replicas_unless_told() -> None:
    assert "replicas" not in deployment(a_variant())["spec"]
    assert deployment(a_variant(), replicas=0)["spec"]["replicas"] == 0
    with pytest.raises(InvalidValue, match="replicas = -1"):
        deployment(a_variant(), replicas=-1)


def test_the_container_runs_exactly_the_rendered_command() -> None:
    variant = CATALOGUE["qwen3-vl-32b"]
    container = container_of(deployment(variant))

    assert container["command"] == ["vllm", "serve"]
    assert tuple(container["args"]) == serve_arguments(variant, port=container["ports"][0]["containerPort"])
    assert {each["name"]: each["value"] for each in container["env"]} == environment(variant)


def test_gpus_are_asked_for_alike_as_request_and_limit() -> None:
    """Kubernetes refuses an extended resource whose request differs from its limit."""
    resources = container_of(deployment(CATALOGUE["qwen3-vl-32b"]))["resources"]

    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "2"
    assert "cpu" not in resources["limits"]


def test_a_rollout_never_unloads_before_it_has_loaded() -> None:
    spec = deployment(a_variant())["spec"]

    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert spec["progressDeadlineSeconds"] > a_variant().start_budget_s


def test_readiness_gives_up_long_before_liveness_does() -> None:
    container = container_of(deployment(a_variant()))
    patience_s = {
        name: container[name]["periodSeconds"] * container[name]["failureThreshold"]
        for name in ("readinessProbe", "livenessProbe")
    }

    assert patience_s == {"readinessProbe": 30, "livenessProbe": 120}


def test_nothing_runs_as_root_or_with_a_token() -> None:
    for name in ("deployment qwen3-vl-2b", "prepull"):
        pod = pod_of(OBJECTS[name])
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("weights", "source", "read_only"),
    [
        pytest.param(Weights(), {"emptyDir": {}}, False, id="downloaded, so writable"),
        pytest.param(
            Weights(claim="models"),
            {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
            True,
            id="claim",
        ),
        pytest.param(
            Weights(host_path="/srv/m"), {"hostPath": {"path": "/srv/m", "type": "Directory"}}, True, id="on the node"
        ),
    ],
)
def test_weights_are_mounted_from_where_they_are(weights: Weights, source: Manifest, read_only: bool) -> None:
    manifest = deployment(a_variant(weights=weights))

    volume = pod_of(manifest)["volumes"][0]
    mount = container_of(manifest)["volumeMounts"][0]
    assert volume == {"name": "weights", **source}
    assert mount == {"name": "weights", "mountPath": "/models", "readOnly": read_only}


def test_every_port_by_name_exists() -> None:
    """Probes, Service and PodMonitor name the port; a name that the container has not is found only at run time."""
    variant = a_variant()
    container = container_of(deployment(variant))
    named = {port["name"] for port in container["ports"]}

    wanted = {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    wanted |= {port["targetPort"] for port in service(variant)["spec"]["ports"]}
    wanted |= {endpoint["port"] for endpoint in pod_monitor(variant)["spec"]["podMetricsEndpoints"]}
    assert wanted <= named


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"namespace": "Team A"}, "namespace", id="a namespace that DNS refuses"),
        pytest.param({"gpu_resource": "gpu"}, "gpu_resource", id="a resource without a domain"),
        pytest.param({"cpu": "4 cores"}, "cpu", id="words for a quantity"),
        pytest.param({"run_as_user": 0}, "run_as_user", id="root"),
    ],
)
def test_a_placement_that_cannot_work_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue, match=f"placement: {field} = "):
        Placement(**changes)


def test_each_image_is_pulled_once_and_only_where_it_is_needed() -> None:
    other = replace(a_variant(), name="canary", image="vllm/vllm-openai:v0.32.1")

    pod = pod_of(image_prepuller([*shipped_catalogue(), other], placement=EVERYTHING))

    assert [each["image"] for each in pod["initContainers"]] == ["vllm/vllm-openai:v0.32.0", "vllm/vllm-openai:v0.32.1"]
    assert pod["nodeSelector"] == dict(EVERYTHING.node_selector)
    assert all(not any("gpu" in name for name in each["resources"]["requests"]) for each in pod["initContainers"])
    with pytest.raises(InvalidValue, match="at least one variant"):
        image_prepuller([])


@st.composite
def variants(draw: st.DrawFn) -> Variant:
    """Any valid variant, as far as its pod depends on it."""
    base = draw(st.sampled_from(list(CATALOGUE.values())))
    return replace(
        base,
        gpus=draw(st.sampled_from([gpus for gpus in (1, 2, 4, 8) if gpus >= base.gpus])),
        shutdown_timeout_s=draw(st.integers(1, 3_600)),
        start_budget_s=draw(st.integers(60, 7_200)),
        mm_processor_cache_gb=draw(st.floats(0, 256)),
        weights=draw(st.sampled_from((Weights(), Weights(claim="models"), Weights(host_path="/srv/models")))),
    )


@given(variant=variants())
def test_a_pod_is_never_killed_while_it_may_still_drain(variant: Variant) -> None:
    pod = pod_of(deployment(variant))
    (container,) = pod["containers"]
    drain_s = int(container["args"][container["args"].index("--shutdown-timeout") + 1])
    waits_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert waits_s == PRE_STOP_S
    assert pod["terminationGracePeriodSeconds"] == grace_period_s(variant) > waits_s + drain_s


@given(variant=variants())
def test_a_start_within_its_budget_is_never_restarted(variant: Variant) -> None:
    probe = container_of(deployment(variant))["startupProbe"]

    assert probe["periodSeconds"] * probe["failureThreshold"] >= variant.start_budget_s


@given(variant=variants())
def test_host_memory_holds_everything_that_is_kept_in_it(variant: Variant) -> None:
    manifest = deployment(variant)
    memory_gib = int(container_of(manifest)["resources"]["limits"]["memory"].removesuffix("Gi"))
    shm_gib = int(pod_of(manifest)["volumes"][-1]["emptyDir"]["sizeLimit"].removesuffix("Gi"))

    assert memory_gib >= shm_gib + 2 * variant.mm_processor_cache_gb + variant.weights_gib


@given(variant=variants())
def test_selectors_select_the_pods_and_rendering_loses_nothing(variant: Variant) -> None:
    objects = [deployment(variant), service(variant), disruption_budget(variant), pod_monitor(variant)]
    pod_labels = objects[0]["spec"]["template"]["metadata"]["labels"].items()

    for manifest in objects:
        selector = manifest["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= pod_labels
    text = render(*objects)
    assert list(yaml.safe_load_all(text)) == objects
    assert "&id" not in text
    assert text == render(*objects)
