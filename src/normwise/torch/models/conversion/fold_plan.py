"""The batch norms that can be folded, the layers that take them over, and the reason where one cannot be folded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from normwise.frameworks import with_article
from normwise.kernels.internals import storage_number
from normwise.torch.layers.class_change import PLAIN
from normwise.torch.layers.frozen import is_frozen
from normwise.torch.layers.per_domain import PerDomain
from normwise.torch.layers.tracked import TrackedBatchNorm, unlike_torch
from normwise.torch.models.conversion.fold_weights import (
    LINEAR,
    Affine,
    Changed,
    affine_of,
    behind,
    channels_in,
    channels_out,
    in_front,
    parameters_of,
    why_not_behind,
)
from normwise.torch.models.conversion.neighbours import Neighbours, Step
from normwise.torch.models.fusion.patterns import hooked
from normwise.torch.models.fusion.sources import adjacent
from normwise.torch.models.fusion.subclass_change import inside_kept, why_not_as_fused
from normwise.torch.models.fusion.subclasses import Inside, inside_of
from normwise.torch.models.memory.save_memory import saves_memory
from normwise.torch.models.model_checks import why_fixed

Span = tuple[int, int, str]
"""The first and the last byte of a tensor in its storage, and the name of the module that has it."""
Seen = dict[int, list[int]]
"""The numbers of axes of each module's inputs on the data, one for each call."""


class Planned(NamedTuple):
    """A batch norm, and the layer that takes it over."""

    norm: Any
    into: Any
    activation: str | None = None
    residual: bool = False

    @property
    def stays(self) -> str:
        """The operations that the batch norm does besides, in words."""
        return ", ".join(["add"] * self.residual + [str(self.activation)] * (self.activation is not None))


