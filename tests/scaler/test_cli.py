"""The command line as people and scripts meet it: exit codes, what goes to stdout, what to stderr, in which words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon_cases import a_tick
from forecaster.types import Blind, BlindReason, Panel, SeriesKey
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot
from scaler.adapters.board import Board, View
from scaler.adapters.documents import decision_document, workloads_document
from scaler.adapters.states import statuses
from scaler.adapters.store import Store
from scaler.adapters.watchdog import Health
from scaler.cli import main
from scaler.commands import reading, watching
from scaler.commands.printing import Output
from scaler.config import data_folder
from scaler.loop import TickReport
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.types import LeadSource, LeadTime, PolicyState, Snapshot
from scaler.ports import DecisionRecord, Outcome, OutcomeKind

REPO = Path(__file__).resolve().parents[2]
GOLDEN = REPO / "tests" / "golden" / "cli"
EXAMPLE = str(data_folder() / "headstart.example.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


Headstart = Callable[..., Ran]


@pytest.fixture
def headstart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Headstart:
    """The command in this process, through the entry point that the package installs."""
    for name in ("HEADSTART_URL", "HEADSTART_DEBUG", "HEADSTART_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str | Path) -> Ran:
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        captured = capsys.readouterr()
        code = left.value.code
        return Ran(code=code if isinstance(code, int) else 0 if code is None else 1, out=captured.out, err=captured.err)

    return run


# ── A journal of half an hour ─────────────────────────────────────────────────────────────────────────────────

POLICY = replace(a_policy(), workload="llm/chat")
MINUTES = 30


def snapshot_at(minute: int) -> Snapshot:
    """Load that doubles after ten minutes; the pods follow the scale of 6."""
    rps = 40.0 if minute < 10 else 55.0
    now = NOON + minute * MINUTE
    return a_snapshot(rps=rps, desired=6, forecasts=(a_forecast(rps, spread_rps=1.0, issued_at=now),))


def records_of(policy: WorkloadPolicy, *, minutes: int = MINUTES) -> Iterator[DecisionRecord]:
    state = PolicyState()
    for minute in range(minutes):
        now, snapshot = NOON + minute * MINUTE, snapshot_at(minute)
        decision, after = decide(snapshot, state, policy, now=now)
        yield DecisionRecord(at=now, policy=policy, snapshot=snapshot, state=state, grant=None, decision=decision)
        state = after


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder as a daemon leaves it."""
    with Store.open(tmp_path, now=NOON) as store:
        for record in records_of(POLICY):
            store.journal.append([record])
            if record.changes:
                store.journal.record_outcomes(record.at, {"llm/chat": Outcome(kind=OutcomeKind.SCALED)})
    return tmp_path


# ── The front page ────────────────────────────────────────────────────────────────────────────────────────────


def test_help_makes_the_three_promises(headstart: Headstart) -> None:
    ran = headstart("--help")
    assert ran.code == 0
    for promise in ("If I die, nothing moves.", "If I am blind, I never scale in.", "I never exceed your limits."):
        assert promise in ran.out
    assert "..." not in ran.out.partition("Commands:")[2], "a command's line is cut off"


def test_help_is_the_one_on_record(headstart: Headstart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = headstart("--help").out.partition("Options:")[2]
    assert shown == (GOLDEN / "help.txt").read_text(encoding="utf-8")


def test_every_command_is_documented(headstart: Headstart) -> None:
    page = (REPO / "docs" / "cli.md").read_text(encoding="utf-8")
    commands = headstart("--help").out.partition("Commands:\n")[2].partition("\n\n")[0]
    names = [line.split()[0] for line in commands.splitlines()]
    assert all(f"`headstart {name}" in page for name in names)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        pytest.param(["exlpain"], "Did you mean 'explain'?", id="command"),
        pytest.param(["validate", EXAMPLE, "--ofline"], "Possible options: --offline", id="option"),
        pytest.param(["get", "-o", "yaml"], "'table', 'json'", id="value"),
        pytest.param(["tick"], "Missing option '--config'", id="nothing"),
        pytest.param(["schema", "-o", "table"], "must be json or markdown", id="schema's formats"),
    ],
)
def test_a_typo_is_told_with_what_was_meant(arguments: list[str], hint: str, headstart: Headstart) -> None:
    ran = headstart(*arguments)
    assert ran.code == 2
    assert hint in ran.err
    assert not ran.out


