"""The daemon: it schedules the rounds and the jobs around them, and starts and stops everything in order."""

from scaler.daemon.derived import train_command
from scaler.daemon.process import Daemon
from scaler.daemon.serving import run, tick_once

__all__ = ["Daemon", "run", "tick_once", "train_command"]
