"""The batch norms of a Keras model whose statistics are estimated anew: which they are, and what each gathers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import reduce
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from normwise.errors import NormwiseError, UnknownName
from normwise.estimators import Estimator, RunningStatistics, named
from normwise.keras.layers.domains import PerDomainBatchNormalization
from normwise.moments import Moments
from normwise.recalibration.standard_error import StandardError, distance

F64 = NDArray[np.float64]


class Site:
    """One layer, and the statistics of what comes into it.

    Args:
        name: of the layer in the model.
        layer: a batch norm that is built; of one with domains, the one that is chosen.
        estimator: how its batches become statistics.

    Attributes:
        place: where in the order of calls its first one was.
        once: whether no batch came to it twice.
        samples: how many samples the values of each channel are of; one that is masked in part counts in part.
        settled: whether its statistics are what it normalizes by.
        not_finite: how many calls had a channel that was not finite.
    """

    def __init__(self, name: str, layer: Any, estimator: Estimator) -> None:
        self.name, self.layer, self.estimator = name, layer, estimator
        self._row = layer.domains.index(layer.domain) if isinstance(layer, PerDomainBatchNormalization) else None
        self.before = self._read()
        self.settled, self.once, self.place = False, True, math.inf
        self.begin()

    def begin(self, *, watched: bool = False) -> None:
        """Forget what was gathered; keep the standard error from now on, which costs some time, or not."""
        zeros = np.zeros_like(self.before[0])
        self.statistics = RunningStatistics(zeros, zeros + 1, zeros, zeros)
        self.samples: F64 = zeros
        self.not_finite = 0
        self._calls: list[Moments] = []
        self._standard_error = StandardError() if watched else None

    def take(self, batch: Moments, values_per_sample: float = 1) -> None:
        """The moments of one call enter the statistics; channels that are not finite do not."""
        finite = np.isfinite(batch.mean) & np.isfinite(batch.var)
        clean = Moments(np.where(finite, batch.mean, 0.0), np.where(finite, batch.var, 0.0), batch.count * finite)
        self.statistics = self.estimator.update(self.statistics, clean)
        self.samples = self.samples + clean.count / values_per_sample
        self.not_finite += int(not finite.all())
        self._calls.append(clean)

    def end_of_batch(self) -> None:
        """A layer that one forward calls several times has seen one batch, whatever its calls have in common."""
        self.once &= len(self._calls) < 2
        if self._standard_error is not None and self._calls:
            self._standard_error.add(reduce(Moments.merge, self._calls))
        self._calls = []

    def error(self) -> float:
        """The standard error of all but a few channels, in standard deviations; NaN where it was not kept."""
        if self._standard_error is None or self._standard_error.batches == 0:
            return math.nan
        return self._standard_error.typical(self.statistics.var, self.layer.epsilon)

    @property
    def reached(self) -> bool:
        """Whether there are statistics: of two values in some channel, at least."""
        return bool(self._known().any())

    def estimate(self) -> tuple[F64, F64]:
        """Mean and unbiased variance; of a channel that nothing is known about, those that it had."""
        known = self._known()
        mean = np.where(known, self.statistics.mean, self.before[0])
        return mean, np.where(known, self.statistics.var, self.before[1])

    def settle(self) -> None:
        """Let the layer normalize by what was gathered, from now on."""
        self.settled = True
        self.normalize_by(*self.estimate())

    def normalize_by(self, mean: F64, var: F64) -> None:
        """Put these in the place of the moving statistics."""
        for variable, value in self._for_variables(mean, var):
            variable.assign(_cast(value, variable.dtype))

    def moved(self) -> F64:
        """How far the statistics are from those at the beginning, per channel; infinite if these were not finite."""
        with np.errstate(all="ignore"):
            far = distance(*self.before, *self.estimate(), self.layer.epsilon)
        return np.where(np.isfinite(far), far, math.inf)

    def values(self) -> list[tuple[Any, Any]]:
        """The layer's variables, and what belongs into each, in the variable's dtype.

        Raises:
            NormwiseError: a variable's dtype cannot hold it.
        """
        found = []
        for variable, value in self._for_variables(*self.estimate()):
            fitting = _cast(value, variable.dtype)
            if not bool(ops.all(ops.isfinite(fitting))) and np.isfinite(value).all():
                raise NormwiseError(
                    f"the statistics of batch norm {self.name!r}, up to {float(np.abs(value).max()):.3g}, do not fit "
                    f"its variables of {variable.dtype}: the model is as it was; keep these in float32."
                )
            found.append((variable, fitting))
        # What goes on from here, in training, has to know how much stands behind it.
        for counter, number in (("updates", self.statistics.updates.max()), ("count", self.statistics.count)):
            variable = getattr(self.layer, counter, None)
            if isinstance(variable, keras.Variable):
                found.append((variable, ops.cast(number, variable.dtype)))
        return found

    def way_back(self) -> Callable[[], None]:
        """What gives the layer back the mean and variance that it has now, byte for byte."""
        row = self._row
        before = [(v, ops.convert_to_numpy(v.value).copy()) for v in self._variables()]

        def back() -> None:
            for variable, value in before:
                now = ops.convert_to_numpy(variable.value).copy()
                now[slice(None) if row is None else row] = value[slice(None) if row is None else row]
                variable.assign(now)

        return back

    def _variables(self) -> tuple[Any, Any]:
        return self.layer.moving_mean, self.layer.moving_variance

    def _read(self) -> tuple[F64, F64]:
        mean, var = (ops.convert_to_numpy(variable.value).astype(np.float64) for variable in self._variables())
        return (mean, var) if self._row is None else (mean[self._row], var[self._row])

    def _for_variables(self, mean: F64, var: F64) -> list[tuple[Any, NDArray[Any]]]:
        """The variables whole, where a row of them is meant."""
        found: list[tuple[Any, NDArray[Any]]] = []
        for variable, value in zip(self._variables(), (mean, var), strict=True):
            if self._row is not None:
                rows = ops.convert_to_numpy(variable.value).astype(np.float64)
                rows[self._row] = value
                value = rows
            found.append((variable, value))
        return found

    def _known(self) -> NDArray[np.bool_]:
        known: NDArray[np.bool_] = (self.statistics.count > 1) & (self.statistics.updates > 0)
        return known


def _cast(value: NDArray[Any], dtype: str) -> Any:
    """In a variable's dtype; infinite where that is too narrow."""
    with np.errstate(over="ignore"):
        return ops.cast(value, dtype)


