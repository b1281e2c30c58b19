"""When settings are read again, what of a change counts at once, and what is told.

Properties: taking up any settings leaves what needs a restart as it runs; settings that did not change change nothing.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policy_cases import NOON
from scaler.adapters.board import Board
from scaler.config import Config, parse_config, read_config
from scaler.daemon.reload import (
    LIVE,
    LOOK_EVERY_S,
    Change,
    PendingSettings,
    Reloader,
    change_between,
    fingerprint,
    started,
    taken_up,
)

TEXT = """
apiVersion: headstart/v1
kind: Config
workloads:
  - {workload: llm/chat, profile: qwen3-vl-2b-24gb}
  - {workload: llm/code, profile: qwen3-vl-2b-24gb, scheduled: {holidays: DE}}
"""


def settings(old: str = "", new: str = "", *, more: str = "") -> Config:
    """The settings above, one text in them replaced."""
    assert old in TEXT
    return parse_config(TEXT.replace(old, new) + more, Path("headstart.yaml"))


# ── What differs ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(settings(), Change(), id="nothing"),
        pytest.param(settings("llm/code", "llm/new"), Change(added=("llm/new",), removed=("llm/code",)), id="renamed"),
        pytest.param(settings("llm/chat,", "llm/chat, priority: 3,"), Change(changed=("llm/chat",)), id="a rule"),
        pytest.param(
            settings("llm/chat,", "llm/chat, selector: {labels: {model_name: c}},"),
            Change(changed=("llm/chat",)),
            id="a selector",
        ),
        pytest.param(settings("holidays: DE", "holidays: FR"), Change(changed=("llm/code",)), id="a calendar"),
        pytest.param(
            settings("llm/chat,", "llm/chat, target: {name: other},"),
            Change(changed=("llm/chat",), retargeted=("llm/chat",)),
            id="another object to scale is another past",
        ),
        pytest.param(settings(more="budget: {gpus: 8}\n"), Change(settings=("budget",)), id="the budget"),
        pytest.param(
            settings(more='prometheus: {url: "http://other:9090"}\nforecast: {ttl: 5m, refit: "04:00"}\n'),
            Change(settings=("prometheus.url", "forecast.refit", "forecast.ttl")),
            id="sections that count at once",
        ),
        pytest.param(
            settings(more="discover: {namespaces: [llm], confirm: 30}\n"),
            Change(settings=("discover.namespaces", "discover.confirm")),
            id="where annotations are searched",
        ),
        pytest.param(
            settings(more="data_dir: other\nhttp: {port: 9}\nkubernetes: {context: prod}\ntick: 30s\n"),
            Change(needs_restart=("kubernetes.context", "data_dir", "tick", "http.port")),
            id="what needs a restart",
        ),
    ],
)
def test_a_change_is_told_by_its_parts(wanted: Config, expected: Change) -> None:
    assert change_between(settings(), wanted) == expected


def test_taking_up_leaves_what_needs_a_restart_as_it_runs() -> None:
    running = settings()
    wanted = settings("llm/code", "llm/new", more="data_dir: other\nhttp: {port: 9}\ntick: 30s\nbudget: {gpus: 8}\n")
    config = taken_up(running, wanted)
    assert (config.data_dir, config.http, config.tick) == (running.data_dir, running.http, running.tick)
    assert config.fleet.budget.gpus == 8
    assert {policy.workload: policy.tick for policy in config.fleet.workloads} == dict.fromkeys(
        ("llm/chat", "llm/new"), timedelta(minutes=1)
    )
    assert change_between(config, wanted).needs_restart == ("data_dir", "tick", "http.port"), "it still waits"
    assert change_between(config, wanted) == Change(needs_restart=("data_dir", "tick", "http.port"))


def test_every_live_setting_is_one() -> None:
    assert {each.name for each in dataclasses.fields(Config)} >= LIVE


def test_the_settings_wanted_last_count_and_are_taken_once() -> None:
    pending = PendingSettings(Board(), Log())
    first, last = settings(), settings("llm/code", "llm/new")
    pending.put(first)
    pending.put(last)
    assert pending.take() is last
    assert pending.take() is None


# ── When the file is read ─────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Log:
    """Keeps what was said."""

    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **keys: Any) -> None:
        self.said.append((event, keys))

    error = info


class Desk:
    """A reloader with a clock that the test moves, over files that the test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "headstart.yaml"
        if not self.file.exists():
            self.write(TEXT)
        self.board, self.log, self.asked = Board(), Log(), threading.Event()
        self.taken: list[Config] = []
        self.running = read_config(self.file)
        self.uptime_s = 1e9
        started(self.board)
        self.reloader = Reloader(lambda: self.running, self._take, self.board, self.log, asked=self.asked)

    def _take(self, wanted: Config) -> None:
        self.running = wanted
        self.taken.append(wanted)

    def write(self, text: str, name: str = "headstart.yaml") -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def look(self, times: int = 1) -> None:
        """So many looks, each when it is due."""
        for _ in range(times):
            self.uptime_s += LOOK_EVERY_S
            self.reloader.look(now=NOON, uptime_s=self.uptime_s)

    @property
    def refusals(self) -> list[dict[str, Any]]:
        return [keys for event, keys in self.log.said if event == "reload_refused"]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_file_that_stays_as_it_was_is_not_read(desk: Desk) -> None:
    desk.write(TEXT)  # written again, and alike: another time, the same content
    desk.look(5)
    assert desk.taken == []


def test_a_change_counts_once_it_has_stayed_for_a_look(desk: Desk) -> None:
    desk.write(TEXT.replace("llm/code", "llm/new"))
    desk.look()
    assert desk.taken == [], "it may still be written to"
    desk.look(4)
    (taken,) = desk.taken
    assert taken.policy("llm/new") is not None


