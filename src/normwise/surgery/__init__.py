"""Doors: operations on a whole model, whatever framework it is of; each names the layers it touched."""

from normwise.surgery import (
    diagnosis,
    inference,
    keras_layers,
    layers,
    other_layers,
    statistics,
    statistics_of_data,
    training,
)

# Each file lists its doors itself, so that a new one is written in one place.
from normwise.surgery.diagnosis import *  # noqa: F403  # as above
from normwise.surgery.inference import *  # noqa: F403  # as above
from normwise.surgery.keras_layers import *  # noqa: F403  # as above
from normwise.surgery.layers import *  # noqa: F403  # as above
from normwise.surgery.other_layers import *  # noqa: F403  # as above
from normwise.surgery.statistics import *  # noqa: F403  # as above
from normwise.surgery.statistics_of_data import *  # noqa: F403  # as above
from normwise.surgery.training import *  # noqa: F403  # as above

__all__: list[str] = []
__all__ += diagnosis.__all__
__all__ += inference.__all__
__all__ += keras_layers.__all__
__all__ += layers.__all__
__all__ += other_layers.__all__
__all__ += statistics.__all__
__all__ += statistics_of_data.__all__
__all__ += training.__all__
