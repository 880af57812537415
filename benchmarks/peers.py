"""The same computation by everybody: the public door of normwise, PyTorch, torch.compile, Keras; and a plain copy."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.cases import EPS, MOMENTUM, Case, Inputs
from normwise.torch import BatchNorm1d, BatchNorm2d, BatchNorm3d

OURS, EAGER, COMPILED, KERAS, COPY = "normwise", "PyTorch eager", "torch.compile", "Keras on PyTorch", "plain copy"
OURS_COMPILED = "normwise, compiled"

Results = tuple[Tensor, ...]
"""The output, then the gradients of ``Inputs.leaves`` where there is a backward."""


class NoPeer(RuntimeError):
    """This peer cannot run here; the text says why."""


def build(peer: str, case: Case, i: Inputs) -> Callable[[], Results]:
    """The call that is timed.

    Raises:
        NoPeer: it is not there, or does not do this.
    """
    if peer == COPY:
        return _copy(case, i)
    return _with_pass(case, i, *_MAKERS[peer](case, i))


def _with_pass(case: Case, i: Inputs, apply: Callable[[], Tensor], leaves: tuple[Tensor, ...]) -> Callable[[], Results]:
    """A training forward records the graph as training does, even where no backward follows."""

    def inference() -> Results:
        with torch.no_grad():
            return (apply(),)

    def forward() -> Results:
        return (apply(),)

    def both() -> Results:
        y = apply()
        return y, *torch.autograd.grad(y, leaves, i.dy)

    return {"inference": inference, "forward": forward, "forward+backward": both}[case.phase]


Made = tuple[Callable[[], Tensor], tuple[Tensor, ...]]


def _ours(case: Case, i: Inputs) -> Made:
    layer, leaves = _our_layer(case, i)
    return (lambda: layer(i.x, i.residual)), leaves


def _our_layer(case: Case, i: Inputs) -> tuple[nn.Module, tuple[Tensor, ...]]:
    layers = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}
    layer = layers[i.x.dim()](i.x.shape[1], EPS, MOMENTUM, activation=case.activation)
    return layer, _filled(layer, case, i)


def _ours_compiled(case: Case, i: Inputs) -> Made:
    """Our layer, compiled. It stands behind ``_compiled``, which starts the compiler afresh."""
    layer, leaves = _our_layer(case, i)
    compiled = torch.compile(layer, dynamic=False, fullgraph=True)
    return (lambda: compiled(i.x, i.residual)), leaves


def _eager(case: Case, i: Inputs) -> Made:
    """The layers as the usual networks are written: the addition and the relu in place."""
    layer = _their_layer(i)
    leaves = _filled(layer, case, i)
    relu = None if case.activation is None else nn.ReLU(inplace=True)

    def apply() -> Tensor:
        y = layer(i.x)
        if i.residual is not None:
            y += i.residual
        return y if relu is None else cast(Tensor, relu(y))

    return apply, leaves


def _their_layer(i: Inputs) -> nn.Module:
    layers = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    return layers[i.x.dim()](i.x.shape[1], EPS, MOMENTUM)


def _filled(layer: nn.Module, case: Case, i: Inputs) -> tuple[Tensor, ...]:
    """Give the layer the parameters and statistics; the leaves."""
    layer.train(case.phase != "inference")
    parameters = {"weight": nn.Parameter(i.weight.detach()), "bias": nn.Parameter(i.bias.detach())}
    layer._parameters.update(parameters)
    layer._buffers.update(running_mean=i.mean, running_var=i.var)
    return tuple(
        {id(i.weight): parameters["weight"], id(i.bias): parameters["bias"]}.get(id(leaf), leaf) for leaf in i.leaves
    )


class _Layers(nn.Module):
    """PyTorch's layers, as they stand in a network that is compiled."""

    def __init__(self, norm: nn.Module, *, relu: bool) -> None:
        super().__init__()
        self.norm, self.relu = norm, nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor, residual: Tensor | None) -> Tensor:
        y = self.norm(x)
        found: Tensor = self.relu(y if residual is None else y + residual)
        return found


def _compiled(case: Case, i: Inputs) -> Made:
    layer = _their_layer(i)
    leaves = _filled(layer, case, i)
    torch._dynamo.reset()  # each row from the start: nothing is made general because of the row before
    compiled = torch.compile(_Layers(layer, relu=case.activation is not None), dynamic=False, fullgraph=True)
    return (lambda: compiled(i.x, i.residual)), leaves


def _keras(case: Case, i: Inputs) -> Made:
    keras = keras_on_torch()
    last = case.layout == "last" and i.x.dim() > 2
    policy = case.dtype if case.dtype in ("float32", "float64") else f"mixed_{case.dtype}"
    axis = -1 if case.layout == "last" else 1
    layer = keras.layers.BatchNormalization(axis=axis, momentum=1 - MOMENTUM, epsilon=EPS, dtype=policy)

    def turned(x: Tensor) -> Tensor:  # Keras has the channels last in the shape too; a view, outside of the time
        return x.detach().movedim(1, -1) if last else x.detach()

    x = turned(i.x).requires_grad_()
    residual = None if i.residual is None else turned(i.residual).requires_grad_()
    layer.build(x.shape)
    layer.set_weights([t.detach().numpy() for t in (i.weight, i.bias, i.mean, i.var)])
    training, relu = case.phase != "inference", case.activation is not None

    def apply() -> Tensor:
        y = layer(x, training=training)
        y = y if residual is None else keras.ops.add(y, residual)
        y = keras.ops.relu(y) if relu else y
        return cast(Tensor, y.movedim(-1, 1) if last else y)

    weights = (layer.gamma.value, layer.beta.value)
    return apply, (x, *weights) if residual is None else (x, *weights, residual)


def keras_on_torch() -> Any:
    """The module.

    Raises:
        NoPeer: it is not installed, or was imported on another backend.
    """
    if find_spec("keras") is None:
        raise NoPeer("Keras is not installed")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
    from importlib import import_module

    keras = import_module("keras")
    if keras.backend.backend() != "torch":
        raise NoPeer(f"Keras is on its {keras.backend.backend()} backend: unset KERAS_BACKEND")
    return keras


def _copy(case: Case, i: Inputs) -> Callable[[], Results]:
    x = i.x.detach()
    if case.memory != "reused":
        return lambda: (x.clone(),)
    out = x.clone()
    return lambda: (out.copy_(x),)


_MAKERS: dict[str, Callable[[Case, Inputs], Made]] = {
    OURS: _ours,
    EAGER: _eager,
    COMPILED: _compiled,
    OURS_COMPILED: _ours_compiled,
    KERAS: _keras,
}
