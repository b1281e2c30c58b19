"""Taking over from the command line: through the daemon's API or on its data folder, with the same answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policy_cases import NOON, a_policy, a_snapshot
from scaler.adapters.board import Board
from scaler.adapters.control_desk import ControlDesk
from scaler.adapters.control_file import FILE_NAME, ControlFile
from scaler.adapters.store import Store
from scaler.adapters.telemetry import Telemetry
from scaler.adapters.watchdog import Health
from scaler.cli import main
from scaler.policy.decide import decide
from scaler.policy.types import Mode, PolicyState
from scaler.ports import DecisionRecord
from scaler.web.app import Sources, create_app
from scaler.web.server import WebServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


Headstart = Callable[..., Ran]


@pytest.fixture
def headstart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Headstart:
    for name in ("HEADSTART_URL", "HEADSTART_DEBUG", "HEADSTART_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("scaler.commands.control._me", lambda: "ana@desk")

    def run(*arguments: str | Path) -> Ran:
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return Ran(code=int(left.value.code or 0), out=captured.out, err=captured.err)

    return run


class NoRecords:
    def find(self, workload: str, *, at: datetime) -> None:
        return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder whose daemon has decided on one workload."""
    place = tmp_path / "data"
    place.mkdir()
    snapshot, policy = a_snapshot(rps=5.0), a_policy()
    decision, _ = decide(snapshot, PolicyState(), policy, now=NOON)
    record = DecisionRecord(
        at=NOON, policy=policy, snapshot=snapshot, state=PolicyState(), grant=None, decision=decision
    )
    with Store.open(place, now=NOON) as store:
        store.journal.append([record])
    return place


