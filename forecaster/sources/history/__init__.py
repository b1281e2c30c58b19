"""Per-minute history of every workload in one SQLite file."""

from forecaster.sources.history.store import HistoryLimits, HistoryStore

__all__ = ["HistoryLimits", "HistoryStore"]
