"""What a training keeps until it has finished: believed only if it is whole, of this training, and not too old."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forecaster.errors import TrainingError
from forecaster.fits import Device, Fitted, fit_part, parts_of
from forecaster.unfinished import (
    CONTINUED_WITHIN,
    FOLDER,
    forget_history,
    keep_history,
    kept_history,
    working_in,
)
from training_cases import a_panel

PARTS = parts_of("holt-winters", a_panel(9), seed=1, steps=None, device=Device.CPU)
DONE = fit_part(PARTS[0])


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    failed = Fitted(model="holt-winters", digest=PARTS[1].digest, data=None, series=("a/b/c",), failed={"a/b/c": "no"})
    with working_in(tmp_path) as kept:
        assert kept.fitted(PARTS) == {}
        kept.keep(DONE)
        kept.keep(failed)
    with working_in(tmp_path) as kept:
        assert kept.fitted(PARTS) == {PARTS[0].digest: DONE, PARTS[1].digest: failed}
        kept.forget(PARTS)
        assert kept.fitted(PARTS) == {}


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-30]), id="cut off"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"[1, 2]"), id="something else"),
        pytest.param(
            lambda path: path.write_text(path.read_text().replace("0000", "0001", 1) + " "), id="changed by hand"
        ),
        pytest.param(
            lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "0" * 64})), id="hash"
        ),
        pytest.param(lambda path: path.rename(path.with_name(f"{PARTS[1].digest}.json")), id="of another part"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id="a folder"),
    ],
)
def test_what_is_damaged_counts_as_not_there(harm: Callable[[Path], object], tmp_path: Path) -> None:
    with working_in(tmp_path) as kept:
        kept.keep(DONE)
        path = tmp_path / FOLDER / f"{DONE.digest}.json"
        before = path.read_bytes()
        harm(path)
        found = kept.fitted(PARTS)
        assert found in ({}, {DONE.digest: DONE})
        assert found == {} or path.read_bytes() != before  # white space changes nothing that is read


def test_there_is_one_training_at_a_time(tmp_path: Path) -> None:
    with working_in(tmp_path):
        with pytest.raises(TrainingError, match="wait for it, or stop it"), working_in(tmp_path):
            pass
        with working_in(tmp_path / "another folder"):
            pass
    with working_in(tmp_path):
        pass


def test_half_a_part_is_swept_away_by_the_next_training(tmp_path: Path) -> None:
    with working_in(tmp_path):
        half = tmp_path / FOLDER / f".{DONE.digest}.json-x1y2"
        half.write_bytes(b'{"sha256": "')
    with working_in(tmp_path) as kept:
        assert not half.exists()
        assert kept.fitted(PARTS) == {}


def test_what_nobody_continued_is_dropped(tmp_path: Path) -> None:
    with working_in(tmp_path) as kept:
        kept.keep(DONE)
        kept.keep(replace(DONE, digest=PARTS[1].digest))
    long_ago = (datetime.now(UTC) - CONTINUED_WITHIN - timedelta(minutes=1)).timestamp()
    os.utime(tmp_path / FOLDER / f"{DONE.digest}.json", (long_ago, long_ago))
    with working_in(tmp_path) as kept:
        assert set(kept.fitted(PARTS)) == {PARTS[1].digest}


def test_a_training_goes_on_with_the_history_that_it_was_begun_on(tmp_path: Path) -> None:
    panel = a_panel(3)
    panel = replace(panel, reference=panel.values[:, ::-1].copy())
    assert kept_history(tmp_path, days=14, now=panel.end) is None
    keep_history(tmp_path, panel, days=14)
    back = kept_history(tmp_path, days=14, now=panel.end + CONTINUED_WITHIN)
    assert back is not None
    assert (back.keys, back.start, back.step) == (panel.keys, panel.start, panel.step)
    assert (back.values.tobytes(), back.day_before.tobytes()) == (panel.values.tobytes(), panel.day_before.tobytes())
    assert kept_history(tmp_path, days=7, now=panel.end) is None
    assert kept_history(tmp_path, days=14, now=panel.end + CONTINUED_WITHIN + timedelta(seconds=1)) is None
    assert kept_history(tmp_path, days=14, now=panel.end - timedelta(seconds=1)) is None
    (tmp_path / FOLDER / "history-14d.npz").write_bytes(b"PK\x03\x04 half")
    assert kept_history(tmp_path, days=14, now=panel.end) is None
    forget_history(tmp_path, days=14)
    forget_history(tmp_path, days=14)
    assert list((tmp_path / FOLDER).iterdir()) == []
