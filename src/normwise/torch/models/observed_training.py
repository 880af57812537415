"""The effect of training steps on batch norms, and the gradients that come to the layers: on copies of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from normwise.facts import Steps
from normwise.torch.models.feeding import ForwardFn, arguments, device_of, moved, unwrapped
from normwise.torch.models.transaction import write

STATISTICS = ("running_mean", "running_var", "running_covariance")


def steps(model: nn.Module, train_step: Callable[[Any, Any], object], batches: Sequence[Any]) -> Steps | str:
    """The effect of some steps of training, as ``normwise.doctor.subject.Subject.steps`` says it; or why there is none.

    Args:
        model: with all that is wrapped around it; copies of it are trained.
        train_step: of a model and a batch.
        batches: one for each step.
    """
    started = copy.deepcopy(model)
    before = _learning(started)
    with _calls_of(started) as called:
        found, left = _steps(started, train_step, batches)
    if before and _learning(started, before) == before:
        if not called:
            return "train_step did not call the model that it was given"
        return "no parameter of the model that train_step was given changed: build the optimizer from that model"
    if left.training or not any(isinstance(module, _BatchNorm) for module in left.modules()):
        return found
    started = copy.deepcopy(model)
    unwrapped(started).train()
    found, left = _steps(started, train_step, batches)
    return replace(found, assumed=True) if left.training else "the steps ran in inference mode"


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Keep gradients: after the block each parameter's ``grad`` is the tensor that it was, with its bytes, or None."""
    before = [
        (each, each.grad, None if each.grad is None else each.grad.detach().clone()) for each in model.parameters()
    ]
    try:
        yield
    finally:
        for parameter, grad, values in before:
            if parameter.grad is not grad:
                parameter.grad = grad
            if grad is not None and values is not None:
                write(grad, values)


@contextmanager
def _calls_of(model: nn.Module) -> Iterator[list[str]]:
    """A list that has something in it as soon as any module of the model is called; no hook is put on the modules."""
    modules = {id(module) for module in model.modules()}
    called: list[str] = []

    def hear(module: nn.Module, _: Any) -> None:
        if not called and id(module) in modules:
            called.append(type(module).__name__)

    handle = register_module_forward_pre_hook(hear)
    try:
        yield called
    finally:
        handle.remove()


def _learning(model: nn.Module, names: Container[str] | None = None) -> dict[str, int]:
    """The hash of the bytes of each parameter that learns, or of those with these names."""
    return {
        name: _hash(parameter)
        for name, parameter in model.named_parameters()
        if (parameter.requires_grad if names is None else name in names)
    }


def _hash(tensor: Tensor) -> int:
    own = tensor.detach()
    own = own.to_local() if hasattr(own, "to_local") else own  # a part of a tensor that several processes share
    return hash(own.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


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
