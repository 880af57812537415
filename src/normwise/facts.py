"""The facts that were observed about a model and its data: plain arrays, all that the doctor's checks read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from normwise.moments import Moments, bessel

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """The moments of what came into a layer, one row for each batch.

    Args:
        mean: shape (B, C).
        var: shape (B, C), divided by the count.
        count: shape (B, C), how many values they are of.
        samples: shape (B,), how many samples were in the batch.

    Example:
        >>> seen = Seen(np.array([[0.0], [2.0]]), np.ones((2, 1)), np.full((2, 1), 8.0), np.full(2, 8.0))
        >>> seen.pooled().mean.tolist(), seen.pooled().var.tolist()
        ([1.0], [2.0])
    """

    mean: Array
    var: Array
    count: Array
    samples: Array

    def pooled(self) -> Moments:
        """The moments of all values of all batches, shape (C,)."""
        found = Moments(self.mean, self.var, self.count).merged()
        return Moments(found.mean, found.var, np.asarray(found.count, dtype=np.float64))

    def every_second(self, first: int) -> Seen:
        """The batches at even places, or those at odd ones with 1."""
        return Seen(*(part[first::2] for part in (self.mean, self.var, self.count, self.samples)))

    def error(self, eps: float) -> Array:
        """The standard error of the pooled mean in standard deviations, shape (C,), from the spread between batches.

        Values of one image are alike, so that it is not the number of values that counts. Infinite for one batch.
        """
        if len(self.mean) < 2:
            return np.full(self.mean.shape[1], np.inf)
        error: Array = np.sqrt(self.between() / len(self.mean) / (self.pooled().var + eps))
        return error

    def error_of_var(self, eps: float) -> Array:
        """The standard error of the pooled variance in shares of it, shape (C,), from the spread between batches.

        Channels that are seldom other than 0 have one that is far larger than their number of values says. Infinite
        for one batch.
        """
        if len(self.mean) < 2:
            return np.full(self.mean.shape[1], np.inf)
        pooled = self.pooled()
        squares = self.var + (self.mean - pooled.mean) ** 2
        weights = (self.samples / self.samples.mean())[:, None]
        spread = (weights * (squares - pooled.var) ** 2).mean(0) * bessel(len(self.mean)) / len(self.mean)
        error: Array = np.sqrt(spread) / (pooled.var + eps)
        return error

    def between(self) -> Array:
        """The variance of the batches' means, shape (C,), of batches of the average size; NaN for fewer than two.

        Each counts by its samples, so that a short last batch, whose mean scatters more, says no more than it can.
        """
        if len(self.mean) < 2:
            return np.full(self.mean.shape[1], np.nan)
        weights = (self.samples / self.samples.mean())[:, None]
        found: Array = (weights * (self.mean - self.pooled().mean) ** 2).mean(0) * bessel(len(self.mean))
        return found

    def effective_count(self) -> Array:
        """The number of independent values that a batch's mean is worth, shape (C,): the variance over that of means.

        NaN for fewer than two batches, infinite where all means are the same.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Array = self.pooled().var / self.between()
        return found


@dataclass(frozen=True)
class Input:
    """The facts about a layer's input in one batch that moments do not tell.

    Args:
        shape: of the batch.
        axis: of the channels.
        largest: the largest absolute value.
        dtype: of the input, for example ``"float16"``.
        tails: shape (N,), for each sample the share of its places, along the longest axis, at whose end all channels
            stay the same; NaN where there is no such axis.
        heads: the same at the beginning.
        whole: the moments of these samples, shape (C,), or None.
        without_tails: the moments of the same without the tails.
        between: for each axis, the share of the variance that lies between the means of the places along it; empty
            where it was not measured.
    """

    shape: tuple[int, ...]
    axis: int
    largest: float
    dtype: str
    tails: Array
    heads: Array | None = None
    whole: Moments | None = None
    without_tails: Moments | None = None
    between: tuple[float, ...] = ()


@dataclass(frozen=True)
class Neighbours:
    """The surroundings of a layer.

    Args:
        bias_in_front: whether the layer right in front adds a bias.
        on_data: whether its input is the model's own.
        features_axis: the axis of its input that the linear layers in front and behind take for that of the features,
            or None where there are none, or they differ.
    """

    bias_in_front: bool = False
    on_data: bool = False
    features_axis: int | None = None


@dataclass(frozen=True)
class LayerFacts:
    """A normalization layer: its settings, its state, and what came into it.

    Args:
        name: its path in the model.
        kind: the name of its class.
        eps: added to the variance.
        weight_of_new: of a batch in the running statistics (PyTorch's momentum, 1 minus Keras's); None for the plain
            average of all.
        scale: shape (C,), or None.
        shift: shape (C,), or None.
        mean: the running mean, float64, shape (C,), or None where there are no running statistics.
        var: the running variance, as the framework keeps it.
        dtype: of the running statistics.
        updates: how many batches entered them, where the layer counts.
        trains: whether it is set to use and gather batch statistics when it is called (its own mode).
        learns: whether scale and shift learn; None where it has none.
        frozen: why it is taken for frozen, or None.
        own: moments of its input with every norm on batch statistics and the rest in inference mode.
        served: moments of its input in inference mode.
        noisy: the same as ``own`` with dropout on; None where there is no dropout in front of it.
        input: the first batch's.
        calls: how often one forward calls it.
        bias_in_front: whether the layer right in front adds a bias.
        on_data: whether its input is the model's own.
        features_axis: as of ``Neighbours``.
        tracks: False where it has running statistics and its settings keep training from moving them.
    """

    name: str
    kind: str
    eps: float
    weight_of_new: float | None
    scale: Array | None = None
    shift: Array | None = None
    mean: Array | None = None
    var: Array | None = None
    dtype: str = "float32"
    updates: int | None = None
    trains: bool = False
    learns: bool | None = True
    frozen: str | None = None
    own: Seen | None = None
    served: Seen | None = None
    noisy: Seen | None = None
    input: Input | None = None
    calls: float = 0.0
    bias_in_front: bool = False
    on_data: bool = False
    features_axis: int | None = None
    tracks: bool = True


