"""Callbacks for a Lightning ``Trainer``: ``callbacks=[RecalibrateStatistics(loader), Examine(loader)]``."""

from normwise.errors import MissingExtra

try:
    import lightning as _lightning  # noqa: F401  # only whether it is there
except ModuleNotFoundError as error:
    raise MissingExtra("lightning", extra="lightning") from error

from normwise.callbacks.lightning.examining import Examine
from normwise.callbacks.lightning.monitoring import MonitorStatistics
from normwise.callbacks.lightning.recalibrating import RecalibrateStatistics

__all__ = ["Examine", "MonitorStatistics", "RecalibrateStatistics"]
