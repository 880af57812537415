"""The results of a PyTorch model, in inference and in a step of training, and whether another computes the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# What rounding may come to, relative to the largest value of an output, gradient or statistic.
CLOSE = {"float64": 1e-8, "float32": 1e-3}
# Where a model multiplies the rounding of its own input, so many times that is rounding too.
ILL_CONDITIONED = 100.0
WHAT = ("inference", "training", "gradients", "statistics")

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Measured:
    """Outputs in inference, those of one training step with its gradients, and the statistics behind it.

    Args:
        state: the names of the ``state_dict`` with its bytes' owners, before anything was run.
    """

    inference: Tensors
    training: Tensors
    gradients: Tensors
    statistics: Tensors
    state: Tensors


def measured(model: nn.Module, x: Tensor) -> Measured:
    """The measurements of a copy: the model stays as it is."""
    twin = copy.deepcopy(model)
    state = {name: each.detach().clone() for name, each in twin.state_dict().items()}
    with torch.no_grad():
        inference = outputs(twin, x, training=False)
    training = outputs(twin, x, training=True)
    return Measured(inference, _detached(training), backward(twin, training), statistics_of(twin), state)


def outputs(model: nn.Module, x: Tensor, *, training: bool | None) -> dict[str, Tensor]:
    """All tensors of an output, by their places in it; with ``training=None`` in the mode that the model has."""
    if training is not None:
        with torch.no_grad():  # some models keep what they made when their mode changed
            model.train(training)
    torch.manual_seed(3)  # for dropout and its like
    return dict(_flat(model(x.clone())))


def backward(model: nn.Module, training: Tensors) -> dict[str, Tensor]:
    """The gradients of the mean square of all outputs."""
    losses = [each.double().square().mean() for each in training.values() if each.requires_grad]
    torch.stack(losses).sum().backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    """Running statistics, and how often they were updated."""
    found = model.state_dict().items()
    return {name: each.detach().clone() for name, each in found if "running_" in name or "tracked" in name}


def compared(before: Measured, after: Measured) -> dict[str, float | str]:
    """The largest difference of each kind; in ``state`` words where keys or bytes are not the same."""
    found: dict[str, float | str] = {what: difference(getattr(before, what), getattr(after, what)) for what in WHAT}
    if words := changed_state(before.state, after.state):
        found["state"] = words
    return found


def changed_state(before: Tensors, after: Tensors) -> str:
    """The keys or bytes in which two ``state_dict`` differ; empty where they do not."""
    if [*before] != [*after]:
        odd = sorted(before.keys() ^ after.keys())
        return f"other keys: {odd[0]}" if odd else "the keys are in another order"
    unequal = [name for name, one in before.items() if not _same_bytes(one, after[name])]
    return f"other values in {unequal[0]} and {len(unequal) - 1} more" if unequal else ""


def difference(before: Tensors, after: Tensors) -> float | str:
    """The largest difference, relative to the largest value of the tensor.

    Where that is rounding itself, such as the gradient of a bias before a batch norm, which is 0, it is relative to a
    millionth of the largest value of all tensors.
    """
    if missing := before.keys() ^ after.keys():
        return f"not the same tensors: {min(missing)}"
    largest = 0.0
    sizes = [float(each.abs().max()) for each in before.values() if each.numel() and bool(each.isfinite().all())]
    floor = 1e-6 * max(sizes or [0.0])
    for name, one in before.items():
        a, b = one.detach().double(), after[name].detach().double()
        if a.shape != b.shape:
            return f"{name} has another shape: {[*b.shape]} for {[*a.shape]}"
        if not a.numel() or not bool(a.isfinite().all()):
            continue  # nothing can be compared where the model itself overflows
        if not bool(b.isfinite().all()):
            return f"{name} is not finite"
        largest = max(largest, float((a - b).abs().max() / a.abs().max().clamp_min(max(floor, 1e-30))))
    return largest


def finite(tensors: Tensors) -> bool:
    """True if all values are finite."""
    return all(bool(each.isfinite().all()) for each in tensors.values())


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool(one.eq(other).all())


def _detached(tensors: Tensors) -> dict[str, Tensor]:
    return {name: each.detach() for name, each in tensors.items()}


def _flat(value: Any, name: str = "y") -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(name, value)] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = [*value.values()]
    items = value if isinstance(value, list | tuple) else []
    return [pair for number, item in enumerate(items) for pair in _flat(item, f"{name}.{number}")]