@pytest.fixture
def daemon(folder: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Its API, which wants a token."""
    token_file = tmp_path / "token"
    token_file.write_text("s3cret\n", encoding="utf-8")
    board = Board()
    sources = Sources(
        board=board,
        registry=Telemetry(board).registry,
        health=lambda: Health(alive=True, since=NOON, reason="ticks finish"),
        ready=lambda: True,
        records=NoRecords(),
        desk=ControlDesk(ControlFile(folder), known=lambda: ["llm/chat"]),
    )
    server = WebServer(create_app(sources, token_file=token_file), host="127.0.0.1", port=0)
    server.start()
    yield f"http://127.0.0.1:{server.port}", token_file
    server.stop()


@pytest.fixture(params=["on the data folder", "through the daemon"])
def place(request: pytest.FixtureRequest, folder: Path) -> tuple[str | Path, ...]:
    """Where the command is sent: both ways must do the same."""
    if request.param == "on the data folder":
        return ("--data-dir", folder)
    url, token_file = request.getfixturevalue("daemon")
    return ("--url", url, "--token-file", token_file)


def ordered(folder: Path) -> Any:
    """What the daemon will read."""
    return ControlFile(folder).load().of("llm/chat", now=datetime.now(UTC))


def without_times(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "T", text)


def test_a_pause_and_its_end(headstart: Headstart, folder: Path, place: tuple[str | Path, ...]) -> None:
    ran = headstart("pause", "llm/chat", "--reason", "node maintenance", *place)
    assert (ran.code, without_times(ran.out)) == (
        0,
        "llm/chat: paused by ana@desk since T: node maintenance; nothing is written until headstart resume llm/chat\n",
    )
    assert ran.err == "in force for every write from now on; one that is being sent is finished\n"
    assert ordered(folder).pause.by == "ana@desk"
    assert headstart("resume", "llm/chat", *place).out == "llm/chat: nothing is ordered by hand: the rules decide\n"
    assert ordered(folder).pause is None


def test_an_override(headstart: Headstart, folder: Path, place: tuple[str | Path, ...]) -> None:
    asked = ("override", "llm/chat", "--replicas", "8", "--for", "2h", "--reason", "load test")
    before = datetime.now(UTC)
    ran = headstart(*asked, *place)
    after = datetime.now(UTC)
    assert ran.code == 0
    assert re.fullmatch(
        r"llm/chat: override: 8 replicas until T \(.* left\) by ana@desk since T: load test\n", without_times(ran.out)
    )
    override = ordered(folder).override
    assert (override.replicas, override.reason) == (8, "load test")
    assert before <= override.until - timedelta(hours=2) <= after


def test_the_whole_fleet(headstart: Headstart, folder: Path, place: tuple[str | Path, ...]) -> None:
    ran = headstart("pause", "-A", *place)
    assert ran.out == "the whole fleet is paused by ana@desk; nothing is written until headstart resume -A\n"
    assert ordered(folder).pause.source == "fleet"
    still = headstart("resume", "llm/chat", *place).out
    assert "until headstart resume -A" in still, "one cannot be given back while all are paused, and that is told"
    assert headstart("resume", "-A", *place).out == "nothing is ordered by hand: the rules decide\n"
    assert ordered(folder).pause is None


def test_modes(headstart: Headstart, folder: Path, place: tuple[str | Path, ...]) -> None:
    assert "mode by hand: observe by ana@desk" in headstart("observe", "llm/chat", "--reason", "launch", *place).out
    assert ordered(folder).mode.mode is Mode.OBSERVE
    headstart("enable", "llm/chat", *place)
    assert ordered(folder).mode.mode is Mode.ACTIVE
    headstart("resume", "llm/chat", *place)
    assert ordered(folder).mode is not None, "a mode stays"
    headstart("resume", "llm/chat", "--mode", *place)
    assert ordered(folder).mode is None


def test_in_json(headstart: Headstart, place: tuple[str | Path, ...]) -> None:
    document = json.loads(headstart("pause", "llm/chat", "-o", "json", *place).out)
    assert (document["apiVersion"], document["kind"]) == ("headstart/v1", "Control")
    assert document["items"][0]["workload"] == "llm/chat"
    assert document["items"][0]["pause"]["source"] == "workload"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["pause", "llm/chta"], "no workload 'llm/chta'; did you mean llm/chat?", id="misspelt"),
        pytest.param(["pause", "chat"], "a workload is named namespace/name", id="no namespace"),
        pytest.param(
            ["override", "llm/chat", "--replicas", "8", "--for", "9d", "--reason", "x"], "7 days at most", id="for ever"
        ),
        pytest.param(["pause", "llm/chat", "--reason", "x" * 501], "reason may have 500 characters", id="an essay"),
    ],
)
def test_what_cannot_be_followed_is_told_and_nothing_is_ordered(
    headstart: Headstart, folder: Path, place: tuple[str | Path, ...], arguments: list[str], words: str
) -> None:
    ran = headstart(*arguments, *place)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.err
    assert not (folder / FILE_NAME).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["pause"], "name one workload, such as llm/chat, or all of them with -A", id="nobody"),
        pytest.param(["pause", "llm/chat", "-A"], "name one workload", id="one and all"),
        pytest.param(["override", "llm/chat", "--replicas", "8", "--reason", "x"], "--for", id="no end"),
        pytest.param(["override", "llm/chat", "--replicas", "8", "--for", "2h"], "--reason", id="no reason"),
        pytest.param(
            ["override", "llm/chat", "--replicas", "-1", "--for", "2h", "--reason", "x"], "--replicas", id="minus one"
        ),
        pytest.param(
            ["override", "llm/chat", "--replicas", "8", "--for", "two", "--reason", "x"], "180s, 3m", id="no duration"
        ),
    ],
)
def test_a_usage_error_is_one(headstart: Headstart, folder: Path, arguments: list[str], words: str) -> None:
    ran = headstart(*arguments, "--data-dir", folder)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_both_places_are_one_too_many(headstart: Headstart, folder: Path) -> None:
    ran = headstart("pause", "llm/chat", "--data-dir", folder, "--url", "http://127.0.0.1:1")
    assert ran.code == 1
    assert "exclude each other" in ran.err


def test_a_folder_that_is_not_there_is_not_made(headstart: Headstart, tmp_path: Path) -> None:
    ran = headstart("pause", "llm/chat", "--data-dir", tmp_path / "dta")
    assert ran.code == 1
    assert "there is no folder" in ran.err
    assert not (tmp_path / "dta").exists()


def test_before_the_first_tick_any_name_is_taken_and_that_is_told(headstart: Headstart, tmp_path: Path) -> None:
    ran = headstart("pause", "llm/chat", "--data-dir", tmp_path)
    assert ran.code == 0
    assert "could not be checked" in ran.err
    assert ordered(tmp_path).pause is not None


def test_orders_that_cannot_be_read_are_not_written_over(headstart: Headstart, folder: Path) -> None:
    (folder / FILE_NAME).write_text("{", encoding="utf-8")
    ran = headstart("resume", "-A", "--data-dir", folder)
    assert ran.code == 1
    assert "mend it, or remove it to end all orders" in ran.err
    assert (folder / FILE_NAME).read_text(encoding="utf-8") == "{"


def test_a_daemon_that_refuses_is_told_in_its_words(headstart: Headstart, daemon: tuple[str, Path]) -> None:
    url, _ = daemon
    ran = headstart("pause", "llm/chat", "--url", url)
    assert ran.code == 1
    assert "401" in ran.err
    assert "--token-file" in ran.err


def test_without_a_daemon_it_says_where_it_looked(headstart: Headstart) -> None:
    ran = headstart("pause", "llm/chat", "--url", "http://127.0.0.1:1")
    assert ran.code == 1
    assert "no daemon answers at http://127.0.0.1:1" in ran.err
