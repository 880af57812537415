"""A model of any framework, as its framework lets the doctor run it and look at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from normwise.facts import Input, LayerFacts, Source, Steps
from normwise.recalibration.layer import Layer


class Subject(Protocol):
    """A model to be examined.

    Attributes:
        framework: ``"torch"`` or ``"keras"``.
        layers: the layers with running statistics of channels, which the doctor may write to inside ``unchanged``.
        facts: all normalization layers by their paths: settings and state, without what comes into them.
        dropouts: whether there is a dropout that can be turned on.
        missing: what cannot be known of this model -> why.
    """

    framework: str
    dropouts: bool

    @property
    def layers(self) -> Sequence[Layer]:
        """As above."""

    @property
    def facts(self) -> Mapping[str, LayerFacts]:
        """As above."""

    @property
    def missing(self) -> Mapping[str, str]:
        """As above."""

    def unchanged(self) -> AbstractContextManager[Callable[[], None]]:
        """Inside, the model runs in inference mode; afterwards it is as before, and so is the random state.

        Returns:
            a context manager, which gives a function that sets the random state to that of the beginning.
        """

    def forward(self, batch: Any) -> Any:
        """One batch through the model, without gradients."""

    def with_dropout(self) -> AbstractContextManager[None]:
        """Inside, dropout is on."""

    def look(self, hear: Callable[[str, Input], object]) -> Callable[[], None]:
        """Call ``hear`` with a layer's path and its input before each of its calls; gives a function that ends it."""

    def outputs(self, result: Any) -> Any:
        """What the model gave, as a NumPy array of float64, shape (N, k); None where there is no such array in it."""

    def part(self, batch: Any, rows: Sequence[int]) -> Any:
        """A batch of some samples of a batch; None where it cannot be cut."""

    def targets(self, batch: Any) -> Any:
        """What in a batch is not the model's input; None where there is nothing."""

    def labels(self, targets: Any) -> Any:
        """The targets as a NumPy array of one number per sample, or None where they are none."""

    def number(self, value: Any) -> float:
        """A loss or metric as a number."""

    def samples_in(self, batch: Any) -> int:
        """The number of samples in a batch."""

    def inputs_differ(self, one: Any, other: Any) -> str | None:
        """The first layer whose input for the first sample differs between two batches, in inference mode, or None."""

    def steps(self, train_step: Callable[[Any, Any], object], batches: Sequence[Any]) -> Steps:
        """What some steps of training do, on a copy."""

    def gradients(self, loss: Callable[[Any, Any], Any], batch: Any) -> Mapping[str, float]:
        """The root mean square of the gradient of the loss at each layer's input, in order of depth, on a copy."""

    def compared(self, source: Any, batches: Sequence[Any]) -> Source:
        """How the model differs from the one that it was derived from."""
