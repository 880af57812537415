"""Batch normalization for Keras 3, in Keras's names, on its TensorFlow, JAX and torch backends."""

from normwise.errors import MissingExtra

try:
    import keras as _keras  # noqa: F401  # only whether it is there
except ModuleNotFoundError as error:
    raise MissingExtra("keras", extra="keras") from error

from normwise.keras.callbacks.monitoring import MonitorStatistics
from normwise.keras.callbacks.recalibrating import RecalibrateStatistics
from normwise.keras.layers.batch_normalization import BatchNormalization
from normwise.keras.layers.domains import PerDomainBatchNormalization, domain
from normwise.keras.layers.ghost import GhostBatchNormalization
from normwise.keras.models.conversion import Conversion, convert, to_keras

__all__ = [
    "BatchNormalization",
    "Conversion",
    "GhostBatchNormalization",
    "MonitorStatistics",
    "PerDomainBatchNormalization",
    "RecalibrateStatistics",
    "convert",
    "domain",
    "to_keras",
]
