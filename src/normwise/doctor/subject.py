"""A model of any framework, as its framework lets the doctor run it and look at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from normwise.facts import Input, LayerFacts, Neighbours, Source, Steps
from normwise.recalibration.layer import Layer


class Subject(Protocol):
    """A model to be examined.

    Attributes:
        framework: ``"torch"`` or ``"keras"``.
        layers: the layers with running statistics of channels, which the doctor may write to inside ``unchanged``.
        facts: all normalization layers by their paths: settings and state, without what comes into them.
        dropouts: whether there is a dropout that can be turned on.
        averaged: whether what is wrapped around the model says that its weights are an average of others.
        missing: what cannot be known of this model -> why.
    """

    framework: str
    dropouts: bool
    averaged: bool

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers with running statistics of channels, which the doctor may write to inside ``unchanged``."""

    @property
    def facts(self) -> Mapping[str, LayerFacts]:
        """The settings and state of all normalization layers by their paths, without what comes into them."""

    @property
    def missing(self) -> Mapping[str, str]:
        """The facts that cannot be known of this model -> why."""

    def unchanged(self) -> AbstractContextManager[Callable[[], None]]:
        """Put the model into inference mode for a block; afterwards it is as before, and so is the random state.

        Returns:
            a context manager, which gives a function that sets the random state to that of the beginning.
        """

    def forward(self, batch: Any) -> Any:
        """One batch through the model, without gradients."""

    def takes(self) -> str:
        """The contents that a batch must have, in words: its kind, and the dtype of the weights."""

    def place_of(self, error: Exception) -> str:
        """The innermost layer that an error came out of, in words; empty where that is not known."""

    def not_finite(self) -> str | None:
        """The path of the first weight that holds NaN or infinite values; None where there is none."""

    def with_dropout(self) -> AbstractContextManager[None]:
        """Turn dropout on for a block."""

    def look(self, hear: Callable[[str, Input], object]) -> Callable[[], None]:
        """Call ``hear`` with a layer's path and its input before each of its calls; gives a function that ends it."""

    def outputs(self, result: Any) -> Any:
        """The model's output, as a NumPy array of float64, shape (N, k); None where there is no such array in it."""

    def part(self, batch: Any, rows: Sequence[int]) -> Any:
        """A batch of some samples of a batch; None where it cannot be cut."""

    def targets(self, batch: Any) -> Any:
        """The part of a batch that is not the model's input; None where there is none."""

    def labels(self, targets: Any) -> Any:
        """The targets as a NumPy array of one number per sample, or None where they are none."""

    def outputs_first(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """A loss or metric as a function of outputs and targets, in this order."""

    def number(self, value: Any) -> float:
        """A loss or metric as a number."""

    def samples_in(self, batch: Any) -> int:
        """The number of samples in a batch."""

    def first_that_differs(self, one: Any, other: Any, limit: float) -> str | None:
        """The first layer of any kind whose output for the first sample differs between two batches, in inference mode.

        Args:
            one: a batch.
            other: another, with the same first sample.
            limit: the difference that counts, relative to the largest value of that output.
        """

    def neighbours(self, batch: Any) -> Mapping[str, Neighbours]:
        """The surroundings of the layers, as far as running a batch in inference mode shows them."""

    def steps(self, train_step: Callable[[Any, Any], object], batches: Sequence[Any]) -> Steps | None:
        """The effects of some steps of training, on a copy.

        The copy comes in the modes that the model has; where it is in inference mode as a whole and the steps leave it
        there, they are done once more in training mode, and the result says so. None where that is of no use.
        """

    def gradients(self, loss: Callable[[Any, Any], Any], batch: Any) -> Mapping[str, float]:
        """The root mean square of the gradient of the loss at the input of each layer with weights or norm.

        In order of depth; on a copy, with batch statistics and without dropout.
        """

    def compared(self, source: Any, batches: Sequence[Any]) -> Source:
        """The differences of the model from the one that it was derived from."""
