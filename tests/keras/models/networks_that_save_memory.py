"""Networks of Keras's torch backend for the tests of ``save_memory``, and the comparison with a twin without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops
from torch import Tensor

import normwise.keras as nk
from normwise.keras.models.save_memory import save_memory
from normwise.torch.models.memory import recipes, rows
from tests.keras.calls import values


def treat_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have outputs of these tiny networks treated as large ones."""
    monkeypatch.setattr(recipes, "FEWEST_BYTES", 0)
    monkeypatch.setattr(rows, "_PROVED", {})


def images(samples: int = 4, side: int = 10) -> Tensor:
    return torch.randn(samples, side, side, 3, generator=torch.Generator().manual_seed(1)) * 2 + 1


def sequential(*stack: Any, side: int = 10) -> Any:
    return keras.Sequential([keras.Input((side, side, 3)), *stack], name="m")


def inside() -> Any:
    """Activations within the batch norms."""
    return sequential(
        layers.Conv2D(6, 3, padding="same"),
        nk.BatchNormalization(activation="relu"),
        layers.Conv2D(6, 3, padding="same", strides=2),
        nk.BatchNormalization(activation="silu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(5),
        nk.BatchNormalization(),
        layers.Dense(2),
    )


def behind() -> Any:
    """Activations in layers of their own, padding, dropout."""
    return sequential(
        layers.Conv2D(6, 3, use_bias=False),
        nk.BatchNormalization(),
        layers.ReLU(),
        layers.ZeroPadding2D(((1, 2), (0, 1))),
        layers.DepthwiseConv2D(3),
        nk.BatchNormalization(),
        layers.ReLU(6.0),
        layers.SeparableConv2D(6, 3, padding="same"),
        nk.BatchNormalization(),
        layers.Activation("gelu"),
        layers.Dropout(0.5),
        layers.Conv2DTranspose(4, 3, strides=2),
        nk.BatchNormalization(activation="mish"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    )


def functional() -> Any:
    """Residuals by the layer and by ``Add``, both kinds of concatenation, a model inside, one layer twice."""
    x = given = keras.Input((10, 10, 3))
    x = layers.Conv2D(6, 1)(x)
    first = nk.BatchNormalization(activation="relu", name="first")(x)
    x = layers.Conv2D(6, 3, padding="same")(first)
    x = nk.BatchNormalization(activation="relu", name="second")(x, residual=first)
    branch = sequential(layers.Conv2D(3, 1), nk.BatchNormalization(activation="elu", name="inner"))(given)
    x = layers.Concatenate()([x, branch])
    x = layers.Activation("silu")(nk.BatchNormalization(name="third")(x))
    again = layers.Conv2D(9, 1)
    twice = nk.BatchNormalization(name="twice")
    x = layers.ReLU()(layers.Add()([twice(again(x)), twice(again(layers.Conv2D(9, 1)(x)))]))
    x = layers.Conv2D(4, 3)(x)
    return keras.Model(given, layers.Dense(2)(layers.Flatten()(x)), name="f")


class Subclass(keras.Model):
    """Code of its own between layers, some of it on PyTorch's tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = [layers.Conv2D(4, 3, padding="same") for _ in range(3)]
        self.norms = [nk.BatchNormalization(activation=name) for name in (None, "relu", "silu")]
        self.act = layers.ReLU()
        self.out = layers.Dense(2)

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.act(self.norms[0](self.convolutions[0](x), training=training))
        x = ops.relu(self.norms[1](self.convolutions[1](x), training=training) - 0.1)
        x = self.norms[2](self.convolutions[2](x), training=training)
        return self.out(x.flatten(1) * x.square().mean())


class Changing(layers.Layer):
    """It changes what it is given, and gives it on."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def call(self, x: Any) -> Any:
        self.change(x)
        return x


def first_axis() -> Any:
    """Channels first, and values in time."""
    x = given = keras.Input((3, 12))
    x = layers.Conv1D(4, 3, data_format="channels_first")(x)
    x = layers.ReLU()(nk.BatchNormalization(axis=1)(x))
    x = layers.Conv1D(4, 3, data_format="channels_first")(x)
    x = layers.Permute((2, 1))(nk.BatchNormalization(axis=1, activation="tanh")(x))
    return keras.Model(given, layers.Dense(2)(layers.Reshape((4, 8))(layers.Conv1D(4, 1)(x))))


NETWORKS: dict[str, Callable[[], Any]] = {
    "activations inside": inside,
    "activations behind": behind,
    "functional": functional,
    "subclass": Subclass,
    "channels first": first_axis,
}


def batch_for(name: str) -> Tensor:
    return images()[:, 0, :4].transpose(1, 2).repeat(1, 1, 3) if name == "channels first" else images()


def made(make: Callable[[], Any], x: Any) -> Any:
    """A built model with parameters that are not at their first values, the same ones every time."""
    keras.utils.set_random_seed(0)
    model = make()
    model(x)
    rng = np.random.default_rng(2)
    for each in model._flatten_layers():
        if isinstance(each, keras.layers.BatchNormalization):
            for variable in each.trainable_variables:
                variable.assign(values(variable) + rng.normal(0, 0.4, variable.shape))
    return model


def trained(model: Any, x: Tensor, training: bool = True) -> dict[str, Tensor]:
    """Everything that a training step leaves behind, by name."""
    keras.utils.set_random_seed(3)
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x, training=training)
    (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    found = {"y": y.detach(), "x": x.grad, "random": torch.rand(1)}
    found |= {f"{number} {each.path}": each.value.detach() for number, each in enumerate(model.variables)}
    found |= {f"gradient of {number}": each.value.grad for number, each in enumerate(model.trainable_variables)}
    return {name: tensor.clone() for name, tensor in found.items() if tensor is not None}


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert len(found) == len(expected)
    pairs = zip(found.values(), expected.values(), strict=True)
    wrong = [name for name, (one, other) in zip(found, pairs, strict=True) if not recipes.same_bits(one, other)]
    assert not wrong


def compared(make: Callable[[], Any], x: Tensor, training: bool = True) -> Any:
    """A step of a model and one of its twin that saves memory are the same; the report of the twin."""
    model, twin = made(make, x), made(make, x)
    report = save_memory(twin, x)
    assert_same_bits(trained(twin, x, training), trained(model, x, training))
    return report
