"""One writer a data folder, and a lock that no crash leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scaler.adapters.folder_lock import FolderInUse, held

HOLD = """
import sys, time
from pathlib import Path
from scaler.adapters.folder_lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with (
            pytest.raises(FolderInUse, match=rf"process {owner.pid}\) writes in this data folder; stop it"),
            held(tmp_path),
        ):
            pass
        owner.send_signal(signal.SIGKILL)
        owner.wait(timeout=60)
    with held(tmp_path):
        assert (tmp_path / "headstart.lock").stat().st_mode & 0o777 == 0o600


def test_it_is_free_again_afterwards_and_makes_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    for _ in range(2):
        with held(folder):
            pass


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), held(tmp_path / "file" / "data"):
        pass