class Plan:
    """The changes that ``fold`` would make to a model, which stays as it is.

    Args:
        model: any module.
        inner: the same without what distributes or compiles it.
        seen: what was seen on data; None without data.

    Attributes:
        folded: what goes where, in this order.
        changed: the layers that take something over, by id, with their new parameters in float64.
    """

    def __init__(self, model: nn.Module, inner: nn.Module, seen: Seen | None) -> None:
        self.folded: list[Planned] = []
        self.changed: dict[int, Changed] = {}
        self._names = {id(module): name for name, module in model.named_modules()}
        self._neighbours = Neighbours(inner, lambda module: isinstance(module, _BatchNorm))
        self._fixed, self._seen = why_fixed(model), seen
        self._insides: dict[int, Inside] = {}
        self._places: dict[int, list[str]] = {}
        self._spans: dict[int, list[Span]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._places.setdefault(id(module), []).append(name)
        for name, module in model.named_modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None and (span := span_of(tensor)) is not None:
                    self._spans.setdefault(storage_number(tensor), []).append((*span, name))
        inside = [part for module in model.modules() if isinstance(module, PerDomain) for part in module.modules()]
        self._of_domains = {id(part) for part in inside}

    def add(self, norm: Any) -> str | None:
        """Plan to fold the batch norm; the reason where that cannot be."""
        why = self._against_norm(norm) or self._against(norm)
        if why is not None:
            return why
        step = self._neighbours.step(norm)
        if isinstance(step, str):
            return step
        with_residual = step.arguments == 2 and step.named in ((), ("residual",)) and len(step.sources) == 2
        if not with_residual and (step.arguments != 1 or step.named):
            return "it is called with more than its input"
        affine = affine_of(norm, self._now(norm))
        before = self._front(step)
        first = before if isinstance(before, str) else self._into_front(norm, step, before, affine)
        if first is None and with_residual:
            self.folded[-1] = self.folded[-1]._replace(residual=True)
        if first is None or with_residual or self._activation(norm) is not None:
            return first
        after = self._behind(step)
        if isinstance(after, str):
            return f"{first}, and {after}" if isinstance(before, str) else first
        second = self._into_behind(norm, step, after, affine)
        return None if second is None else f"{first}, and {second}"

    def _front(self, step: Step) -> Step | str:
        """The call of a layer in front that might take over the batch norm, or why there is none."""
        before = step.sources[0] if step.sources else Step("nothing")
        while True:
            if len(before.users) > 1:
                return f"the output of {before.what} in front of it is used in more than one place"
            if not self._passes(before):
                break
            before = before.sources[0]
        if isinstance(before.module, (*LINEAR, _BatchNorm)):
            return before
        return f"no convolution, linear layer or batch norm is in front of it, but {before.what}"

    def _behind(self, step: Step) -> Step | str:
        """The call of a layer behind that might take it over, or why there is none."""
        users = step.users
        while len(users) == 1 and self._passes(users[0]):
            users = users[0].users
        if len(users) != 1:
            return "its own output is used in more than one place" if users else "nothing is behind it"
        if isinstance(users[0].module, LINEAR):
            return users[0]
        return f"what is behind it is {users[0].what}"

    def _into_front(self, norm: Any, step: Step, before: Step, affine: Affine) -> str | None:
        layer: Any = before.module
        if isinstance(layer, _BatchNorm):
            why = self._against_norm(layer)
            if why is None and (self._activation(layer) is not None or before.arguments != 1):
                why = "it has an activation or an addition behind it"
        else:
            why = self._against_linear(layer, norm)
        why = why or self._against(layer) or self._against_calls(step, before)
        if why is None and channels_out(layer) != norm.num_features:
            why = f"it has {channels_out(layer)} channels and the batch norm {norm.num_features}"
        if why is not None:
            return f"{self._names[id(layer)]} in front of it cannot take it: {why}"
        return self._take(norm, layer, behind(layer, self._now(layer), affine))

    def _into_behind(self, norm: Any, step: Step, after: Step, affine: Affine) -> str | None:
        layer: Any = after.module
        why = self._against_linear(layer, norm) or self._against(layer) or self._against_calls(after, step)
        if why is None and (after.arguments != 1 or len(after.sources) != 1):
            why = "it is called with more than its input"
        if why is None and channels_in(layer) != norm.num_features:
            why = f"it takes {channels_in(layer)} channels and the batch norm has {norm.num_features}"
        why = why or why_not_behind(layer, affine)
        if why is not None:
            return f"{self._names[id(layer)]} behind it cannot take it: {why}"
        return self._take(norm, layer, in_front(layer, self._now(layer), affine))

    def _take(self, norm: Any, layer: Any, changed: Changed) -> str | None:
        for tensor, like in zip(changed, _dtypes(layer), strict=True):
            if not bool(tensor.to(like).isfinite().all()):
                kind = str(like).removeprefix("torch.")
                return f"{self._names[id(layer)]} cannot take it: its new parameters would not be finite in {kind}"
        self.changed[id(layer)] = changed
        self.folded.append(Planned(norm, layer, self._activation(norm)))
        return None

    def _passes(self, step: Step) -> bool:
        folded = any(step.module is each.norm for each in self.folded) and step.arguments == 1
        return step.passes() or (folded and self._activation(step.module) is None)

    def _activation(self, norm: Any) -> str | None:
        """The activation that a batch norm does behind its normalization, or None."""
        inside = self._insides.get(id(norm))
        activation: str | None = getattr(norm, "activation", None)
        return activation if inside is None else inside.activation

    def _now(self, layer: Any) -> Changed:
        return self.changed[id(layer)] if id(layer) in self.changed else parameters_of(layer)

    def _against(self, layer: Any) -> str | None:
        """Why a layer, whatever it is, must stay as it is."""
        if id(layer) in self._fixed:
            return self._fixed[id(layer)]
        places = self._places[id(layer)]
        if len(places) > 1:
            return f"it is shared: it is in the model as {' and as '.join(places)}"
        if self._neighbours.calls[id(layer)] > 1:
            return "it is called more than once"
        if "forward" in vars(layer):
            return "its forward was replaced on the instance"
        if saves_memory(layer):
            return (
                "save_memory has put its hooks on it: take them away before by undo() of its report, or, of a copy of "
                "the model, by normwise.save_memory(model).undo()"
            )
        if hooked(layer):
            return "it has hooks"
        tensors = [each for each in (*layer.parameters(), *layer.buffers()) if each is not None]
        if any(each.is_meta for each in tensors):
            return "its tensors are on the meta device, without values"
        for tensor in tensors:
            span = span_of(tensor)
            if span is None or any(size > 1 and step == 0 for size, step in zip(*_sizes(tensor), strict=True)):
                return "one of its tensors has no memory of its own for each element"
            for first, last, name in self._spans[storage_number(tensor)]:
                if name != self._names[id(layer)] and first <= span[1] and span[0] <= last:
                    return f"it shares a tensor with {name or 'the model'}"
            if id(tensor) in self._neighbours.used_tensors:
                return "the forward around it uses a tensor of its by itself"
        return None

    def _against_norm(self, norm: Any) -> str | None:
        if id(norm) in self._of_domains:
            return "it is of a PerDomain layer: leave it one domain by normwise.torch.convert_from_domains before"
        if isinstance(norm, _LazyNormBase):
            return "it has not seen an input yet"
        if (unlike := unlike_torch(norm)) is not None:
            return f"it {unlike}, which is not what a batch norm does in inference"
        kind = type(norm).__bases__[1] if is_frozen(norm) else type(norm)
        ours = issubclass(kind, TrackedBatchNorm) and kind.__module__.startswith("normwise.")
        if inside_kept(norm) is not None:
            if (why := why_not_as_fused(norm)) is not None:
                return why
        elif kind not in {*PLAIN, nn.SyncBatchNorm} and not ours:
            inside = inside_of(norm)
            if isinstance(inside, str):
                return f"it is {with_article(kind.__name__)}, which may do something else than a batch norm does"
            self._insides[id(norm)] = inside
        if norm.running_mean is None or norm.running_var is None:
            return "it keeps no running statistics and uses batch statistics in eval mode too"
        if norm.training:
            return "it is in training mode: call eval() on the model before"
        calls = None if self._seen is None else len(self._seen.get(id(norm), []))
        if calls == 0:
            return "no batch came to it"
        return None

    def _against_linear(self, layer: Any, norm: Any) -> str | None:
        if is_parametrized(layer):
            return "a parametrization makes its parameters: remove that before"
        if type(layer) not in LINEAR:
            return (
                f"it is {with_article(type(layer).__name__)}, which may do something else than what it is derived from"
            )
        if not layer.weight.is_floating_point():
            return f"its weight is of {str(layer.weight.dtype).removeprefix('torch.')}"
        axes = None if self._seen is None else {*self._seen.get(id(norm), [])}
        if isinstance(layer, nn.Linear):
            if not isinstance(norm, nn.BatchNorm1d | nn.SyncBatchNorm) and type(norm).__name__[-2:] in ("2d", "3d"):
                return "it works on the last axis and the batch norm on the second of several"
            if axes is not None and axes != {2}:
                return "it works on the last axis and the batch norm on the second of several"
        return None

    def _against_calls(self, called: Step, calling: Step) -> str | None:
        """The reason why the two calls may not always go together; the first takes what the second gives."""
        if self._seen is not None:
            counts = [len(self._seen.get(id(step.module), [])) for step in (called, calling)]
            if counts[0] != counts[1]:
                return f"on the data it is not called as often ({counts[1]} and {counts[0]} calls)"
        if (who := self._neighbours.apart(calling, called)) is not None:
            return who
        if called.hidden is None or (called.chain is not None and called.chain is calling.chain):
            return None
        names = [step.name.rpartition(".")[2] for step in (calling, called)]
        if called.owner is not None and adjacent(called.owner, *names, alone=True):
            return None
        return called.hidden


def span_of(tensor: Tensor) -> tuple[int, int] | None:
    """The first and the last byte of a tensor in its storage; None where it has no such place."""
    if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_meta:
        return None
    first = int(tensor.storage_offset())
    last = first + sum((size - 1) * step for size, step in zip(*_sizes(tensor), strict=True))
    return first * tensor.element_size(), (last + 1) * tensor.element_size() - 1


def _sizes(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tensor.shape, tensor.stride()


def _dtypes(layer: Any) -> Iterable[torch.dtype]:
    """The dtypes of the weight and the bias, those that a layer has and those that it will get."""
    own = [each for each in (layer.weight, layer.bias) if each is not None]
    like: Tensor = own[0] if own else layer.running_mean
    return [like.dtype if each is None else each.dtype for each in (layer.weight, layer.bias)]


def named_norms(model: nn.Module) -> dict[str, Any]:
    """The batch norms of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
