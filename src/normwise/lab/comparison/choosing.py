"""The choice of the trainer for the framework of a model; the other framework is not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from normwise.errors import NormwiseError
from normwise.frameworks import framework_of
from normwise.lab.comparison.rows import Rows
from normwise.lab.comparison.trainer import Trainer


def trainer_for(make: Callable[[], Any], rows: Rows, identity: str) -> Trainer:
    """The trainer of the models that ``make`` builds.

    Raises:
        NormwiseError: they are neither PyTorch's nor Keras's, or have nothing to compare.
    """
    model = make()
    framework = framework_of(model)
    if framework == "torch":
        from normwise.lab.comparison.torch_trainer import TorchTrainer

        return TorchTrainer(make, rows, identity)
    if framework == "keras":
        from normwise.lab.comparison.keras_trainer import KerasTrainer

        return KerasTrainer(make, rows, identity)
    raise NormwiseError(
        f"MODEL must build a torch.nn.Module or a Keras model, received {type(model).__name__}: return the model."
    )
