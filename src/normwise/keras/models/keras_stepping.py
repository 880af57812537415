"""A Keras model as batches see it that go through it in step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import keras
from keras import ops
from keras.src.backend.common.global_state import GLOBAL_STATE_TRACKER  # of each thread its own

from normwise.keras.models.eager_arrays import EagerArrays, arrays_of
from normwise.keras.models.keras_model import KerasModel
from normwise.keras.models.transaction import RandomState
from normwise.recalibration.stepping import Parking, Place, Stepping
from normwise.side_by_side import EnterState

if TYPE_CHECKING:
    from normwise.torch.models.recalibration.tensors import Tensors


class KerasStepping:
    """The ``normwise.recalibration.stepping.Stepping`` of Keras.

    Threads, memory and batches are those of the backend; what Keras keeps for each thread goes to the others with it.

    Args:
        model: built.
        network: the same as ``recalibrate`` sees it.
        memory: as the caller said, 0 excluded.
    """

    def __init__(self, model: Any, network: KerasModel, memory: float | None) -> None:
        self._model, self._network = model, network
        self._arrays: Tensors | EagerArrays
        if keras.backend.backend() == "torch":
            from normwise.torch.models.recalibration.tensors import Tensors

            self._arrays = Tensors(lambda: [variable.value for variable in model.variables], memory)
        else:
            self._arrays = arrays_of(memory)
        self.at_most = self._arrays.at_most

    def why_not(self) -> str:
        """A clause that says why batches cannot: a Keras distribution, or the arrays; empty where they can."""
        if keras.distribution.distribution() is not None:
            return "a Keras distribution spreads the model over devices"
        return self._arrays.why_not()

    def enter_state(self) -> EnterState:
        """A function that puts another thread into the state of this one."""
        own, of_backend = dict(vars(GLOBAL_STATE_TRACKER)), self._arrays.enter_state()

        def enter(stack: ExitStack) -> None:
            vars(GLOBAL_STATE_TRACKER).update(own)
            of_backend(stack)

        return enter

    def bound(self) -> float:
        """The number of bytes that may be held at a time."""
        return self._arrays.bound()

    def parking(self) -> Parking | None:
        """The memory beside the model's device for batches that wait; None where there is none."""
        return self._arrays.parking()

    def held(self, batch: Any) -> AbstractContextManager[Callable[[], int]]:
        """Give the block a function that counts the live bytes of what this thread made, those of a batch left out."""
        return self._arrays.held(batch)

    def places(self, batch: Any) -> Iterator[Place]:
        """Those of all tensors and arrays in a batch."""
        return self._arrays.places(batch)

    def random_state(self) -> Hashable:
        """The state of Keras's, NumPy's, Python's and PyTorch's generators, and of the model's own."""
        seeds = [each for each in self._model.variables if each.path.endswith("seed_generator_state")]
        return RandomState().bytes(), *(ops.convert_to_numpy(seed.value).tobytes() for seed in seeds)

    def restore(self) -> None:
        """Make the model what it was at the beginning, and the random state too."""
        self._network.restore()


def stepping_of(model: Any, network: KerasModel, memory: float | None) -> Stepping | None:
    """None where the caller wants layer by layer."""
    return None if memory == 0 else KerasStepping(model, network, memory)
