"""What the rehearsal's servers are, and the settings files of everything around them, as text. Pure but for paths.

The daemon, the gateway and Prometheus get ordinary settings: nothing here knows an inner part of any of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

MODEL = "tiny"
WORKLOAD = "local/tiny"
CLASS = "other"
"""The gateway's class of requests that no rule names."""

CATALOGUE = """\
apiVersion: headstart/v1
kind: VariantCatalogue
variants:
  - name: tiny
    model: {model}
    weights_gib: 0.01
    kv_kib_per_token: 0.5
    gpu_memory_gib: 4
    max_model_len: 4096
    max_num_seqs: 8
    mm_processor_cache_gb: 0.1
    images_per_prompt: 1
    videos_per_prompt: 0
    max_image_tokens: 256
    shutdown_timeout_s: 30
    weights: {{host_path: /srv/models}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one server is started, and what it carries."""

    command: tuple[str, ...]
    max_rps: float
    """Requests a second that one server carries."""
    start_time: timedelta
    catalogue: str = ""
    """Text of a catalogue that names `tiny`; "" for a command that says everything itself."""
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def tiny_vllm(environment: Path, support: Path) -> Recipe:
    """The CPU build of vLLM in `environment` with its tiny model, slowed by `support`'s steps to a GPU's pace.

    One step takes 50 ms and 2 ms a sequence, so 8 sequences of 33 steps end in 33 · 66 ms = 2.2 s: 3.7 requests a
    second at most, of which 2 leave room for a P95. Three of them saturate half a core, where real compute would
    share one machine's speed among all.
    """
    return Recipe(
        command=(str(environment / "bin" / "vllm"), "serve"),
        catalogue=CATALOGUE.format(model=environment / "models" / "tiny-qwen3-vl"),
        arguments=(
            *("--load-format", "dummy"),
            "--enforce-eager",
            *("--kv-cache-memory-bytes", str(64 * 2**20)),
            *("--logits-processors", "slow_step:SlowStep"),
        ),
        environment={
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "PYTHONPATH": str(support),
            "SLOW_STEP_MS": "50",
            "SLOW_SEQ_MS": "2",
        },
        max_rps=2.0,
        start_time=timedelta(seconds=60),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where everything listens, on loopback."""

    servers: int = 8101
    gateway: int = 8180
    prometheus: int = 8190
    daemon: int = 8191

    def url(self, port: int) -> str:
        """The address of one of them."""
        return f"http://127.0.0.1:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole set-up; `calm` and `spacing` are the daemon's, shorter than a cluster's because its pods start fast."""

    recipe: Recipe
    ports: Ports = field(default_factory=Ports)
    tick: timedelta = timedelta(seconds=15)
    scrape: timedelta = timedelta(seconds=5)
    min_replicas: int = 1
    max_replicas: int = 3
    calm: timedelta = timedelta(minutes=1)
    spacing: timedelta = timedelta(minutes=1)


def daemon_settings(plan: Plan) -> str:
    """headstart.yaml."""
    recipe, ports = plan.recipe, plan.ports
    variant = "\n      variant: tiny\n      catalogue: variants.yaml" if recipe.catalogue else ""
    return f"""\
apiVersion: headstart/v1
kind: Config
prometheus: {{url: "{ports.url(ports.prometheus)}"}}
data_dir: data
tick: {_seconds(plan.tick)}
http: {{port: {ports.daemon}}}
local:
  gateways: ["{ports.url(ports.gateway)}"]
  servers:
    - workload: {WORKLOAD}{variant}
      model: {MODEL}
      command: {json.dumps(list(recipe.command))}
      arguments: {json.dumps(list(recipe.arguments))}
      environment: {json.dumps(dict(recipe.environment))}
      first_port: {ports.servers}
      start_timeout: 5m
      grace: 2m
      shutdown_timeout: 60s
workloads:
  - workload: {WORKLOAD}
    mode: active
    start_time: {_seconds(recipe.start_time)}
    profile: {{name: tiny, classes: [{{name: {CLASS}, max_rps: {recipe.max_rps:g}}}]}}
    bounds: {{min_replicas: {plan.min_replicas}, max_replicas: {plan.max_replicas}}}
    guard: {{calm: {_seconds(plan.calm)}, spacing: {_seconds(plan.spacing)}}}
    latency: {{rate_window: 1m}}
    selector: {{demand_labels: {{model: {MODEL}}}}}
"""


def gateway_settings(plan: Plan, *, backends: Path) -> str:
    """gateway.yaml."""
    return f"""\
apiVersion: headstart/v1
kind: Gateway
listen: {{host: 127.0.0.1, port: {plan.ports.gateway}}}
backends: {{file: {json.dumps(str(backends))}}}
models: [{{name: {MODEL}}}]
slo: {{e2e_s: [5.0], ttft_s: [1.0]}}
"""


def prometheus_settings(plan: Plan, *, targets: Path) -> str:
    """prometheus.yml."""
    return f"""\
global: {{scrape_interval: {_seconds(plan.scrape)}, scrape_timeout: {_seconds(plan.scrape)}}}
scrape_configs:
  - job_name: vllm
    file_sd_configs: [{{files: [{json.dumps(str(targets))}], refresh_interval: 5s}}]
  - job_name: gateway
    static_configs: [{{targets: ["127.0.0.1:{plan.ports.gateway}"]}}]
  - job_name: headstart
    static_configs: [{{targets: ["127.0.0.1:{plan.ports.daemon}"]}}]
"""


def _seconds(value: timedelta) -> str:
    return f"{value.total_seconds():g}s"
