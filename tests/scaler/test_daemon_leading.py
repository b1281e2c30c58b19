"""What the settings make of a daemon in the election, and how it hands over."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kube_double import KubeDouble
from scaler.adapters.leadership import Ears, LeaderElection
from scaler.config import Config, HaConfig, parse_config
from scaler.daemon.leading import Alone, Contender, contender_of, rule_of


def config(double: KubeDouble, folder: Path, **ha: Any) -> Config:
    text = f"""apiVersion: headstart/v1
kind: Config
kubernetes: {{kubeconfig: "{double.kubeconfig(folder)}"}}
workloads: [{{workload: llm/chat, profile: qwen3-vl-2b-24gb}}]
"""
    return replace(parse_config(text, folder / "headstart.yaml"), ha=HaConfig(**ha))


def quiet(*_: object) -> None:
    """Nobody listens."""


def test_without_a_lease_a_daemon_always_writes(tmp_path: Path) -> None:
    with KubeDouble() as double:
        alone = contender_of(config(double, tmp_path), Ears(log=None), stands=lambda: True, observer=quiet)
        assert isinstance(alone, Alone)
        alone.start()
        assert (alone.leads, alone.lost, alone.election) == (True, None, None)
        alone.hand_over(lambda: False)
        alone.close()
        assert double.requests == []


def test_with_one_it_stands_by_until_it_has_it_and_limits_its_writes(tmp_path: Path) -> None:
    with KubeDouble() as double:
        settings = config(double, tmp_path, lease="headstart/headstart")
        contender = contender_of(settings, Ears(log=None), stands=lambda: True, observer=quiet)
        assert isinstance(contender, Contender)
        assert (contender.leads, contender.lost) == (False, None)
        assert contender.write_limit_s == pytest.approx(2.0)


def test_each_process_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restarted container has its pod's name, and must not take its own old lease for a claim."""
    monkeypatch.setenv("HOSTNAME", "headstart-7d9f" + "x" * 200)
    first, second = rule_of(HaConfig()).identity, rule_of(HaConfig()).identity
    assert first != second
    assert first.startswith("headstart-7d9f")
    assert len(first) < 128


@dataclass
class Ended:
    """An election that notes how it was ended."""

    gave_back: list[bool] = field(default_factory=list)

    def end(self, *, give_back: bool) -> None:
        self.gave_back.append(give_back)


@pytest.mark.parametrize(
    ("answers", "given_back"),
    [
        pytest.param([True], True, id="nothing under way"),
        pytest.param([False, False, True], True, id="the last answer comes"),
        pytest.param([False], False, id="a write might still be carried out: the lease runs out"),
    ],
)
def test_the_lease_is_given_back_once_no_write_is_under_way(answers: list[bool], given_back: bool) -> None:
    election, api = Ended(), None
    contender = Contender(api, election, quiet)  # type: ignore[arg-type]
    left = list(answers)
    contender.hand_over(lambda: left.pop(0) if len(left) > 1 else left[0])
    assert election.gave_back == [given_back]


def test_the_last_resort_is_armed_at_each_renewal_and_taken_back_at_the_end(tmp_path: Path) -> None:
    seconds: list[float] = []
    with KubeDouble() as double:
        double.namespace("headstart")
        renewed = "2026-01-05T09:00:00.000001Z"
        lease = {"metadata": {"namespace": "headstart", "name": "headstart"}, "spec": {"renewTime": renewed}}
        double.create("leases", lease)
        settings = config(double, tmp_path, lease="headstart/headstart")
        ears = Ears(log=Log(), on_renewed=seconds.append)
        contender = contender_of(settings, ears, stands=lambda: True, observer=quiet)
        assert isinstance(contender.election, LeaderElection)
        contender.election.turn()
        assert contender.leads
        contender.start()
        contender.hand_over(lambda: True)
        contender.close()
    assert 0.0 < seconds[0] <= 10.5
    assert seconds[-1] == 0.0


class Log:
    """Nobody reads it."""

    def info(self, *_: object, **__: object) -> None:
        """Nothing is kept."""

    warning = critical = info