def test_version(headstart: Headstart) -> None:
    assert headstart("version").out.startswith("headstart 0.")
    assert json.loads(headstart("version", "-o", "json").out)["kind"] == "Version"


# ── Settings ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_validate_says_that_the_example_is_fine(headstart: Headstart) -> None:
    ran = headstart("validate", EXAMPLE, "--offline")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{EXAMPLE}: ok, 2 workloads (1 active), a budget of 64 GPUs\n"


def test_validate_counts_one_workload_as_one(headstart: Headstart, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(
        "apiVersion: headstart/v1\nkind: Config\nworkloads: [{workload: llm/chat, profile: qwen3-vl-2b-24gb}]\n"
    )
    ran = headstart("validate", file, "--offline")
    assert (ran.code, ran.out) == (0, f"{file}: ok, 1 workload (0 active), no GPU budget\n")


def test_validate_tells_what_servers_say_and_the_file_stays_right(
    headstart: Headstart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers, so there are findings; the exit code is the file's."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    file = tmp_path / "one.yaml"
    file.write_text(
        'apiVersion: headstart/v1\nkind: Config\nprometheus: {url: "http://127.0.0.1:1"}\n'
        "workloads: [{workload: llm/chat, profile: qwen3-vl-2b-24gb}]\n"
    )
    ran = headstart("validate", file)
    assert (ran.code, ran.out) == (0, f"{file}: ok, 1 workload (0 active), no GPU budget\n")
    prometheus, api = ran.err.splitlines()
    assert prometheus.startswith(
        "FAIL - prometheus: connection refused at http://127.0.0.1:1; fix: check prometheus.url"
    )
    assert api.startswith("FAIL - api server: no access to Kubernetes through the kubeconfig")
    findings = json.loads(headstart("validate", file, "-o", "json").out)["findings"]
    assert [each["check"] for each in findings] == ["prometheus", "api server"]


def test_validate_tells_every_problem_of_a_file(headstart: Headstart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    ran = headstart("validate", "broken.yaml")
    assert ran.code == 2
    assert ran.out == (GOLDEN / "broken.txt").read_text(encoding="utf-8")
    assert ran.err == "22 problems found\n"
    assert "hunter2" not in ran.out


def test_validate_in_json(headstart: Headstart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    ran = headstart("validate", "broken.yaml", "-o", "json")
    document = json.loads(ran.out)
    assert (ran.code, document["kind"], document["ok"], len(document["issues"])) == (2, "Validation", False, 22)
    assert document["issues"][0] == {
        "file": "broken.yaml",
        "line": 1,
        "column": 13,
        "setting": "apiVersion",
        "text": 'must be headstart/v1, got "headstart/v2"',
    }


def test_validate_looks_for_secret_files_unless_offline(headstart: Headstart, tmp_path: Path) -> None:
    file = tmp_path / "h.yaml"
    file.write_text(
        "apiVersion: headstart/v1\nkind: Config\nprometheus: {bearer_token_file: token}\n"
        "workloads: [{workload: llm/chat, profile: qwen3-vl-2b-24gb}]\n"
    )
    assert headstart("validate", file, "--offline").code == 0
    ran = headstart("validate", file)
    assert ran.code == 2
    assert f"{file}:3:33: prometheus.bearer_token_file" in ran.out


@pytest.mark.parametrize("command", [["run"], ["tick", "--dry-run"]])
def test_a_broken_file_starts_nothing(
    command: list[str], headstart: Headstart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(GOLDEN)
    ran = headstart(*command, "--config", "broken.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == 'broken.yaml:1:13: apiVersion: must be headstart/v1, got "headstart/v2"'
    assert ran.err.splitlines()[-1] == "22 problems in the settings; nothing was started"


def test_schema_is_json(headstart: Headstart) -> None:
    assert json.loads(headstart("schema").out)["title"] == "Headstart settings"
    assert headstart("schema", "-o", "markdown").out.startswith("# Configuration")


# ── Watching, by the data folder ──────────────────────────────────────────────────────────────────────────────


def test_get_shows_every_workload(headstart: Headstart, data_dir: Path) -> None:
    ran = headstart("get", "--data-dir", data_dir)
    assert ran.code == 0
    assert ran.out.splitlines()[0].split() == list(watching._COLUMNS)
    assert "llm/chat" in ran.out
    assert "\x1b" not in ran.out, "colour where there is no terminal"


@pytest.mark.parametrize(
    ("lead", "shown"),
    [
        pytest.param(None, "3m (set)", id="nobody measures it"),
        pytest.param(LeadTime(seconds=180, starts=2), "3m (set)", id="too few starts"),
        pytest.param(LeadTime(seconds=180, starts=17, source=LeadSource.OWN), "3m (17)", id="measured"),
    ],
)
def test_get_shows_the_start_time_and_of_how_many_starts(
    lead: LeadTime | None, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = a_tick(replace(a_snapshot(rps=5, desired=1), lead_time=lead), POLICY)
    watching.put_workloads(workloads_document(View(report=report)))
    assert f"  {shown}  " in capsys.readouterr().out


def test_get_tells_an_old_tick_from_a_new_one(headstart: Headstart, data_dir: Path) -> None:
    """A data folder whose daemon has ended looks like one that runs, but for the time of its last tick."""
    assert headstart("get", "--data-dir", data_dir).out.splitlines()[-1] == "last tick 2026-03-02 12:29:00 UTC"


def test_get_in_json(headstart: Headstart, data_dir: Path) -> None:
    document = json.loads(headstart("get", "--data-dir", data_dir, "-o", "json").out)
    assert document["kind"] == "WorkloadList"
    assert document["items"][0]["workload"] == "llm/chat"


def test_explain_is_the_record_itself_in_json(headstart: Headstart, data_dir: Path) -> None:
    document = json.loads(headstart("explain", "llm/chat", "--data-dir", data_dir, "-o", "json").out)
    assert (document["apiVersion"], document["kind"]) == ("headstart/v1", "Decision")
    assert document["at"] == (NOON + 29 * MINUTE).isoformat()
    assert {"policy", "snapshot", "state", "grant", "decision", "outcome"} <= set(document)


def test_explain_at_a_moment(headstart: Headstart, data_dir: Path) -> None:
    ran = headstart("explain", "llm/chat", "--at", "2026-03-02T12:05:30Z", "--data-dir", data_dir)
    assert ran.code == 0
    assert ran.out.startswith("llm/chat  2026-03-02 12:05:00 UTC  ")
    for part in ("read ", "ahead ", "rules ", "clamps ", "result ", "next "):
        assert f"\n  {part}" in ran.out


def test_a_decision_survives_its_way_through_json() -> None:
    """`explain --url` reads the record from the daemon's answer: nothing of it may be lost."""
    for record in records_of(POLICY, minutes=12):
        assert reading.record_from(json.loads(json.dumps(decision_document(record, None)))) == record


def test_a_blind_workload_is_told_with_the_next_command() -> None:
    blind = Blind(reason=BlindReason.NO_SERIES, detail="query returned no series; query up; found nothing")
    snapshot = a_snapshot(rps=blind, desired=6)
    decision, _ = decide(snapshot, PolicyState(), POLICY, now=NOON)
    record = DecisionRecord(
        at=NOON, policy=POLICY, snapshot=snapshot, state=PolicyState(), grant=None, decision=decision
    )
    text = watching.decision_text(decision_document(record, None))
    assert "BLIND  llm/chat: query returned no series\n  query   up\n  found   nothing\n" in text
    assert "now     holding 6 replicas" in text
    assert "fix     headstart doctor --workload llm/chat, or set selector." in text


def test_forecast_shows_the_quantiles(headstart: Headstart, data_dir: Path) -> None:
    ran = headstart("forecast", "llm/chat", "--data-dir", data_dir)
    assert ran.out.splitlines()[0].startswith("llm/chat  default  by test  issued 12:29:00, EXPIRED 12:39:00")
    assert "95 %" in ran.out
    document = json.loads(headstart("forecast", "llm/chat", "--data-dir", data_dir, "-o", "json").out)
    assert document["kind"] == "Forecast"
    assert (document["calendar"]["events"], document["classes"][0]["lead_horizon_s"]) == ([], 240.0)
    assert document["unknown"][0].startswith("default: the members' weights"), "no engine's memory is stored here"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["explain", "llm/chta"], "no workload 'llm/chta'; did you mean llm/chat?", id="typo"),
        pytest.param(["explain", "chat"], "a workload is named namespace/name", id="no namespace"),
        pytest.param(["explain", "llm/chat", "--at", "noon"], "a moment is written like", id="moment"),
        pytest.param(["explain", "llm/chat", "--at", "2020-01-01T00:00"], "holds no decision on llm/chat in the hour", id="too early"),
        pytest.param(["forecast", "llm/other"], "known: llm/chat", id="unknown"),
    ],
)  # fmt: skip
def test_a_question_without_an_answer(arguments: list[str], said: str, headstart: Headstart, data_dir: Path) -> None:
    ran = headstart(*arguments, "--data-dir", data_dir)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err


def test_a_folder_without_a_data_file(headstart: Headstart, tmp_path: Path) -> None:
    ran = headstart("get", "--data-dir", tmp_path)
    assert ran.code == 1
    assert "there is no data file" in ran.err
    assert not list(tmp_path.iterdir()), "a reading command made a file"


def test_an_empty_journal(headstart: Headstart, tmp_path: Path) -> None:
    Store.open(tmp_path, now=NOON).close()
    assert "no tick has finished yet" in headstart("get", "--data-dir", tmp_path).err


# ── Watching, by the daemon's API ─────────────────────────────────────────────────────────────────────────────


class _Records:
    """The API's journal, empty."""

    def find(self, workload: str, *, at: datetime) -> None:
        return None


@pytest.fixture
def daemon_url(tmp_path: Path) -> Iterator[str]:
    """The daemon's real web server over one finished tick, with a token."""
    from prometheus_client import CollectorRegistry

    from scaler.web.app import Sources, create_app
    from scaler.web.server import WebServer

    records = tuple(records_of(POLICY, minutes=1))
    report = TickReport(at=NOON, records=records, signals={}, outcomes={}, states={"llm/chat": PolicyState()})
    board = Board()
    board.publish(View(report=report, statuses=statuses(report, {}), notes={"llm/chat": ("a note",)}))
    (tmp_path / "token").write_text("hunter2\n")
    sources = Sources(
        board=board,
        registry=CollectorRegistry(),
        health=lambda: Health(alive=True, reason="", since=NOON),
        ready=lambda: True,
        records=_Records(),
    )
    server = WebServer(create_app(sources, token_file=tmp_path / "token"), host="127.0.0.1", port=0)
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


def test_the_api_answers_the_same_as_the_data_folder(headstart: Headstart, daemon_url: str, tmp_path: Path) -> None:
    asked = ("--url", daemon_url, "--token-file", tmp_path / "token")
    ran = headstart("get", *asked)
    assert "llm/chat" in ran.out
    assert "llm/chat: a note" in ran.out
    assert headstart("explain", "llm/chat", *asked).out.startswith("llm/chat  2026-03-02 12:00:00 UTC  holds 6")
    assert json.loads(headstart("forecast", "llm/chat", *asked, "-o", "json").out)["kind"] == "Forecast"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["get"], "answered 401: send the token (token_needed); name the token's file with --token-file", id="no token"),
        pytest.param(["get", "--token-file", "nowhere"], "the token cannot be read from nowhere", id="no token file"),
        pytest.param(["explain", "llm/none", "--token-file", "TOKEN"], "answered 404: no workload 'llm/none'", id="unknown"),
        pytest.param(
            ["explain", "llm/chat", "--at", "2026-03-02T12:00Z", "--token-file", "TOKEN"], "answered 404: the journal holds", id="journal"
        ),
        pytest.param(["get", "--data-dir", "."], "--url and --data-dir exclude each other", id="both"),
    ],
)  # fmt: skip
def test_the_api_refuses(
    arguments: list[str], said: str, headstart: Headstart, daemon_url: str, tmp_path: Path
) -> None:
    known = [str(tmp_path / "token") if each == "TOKEN" else each for each in arguments]
    ran = headstart(*known, "--url", daemon_url)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err
    assert "hunter2" not in ran.err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        pytest.param("http://127.0.0.1:9", "no daemon answers at http://127.0.0.1:9", id="nobody there"),
        pytest.param("ftp://x", "--url must be an http or https address", id="scheme"),
        pytest.param("http://me:hunter2@127.0.0.1:9", "must not contain a user or password", id="password"),
    ],
)
def test_a_daemon_that_is_not_there(url: str, said: str, headstart: Headstart) -> None:
    ran = headstart("get", "--url", url)
    assert ran.code == 1
    assert said in ran.err
    assert "hunter2" not in ran.err


