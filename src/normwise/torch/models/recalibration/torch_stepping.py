"""A PyTorch model as batches see it that go through it in step."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor, nn

from normwise.torch.models.recalibration.parking import Parking
from normwise.torch.models.recalibration.tensors import Tensors
from normwise.torch.models.recalibration.torch_model import TorchModel
from normwise.torch.models.transaction import RandomState


class TorchStepping(Tensors):
    """The ``normwise.recalibration.stepping.Stepping`` of PyTorch.

    Args:
        model: whatever is wrapped around it.
        network: the same as ``recalibrate`` sees it.
        memory: as the caller said, 0 excluded.
    """

    def __init__(self, model: nn.Module, network: TorchModel, memory: float | None) -> None:
        def tensors() -> Iterable[Tensor]:
            return (*model.parameters(), *model.buffers())

        super().__init__(tensors, memory)
        self._model, self._tensors, self._network = model, tensors, network

    def why_not(self) -> str:
        """Several processes settle every layer together; other state of this thread may stay behind."""
        return self._network.why_not_in_step() or super().why_not()

    def parking(self) -> Parking | None:
        """None too where a part of the model is code of torch.jit's, of which a fused kernel shows no operations."""
        scripted = any(isinstance(module, torch.jit.ScriptModule) for module in self._model.modules())
        return None if scripted else super().parking()

    def random_state(self) -> Hashable:
        """The state of torch's, NumPy's and Python's generators."""
        return RandomState(tensor.device for tensor in self._tensors()).bytes()

    def restore(self) -> None:
        """Make the model what it was at the beginning, in inference mode, and the random state too."""
        self._network.restore()


def stepping_of(model: nn.Module, network: TorchModel, memory: float | None) -> TorchStepping | None:
    """None where the caller wants layer by layer."""
    return None if memory == 0 else TorchStepping(model, network, memory)
