"""Layers that normalize in another way start from the moments that the layers before them had."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from normwise.errors import NormwiseError
from normwise.moments import Moments
from normwise.recalibration.batches import Batches
from normwise.torch.models.feeding import ForwardFn, call, uncompiled
from normwise.torch.models.transaction import unchanged, write


class _Heard(BaseException):
    """The layer was called; no ``except Exception`` on the way is to take it for an error."""


class Calibration:
    """The results of a model before its layers were swapped, and the scales and shifts that come nearest to them.

    Args:
        model: without its wrappers.
        batches: of its inputs, or None for no calibration at all.
        at_most: use so many; None for all.
        forward_fn: how a batch enters the model.

    Attributes:
        output_change: how far the output moved, relative to its size; NaN until it is known.
        uncalibrated_change: the same before any layer was calibrated.
        not_reached: layers that no batch came to.
        uncalibrated: layers that cannot be calibrated, with the reason.
        axes: how many axes the inputs of each layer have that a batch came to.
    """

    def __init__(
        self, model: nn.Module, batches: Iterable[Any] | None, at_most: int | None, forward_fn: ForwardFn | None
    ) -> None:
        self._model, self._forward_fn = model, forward_fn
        self._batches = None if batches is None else Batches(batches, at_most=at_most, called="swap")
        self._norms: dict[str, nn.Module] = {}
        self._targets: dict[str, Moments] = {}
        self._often: set[str] = set()
        self._outputs: list[list[Tensor]] = []
        self.output_change, self.uncalibrated_change = float("nan"), float("nan")
        self.not_reached: list[str] = []
        self.axes: dict[str, int] = {}
        self.uncalibrated: dict[str, str] = {}

    def before(self, norms: Mapping[str, nn.Module]) -> None:
        """Note what the model and these layers of it compute, before anything is swapped.

        Raises:
            NormwiseError: there is no batch.
        """
        if self._batches is None:
            return
        self._norms = dict(norms)
        self._targets, self._often, self._outputs = self._pass(norms)
        if not self._outputs:
            raise NormwiseError("swap got no batches to calibrate with: pass at least one.")

    def after(self, swapped: Sequence[str]) -> None:
        """Calibrate the layers that were swapped, in the order of their calls, and see how far the output moved.

        Args:
            swapped: their names, of those that ``before`` was told of.
        """
        if self._batches is None:
            return
        change = self._change()
        places = Counter(
            each.data_ptr() for part in self._model.modules() for each in part._parameters.values() if each is not None
        )
        for name in [name for name in self._targets if name in swapped]:  # in the order of their first calls
            norm: Any = self._norms[name]
            if norm.weight is None or norm.bias is None:
                self.uncalibrated[name] = "it has no scale and shift to be calibrated by"
                continue
            if any(places[each.data_ptr()] > 1 for each in (norm.weight, norm.bias)):
                self.uncalibrated[name] = "it is not calibrated, because its scale or shift is another layer's too"
                continue
            now, _, _ = self._pass({name: norm}, ends=name not in self._often)
            target, ratio = self._targets[name], _ratio(self._targets[name], now[name])
            shift = target.mean - ratio * (now[name].mean - norm.bias.detach().double())
            write(norm.weight, norm.weight.detach().double() * ratio)
            write(norm.bias, shift)
        self.not_reached = [name for name in swapped if name not in self._targets]
        calibrated = [name for name in swapped if name in self._targets and name not in self.uncalibrated]
        self.output_change = self._change() if calibrated else change
        self.uncalibrated_change = change if calibrated else float("nan")

    def _change(self) -> float:
        _, _, outputs = self._pass({})
        moved = size = 0.0
        for ours, theirs in zip(outputs, self._outputs, strict=True):
            for new, old in zip(ours, theirs, strict=True):
                moved += float((new.double() - old.double()).square().sum())
                size += float(old.double().square().sum())
        return math.sqrt(moved / size) if size else math.inf if moved else 0.0

    def _pass(
        self, norms: Mapping[str, nn.Module], *, ends: bool = False
    ) -> tuple[dict[str, Moments], set[str], list[list[Tensor]]]:
        """Go through the batches in inference mode; the model is as before afterwards.

        Args:
            norms: whose output is looked at, without activation and addition.
            ends: whether each batch has to go no further than to the first call of one of them.

        Returns:
            the moments per channel of each layer that was called, the layers that a batch came to more than once, and
            the outputs.
        """
        assert self._batches is not None
        found: dict[str, Moments] = {}
        often: set[str] = set()
        counted: Counter[str] = Counter()
        outputs: list[list[Tensor]] = []
        with unchanged(self._model), uncompiled(), torch.no_grad():
            self._model.eval()
            for name, norm in norms.items():
                norm.register_forward_pre_hook(self._listener(name, found, counted, ends), with_kwargs=True)
            for batch in self._batches:
                counted.clear()
                with suppress(_Heard):
                    outputs.append(_tensors(call(self._model, batch, self._forward_fn)))
                often |= {name for name, calls in counted.items() if calls > 1}
        return found, often, outputs

    def _listener(self, name: str, found: dict[str, Moments], counted: Counter[str], ends: bool) -> Callable[..., None]:
        def hear(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["input"]
            mask = {"mask": kwargs["mask"]} if kwargs.get("mask") is not None else {}
            activation = vars(norm).get("activation")
            if activation is not None:
                vars(norm)["activation"] = None
            try:
                y = norm.forward(x, **mask)
            finally:
                if activation is not None:
                    vars(norm)["activation"] = activation
            counted[name] += 1
            self.axes[name] = y.dim()
            if y.numel():
                others = [axis for axis in range(y.dim()) if axis != 1]
                wide = y.double()
                if not bool(wide.isfinite().all()):
                    raise NormwiseError(
                        f"swap received batches for which layer {name!r} puts out NaN or infinite values: leave such "
                        "samples out of calibrate."
                    )
                mean = wide.mean(others, keepdim=True)
                var = (wide - mean).square().mean(others)
                moments = Moments(mean.flatten(), var, y.numel() // y.shape[1])
                found[name] = found[name].merge(moments) if name in found else moments
            if ends:
                raise _Heard

        return hear


def _ratio(target: Moments, now: Moments) -> Tensor:
    """The factor by which the output has to be multiplied; 1 where it is constant, or not finite."""
    ratio: Tensor = (target.var / now.var).sqrt()
    return torch.where(ratio.isfinite() & (now.var > 0), ratio, torch.ones_like(ratio))


def _tensors(output: Any) -> list[Tensor]:
    """The tensors of numbers in a model's output, whatever holds them."""
    if isinstance(output, Tensor):
        return [output.detach()] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = [*output.values()]
    return [found for item in output for found in _tensors(item)] if isinstance(output, list | tuple) else []