class _Changing:
    """A source whose tick advances at every second look."""

    def __init__(self) -> None:
        self.looks = 0

    def workloads(self) -> dict[str, Any]:
        self.looks += 1
        return {"kind": "WorkloadList", "at": str(self.looks // 2), "items": []}

    def decision(self, workload: str, at: datetime | None) -> dict[str, Any]:
        raise AssertionError

    def forecast(self, workload: str) -> dict[str, Any]:
        raise AssertionError


def test_watching_prints_each_tick_once_as_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    source = _Changing()

    def pause(_: float) -> None:
        if source.looks == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watching.get(source, Output.JSON, watch=True, pause=pause)
    assert [json.loads(line)["at"] for line in capsys.readouterr().out.splitlines()] == ["0", "1", "2", "3"]


def test_a_moment_that_is_none_is_shown_as_it_was_typed(headstart: Headstart, data_dir: Path) -> None:
    assert "got '25:00'" in headstart("explain", "llm/chat", "--at", "25:00", "--data-dir", data_dir).err


def test_a_clock_time_is_today() -> None:
    today = datetime.now(UTC)
    assert watching.moment("12:03") - today.replace(hour=12, minute=3, second=0, microsecond=0) in (
        timedelta(0),
        timedelta(days=1),
    )


# ── Jobs on files ─────────────────────────────────────────────────────────────────────────────────────────────


def test_replay_decides_everything_again_and_finds_no_difference(headstart: Headstart, data_dir: Path) -> None:
    ran = headstart("replay", data_dir)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "30 decisions from 2026-03-02T12:00:00+00:00 to 2026-03-02T12:29:00+00:00 decided again: 0 differ\n"
    )
    assert headstart("replay", data_dir / "headstart.db", "--since", "2026-03-02T12:20Z").out.startswith("10 decisions")


def test_replay_under_other_settings_shows_what_would_have_changed(
    headstart: Headstart, data_dir: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "other.yaml"
    settings.write_text(
        "apiVersion: headstart/v1\nkind: Config\nworkloads:\n  - workload: llm/chat\n    mode: active\n"
        "    profile: {name: half, classes: [{name: default, max_rps: 5}]}\n    bounds: {max_replicas: 100}\n"
    )
    ran = headstart("replay", data_dir, "--policy-file", settings, "-o", "json")
    document = json.loads(ran.out)
    assert (ran.code, document["kind"], document["decisions"]) == (3, "Replay", 30)
    assert document["differences"] == len(document["rows"]) > 0
    first = document["rows"][0]
    assert first["recorded"]["target"] == 6
    assert first["replayed"]["target"] > 6  # half the capacity wants twice the replicas
    table = headstart("replay", data_dir, "--policy-file", settings)
    assert table.code == 3
    assert "differ" in table.out.splitlines()[-1]


def test_replay_under_settings_that_change_no_result(headstart: Headstart, data_dir: Path, tmp_path: Path) -> None:
    """Observing steers no quantile, so numbers inside the decisions differ; the replicas and reasons are the same."""
    settings = tmp_path / "same.yaml"
    profile = POLICY.profile.classes[0]
    settings.write_text(
        "apiVersion: headstart/v1\nkind: Config\nworkloads:\n  - workload: llm/chat\n    mode: observe\n"
        f"    start_time: 3m\n    bounds: {{max_replicas: 100}}\n"
        f"    profile: {{name: same, classes: [{{name: {profile.name}, max_rps: {profile.max_rps}}}]}}\n"
    )
    ran = headstart("replay", data_dir, "--policy-file", settings)
    assert (ran.code, ran.out.splitlines()[-1][-8:]) == (0, "0 differ")


def test_replay_under_settings_of_other_workloads(headstart: Headstart, data_dir: Path, tmp_path: Path) -> None:
    settings = tmp_path / "other.yaml"
    settings.write_text(
        "apiVersion: headstart/v1\nkind: Config\nworkloads: [{workload: llm/none, profile: qwen3-vl-2b-24gb}]\n"
    )
    ran = headstart("replay", data_dir, "--policy-file", settings)
    assert (ran.code, ran.out) == (1, "")
    assert "names none of the workloads on record: llm/chat" in ran.err


def test_replay_of_nothing(headstart: Headstart, data_dir: Path) -> None:
    ran = headstart("replay", data_dir, "--workload", "llm/none")
    assert ran.code == 1
    assert "holds no decision of llm/none" in ran.err


def test_models_list_reads_the_shipped_and_the_sites_own(headstart: Headstart, tmp_path: Path) -> None:
    assert headstart("models", "list", "--data-dir", tmp_path).code == 0
    document = json.loads(headstart("models", "list", "--data-dir", tmp_path, "-o", "json").out)
    assert document["kind"] == "ModelList"
    assert all(row["from"] == "shipped" for row in document["items"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["rollback", "lstn"], "no stored model is called 'lstn'; there are arima", id="unknown model"),
        pytest.param(["rollback", "arima"], "has no earlier version", id="nothing to go back to"),
        pytest.param(["promote", "arima", "../../etc"], "arima", id="no version"),
    ],
)
def test_models_refuses(arguments: list[str], said: str, headstart: Headstart, tmp_path: Path) -> None:
    ran = headstart("models", *arguments, "--data-dir", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err


def test_train_without_a_history(headstart: Headstart, tmp_path: Path) -> None:
    ran = headstart("train", "--data-dir", tmp_path)
    assert ran.code == 1
    assert "there is no data file" in ran.err or "pip install 'headstart[train]'" in ran.err


def test_train_on_the_daemons_history(headstart: Headstart, tmp_path: Path) -> None:
    pytest.importorskip("statsmodels", reason="needs the train extra")
    pytest.importorskip("torch", reason="needs the train extra")
    minutes = np.arange(5 * 1440)
    wave = 50.0 + 40.0 * np.sin(2.0 * np.pi * minutes / 1440.0)
    # With its noise: of a pure wave yesterday says everything, and nothing could be better than seasonal-naive.
    arrivals = np.random.default_rng(1).poisson(60.0 * wave) / 60.0
    panel = Panel(
        keys=(SeriesKey(workload="llm/chat", signal="demand_rps"),), start=NOON, step=MINUTE, values=arrivals[None, :]
    )
    with Store.open(tmp_path, now=NOON) as store:
        store.history.append(panel, now=panel.end)
    ran = headstart("train", "--data-dir", tmp_path, "--models", "holt-winters", "-o", "json")
    (outcome,) = json.loads(ran.out)["models"]
    assert (ran.code, outcome["promoted"], outcome["failed"]) == (0, True, {})
    live = json.loads(headstart("models", "list", "--data-dir", tmp_path, "-o", "json").out)["items"][0]
    assert (live["model"], live["version"], live["live"]) == ("holt-winters", outcome["version"], True)
    assert live["report"] is not None
    table = headstart("models", "list", "--data-dir", tmp_path)
    assert table.out.splitlines()[2].split()[:3] == ["holt-winters", outcome["version"], "live"]
    assert "beats every rival" in table.out
    assert headstart("models", "promote", "holt-winters", live["version"], "--data-dir", tmp_path).out == (
        f"holt-winters: {live['version']} is live now\n"
    )


def test_train_on_too_little(headstart: Headstart, tmp_path: Path) -> None:
    pytest.importorskip("statsmodels", reason="needs the train extra")
    pytest.importorskip("torch", reason="needs the train extra")
    trace = tmp_path / "t.csv"
    trace.write_text("timestamp,requests\n2026-03-02T12:00:00,5\n2026-03-02T12:01:00,6\n")
    ran = headstart("train", "--trace", trace, "--data-dir", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert "error: training needs over two days" in ran.err


def test_export_writes_what_the_history_holds(headstart: Headstart, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the analytics extra")
    key = SeriesKey(workload="llm/chat", signal="demand_rps")
    with Store.open(tmp_path, now=NOON) as store:
        for minute in range(5):
            at = NOON + minute * MINUTE
            store.history.append([(key, at, float(minute))], now=at + MINUTE)
    out = tmp_path / "history.parquet"
    ran = headstart("export", "--data-dir", tmp_path, "--out", out)
    assert ran.code == 0, ran.err
    table = parquet.read_table(out)
    assert table.num_rows == 5
    assert {"unique_id", "ds", "y"} <= set(table.column_names)
    refused = headstart("export", "--data-dir", tmp_path, "--out", out, "-w", "llm/none")
    assert "no such series; it holds demand_rps of llm/chat" in refused.err
    nowhere = headstart("export", "--data-dir", tmp_path, "--out", tmp_path / "none" / "history.parquet")
    assert f"there is no folder {tmp_path / 'none'}" in nowhere.err


@dataclass(frozen=True, slots=True, kw_only=True)
class _DemoResult:
    """What `run_demo` answers, as far as the command reads it."""

    report: Path
    wall_s: float = 3.0

    def as_json(self) -> dict[str, Any]:
        figures = {"gpu_ratio": float("nan"), "under_provisioned_ratio": 0.0, "scale_events": 4, "pod_starts": 5}
        return {
            "kind": "Simulation",
            "trace": "demo week, seed 7",
            "policies": [
                {"name": "headstart", "gpu_hours": 120.0, "under_provisioned_minutes": 30.0, **figures},
                {"name": "reactive", "gpu_hours": 100.0, "under_provisioned_minutes": 150.0, **figures},
            ],
        }


def test_demo_compares_every_policy_with_reactive(
    headstart: Headstart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, int]] = []

    def run_demo(out: Path, seed: int, progress: Callable[[float, str], None]) -> _DemoResult:
        asked.append((out, seed))
        progress(0.5, "half way")
        return _DemoResult(report=out / "report.html")

    monkeypatch.setattr("scaler.simulate.demo.run_demo", run_demo)
    ran = headstart("demo", "--out", tmp_path, "--seed", "7")
    assert (ran.code, ran.err, asked) == (0, "", [(tmp_path, 7)])
    assert ran.out.splitlines()[2].split() == ["headstart", "120.0", "1.20", "30", "0.20", "4", "5"]
    assert str(tmp_path / "report.html") in ran.out
    document = json.loads(headstart("demo", "--out", tmp_path, "-o", "json").out)
    assert document["policies"][0]["gpu_ratio"] is None  # JSON has no NaN


# ── A round ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tick_that_sees_nothing_says_so_and_writes_nothing(tmp_path: Path) -> None:
    """No Prometheus and no API server: each blindness is told with its way out, and no secret with it."""
    (tmp_path / "h.yaml").write_text(
        "apiVersion: headstart/v1\nkind: Config\n"
        "prometheus: {url: 'http://127.0.0.1:9', deadline_s: 2}\nkubernetes: {kubeconfig: kubeconfig}\n"
        "workloads: [{workload: llm/chat, profile: qwen3-vl-2b-24gb, mode: active}]\n"
    )
    (tmp_path / "kubeconfig").write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}], users: [{name: u, user: {token: hunter2}}]}"
    )
    before = sorted(tmp_path.iterdir())
    told = process("tick", "--config", str(tmp_path / "h.yaml"), "--dry-run")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("llm/chat  ")
    assert "UTC  nothing written\n" in told.stdout
    assert told.stdout.count("BLIND  llm/chat: the server cannot be reached\n") == 2
    record = process("tick", "--config", str(tmp_path / "h.yaml"), "--dry-run", "-o", "json")
    document = json.loads(record.stdout)
    assert (document["kind"], document["decision"]["target"], document["decision"]["action"]) == (
        "Decision",
        None,
        "hold",
    )
    assert sorted(tmp_path.iterdir()) == before, "a dry run left something"
    assert "hunter2" not in told.stdout + told.stderr + record.stdout + record.stderr