@dataclass(frozen=True)
class Outcome:
    """The results of a model for the data in one state of its statistics.

    Args:
        outputs: shape (n, k), of the first samples.
        loss: the mean over the samples, or None where no loss was given.
        metric: the same of the metric.
        losses: the loss of each batch; empty where none was given.
    """

    outputs: Array
    loss: float | None = None
    metric: float | None = None
    losses: tuple[float, ...] = ()

    def apart(self, other: Outcome) -> float:
        """The distance of the outputs, relative to how much the other's differ from sample to sample.

        Infinite where one of them is not finite, or where they have other shapes.
        """
        if self.outputs.shape != other.outputs.shape:
            return float("inf")
        spread = np.linalg.norm(other.outputs - other.outputs.mean(0)) or np.linalg.norm(other.outputs) or 1.0
        apart = float(np.linalg.norm(self.outputs - other.outputs) / spread)
        return apart if np.isfinite(apart) else float("inf")


@dataclass(frozen=True)
class Company:
    """The dependence of a prediction on the other samples of its batch.

    Args:
        apart: the largest difference of a sample's output beside other samples, relative to the largest output.
        first: the first layer whose output differs, or None.
        companions: how many different sets of other samples were tried.
        by_chance: how much the output of one and the same input differs from call to call.
    """

    apart: float
    first: str | None
    companions: int
    by_chance: float = 0.0


@dataclass(frozen=True)
class Steps:
    """The effects of some steps of training on each layer.

    Args:
        number: how many steps.
        updates: the layer's name -> how often its running statistics changed in a step, on average.
        statistics_moved: names of the layers whose running statistics are other bytes than before.
        affine_moved: names of the layers whose scale or shift are.
        counts: the layer's name -> values per channel of a call in training mode, the fewest.
        assumed: True where the model came in inference mode and the steps left it there, so that it was set to training
            mode: what is frozen by its mode alone is then not known.
    """

    number: int
    updates: Mapping[str, float]
    statistics_moved: frozenset[str]
    affine_moved: frozenset[str]
    counts: Mapping[str, float] = field(default_factory=dict)
    assumed: bool = False


@dataclass(frozen=True)
class Source:
    """The model that this one was derived from.

    Args:
        apart: how far the outputs are from its, as ``Outcome.apart``.
        eps: the layer's name -> its eps there.
        weights_apart: how far the weights are from its, as a share of theirs.
        statistics_apart: the layer's name -> how far its statistics are from those there, in standard deviations.
        norms: how many norms it has.
        apart_alike: the same as ``apart``, while the model has the running statistics of the source; None where they
            are the same anyway, or where the layers of the two do not match.
    """

    apart: float
    eps: Mapping[str, float]
    weights_apart: float
    statistics_apart: Mapping[str, float]
    norms: int
    apart_alike: float | None = None


@dataclass(frozen=True)
class Processes:
    """The processes that train one model together.

    Args:
        number: how many.
        statistics_apart: the layer's name -> how far the running statistics of two of them are apart, in standard
            deviations, at most.
        weights_apart: the same of the weights, as a share of their size; None where that is not known.
    """

    number: int
    statistics_apart: Mapping[str, float]
    weights_apart: float | None = None


@dataclass(frozen=True)
class ModelFacts:
    """Everything that the checks know about a model and its data.

    Args:
        framework: ``"torch"`` or ``"keras"``.
        layers: in the order of their first calls, those that were not reached last.
        batches: how many were gone through.
        samples: how many were in them.
        stored: what the model gives as it is, in inference mode.
        by_batch: what it gives with batch statistics everywhere.
        recalibrated: what it gives with the statistics of these data.
        crossed: what every second batch gives with the statistics of the batches between, so that no batch is judged by
            its own; None for few batches.
        shares: the layer's name -> share of the difference between ``stored`` and ``recalibrated`` that correcting this
            layer alone takes away; for the layers in question.
        labels: of each batch, or None.
        company: or None.
        steps: or None.
        source: or None.
        gradients: the name of a layer with weights or of a norm -> root mean square of the gradient of the loss at its
            input, in order of depth.
        averaged: whether the model is an average of the weights of others, by what is wrapped around it.
        processes: or None.
        missing: what is not known -> why.
    """

    framework: str
    layers: tuple[LayerFacts, ...]
    batches: int = 0
    samples: int = 0
    stored: Outcome | None = None
    by_batch: Outcome | None = None
    recalibrated: Outcome | None = None
    crossed: Outcome | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    labels: Sequence[Array] | None = None
    company: Company | None = None
    steps: Steps | None = None
    source: Source | None = None
    gradients: Mapping[str, float] = field(default_factory=dict)
    averaged: bool = False
    processes: Processes | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    def tracked(self) -> Iterator[LayerFacts]:
        """The layers that have running statistics, in the order of their calls."""
        return (layer for layer in self.layers if layer.mean is not None and layer.var is not None)
