"""What the daemon's parts follow of the settings, derived in one place for the start and for a reload. No I/O."""

from __future__ import annotations

import sys
from datetime import date, timedelta

from forecaster.models.stored import KINDS
from scaler.adapters.models import ModelShelf
from scaler.config import Config
from scaler.config.holidays import holidays_of
from scaler.policy.latency import LatencyRule
from scaler.policy.scheduled import ScheduledRule

MODELS_FOLDER = "models"


def known_of(config: Config) -> dict[str, ScheduledRule]:
    """What is known in advance, by workload."""
    return {policy.workload: policy.scheduled for policy in config.fleet.workloads}


def latency_of(config: Config) -> dict[str, LatencyRule]:
    """How latencies are judged, by workload."""
    return {policy.workload: policy.latency for policy in config.fleet.workloads}


def days_off(config: Config) -> dict[str, frozenset[date]]:
    """The days that the people of some workloads keep."""
    return {workload: frozenset(holidays_of(name)) for workload, name in config.holidays.items()}


def night_of(config: Config) -> timedelta:
    """When the daily refit begins, after midnight UTC."""
    refit = config.forecast.refit
    return timedelta(hours=refit.hour, minutes=refit.minute, seconds=refit.second)


def shelf_of(config: Config) -> ModelShelf:
    """The models that are wanted, out of the site's own."""
    return ModelShelf(config.data_dir / MODELS_FOLDER, config.forecast.models)


def train_command(config: Config) -> tuple[str, ...]:
    """The refit as a command line of this very Python: those of the wanted models that need a fit."""
    fitted = [model for model in config.forecast.models if model in KINDS]
    return (sys.executable, "-m", "scaler.refit_job", str(config.data_dir), ",".join(fitted))
