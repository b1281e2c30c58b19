"""`python -m inference`, and that the package ships alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from inference.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["list"], "qwen3-vl-32b\t2 × 79.6 GiB\tQwen/Qwen3-VL-32B-Instruct\n", id="list"),
        pytest.param(
            ["arguments", "qwen3-vl-2b", "--port", "8113"],
            "vllm serve Qwen/Qwen3-VL-2B-Instruct --served-model-name qwen3-vl-2b --host 0.0.0.0 --port 8113 ",
            id="arguments",
        ),
        pytest.param(["arguments", "qwen3-vl-2b"], """'{"image":2,"video":1}'""", id="quoted for a shell"),
        pytest.param(["manifests", "qwen3-vl-2b"], "kind: PodDisruptionBudget", id="manifests"),
        pytest.param(["manifests", "qwen3-vl-2b", "--replicas", "3"], "replicas: 3", id="stated replicas"),
        pytest.param(["manifests", "qwen3-vl-2b", "--node-label", "gpu=l4"], "gpu: l4", id="node label"),
        pytest.param(["prepull", "--namespace", "serving"], "namespace: serving", id="prepull"),
    ],
)
def test_prints(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert expected in capsys.readouterr().out


def test_a_pod_monitor_comes_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the Prometheus operator is not installed, its kind is unknown and kubectl refuses the whole file."""
    main(["manifests", "qwen3-vl-2b"])
    plain = [each["kind"] for each in yaml.safe_load_all(capsys.readouterr().out)]
    main(["manifests", "qwen3-vl-2b", "--pod-monitor"])
    asked = [each["kind"] for each in yaml.safe_load_all(capsys.readouterr().out)]

    assert plain == ["Deployment", "Service", "PodDisruptionBudget"]
    assert asked == [*plain, "PodMonitor"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["arguments", "qwen3-vl-9b"], "did you mean qwen3-vl-", id="unknown variant"),
        pytest.param(["arguments", "qwen3-vl-2b", "--port", "0"], "port = 0", id="no port"),
        pytest.param(["manifests", "qwen3-vl-2b", "--namespace", "A"], "namespace = 'A'", id="no namespace"),
        pytest.param(["--catalogue", "missing.yaml", "list"], "missing.yaml: cannot be read", id="no catalogue"),
    ],
)
def test_errors_go_to_stderr_with_status_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert not captured.out


def test_a_bad_label_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["prepull", "--node-label", "gpu"])
    assert caught.value.code == 2
    assert "write KEY=VALUE" in capsys.readouterr().err


def test_a_catalogue_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "kind: VariantCatalogue\nvariants:\n"
        "- {name: mine, model: /models/mine, weights_gib: 4, kv_kib_per_token: 112, gpu_memory_gib: 22.5}\n"
    )

    assert main(["--catalogue", str(mine), "list"]) == 0
    assert capsys.readouterr().out == "mine\t1 × 22.5 GiB\t/models/mine\n"


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        pytest.param("manifests qwen3-vl-8b | true", 0, "", id="a reader that has left"),
        pytest.param("list >&-", 1, "error: stdout is closed, so nothing could be printed\n", id="closed"),
    ],
)
def test_a_stdout_that_takes_nothing(command: str, status: int, said: str) -> None:
    line = f"set -o pipefail; {sys.executable} -m inference {command}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (status, said)


def test_it_ships_alone() -> None:
    """Neither the forecaster nor the scaler, no cluster client and no numerics: what a serving host does not need."""
    code = (
        "import sys, inference.__main__\n"
        "heavy = {'forecaster', 'scaler', 'kubernetes', 'prometheus_api_client', 'numpy', 'pandas', 'torch', 'vllm'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert answer.stdout == "[]\n"