def test_a_file_cut_short_for_a_moment_is_never_believed(desk: Desk) -> None:
    """An editor that truncates and writes: without its last line the file is valid and has one workload less."""
    desk.write(TEXT.strip().rpartition("\n")[0])
    desk.look()
    desk.write(TEXT)
    desk.look(4)
    assert desk.taken == []


def test_nothing_is_looked_at_before_it_is_due(desk: Desk) -> None:
    desk.look()
    desk.write(TEXT.replace("llm/code", "llm/new"))
    for _ in range(50):
        desk.reloader.look(now=NOON, uptime_s=desk.uptime_s + 0.9 * LOOK_EVERY_S)
    assert desk.taken == []


def test_whoever_asks_is_served_at_once(desk: Desk) -> None:
    desk.asked.set()
    desk.reloader.look(now=NOON, uptime_s=desk.uptime_s)
    assert len(desk.taken) == 1
    desk.look(3)
    assert len(desk.taken) == 1


def test_a_bad_file_is_told_once_and_read_again_when_it_changes(desk: Desk) -> None:
    desk.write(TEXT.replace("profile", "profil"))
    desk.look(6)
    (refused,) = desk.refusals
    assert refused["problems"][0].startswith(f"{desk.file}:5:5: workloads[0].profile: is required")
    assert refused["fix"] == f"headstart validate {desk.file}"
    assert desk.taken == []
    status = desk.board.settings()
    assert status is not None
    assert status.refused_at == NOON
    desk.write(TEXT)  # put back: the same as what runs, and the refusal is over
    desk.look(2)
    assert len(desk.taken) == 1
    assert desk.board.settings() == replace(status, refused_at=None, problem="")


def test_what_annotations_change_meanwhile_does_not_hide_a_file_that_cannot_be_used(desk: Desk) -> None:
    desk.write(TEXT.replace("profile", "profil"))
    desk.look(2)
    later = NOON + timedelta(minutes=1)
    PendingSettings(desk.board, desk.log).told(Change(added=("llm/found",)), now=later)
    status = desk.board.settings()
    assert status is not None
    assert (status.loaded_at, status.refused_at) == (later, NOON)
    assert "profile: is required" in status.problem


def test_a_file_that_is_gone_is_refused_and_taken_up_when_it_is_back(desk: Desk) -> None:
    desk.file.unlink()
    desk.look(3)
    assert "cannot be read: No such file" in desk.refusals[0]["problems"][0]
    desk.write(TEXT)
    desk.look(2)
    assert len(desk.taken) == 1


def test_a_profile_and_an_events_file_count_as_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("{name: own, classes: [{name: default, max_rps: 2}]}")
    (tmp_path / "events.yaml").write_text("{events: []}")
    text = TEXT.replace("llm/chat, profile: qwen3-vl-2b-24gb", "llm/chat, profile: ./own.yaml")
    (tmp_path / "headstart.yaml").write_text(text.replace("holidays: DE", "events_file: events.yaml"))
    desk = Desk(tmp_path)
    desk.write("{name: own, classes: [{name: default, max_rps: 3}]}", "own.yaml")
    desk.look(2)
    assert desk.taken[0].fleet.workloads[0].profile.max_rps("default") == 3
    event = 'name: sale, start: "2026-11-27T18:00Z", end: "2026-11-27T20:00Z"'
    desk.write(f"{{events: [{{{event}, expected_peak: [{{request_class: default, rps: 9}}]}}]}}", "events.yaml")
    desk.look(2)
    assert [event.name for event in desk.taken[1].fleet.workloads[1].scheduled.events] == ["sale"]


def test_a_file_that_is_missing_is_waited_for(desk: Desk) -> None:
    """The settings come first, the profile that they name later."""
    desk.write(TEXT.replace("llm/chat, profile: qwen3-vl-2b-24gb", "llm/chat, profile: ./own.yaml"))
    desk.look(3)
    assert "no such file" in desk.refusals[0]["problems"][0]
    desk.write("{name: own, classes: [{name: default, max_rps: 3}]}", "own.yaml")
    desk.look(2)
    assert desk.taken[0].fleet.workloads[0].profile.name == "own"


def test_a_mounted_config_map_is_swapped_behind_a_symlink(tmp_path: Path) -> None:
    """As the kubelet does it: files link into ..data, which is replaced whole."""
    for version, text in (("..1", TEXT), ("..2", TEXT.replace("llm/code", "llm/new"))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "headstart.yaml").write_text(text)
        os.utime(tmp_path / version / "headstart.yaml", (1e9, 1e9))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "headstart.yaml").symlink_to("..data/headstart.yaml")
    desk = Desk(tmp_path)
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    desk.look(2)
    assert desk.taken[0].policy("llm/new") is not None


def test_what_cannot_be_read_has_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    found = fingerprint([tmp_path / "gone", tmp_path / "there", tmp_path])
    assert found[tmp_path / "gone"] == found[tmp_path] == ""
    assert len(found[tmp_path / "there"]) == 64


def test_a_take_up_says_since_when_and_names_what_waits() -> None:
    board, log = Board(), Log()
    PendingSettings(board, log).told(replace(Change(), added=("llm/x",), needs_restart=("data_dir",)), now=NOON)
    status = board.settings()
    assert status is not None
    assert (status.loaded_at, status.refused_at, status.needs_restart) == (NOON, None, ("data_dir",))
    ((event, keys),) = log.said
    assert (event, keys["added"], keys["needs_restart"]) == ("reloaded", ["llm/x"], ["data_dir"])
