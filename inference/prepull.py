"""A DaemonSet that keeps the variants' images on the GPU nodes, so that a start does not wait for a pull.

A vLLM image is many gigabytes: pulling it takes minutes, finding it there takes nothing. This decides nothing about
variants and holds no GPU. It helps on nodes that are already there; a node that joins together with the pod that
needs it starts both pulls at once, so images belong into the node's own disk image there.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference.errors import InvalidValue
from inference.manifests import Manifest, Placement
from inference.variants import Variant

PAUSE_IMAGE = "registry.k8s.io/pause:3.10.1"
"""What keeps the pod there after the pulls: Kubernetes' own do-nothing container, on every node already."""

NAME = "inference-image-prepull"


def image_prepuller(variants: Sequence[Variant], *, placement: Placement | None = None) -> Manifest:
    """The DaemonSet that pulls each image of `variants` once per GPU node, one after another.

    Give `placement.node_selector` the label of the GPU nodes: without one it runs, and pulls, on every node. Raises
    `InvalidValue` without a variant.
    """
    where = placement or Placement()
    if not variants:
        fix = "name at least one variant"
        raise InvalidValue(subject="prepull", field="variants", value=(), problem="is empty", fix=fix)
    images = sorted({variant.image for variant in variants})
    selector = {"app.kubernetes.io/name": NAME}
    labels = {**selector, "app.kubernetes.io/part-of": "headstart"}
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        **where.scheduling(),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": where.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_idle(f"pull-{index}", image, ["true"]) for index, image in enumerate(images)],
        "containers": [_idle("pause", PAUSE_IMAGE, None)],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": where.namespace, "labels": labels},
        "spec": {"selector": {"matchLabels": selector}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def _idle(name: str, image: str, command: list[str] | None) -> Manifest:
    """A container that exists for its image's sake."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        **({"command": command} if command else {}),
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
