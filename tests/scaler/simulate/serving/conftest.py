"""A small replica and profile that a test can follow by hand."""

from __future__ import annotations

import pytest

from scaler.policy.capacity import CapacityProfile, ClassCapacity, RequestTokens, StartPhases
from scaler.service.model import LatencySlo, ServiceModel, max_rate_rps

SLO = LatencySlo(ttft_s=3.0, itl_s=0.1)


@pytest.fixture
def service() -> ServiceModel:
    """50 ms an iteration, 8 sequences: a request of 100 + 20 tokens takes about a second."""
    return ServiceModel(alpha_s=0.05, beta_s=1e-4, gamma_s=0.0, max_num_seqs=8, kv_tokens=10_000)


@pytest.fixture
def profile(service: ServiceModel) -> CapacityProfile:
    """Two classes: `chat`, three quarters of the requests, and `long`, which is dearer. A pod starts in 100 s."""
    tokens = {
        "chat": RequestTokens(input_tokens=100, output_tokens=20, output_cv=0.5, share=3),
        "long": RequestTokens(input_tokens=200, output_tokens=40, input_cv=0.5, share=1),
    }
    return CapacityProfile(
        name="small",
        classes=tuple(
            ClassCapacity(name=name, max_rps=max_rate_rps(service, each.shape, SLO), tokens=each, slo=SLO)
            for name, each in tokens.items()
        ),
        service=service,
        start=StartPhases(node_s=10.0, image_s=20.0, weights_s=30.0, warmup_s=40.0),
    )
