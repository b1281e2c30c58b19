"""The Dockerfile and the trainer's shell, as far as they can be tested where no container engine is.

The image is not built here. Held are: what is copied is in the build context and is all that the package needs, the
user, port and folders are those of the chart, the core pulls in none of the heavy packages, and the trainer's script
waits for its hour, trains with options that exist, and ends at once when told to.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml

from chart_cases import CASES, CHART, pods_of, rendered
from helm_double import REPOSITORY
from scaler.config.values import HttpConfig

HEAVY = {"torch", "pandas", "scipy", "statsmodels", "lightgbm", "pyarrow", "duckdb", "ray"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def of(name: str) -> list[str]:
    return [rest for each, rest in instructions() if each == name]


def in_context() -> set[str]:
    """Top-level names that .dockerignore lets through: it ignores everything and names what it keeps."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line and not line.startswith("#")) == "*"
    return {line[1:] for line in lines if line.startswith("!")}


def test_what_is_copied_exists_and_is_in_the_context() -> None:
    sources = {source for rest in of("COPY") if "--from" not in rest for source in shlex.split(rest)[:-1]}
    assert sources == in_context()
    for source in sources:
        assert (REPOSITORY / source).exists(), source


def test_all_that_the_package_is_made_of_is_copied() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        *wheel["packages"],
        *wheel["force-include"],
        project["project"]["readme"],
        *project["project"]["license-files"],
    }
    assert needed | {"pyproject.toml", "constraints.txt"} == in_context()


def test_every_version_is_pinned() -> None:
    [install] = [rest for rest in of("RUN") if "pip" in rest and "install" in rest]
    assert "-c constraints.txt" in install
    assert all(":" in image or "$" in image for image in of("FROM"))


def test_it_runs_as_the_user_of_the_chart() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    [user] = of("USER")
    assert user == f"{values['runAsUser']}:{values['runAsUser']}"
    after = [name for name, _ in instructions()][[name for name, _ in instructions()].index("USER") :]
    assert "RUN" not in after
    [port] = of("EXPOSE")
    assert int(port) == values["http"]["port"] == HttpConfig().port
    assert of("ENTRYPOINT") == ['["headstart"]']
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert "headstart" in scripts


def test_the_core_brings_none_of_the_heavy_packages() -> None:
    """Every package that `pip install headstart` brings along, as far as it is installed here."""
    pending, seen = ["headstart"], set[str]()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needed = requires(name) or ()
        except PackageNotFoundError:
            continue  # only for another system or an older Python
        pending += [
            re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("_", "-") for line in needed if "extra ==" not in line
        ]
    assert {"numpy", "kubernetes", "uvicorn"} <= seen
    assert not seen & HEAVY
    assert not [name for name in seen if name.startswith("nvidia")]


# ── The trainer's shell ───────────────────────────────────────────────────────────────────────────────────────────


def nightly(folder: Path, *, clock_s: int, status: int) -> dict[str, str]:
    """An environment in which date, sleep and headstart write down how they were called."""
    programs = {
        "date": f"echo {clock_s}",
        "sleep": f'echo "sleep $1" >> {folder}/calls; [ "$(wc -l < {folder}/calls)" -lt 5 ] || exec /bin/sleep 600',
        "headstart": f'echo "headstart $*" >> {folder}/calls; exit {status}',
    }
    for name, body in programs.items():
        file = folder / name
        file.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        file.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def sidecar() -> list[str]:
    [trainer] = [
        each
        for each in pods_of(rendered(CASES["trainer beside the daemon"]))["headstart"]["spec"]["containers"]
        if each["name"] == "trainer"
    ]
    return [*trainer["command"], *trainer["args"]]


def until_called(folder: Path, calls: int) -> list[str]:
    """The lines written so far, once there are as many; the test's own time limit ends a wait in vain."""
    while not (folder / "calls").exists() or len((folder / "calls").read_text().splitlines()) < calls:
        time.sleep(0.01)
    return (folder / "calls").read_text().splitlines()


@pytest.mark.server
@pytest.mark.parametrize(
    ("clock_s", "wait_s"),
    [
        pytest.param(1_700_006_400, 300, id="midnight: five minutes to 00:05"),
        pytest.param(1_700_006_700, 86_400, id="exactly 00:05: tomorrow"),
        pytest.param(1_700_006_700 + 60, 86_340, id="a minute later"),
    ],
)
def test_the_sidecar_waits_for_its_hour_trains_and_waits_again(tmp_path: Path, clock_s: int, wait_s: int) -> None:
    child = subprocess.Popen(sidecar(), env=nightly(tmp_path, clock_s=clock_s, status=3), stderr=subprocess.DEVNULL)
    try:
        train = "headstart train --data-dir /var/lib/headstart --budget 50m --workers 1"
        assert until_called(tmp_path, 5) == [f"sleep {wait_s}", train, f"sleep {wait_s}", train, f"sleep {wait_s}"]
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 0
    finally:
        child.kill()
        child.wait()


@pytest.mark.server
@pytest.mark.parametrize(("status", "job"), [(0, 0), (3, 0), (1, 1)])
def test_a_cron_job_fails_only_where_training_did(tmp_path: Path, status: int, job: int) -> None:
    """Exit status 3 says that no model was better, which is a result."""
    [container] = pods_of(rendered(CASES["trainer as cron job"]))["headstart-0-train"]["spec"]["containers"]
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env=nightly(tmp_path, clock_s=0, status=status),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == job


def test_the_training_options_exist() -> None:
    from typer.testing import CliRunner

    from scaler.cli import app

    command = next(line for line in sidecar()[-1].splitlines() if "headstart train" in line)
    options = re.findall(r"--[a-z-]+", command)
    shown = CliRunner().invoke(app, ["train", "--help"]).output
    assert options
    assert [option for option in options if option not in shown] == []


@pytest.mark.parametrize(("at", "schedule"), [("03:10", "10 3 * * *"), ("13:09", "9 13 * * *"), ("00:00", "0 0 * * *")])
def test_each_replica_is_trained_beside_its_own_daemon(at: str, schedule: str) -> None:
    jobs = [
        each
        for each in rendered({**CASES["trainer as cron job"], "trainer": {"kind": "cronjob", "at": at}})
        if each["kind"] == "CronJob"
    ]
    assert [job["spec"]["schedule"] for job in jobs] == [schedule] * 2
    for number, job in enumerate(jobs):
        pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == f"data-headstart-{number}"
        [term] = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["labelSelector"]["matchLabels"]["statefulset.kubernetes.io/pod-name"] == f"headstart-{number}"
        assert term["topologyKey"] == "kubernetes.io/hostname"
