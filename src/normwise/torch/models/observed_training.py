"""The effect of training steps on batch norms, and the gradients that come to the layers: on copies of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.facts import Steps
from normwise.torch.models.feeding import ForwardFn, arguments, device_of, moved, unwrapped

STATISTICS = ("running_mean", "running_var", "running_covariance")


def steps(model: nn.Module, train_step: Callable[[Any, Any], object], batches: Sequence[Any]) -> Steps | None:
    """The effect of some steps of training, as ``normwise.doctor.subject.Subject.steps`` says it.

    Args:
        model: with all that is wrapped around it; copies of it are trained.
        train_step: of a model and a batch.
        batches: one for each step.
    """
    found, left = _steps(copy.deepcopy(model), train_step, batches)
    if left.training or not any(isinstance(module, _BatchNorm) for module in left.modules()):
        return found
    started = copy.deepcopy(model)
    unwrapped(started).train()
    found, left = _steps(started, train_step, batches)
    return replace(found, assumed=True) if left.training else None


def _steps(
    model: nn.Module, train_step: Callable[[Any, Any], object], batches: Sequence[Any]
) -> tuple[Steps, nn.Module]:
    inner = unwrapped(model)
    norms = {name: module for name, module in inner.named_modules() if isinstance(module, _BatchNorm)}
    changes = dict.fromkeys(norms, 0)
    counts: dict[str, float] = {}

    def watch(name: str) -> None:
        before: list[bytes] = []

        def pre(norm: nn.Module, args: Any) -> None:
            before.append(_statistics_bytes(norm))
            if norm.training and args and isinstance(args[0], Tensor) and args[0].dim() > 1:
                count = args[0].numel() / args[0].shape[1]
                counts[name] = min(counts.get(name, count), count)

        def post(norm: nn.Module, *_: Any) -> None:
            changes[name] += _statistics_bytes(norm) != before.pop()

        norms[name].register_forward_pre_hook(pre)
        norms[name].register_forward_hook(post)

    started = {name: (_statistics_bytes(norm), _affine_bytes(norm)) for name, norm in norms.items()}
    for name in norms:
        watch(name)
    with torch.enable_grad():
        for batch in batches:
            train_step(model, batch)
    number = len(batches)
    return Steps(
        number,
        {name: change / number for name, change in changes.items()},
        frozenset(name for name, norm in norms.items() if _statistics_bytes(norm) != started[name][0]),
        frozenset(name for name, norm in norms.items() if _affine_bytes(norm) != started[name][1]),
        counts,
    ), inner


def gradients(
    model: nn.Module, forward_fn: ForwardFn | None, loss: Callable[[Any], Tensor], batch: Any
) -> Mapping[str, float]:
    """The root mean square of the gradient at the input of each layer with weights, in order of depth.

    Args:
        model: a copy of it runs with batch statistics, as in training, and without dropout.
        forward_fn: how a batch enters it, or None.
        loss: of what the model gives.
        batch: a batch.
    """
    model = copy.deepcopy(model).eval()
    found: dict[str, float] = {}

    def listen(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, named: Any) -> None:
            x = args[0] if args else next(iter(named.values()), None)
            if isinstance(x, Tensor) and x.requires_grad and name not in found:
                found[name] = 0.0
                x.register_hook(lambda g: found.__setitem__(name, float(g.double().square().mean().sqrt())))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            module.train()
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(listen(name), with_kwargs=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # or no gradient passes a frozen part
    batch = moved(batch, device_of(model))
    with torch.enable_grad():
        if forward_fn is not None:
            result = forward_fn(model, batch)
        else:
            positional, named = arguments(model, batch)
            result = model(*positional, **named)
        loss(result).backward()
    return found


def _statistics_bytes(norm: nn.Module) -> bytes:
    kept = (getattr(norm, name, None) for name in STATISTICS)
    return b"".join(tensor.detach().cpu().double().numpy().tobytes() for tensor in kept if isinstance(tensor, Tensor))


def _affine_bytes(norm: nn.Module) -> bytes:
    own = norm.parameters(recurse=False)
    return b"".join(tensor.detach().cpu().double().numpy().tobytes() for tensor in own)
