"""``save_memory`` on Keras's torch backend: fewer bytes for the backward, and every bit as without it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import normwise
import normwise.keras as nk
from normwise.errors import NormwiseError, UnsuitableModel
from normwise.keras.models.save_memory import save_memory
from tests.keras.calls import BACKEND, values

if BACKEND != "torch":
    pytest.skip("other backends refuse it: test_save_memory_elsewhere.py", allow_module_level=True)

import torch
from torch import Tensor

from normwise.keras.models import save_memory_hooks as hooks
from normwise.kernels import choose
from normwise.torch.models.memory import recipes, rows

needs_kernels = pytest.mark.skipif(not choose.built(), reason="the compiled kernels are not built")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """These networks are tiny, and are to be treated as large ones."""
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


@pytest.mark.parametrize("kernel", ["", "cpu", "aten"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same_to_the_last_bit(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "cpu" and not choose.built():
        pytest.skip("the compiled kernels are not built")
    monkeypatch.setattr(choose, "_ASKED", kernel or None)
    report = compared(NETWORKS[name], batch_for(name))
    assert len(report.saved) >= 2, report
    assert not report.kept, report
    assert report.ratio < 0.9


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["activations inside", "activations behind"])
def test_precisions(name: str, policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        report = compared(NETWORKS[name], images())
    finally:
        keras.config.set_dtype_policy(before)
    assert not report.kept, report


@pytest.mark.parametrize("place", ["inside", "behind"])
@pytest.mark.parametrize("kernel", ["cpu", "aten"])
def test_every_activation(kernel: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "cpu" and not choose.built():
        pytest.skip("the compiled kernels are not built")
    monkeypatch.setattr(choose, "_ASKED", kernel)
    names = ["relu", "relu6", "silu", "gelu", "sigmoid", "tanh", "leaky_relu", "elu", "hard_swish", "mish", "softmax"]

    def make() -> Any:
        stack: list[Any] = []
        for name in names:
            within = name if place == "inside" else None
            stack += [layers.Conv2D(4, 1), nk.BatchNormalization(activation=within)]
            stack += [] if within else [layers.Activation(name)]
        return sequential(*stack, layers.Conv2D(1, 1))

    report = compared(make, images())
    # What the kernels do not know is a function of the layer's own on what they gave.
    assert len(report.kept) == (2 if place == "inside" else 0), report


def test_what_the_layers_behind_save_is_gone() -> None:
    """For each activation behind: neither what it gave is kept, nor the convolution's copy of that."""
    model = made(behind, images())
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    def shapes(rank: int) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(images(), training=True)
        return sum(len(shape) == rank and shape[0] == 4 for shape in kept)

    before = shapes(4)
    save_memory(model)
    assert shapes(4) <= before // 2


def test_bytes_are_those_that_live_behind_the_forward() -> None:
    x = images(16, 24)
    model = made(lambda: sequential(*behind().layers[:10], side=24), x)
    report = save_memory(model, x)
    report.undo()

    def alive() -> int:
        gc.collect()
        tensors = [each for each in gc.get_objects() if type(each) is Tensor and not each.requires_grad]
        found = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        return sum(found.values())

    with save_memory(model):
        y = model(x, training=True)
        during = alive()  # what is packed stands in Python
        y.sum().backward()
        freed = during - alive()
    assert freed == pytest.approx(report.bytes_after, rel=0.25)
    assert report.ratio is not None
    assert report.ratio < 0.6


@pytest.mark.parametrize("name", ["activations inside", "activations behind", "functional", "subclass"])
def test_fit_gives_the_same_weights(name: str) -> None:
    x, y = images(16).numpy(), np.linspace(-1, 1, 32, dtype="float32").reshape(16, 2)
    models = [made(NETWORKS[name], x[:4]) for _ in range(2)]
    report = save_memory(models[1])
    losses = []
    for model in models:
        keras.utils.set_random_seed(4)
        model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), loss="mse")
        past = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        losses.append([*past.history["loss"], model.train_on_batch(x[:4], y[:4])])
        model.predict(x[:4], verbose=0)
    assert losses[0] == losses[1]
    assert np.isfinite(losses[0]).all()
    for one, other in zip(models[0].variables, models[1].variables, strict=True):
        np.testing.assert_array_equal(values(one), values(other), err_msg=one.path)
    assert [*report.saved]


