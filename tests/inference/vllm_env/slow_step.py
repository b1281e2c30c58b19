"""A logits processor that makes every engine step take as long as a slow GPU's, while the processor core idles.

    PYTHONPATH=<this folder> SLOW_STEP_MS=25 SLOW_SEQ_MS=1 vllm serve … --logits-processors slow_step:SlowStep

With a tiny model the scheduler would otherwise be the bottleneck, and two servers on two cores would share one
capacity. With it, one step lasts SLOW_STEP_MS + SLOW_SEQ_MS · (sequences in the batch), scheduler, KV cache and
/metrics stay real, and the capacity of several servers adds up.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from vllm.v1.sample.logits_processor import LogitsProcessor

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate


class SlowStep(LogitsProcessor):
    """Sleeps once a step and returns the logits unchanged."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._step_s = float(os.environ.get("SLOW_STEP_MS", "25")) / 1000.0
        self._sequence_s = float(os.environ.get("SLOW_SEQ_MS", "1")) / 1000.0

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Accept every request: the delay does not depend on its parameters."""

    def is_argmax_invariant(self) -> bool:
        """False, though the argmax never changes: vLLM skips invariant processors for greedy requests."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Nothing is kept per request."""

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        time.sleep(self._step_s + self._sequence_s * logits.shape[0])
        return logits
