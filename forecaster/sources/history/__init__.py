"""Per-minute history of every workload in one SQLite file."""

from forecaster.sources.history.intake import AppendReport
from forecaster.sources.history.store import HistoryLimits, HistoryStore

__all__ = ["AppendReport", "HistoryLimits", "HistoryStore"]
