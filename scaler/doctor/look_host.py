"""Looks at this machine: data folder, disk, locks, models, files. It creates and changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path

from scaler.adapters.folder_lock import LOCK_NAME
from scaler.adapters.models import ModelShelf
from scaler.adapters.refit import missing_packages
from scaler.config import Config
from scaler.doctor.host import HostFacts

_LOCK = re.compile(r"FLOCK\s+ADVISORY\s+WRITE\s+(?P<process>\d+)\s+(?P<device>[0-9a-f]+:[0-9a-f]+):(?P<inode>\d+)\s")


def look_host(config: Config, *, models_folder: Path) -> HostFacts:
    """What this machine has to say; `models_folder` holds the site's own models."""
    shelf, _ = ModelShelf(models_folder, config.forecast.models).current()
    token_error, open_to_all = _token(config.http.token_file)
    return HostFacts(
        data_error=_write_error(config.data_dir),
        free_bytes=_free_bytes(config.data_dir),
        writer=_writer(config.data_dir / LOCK_NAME),
        models_left_out=shelf.refused,
        missing_packages=missing_packages(),
        token_error=token_error,
        token_open_to_all=open_to_all,
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there: what would be created lies on its disk."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def _write_error(folder: Path) -> str:
    there = _existing(folder)
    if not there.is_dir():
        return f"{there} is a file"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} may not be written by this account"
    locked = folder / LOCK_NAME
    return f"{locked} may not be written by this account" if locked.exists() and not os.access(locked, os.W_OK) else ""


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(_existing(folder)).free
    except OSError:
        return None


def _writer(lock: Path) -> int | None:
    """The process that holds the folder's lock, by the kernel's list: trying it would get into a daemon's way."""
    try:
        inode = lock.stat().st_ino
        held = Path("/proc/locks").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    found = (each for each in _LOCK.finditer(held) if int(each["inode"]) == inode)
    return next((int(each["process"]) for each in found), None)


def _token(file: Path | None) -> tuple[str, bool]:
    """Why a token cannot be read, and whether everybody may read it."""
    if file is None:
        return "", False
    try:
        empty = not file.read_text(encoding="utf-8").strip()
        return ("is empty" if empty else ""), bool(file.stat().st_mode & stat.S_IROTH)
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})", False