# ── Real processes ────────────────────────────────────────────────────────────────────────────────────────────


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scaler.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom scaler.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'pydantic', 'yaml', 'rich', 'kubernetes', 'starlette', 'structlog', 'forecaster.types', 'sqlite3'}\n"
        "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, timeout=60, check=True
    )
    assert done.stderr == ""


def test_an_error_is_a_line_unless_the_traceback_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "headstart.db").write_bytes(b"no database" * 200)
    plain = process("get", "--data-dir", str(tmp_path))
    assert plain.returncode == 1
    assert plain.stderr.startswith("error: ")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in process("--debug", "get", "--data-dir", str(tmp_path)).stderr


def test_a_closed_stdout_is_an_error_in_plain_words(data_dir: Path) -> None:
    for arguments in ("schema", f"get --data-dir {data_dir}"):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m scaler.cli {arguments} >&-"],
            capture_output=True,
            text=True,
            cwd=REPO,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, "error: stdout is closed, so nothing could be printed\n")


@pytest.mark.parametrize(
    ("environment", "styled"),
    [pytest.param({}, True, id="terminal"), pytest.param({"NO_COLOR": "1"}, False, id="NO_COLOR")],
)
def test_a_table_is_plain_text_where_no_colour_is_wanted(environment: dict[str, str], styled: bool) -> None:
    parent, child = os.openpty()
    without = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    done = subprocess.run(
        [sys.executable, "-m", "scaler.cli", "models", "list"],
        stdout=child,
        cwd=REPO,
        env={**without, "TERM": "xterm", **environment},
        timeout=60,
        check=True,
    )
    os.close(child)
    shown = os.read(parent, 65_536).decode()
    os.close(parent)
    assert done.returncode == 0
    assert ("\x1b" in shown) is styled


def test_a_terminal_that_knows_no_arrows_gets_question_marks() -> None:
    done = process("schema", "-o", "markdown", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Pod created ? Ready" in done.stdout


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m scaler.cli schema | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=REPO, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_watching_ends_when_it_is_interrupted(data_dir: Path) -> None:
    command = [sys.executable, "-m", "scaler.cli", "get", "-w", "-o", "json", "--data-dir", str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO) as watching_now:
        assert watching_now.stdout is not None
        assert watching_now.stderr is not None
        assert json.loads(watching_now.stdout.readline())["kind"] == "WorkloadList"
        watching_now.send_signal(signal.SIGINT)
        assert watching_now.wait(timeout=30) == 0
        assert watching_now.stderr.read() == ""