@pytest.mark.parametrize("kernel", ["cpu", "aten"])
@pytest.mark.parametrize("first", ["a batch norm's", "another one's"])
def test_every_second_of_a_row_of_residual_outputs_is_made_again(
    first: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "cpu" and not choose.built():
        pytest.skip("the compiled kernels are not built")
    monkeypatch.setattr(choose, "_ASKED", kernel)

    def make() -> Any:
        x = given = keras.Input((10, 10, 3))
        x = layers.Conv2D(4, 1)(x)
        x = nk.BatchNormalization(activation="relu", name="stem")(x) if first == "a batch norm's" else x
        for number in range(5):
            inner = layers.Conv2D(4, 3, padding="same")(x)
            x = nk.BatchNormalization(activation="relu", name=f"end{number}")(inner, residual=x)
        return keras.Model(given, layers.Conv2D(1, 1)(x), name="f")

    report = compared(make, images())
    saved = [f"end{number}" in report.saved for number in range(5)]
    assert saved == [True, False, True, False, True] if first == "a batch norm's" else saved[1:] == [True, False] * 2
    assert {*report.kept.values()} <= {recipes.CUT, recipes.UNKNOWN_RESIDUAL}
    assert report.ratio < 0.85, report


@pytest.mark.parametrize("training", [False, True])
def test_frozen_layers_and_inference(training: bool) -> None:
    def make() -> Any:
        model = behind()
        for layer in model.layers:
            layer.trainable = training and not isinstance(layer, nk.BatchNormalization)
        return model

    compared(make, images(), training=training)


class Changing(layers.Layer):
    """It changes what it is given, and gives it on."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def call(self, x: Any) -> Any:
        self.change(x)
        return x


def unseen(y: Tensor) -> None:
    with torch.no_grad():
        y.mul_(0.5)


def other_memory(y: Tensor) -> None:
    y.data = y.detach() * 3


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "seen": lambda y: y.mul_(0.5),
    "of a part": lambda y: y[0].zero_(),
    "unseen by autograd": unseen,
    "other memory": other_memory,
}


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("name", CHANGES)
def test_an_output_that_was_changed_in_place_is_saved_as_it_is_then(name: str, activation: str | None) -> None:
    def make() -> Any:
        def change(y: Tensor) -> None:
            if isinstance(y, Tensor) and y.grad_fn is not None:
                CHANGES[name](y)

        stack = [layers.Conv2D(4, 1), nk.BatchNormalization(), *([layers.Activation(activation)] if activation else [])]
        return sequential(*stack, Changing(change), layers.Conv2D(4, 1))

    compared(make, images())


def test_a_change_of_what_stands_between_two_copies_is_not_passed_over() -> None:
    """A function of the user's own is not trusted, in whatever layer it is called."""

    def sly(x: Any) -> Any:
        z = ops.copy(x)
        if isinstance(z, Tensor):
            with torch.no_grad():
                z.mul_(0.5)
            z = z.clone()
        return z

    class Sly(layers.Conv2D):
        def call(self, x: Any) -> Any:
            return super().call(sly(x))

    compared(
        lambda: sequential(
            nk.BatchNormalization(), layers.Activation(sly), layers.Conv2D(4, 1), nk.BatchNormalization(), Sly(4, 1)
        ),
        images(),
    )

    x = images()
    model, twin = (
        made(lambda: sequential(nk.BatchNormalization(activation="silu"), layers.Conv2D(4, 1)), x) for _ in range(2)
    )
    save_memory(twin)
    for each in (model, twin):
        each.layers[1].register_forward_pre_hook(lambda _, given: unseen(given[0]))
    assert_same_bits(trained(twin, x), trained(model, x))


@pytest.mark.parametrize("name", ["seen", "of a part", "unseen by autograd"])
def test_a_change_in_place_of_what_was_saved_is_an_error_as_without(name: str) -> None:
    class Squaring(layers.Layer):
        def call(self, x: Any) -> Any:
            y = ops.square(x)
            if isinstance(x, Tensor) and x.grad_fn is not None:
                CHANGES[name](x)
            return y

    x = images()
    model = made(lambda: sequential(nk.BatchNormalization(), Squaring()), x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trained(model, x)
    save_memory(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trained(model, x)


def test_second_derivatives_and_a_graph_that_is_kept() -> None:
    x = images()
    found: list[Any] = []
    for saves in (False, True):
        model = made(lambda: sequential(layers.Conv2D(4, 1), nk.BatchNormalization(), layers.Conv2D(2, 1)), x)
        if saves:
            save_memory(model)
        given = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(given, training=True).square().sum(), given, create_graph=True)
        slope.square().sum().backward(retain_graph=True)
        slope.square().sum().backward()
        found.append(given.grad)
    assert recipes.same_bits(*found)


def test_rows_are_read_as_they_were_done() -> None:
    """Every operation in a row, back to the same bits and the same strides; whatever else stands there ends it."""
    source = torch.randn(2, 3, 4, 5, requires_grad=True) * 1
    pad = torch.nn.functional.pad

    def made_again(y: Tensor) -> bool:
        operations = rows.read(y, source)
        if operations is None:
            return False
        layout = rows.Layout(y.shape, y.stride())
        return recipes.same_bits(rows.run(source.detach(), operations, layout), y.detach())

    last = torch.channels_last
    assert made_again(source.permute(0, -1, 1, -2).contiguous().contiguous(memory_format=last))
    assert made_again(source.permute(0, 2, 3, 1).contiguous())
    assert made_again(source.movedim(1, -1).reshape(-1, 3).clone())
    assert made_again(source.transpose(-1, 1).reshape(2, -1))
    assert made_again(pad(source.relu().mT, (1, 0, -1, 2)).view(4, -1))
    assert made_again(torch.nn.functional.leaky_relu(source, 0.3).permute(3, 2, 1, 0))
    assert not made_again(source * 1.0)
    assert not made_again(source[:, :2].clone())
    assert not made_again((source * 1.0).relu())


def test_undo_files_and_copies() -> None:
    x = images()
    model = made(functional, x)

    def count(of: Any) -> list[int]:
        return [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in of._flatten_layers()]

    nothing = count(model)
    assert not any(nothing)
    with save_memory(model) as report:
        once = count(model)
        assert any(once)
        save_memory(model)
        assert count(model) == once
        assert not any(count(keras.models.clone_model(model)))
    assert count(model) == nothing
    report.undo()
    flags = [(each._forward_hooks_with_kwargs, each._forward_hooks_always_called) for each in model._flatten_layers()]
    assert not any(each for pair in flags for each in pair)


def test_the_example_leaves_the_model_as_it_is() -> None:
    x = images()
    model = made(behind, x)
    before, random = [values(each).copy() for each in model.variables], torch.get_rng_state()
    report = save_memory(model, (x, torch.zeros(4)))
    assert torch.equal(torch.get_rng_state(), random)
    for value, each in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, values(each), err_msg=each.path)
    assert all(each.value.grad is None for each in model.trainable_variables)
    assert len(report.saved) == 4


def test_an_error_in_the_forward_ends_it() -> None:
    def fail(x: Tensor) -> None:
        if isinstance(x, Tensor) and x.grad_fn is not None:
            raise ValueError("stop here")

    x = images()
    model = sequential(layers.Conv2D(4, 1), nk.BatchNormalization(), Changing(fail), layers.Conv2D(4, 1))
    save_memory(model)
    with pytest.raises(ValueError, match="stop here"):
        model(x, training=True)
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_layers_that_are_not_reached_are_named() -> None:
    class Own(keras.layers.BatchNormalization):
        pass

    x = images()
    stack = [
        layers.BatchNormalization(name="keras"),
        nk.GhostBatchNormalization(num_splits=2, name="ghost"),
        nk.PerDomainBatchNormalization(["day", "night"], name="domains"),
        Own(name="own"),
        nk.BatchNormalization(name="ours"),
        layers.Conv2D(1, 1),
    ]
    model = sequential(*stack)
    report = save_memory(model, x)
    assert report.kept == {
        "m/keras": hooks.KERAS_OWN,
        "m/ghost": recipes.OTHER_STEPS,
        "m/own": "Own is a class of its own, which may do something else",
    }
    assert [*report.saved] == ["m/domains", "m/ours"]
    normwise.convert_from_keras(model)
    assert "m/keras" in save_memory(model, x).saved


def test_reports_and_what_is_refused() -> None:
    x = images()
    assert str(normwise.save_memory(sequential(layers.Conv2D(2, 1)))) == "nothing saved: the model has no batch norm"
    assert str(normwise.save_memory(made(behind, x))).startswith("4 of 4 batch norms saved; pass an example batch")
    assert "kept for the backward before" in str(normwise.save_memory(made(behind, x), example=x))
    with pytest.raises(NormwiseError, match=r"^save_memory needs a model that is built, and '.*' has no variables yet"):
        normwise.save_memory(keras.Sequential([nk.BatchNormalization()]))
    with pytest.raises(UnsuitableModel, match=r"^save_memory needs a Keras model, received a str"):
        save_memory("resnet")
    with pytest.raises(UnsuitableModel, match="save_memory needs a PyTorch or Keras model"):
        normwise.save_memory("resnet")