def survey(model: Any, estimator: Estimator | str, layers: Collection[str] | None) -> tuple[list[Site], dict[str, str]]:
    """The layers whose statistics are to be estimated, and those that are not, with the reason.

    Args:
        model: any model or layer.
        estimator: an estimator or its name.
        layers: the paths or names of the only ones that are meant, or None.

    Raises:
        UnknownName: ``layers`` names what is no batch norm of the model.
        NormwiseError: the estimator needs settings that were not given.
    """
    norms = norms_of(model)
    for name in layers or ():
        if name not in norms and all(name != layer.name for layer in norms.values()):
            raise UnknownName("batch norm", name, norms)
    sites, skipped = [], {}
    for path, layer in norms.items():
        why = _reason_to_skip(layer, model, None if layers is None else path in layers or layer.name in layers)
        if why is None:
            weight = named(estimator, weight_of_new=1 - layer.momentum) if isinstance(estimator, str) else estimator
            sites.append(Site(path, layer, weight))
        else:
            skipped[path] = why
    return sites, skipped


def norms_of(model: Any) -> dict[str, Any]:
    """Every batch norm of a model by its path, in models inside of it and in wrappers too; of two alike, ``path (2)``.

    Example:
        >>> [*norms_of(keras.Sequential([keras.layers.BatchNormalization(name="bn")]))]
        ['bn']
    """
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and all(layer is not each for each in found.values()):
            path, number = layer.path or layer.name, 2
            name = path
            while name in found:
                name, number = f"{path} ({number})", number + 1
            found[name] = layer
    return found


def _reason_to_skip(layer: Any, model: Any, asked: bool | None) -> str | None:
    if not layer.built:
        return "it has no statistics yet: no input ever came to it"
    if asked is not None:
        return None if asked else "it was not asked for"
    if layer.momentum == 1:
        return "it is frozen: its momentum is 1"
    if not layer.trainable and model.trainable_variables:
        return "it is frozen: its trainable is False while others learn"
    return None
