"""The outputs of a model before an operation, and how far its outputs are from them afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.errors import NormwiseError
from normwise.recalibration.batches import Batches
from normwise.torch.models.conversion.fold_weights import LINEAR
from normwise.torch.models.feeding import ForwardFn, call, samples_in, uncompiled
from normwise.torch.models.model_checks import check_runnable
from normwise.torch.models.transaction import unchanged


class Comparison:
    """The outputs of a model in inference mode, and how its layers are called on the way to them.

    Args:
        model: as it was given.
        inner: the same without what distributes or compiles it.
        batches: kept in memory with their outputs.
        forward_fn: how a batch enters the model, or None.
        at_most: use so many batches; None for all.

    Attributes:
        seen: of each convolution, linear layer and batch norm, by id: the numbers of axes of its inputs, call by call.
        batches: how many batches there were.
        samples: how many samples were in them.

    Raises:
        TypeError: not an iterable of batches.
        NormwiseError: there was none.
    """

    def __init__(
        self,
        model: nn.Module,
        inner: nn.Module,
        batches: Iterable[Any],
        forward_fn: ForwardFn | None,
        at_most: int | None,
    ) -> None:
        check_runnable(model, forward_fn, called="fold")
        self._inner, self._forward_fn = inner, forward_fn
        self.seen: dict[int, list[int]] = {}
        source = Batches(batches, at_most=at_most, called="fold")
        watched = [each for each in inner.modules() if isinstance(each, (*LINEAR, _BatchNorm))]
        handles: list[Any] = []
        try:
            with unchanged(inner):  # which takes the hooks away, too
                handles += [each.register_forward_pre_hook(self._see, with_kwargs=True) for each in watched]
                self._data = [(batch, self._outputs(batch)) for batch in source]
        finally:
            for handle in handles:
                handle.remove()
        if not self._data:
            raise NormwiseError("fold received batches with no batch in them: pass at least one, or leave batches out.")
        self.batches, self.samples = len(self._data), sum(samples_in(batch) for batch, _ in self._data)

    def error(self) -> float:
        """The largest difference of an output, over the largest value of that output before."""
        largest = 0.0
        with unchanged(self._inner):
            for batch, before in self._data:
                for was, now in zip(before, self._outputs(batch), strict=True):
                    largest = max(largest, relative_error(was, now))
        return largest

    def _outputs(self, batch: Any) -> list[Tensor]:
        self._inner.eval()
        with uncompiled():
            found = call(self._inner, batch, self._forward_fn)
        return [each.detach().cpu().clone() for each in tensors_in(found)]

    def _see(self, layer: nn.Module, args: tuple[object, ...], named: dict[str, object]) -> None:
        x = args[0] if args else next(iter(named.values()), None)
        self.seen.setdefault(id(layer), []).append(x.dim() if isinstance(x, Tensor) else -1)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in an output: in tuples, lists and mappings.

    Example:
        >>> len([*tensors_in({"a": torch.ones(1), "b": [torch.ones(1), 3]})])
        2
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def relative_error(was: Tensor, now: Tensor) -> float:
    """The largest difference over the largest value; infinite where one is finite and the other is not.

    Example:
        >>> relative_error(torch.tensor([1.0, -4.0]), torch.tensor([1.0, -3.0]))
        0.25
    """
    if was.numel() == 0 or torch.equal(was, now):
        return 0.0
    was, now = (each.to(torch.complex128 if each.is_complex() else torch.float64) for each in (was, now))
    finite = was.isfinite()
    if not torch.equal(finite, now.isfinite()):
        return math.inf
    apart = (now - was).abs()[finite]
    size = float(was[finite].abs().max()) if finite.any() else 0.0
    far = float(apart.max()) if finite.any() else 0.0
    return far / size if size else math.inf if far else 0.0
