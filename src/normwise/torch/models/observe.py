"""A PyTorch model as the doctor examines it: its normalization layers, and ways to run it and to look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.swa_utils import AveragedModel

from normwise.archives import TARGETS
from normwise.errors import NormwiseError
from normwise.facts import Input, LayerFacts, Neighbours, Outcome, Source, Steps
from normwise.failures import sentence
from normwise.torch.layers.whitening import Whitening
from normwise.torch.models.feeding import (
    ForwardFn,
    arguments,
    call,
    layer_of,
    samples_in,
    uncompiled,
    unwrapped,
)
from normwise.torch.models.model_checks import check_model, check_runnable, out_of_reach
from normwise.torch.models.neighbours import neighbours
from normwise.torch.models.observed_input import input_of
from normwise.torch.models.observed_training import gradients, gradients_kept, steps
from normwise.torch.models.recalibration.sites import survey
from normwise.torch.models.recalibration.torch_layer import TorchLayer
from normwise.torch.models.recalibration.torch_model import check_values
from normwise.torch.models.transaction import unchanged


class TorchSubject:
    """The ``normwise.doctor.subject.Subject`` of PyTorch.

    Args:
        model: with all that is wrapped around it.
        forward_fn: how a batch enters the model.
        called: the operation, for the errors.

    Raises:
        UnsuitableModel: no model, or one whose layers do not run in Python.
        NormwiseError: a model without values.
    """

    framework = "torch"

    def __init__(self, model: nn.Module, forward_fn: ForwardFn | None, *, called: str = "examine") -> None:
        check_model(model, called=called)
        check_runnable(model, forward_fn, called=called)
        check_values(model, "inference", called=called)
        self.model, self.inner, self.forward_fn = model, unwrapped(model), forward_fn
        self.norms = {name: module for name, module in self.inner.named_modules() if isinstance(module, _BatchNorm)}
        self.layers = [TorchLayer(name, norm) for name, norm in self.norms.items() if _keeps_channels(norm)]
        self._frozen = survey(self.inner, None, covariances=True)[1]
        self.facts: Mapping[str, LayerFacts] = {name: self._facts_of(name, norm) for name, norm in self.norms.items()}
        self.dropouts = any(isinstance(module, _DropoutNd) and module.p > 0 for module in self.inner.modules())
        self.averaged = any(isinstance(each, AveragedModel) for each in model.modules())
        self.missing = dict(out_of_reach(self.inner))

    @contextmanager
    def unchanged(self) -> Iterator[Callable[[], None]]:
        """Put the model into eval mode for a block and run what was compiled as written; afterwards it is as before."""
        with unchanged(self.model) as snapshot, uncompiled():
            self.inner.eval()
            yield snapshot.random.restore

    def forward(self, batch: Any) -> Any:
        """Run one batch through the unwrapped model without gradients, by ``forward_fn`` where there is one."""
        return call(self.inner, batch, self.forward_fn)

    def takes(self) -> str:
        """The contents that a batch must have, in words, with the dtype of the first floating-point weights."""
        weights = next((each for each in self.inner.parameters() if each.is_floating_point()), None)
        dtype = "" if weights is None else f" (its weights are {str(weights.dtype).removeprefix('torch.')})"
        return f"tensors of the shape and dtype that it needs{dtype}"

    def place_of(self, error: Exception) -> str:
        """The innermost module in the traceback of an error, with its class; empty where there is none."""
        return layer_of(self.inner, error)

    def not_finite(self) -> str | None:
        """The name of the first parameter that holds NaN or infinite values; None where there is none."""
        named = self.inner.named_parameters()
        return next((name for name, each in named if not bool(each.detach().isfinite().all())), None)

    @contextmanager
    def with_dropout(self) -> Iterator[None]:
        """Turn dropout on for a block: its modules are in training mode, and no others."""
        dropouts = [module for module in self.inner.modules() if isinstance(module, _DropoutNd)]
        for module in dropouts:
            module.train()
        try:
            yield
        finally:
            for module in dropouts:
                module.eval()

    def look(self, hear: Callable[[str, Input], object]) -> Callable[[], None]:
        """Call ``hear`` from a hook before each forward of a layer, with its path and input; returns what ends it."""
        ends = ExitStack()
        for layer in self.layers:

            def hook(_: nn.Module, args: Any, named: Any, layer: TorchLayer = layer) -> None:
                x = layer.input_in(args, named)
                if x is not None:
                    hear(layer.name, input_of(x))

            ends.callback(layer.norm.register_forward_pre_hook(hook, with_kwargs=True).remove)
        return ends.close

    def outputs(self, result: Any) -> NDArray[np.float64] | None:
        """The first tensor of the output, as float64 of shape (N, k); None where it has no rows of such numbers."""
        found = _first_tensor(result)
        if found is None or not found.dim() or not found.is_floating_point():
            return None
        values: NDArray[np.float64] = found.detach().double().cpu().reshape(len(found), -1).numpy()
        return values

    def part(self, batch: Any, rows: Sequence[int]) -> Any:
        """A batch of some samples of a batch, cut out of all its tensors; None where no number of samples is known."""
        number = samples_in(batch)
        return _cut(batch, list(rows), number) if number else None

    def targets(self, batch: Any) -> Any:
        """The items of a tuple that ``forward`` does not take, or a mapping's labels by their usual names; or None."""
        if isinstance(batch, Mapping):
            return next((batch[name] for name in TARGETS if name in batch), None)
        if isinstance(batch, tuple | list) and len(batch) > 1:
            taken = 1 if self.forward_fn is not None else len(arguments(self.inner, batch)[0]) or 1
            rest = batch[taken:]
            return rest[0] if len(rest) == 1 else rest or None
        return None

    def labels(self, targets: Any) -> NDArray[np.float64] | None:
        """The targets as one number per sample; None where they are no tensor of such numbers."""
        if not isinstance(targets, Tensor) or targets.dim() == 0 or targets.numel() != len(targets):
            return None
        found: NDArray[np.float64] = targets.detach().double().cpu().reshape(-1).numpy()
        return found

    def outputs_first(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The function as it is: PyTorch's losses take the outputs first."""
        return function

    def number(self, value: Any) -> float:
        """A loss or metric as a number."""
        return float(value)

    def samples_in(self, batch: Any) -> int:
        """The number of samples in a batch; 0 where it is not known."""
        return samples_in(batch)

    def first_that_differs(self, one: Any, other: Any, limit: float) -> str | None:
        """The first module whose output for the first sample differs between two batches by more than the limit."""
        first, second = (self._first_samples(batch) for batch in (one, other))
        both = ((name, x, second[name]) for name, x in first.items() if name in second)
        return next((name for name, x, y in both if x.shape == y.shape and _apart(x, y) > limit), None)

    def neighbours(self, batch: Any) -> Mapping[str, Neighbours]:
        """The surroundings of the layers, as far as a run of the batch in inference mode shows them."""
        return neighbours(self.inner, self.norms, lambda: self.forward(batch))

    def steps(self, train_step: Callable[[Any, Any], object], batches: Sequence[Any]) -> Steps | None:
        """The effects of some steps of training on a copy; None, with the reason, where there is none to tell of."""
        with gradients_kept(self.model), unchanged(self.model):  # a step may train the model itself by mistake
            try:
                found = steps(self.model, train_step, batches)
                if isinstance(found, Steps):
                    return found
                self.missing["steps"] = found
                return None
            except NormwiseError:  # the step failed
                raise
            except Exception as error:  # not every model can be copied
                self.missing["steps"] = f"the model could not be copied ({sentence(error)})"
                return None

    def gradients(self, loss: Callable[[Any, Any], Any], batch: Any) -> Mapping[str, float]:
        """The gradients at the layers' inputs; none, with the reason, where the loss cannot be differentiated."""
        with unchanged(self.model):
            try:
                return gradients(self.inner, self.forward_fn, lambda result: loss(result, self.targets(batch)), batch)
            except Exception as error:  # a loss need not have gradients to be measured
                self.missing["gradients"] = f"the loss could not be differentiated ({sentence(error)})"
                return {}

    def compared(self, source: Any, batches: Sequence[Any]) -> Source:
        """The differences of the model from the one that it was derived from: outputs, eps, weights and statistics."""
        other = TorchSubject(source, self.forward_fn, called="examine, for source_model,")
        names = [name for name in self.norms if name in other.norms]
        pairs = {name: (self.norms[name], other.norms[name]) for name in names}
        far = {name: apart for name, pair in pairs.items() if (apart := _statistics_apart(*pair)) is not None}
        with other.unchanged():
            theirs = other._outcome(batches)
        with self.unchanged():
            mine, alike = self._outcome(batches), None
            if any(far.values()) and len(far) == len(self.norms) == len(other.norms):
                for norm, of_source in pairs.values():
                    TorchLayer("", norm).write(*TorchLayer("", of_source).read())
                alike = self._outcome(batches)
        return Source(
            mine.apart(theirs),
            {name: of_source.eps for name, (_, of_source) in pairs.items()},
            _weights_apart(self.inner, other.inner),
            far,
            len(other.norms),
            None if alike is None else alike.apart(theirs),
        )

    def _outcome(self, batches: Sequence[Any]) -> Outcome:
        return Outcome(np.concatenate([_rows(self.outputs(self.forward(batch))) for batch in batches]))

    def _facts_of(self, name: str, norm: _BatchNorm) -> LayerFacts:
        keeps = _keeps_channels(norm)
        own = list(norm.parameters(recurse=False))
        return LayerFacts(
            name, type(norm).__name__, norm.eps, norm.momentum,
            scale=_array(norm.weight), shift=_array(norm.bias),
            mean=_array(norm.running_mean) if keeps else None, var=_array(norm.running_var) if keeps else None,
            dtype="" if norm.running_mean is None else str(norm.running_mean.dtype).removeprefix("torch."),
            updates=None if norm.num_batches_tracked is None else int(norm.num_batches_tracked),
            trains=norm.training, learns=any(each.requires_grad for each in own) if own else None,
            frozen=self._frozen.get(name), tracks=norm.track_running_stats or norm.running_mean is None,
        )  # fmt: skip

    def _first_samples(self, batch: Any) -> dict[str, Tensor]:
        """The output of each module for the first sample; modules inside of others come first."""
        found: dict[str, Tensor] = {}
        with ExitStack() as ends:
            for name, module in self.inner.named_modules():

                def hook(*call: Any, name: str = name) -> None:
                    x = _first_tensor(call[-1])
                    if x is not None and x.dim() and x.is_floating_point():
                        found.setdefault(name, x[0].detach().clone())

                ends.callback(module.register_forward_hook(hook).remove)
            self.forward(batch)
        return found


def _keeps_channels(norm: _BatchNorm) -> bool:
    return not isinstance(norm, Whitening) and norm.running_mean is not None and norm.running_var is not None


def _array(tensor: Tensor | None) -> NDArray[np.float64] | None:
    return None if tensor is None else tensor.detach().double().cpu().numpy().copy()


def _apart(one: Tensor, other: Tensor) -> float:
    largest = float(one.abs().max()) if one.numel() else 0.0
    return float((one - other).abs().max()) / (largest or 1.0) if one.numel() else 0.0


def _first_tensor(result: Any) -> Tensor | None:
    if isinstance(result, Tensor):
        return result
    items = result.values() if isinstance(result, Mapping) else result if isinstance(result, tuple | list) else ()
    return next((found for item in items if (found := _first_tensor(item)) is not None), None)


def _cut(batch: Any, rows: list[int], number: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[rows] if batch.dim() and len(batch) == number else batch
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_cut(item, rows, number) for item in batch))
    if type(batch) in (tuple, list):
        return type(batch)(_cut(item, rows, number) for item in batch)
    if isinstance(batch, Mapping):
        return {key: _cut(item, rows, number) for key, item in batch.items()}
    return batch


def _rows(outputs: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return np.zeros((0, 1)) if outputs is None else outputs


def _weights_apart(mine: nn.Module, theirs: nn.Module) -> float:
    others = dict(theirs.named_parameters())
    both = [(p.detach().double(), others[n].detach().double()) for n, p in mine.named_parameters() if n in others]
    both = [(p, q) for p, q in both if p.shape == q.shape]
    size = sum(float(q.square().sum()) for _, q in both) or 1.0
    return float((sum(float((p - q.to(p.device)).square().sum()) for p, q in both) / size) ** 0.5)


def _statistics_apart(mine: _BatchNorm, theirs: _BatchNorm) -> float | None:
    if not (_keeps_channels(mine) and _keeps_channels(theirs)):
        return None
    from normwise.recalibration.standard_error import distance

    one, other = (TorchLayer("", norm).read() for norm in (mine, theirs))
    return float(distance(*one, *other, theirs.eps).max()) if one[0].shape == other[0].shape else None
