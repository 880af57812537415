"""``freeze`` and ``unfreeze`` in Keras: what stays as it is, through ``fit`` and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import normwise.keras as nk
from normwise.errors import UnknownName, UnsuitableModel
from normwise.keras.models.freeze import _of_optimizer, freeze, unfreeze
from tests.keras.calls import values
from tests.keras.recalibration_models import MODELS, everything, images

LAYERS: dict[str, Callable[[], Any]] = {
    "keras": lambda: keras.layers.BatchNormalization(name="norm"),
    "keras, renorm": lambda: keras.layers.BatchNormalization(renorm=True, name="norm"),
    "ours": lambda: nk.BatchNormalization(activation="relu", name="norm"),
    "ours, pooled": lambda: nk.BatchNormalization(estimator="pooled", name="norm"),
    "ghost": lambda: nk.GhostBatchNormalization(virtual_batch_size=4, name="norm"),
    "domains": lambda: nk.PerDomainBatchNormalization(domains=["day", "night"], name="norm"),
    "group": lambda: keras.layers.GroupNormalization(2, name="norm"),
    "layer": lambda: keras.layers.LayerNormalization(name="norm"),
    "rms": lambda: keras.layers.RMSNormalization(name="norm"),
}
TRACKED = [name for name in LAYERS if name not in ("group", "layer", "rms")]


def network(make: Callable[[], Any]) -> Any:
    return keras.Sequential(
        [keras.Input((6, 6, 2)), keras.layers.Conv2D(4, 1), make(), keras.layers.Dense(1)], name="m"
    )


def fitted(model: Any, epochs: int = 2) -> Any:
    """The model after ``fit``, by an optimizer whose momentum and decay move whatever is handed to it."""
    if not model.compiled or _of_optimizer(model):  # as the report says it
        model.compile(keras.optimizers.SGD(0.001, momentum=0.9, weight_decay=0.1), loss="mse")
    model.fit(images(16), np.zeros((16, 6, 6, 1), "float32"), epochs=epochs, batch_size=8, verbose=0, shuffle=False)
    return model


def state(layer: Any) -> dict[str, Any]:
    return {variable.name: values(variable).copy() for variable in layer.variables}


def moved(layer: Any, before: dict[str, Any]) -> list[str]:
    return sorted(name for name, value in state(layer).items() if value.tobytes() != before[name].tobytes())


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_moves_and_afterwards_everything_does(name: str) -> None:
    model = fitted(network(LAYERS[name]))  # a function is compiled, and momentum is there
    layer = model.get_layer("norm")
    learned = [variable.trainable for variable in layer.variables]
    report = freeze(model)
    assert [*report.layers] == ["m/norm"]
    before, first = state(layer), values(model.layers[0].kernel).copy()
    fitted(model, epochs=3)
    assert moved(layer, before) == []
    assert not np.array_equal(values(model.layers[0].kernel), first)
    assert unfreeze(model).layers == report.layers
    assert [variable.trainable for variable in layer.variables] == learned
    assert layer.trainable
    fitted(model)
    wanted = {"gamma", "beta"} & before.keys() | {"moving_mean", "moving_variance"} & before.keys() or {"scale"}
    assert wanted <= {*moved(layer, before)}


@pytest.mark.parametrize("name", TRACKED)
def test_statistics_alone_normalize_and_gamma_and_beta_learn(name: str) -> None:
    model = fitted(network(LAYERS[name]))
    layer, x = model.get_layer("norm"), images(8)
    assert freeze(model, affine=False).layers == {"m/norm": ("statistics",)}
    np.testing.assert_array_equal(values(model(x, training=True)), values(model(x, training=False)))
    before = state(layer)
    fitted(model)
    assert moved(layer, before) == ["beta", "gamma"]
    assert unfreeze(model).layers == {"m/norm": ("statistics",)}
    before = state(layer)
    fitted(model)
    assert {"moving_mean", "moving_variance"} <= {*moved(layer, before)}


@pytest.mark.parametrize("name", TRACKED)
def test_affine_alone_and_the_statistics_move(name: str) -> None:
    model = fitted(network(LAYERS[name]))
    layer = model.get_layer("norm")
    assert freeze(model, statistics=False).layers == {"m/norm": ("affine parameters",)}
    before = state(layer)
    fitted(model)
    assert {"moving_mean", "moving_variance"} <= {*moved(layer, before)}
    assert not {"gamma", "beta"} & {*moved(layer, before)}


def test_one_part_after_the_other_in_any_order() -> None:
    model = network(LAYERS["keras"])
    layer = model.get_layer("norm")

    def learns() -> list[bool]:
        return [layer.trainable, layer.gamma.trainable, layer.beta.trainable]

    layer.beta.trainable = False
    freeze(model, statistics=False)
    assert learns() == [True, False, False]
    freeze(model, affine=False)
    assert learns() == [False, False, False]
    unfreeze(model, statistics=False)
    assert learns() == [False, True, False]
    assert freeze(model).partly == {"m/norm": "its statistics are frozen already"}
    unfreeze(model, affine=False)
    assert learns() == [True, False, False]
    unfreeze(model)
    assert learns() == [True, True, False]
    assert "_before_freeze" not in vars(layer)


def test_parameters_that_were_made_to_learn_by_hand_are_frozen_again() -> None:
    model = network(LAYERS["keras"])
    freeze(model)
    model.get_layer("norm").trainable = True
    assert freeze(model).layers == {"m/norm": ("statistics", "affine parameters")}
    assert not model.get_layer("norm").trainable
    unfreeze(model)
    assert model.get_layer("norm").gamma.trainable


def test_what_is_left_and_why() -> None:
    model = network(LAYERS["keras"])
    plain = keras.layers.BatchNormalization(center=False, scale=False, name="plain")
    by_hand = keras.layers.BatchNormalization(trainable=False, name="by_hand")
    late = keras.Sequential([keras.layers.BatchNormalization(name="late")])
    model.add(plain), model.add(by_hand)
    report = freeze(model, layers=["norm", "plain"])
    assert report.partly == {"m/plain": "it has no affine parameters"}
    assert report.skipped == {"m/by_hand": "it was not asked for"}
    assert unfreeze(model).skipped == {"m/by_hand": "freeze has not frozen it: set trainable = True on the layer"}
    assert str(unfreeze(model)) == (
        "0 of 3 normalization layers unfrozen, 3 skipped\n"
        "  skipped      m/norm: freeze has not frozen it\n"
        "  skipped      m/plain: freeze has not frozen it, it has no affine parameters\n"
        "  skipped      m/by_hand: freeze has not frozen it: set trainable = True on the layer"
    )
    assert freeze(late).skipped == {"late": "it is not built: no input ever came to it"}
    assert str(freeze(keras.layers.Dense(2))) == "nothing frozen: the model has no normalization layer"


@pytest.mark.parametrize("name", MODELS)
def test_models_of_every_make(name: str) -> None:
    model, x = MODELS[name](), images(8)
    report = freeze(model)
    assert len(report.layers) == {"functional": 4}.get(name, 2)
    before = everything(model)
    model(x, training=True)
    after = everything(model)
    seeds = sum(one != other for one, other in zip(before, after, strict=True))
    assert seeds <= sum("seed" in variable.path for variable in model.variables)
    unfreeze(model)
    model(x, training=True)
    assert everything(model) != after


def test_a_file_keeps_the_statistics_frozen(tmp_path: Path) -> None:
    model = fitted(network(LAYERS["ours"]))
    freeze(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    layer, x = loaded.get_layer("norm"), images(8)
    np.testing.assert_array_equal(values(loaded(x)), values(model(x)))
    before = state(layer)
    fitted(loaded)
    assert moved(layer, before) == []
    assert unfreeze(loaded).skipped == {"norm": "freeze has not frozen it: set trainable = True on the layer"}
    model.save_weights(tmp_path / "model.weights.h5")
    unfreeze(model)
    model.load_weights(tmp_path / "model.weights.h5")
    assert state(model.get_layer("norm")).keys() == before.keys()


def test_an_optimizer_that_does_not_know_what_learns_now() -> None:
    model = network(LAYERS["keras"])
    freeze(model)
    fitted(model)
    report = unfreeze(model)
    assert report.remark == (
        "the optimizer does not know 2 of the parameters that learn now: call compile again before fit"
    )
    assert str(report).splitlines()[-1] == report.remark
    model.compile("sgd", loss="mse")
    before = state(model.get_layer("norm"))
    fitted(model)
    assert moved(model.get_layer("norm"), before) == ["beta", "gamma", "moving_mean", "moving_variance"]


def test_on_jax_an_optimizer_that_knows_more_than_learns_is_named(backend: str) -> None:
    model = fitted(network(LAYERS["keras"]))
    assert freeze(model).remark == (
        "on JAX an optimizer takes all parameters that it was built for, and 2 of them do not learn now: call compile "
        "again before fit"
        if backend == "jax"
        else ""
    )


def test_an_error_in_the_middle_leaves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted(network(LAYERS["keras"]))
    before, learned = everything(model), [each.trainable for each in model.variables]

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("normwise.keras.models.freeze.trace_again", fail)
    with pytest.raises(RuntimeError, match=r"^broken$"):
        freeze(model)
    assert everything(model) == before
    assert [each.trainable for each in model.variables] == learned
    assert model.get_layer("norm").trainable
    assert "_before_freeze" not in vars(model.get_layer("norm"))


def test_wrong_arguments() -> None:
    model = network(LAYERS["keras"])
    cases: list[tuple[type[Exception], Callable[[], Any], str]] = [
        (UnknownName, lambda: freeze(model, layers=["bn"]), "unknown normalization layer 'bn'; known: m/norm."),
        (
            TypeError,
            lambda: freeze(model, layers="norm"),
            "layers must be a list of names, received 'norm': pass ['norm'].",
        ),
        (
            ValueError,
            lambda: unfreeze(model, statistics=False, affine=False),
            "unfreeze was asked for nothing: pass statistics=True, affine=True, or both.",
        ),
        (UnsuitableModel, lambda: freeze([]), "freeze needs a Keras model, received a list: pass the model itself."),
    ]
    for kind, wrong, message in cases:
        with pytest.raises(kind) as error:
            wrong()
        assert str(error.value) == message
