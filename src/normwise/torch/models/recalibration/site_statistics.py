"""A layer's running statistics as numbers per channel, whatever the layer keeps: read, gathered, written, compared."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.kernels import covariance, two_pass
from normwise.kernels.choose import TOO_SMALL, built, choose
from normwise.kernels.internals import innermost_transform
from normwise.kernels.kernel import Call
from normwise.kernels.recording import recording
from normwise.moments import Moments
from normwise.recalibration.standard_error import distance
from normwise.torch.layers.whitening import Whitening
from normwise.torch.steps.call import CPU
from normwise.torch.steps.checks_mask import check_mask
from normwise.torch.steps.checks_whitening import check_shared
from normwise.torch.steps.estimate_pairs import covariance_of_pairs, mean_of_pairs, sums_of_pairs


class Statistics(Protocol):
    """A layer's statistics for estimators; mean and variance are float64, of as many channels as ``read`` has."""

    buffers: tuple[Tensor, Tensor]

    def read(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Copies of what the layer has."""

    def fresh(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Those of a layer that has seen nothing."""

    def moments(self, input: Tensor, mask: Tensor | None, device: torch.device) -> Moments:
        """The moments of a batch, as they are: with NaN where it has NaN."""

    def for_buffers(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The values for the buffers."""

    def moved(self, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], eps: float) -> Tensor:
        """The distance of statistics from others, shape (C,), in standard deviations of the others."""


def statistics_of(layer: _BatchNorm) -> Statistics:
    """The statistics of a layer that has some."""
    return OfPairs(layer) if isinstance(layer, Whitening) else OfChannels(layer)


class OfChannels:
    """The mean and variance of each channel, as batch norms keep them.

    Example:
        >>> OfChannels(torch.nn.BatchNorm1d(2)).read(torch.device("cpu"))[1]
        tensor([1., 1.], dtype=torch.float64)
    """

    def __init__(self, layer: _BatchNorm) -> None:
        assert layer.running_mean is not None  # the caller makes sure of it
        assert layer.running_var is not None
        self.buffers = layer.running_mean, layer.running_var

    def read(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Copies in float64."""
        return _wide(self.buffers[0], device), _wide(self.buffers[1], device)

    def fresh(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """0 and 1."""
        zeros = torch.zeros(self.buffers[0].shape, dtype=torch.float64, device=device)
        return zeros, zeros + 1

    def moments(self, input: Tensor, mask: Tensor | None, device: torch.device) -> Moments:
        """The moments of each channel."""
        return moments(input, mask, device)

    def for_buffers(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The same."""
        return mean, var

    def moved(self, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], eps: float) -> Tensor:
        """``distance``, per channel."""
        far: Tensor = distance(*before, *after, eps)
        return far


class OfPairs:
    """The mean and covariance of groups of channels, as whitening layers keep them, by the sums of all pairs.

    A group that is not finite in some channel is so in all of its pairs, or nothing would hold these together.

    Example:
        >>> from normwise.torch import DecorrelatedBatchNorm1d
        >>> kept = OfPairs(DecorrelatedBatchNorm1d(2))
        >>> kept.read(torch.device("cpu"))[1]
        tensor([1., 2., 2., 1.], dtype=torch.float64)
        >>> kept.for_buffers(*kept.read(torch.device("cpu")))[1].tolist()
        [[[1.0, 0.0], [0.0, 1.0]]]
    """

    def __init__(self, layer: Whitening) -> None:
        assert layer.running_mean is not None  # the caller makes sure of it
        assert layer.running_covariance is not None
        self.buffers = layer.running_mean, layer.running_covariance
        self._groups, self._size = (int(number) for number in layer.running_covariance.shape[:2])

    def read(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The mean and variance of the sums of pairs."""
        mean, covariances = (_wide(buffer, device) for buffer in self.buffers)
        return sums_of_pairs(mean.view(self._groups, self._size), covariances)

    def fresh(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """0 and the identity."""
        identity = torch.eye(self._size, dtype=torch.float64, device=device)
        return sums_of_pairs(identity.new_zeros(self._groups, self._size), identity.expand(self._groups, -1, -1))

    def moments(self, input: Tensor, mask: Tensor | None, device: torch.device) -> Moments:
        """The moments of the sums of pairs, each about as exact as if it were a channel."""
        weights = check_mask(mask, input)
        check_shared(weights)
        with covariance.without_autocast(input):
            found = covariance.gather(input.detach(), self._size, weights)
        mean, covariances = found.mean.to(device, torch.float64), found.covariance.to(device, torch.float64)
        finite = covariances.isfinite().all(-1).all(-1)[:, None, None]
        means, variances = sums_of_pairs(
            mean.view(self._groups, self._size), torch.where(finite, covariances, torch.nan)
        )
        number: Any = found.number
        count = torch.as_tensor(number, dtype=torch.float64, device=device)
        return Moments(means, variances, count.expand(means.shape))

    def for_buffers(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the channels, and the covariance of the groups."""
        shape = self._groups, self._size
        return mean_of_pairs(mean, *shape), covariance_of_pairs(var, *shape)

    def moved(self, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], eps: float) -> Tensor:
        """``distance`` in as many directions as there are channels: those in which both covariances are diagonal."""
        (mean, old), (new_mean, new) = self.for_buffers(*before), self.for_buffers(*after)
        delta = (new_mean - mean).view(self._groups, self._size, 1)
        identity = torch.eye(self._size, dtype=new.dtype, device=new.device)
        lower = torch.linalg.cholesky_ex(new + eps * identity).L
        half = torch.linalg.solve_triangular(lower, old + eps * identity, upper=False)
        ratio = torch.linalg.solve_triangular(lower, half.mT, upper=False)
        finite = ratio.isfinite().all(-1).all(-1)[:, None]
        values, directions = torch.linalg.eigh(torch.where(finite[:, None], ratio, identity))
        along = directions.mT @ torch.linalg.solve_triangular(lower, delta, upper=False)
        far = torch.maximum(along.squeeze(-1).abs(), values.log().abs() / 2)
        return torch.where(finite, far, torch.inf).flatten()


def moments(input: Tensor, mask: Tensor | None, device: torch.device) -> Moments:
    """The moments of a batch in float64, as they are: with NaN where it has NaN."""
    x = input.detach()
    if mask is None and _compiled_code_serves(x):
        quick = CPU.moments(Call(x))
        mean, var = (part.to(device, torch.float64) for part in (quick.mean, quick.var))
        return Moments(mean, var, torch.full_like(mean, quick.count))
    found = two_pass.gather(x, check_mask(mask, input))
    mean, low, var = (part.flatten().to(device, torch.float64) for part in (found.mean, found.low, found.var))
    count = torch.as_tensor(found.number, dtype=torch.float64, device=device)
    return Moments(mean + low, var, count.expand(mean.shape))


def _compiled_code_serves(x: Tensor) -> bool:
    """True if a layer of normwise would take the compiled code for such a batch in training, or for a larger one."""
    recorded = recording()
    choice = choose(Call(x), recorded=recorded, transformed=innermost_transform() is not None)
    return (choice.name == "cpu" or (choice is TOO_SMALL and built())) and not recorded


def _wide(buffer: Tensor, device: torch.device) -> Tensor:
    return buffer.detach().to(device, torch.float64, copy=True)
