"""Who fits the parts: every engine answers each part once, a worker that dies costs a try, and none outlives its run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from forecaster.engines import HERE, Engine, Pool
from forecaster.errors import TrainingError
from forecaster.fits import Device, Part, parts_of
from forecaster.on_ray import Ray
from training_cases import a_panel

ENGINES = [pytest.param(HERE, id="here"), pytest.param(Pool(workers=2), id="pool")]


def parts(series: int = 20) -> tuple[Part, ...]:
    """The parts of a quick training."""
    return parts_of("holt-winters", a_panel(series), seed=1, steps=None, device=Device.CPU)


def silent(_name: str, _facts: object) -> None:
    """Nobody listens."""


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("engine", ENGINES)
def test_each_part_is_answered_once(engine: Engine) -> None:
    given = parts()
    found = [one.digest for one in engine.run(given, until_s=None, progress=silent)]
    assert sorted(found) == sorted(part.digest for part in given)
    assert list(engine.run((), until_s=None, progress=silent)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_that_is_closed_stops(engine: Engine) -> None:
    with closing(engine.run(parts(80), until_s=None, progress=silent)) as run:
        next(run)
    with pytest.raises(StopIteration):
        next(run)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pooled_fit_ends_with_its_time(engine: Engine) -> None:
    """Thousands of steps of a network; what it was at when time was up is dropped."""
    pytest.importorskip("torch", reason="needs the train extra")
    from datetime import timedelta

    panel = a_panel(1, days=2, step=timedelta(minutes=1))
    network = parts_of("lstm", panel, seed=1, steps=1_000_000, device=Device.CPU)
    assert list(engine.run(network, until_s=time.monotonic() + 2.0, progress=silent)) == []


def test_a_worker_tells_how_far_a_fit_is() -> None:
    pytest.importorskip("lightgbm", reason="needs the train extra")
    heard = []
    trees = parts_of("trees", a_panel(2), seed=1, steps=2, device=Device.CPU)
    (one,) = Pool(workers=1).run(trees, until_s=None, progress=lambda name, facts: heard.append((name, facts["done"])))
    assert one.data is not None
    assert heard == [("trees_level", level) for level in (1, 2, 3, 4)]


class Reaper:
    """Kills the first `victims` workers that it sees."""

    def __init__(self, victims: int) -> None:
        self.killed: set[int] = set()
        self._victims = victims
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._reap)

    def __enter__(self) -> Reaper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _reap(self) -> None:
        while len(self.killed) < self._victims and not self._done.wait(0.005):
            for task in Path(f"/proc/{os.getpid()}/task").iterdir():
                for pid in map(int, (task / "children").read_text().split()):
                    if pid not in self.killed and b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        self.killed.add(pid)
                        os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at /proc")
@pytest.mark.parametrize(
    ("deaths", "reason"),
    [
        pytest.param(1, None, id="once: it is fitted by another"),
        pytest.param(2, "its worker died 2 times (killed: out of memory?)", id="twice: it is given up"),
    ],
)
def test_a_worker_that_dies_costs_its_part_one_try(deaths: int, reason: str | None) -> None:
    with Reaper(deaths) as reaper:
        (one,) = Pool(workers=1).run(parts(3), until_s=None, progress=silent)
    assert len(reaper.killed) == deaths
    assert set(one.failed.values()) == ({reason} if reason else set())
    assert (one.data is None) == (reason is not None)


def test_the_job_itself_loads_no_fitting_library() -> None:
    """The workers do: the process of `headstart train` stays small."""
    import subprocess

    script = (
        "import sys\n"
        "from forecaster.engines import Pool\n"
        "from forecaster.fits import Device, parts_of\n"
        "from training_cases import a_panel\n"
        "if __name__ == '__main__':\n"
        "    parts = parts_of('arima', a_panel(1), seed=1, steps=None, device=Device.CPU)\n"
        "    (one,) = Pool(workers=1).run(parts, until_s=None, progress=lambda *_: None)\n"
        "    assert one.data, one.failed\n"
        "    print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    pytest.importorskip("statsmodels", reason="needs the train extra")
    tests = Path(__file__).resolve().parents[1]
    path = os.pathsep.join((str(tests), str(tests.parent)))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=150,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert "'numpy'" in done.stdout
    assert not [name for name in ("torch", "statsmodels", "pandas", "scipy", "ray") if f"'{name}'" in done.stdout]


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(TrainingError, match=r"pip install 'headstart\[ray\]'"):
        list(Ray().run(parts(1), until_s=None, progress=silent))
