"""Callbacks for ``fit``: ``callbacks=[Examine(data)]``."""

from normwise.callbacks.keras.examining import Examine
from normwise.keras import MonitorStatistics, RecalibrateStatistics

__all__ = ["Examine", "MonitorStatistics", "RecalibrateStatistics"]
