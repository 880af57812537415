"""``save_memory`` on Keras's torch backend: fewer bytes for the backward, and every bit as without it."""

from __future__ import annotations

import gc
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

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
from normwise.torch.models.memory import recipes
from tests.keras.models.networks_that_save_memory import (
    NETWORKS,
    Changing,
    batch_for,
    behind,
    compared,
    functional,
    images,
    made,
    sequential,
    treat_as_large,
)

needs_kernels = pytest.mark.skipif(not choose.built(), reason="the compiled kernels are not built")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    treat_as_large(monkeypatch)


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

    report = compared(make, images(), training=training)
    assert len(report.saved) + len(report.kept) == 4


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
