"""Servers on this machine as a scale target: the whole loop without Kubernetes.

The only adapter that knows `inference`.
"""

from scaler.adapters.local_vllm.files import BACKENDS, FOLDER, TARGETS
from scaler.adapters.local_vllm.finding import end_everything
from scaler.adapters.local_vllm.launches import problem_of
from scaler.adapters.local_vllm.targets import LocalTargets, local_targets

__all__ = ["BACKENDS", "FOLDER", "TARGETS", "LocalTargets", "end_everything", "local_targets", "problem_of"]
