"""``swap`` on Keras models: to Keras's own layers and back, and to layers that normalize otherwise."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from normwise.errors import NormwiseError, UnknownName, UnsuitableModel
from normwise.keras import BatchNormalization, GhostBatchNormalization, PerDomainBatchNormalization
from normwise.keras.models.swap import swap
from normwise.keras.models.swap_calibration import Calibration
from normwise.reports.swap_report import Swap
from tests.keras.calls import values

Theirs = keras.layers.BatchNormalization


def images(samples: int = 24) -> Any:
    return np.random.default_rng(0).normal(1, 2, (samples, 6, 6, 4)).astype("float32")


def network() -> Any:
    """Activations, additions, a model inside of it, a layer that is called twice, all trained for a while."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 4), name="images")
    y = keras.layers.Conv2D(6, 3, padding="same")(inputs)
    y = BatchNormalization(name="bn1", activation="relu", momentum=0.5)(y)
    z = keras.layers.Conv2D(6, 3, padding="same")(y)
    twice = BatchNormalization(name="bn2", activation="gelu", momentum=0.5)
    z = twice(z, residual=y)
    z = twice(z)
    z = BatchNormalization(name="bn3", momentum=0.5)(z, residual=y)
    inner = [keras.Input((6, 6, 6)), keras.layers.Conv2D(4, 1), BatchNormalization(name="bn4", activation="tanh")]
    z = keras.Sequential(inner, name="inner")(z)
    z = BatchNormalization(name="bn5", momentum=0.5)(keras.layers.Dropout(0.5)(z))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(z)), name="net")
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(images(), images()[:, 0, 0, :1], epochs=2, verbose=0)
    return model


def whole_of(model: Any) -> list[Any]:
    layers = model._flatten_layers()
    return [*[(layer.name, type(layer), layer.get_config()) for layer in layers], *map(values, model.variables)]


def assert_unchanged(model: Any, before: list[Any]) -> None:
    after = whole_of(model)
    for one, other in zip(after, before, strict=True):
        np.testing.assert_array_equal(one, other) if isinstance(other, np.ndarray) else None
        assert isinstance(other, np.ndarray) or one == other


def test_activations_and_additions_become_layers_behind_it_and_the_model_does_the_same() -> None:
    model, x = network(), images()
    before, state = model.predict(x, verbose=0), whole_of(model)
    report = swap(model, to="keras")
    assert report.skipped == {}
    assert report.swapped["bn1"] == Swap(
        "normwise BatchNormalization", "keras BatchNormalization", "relu behind it, as bn1_activation"
    )
    assert report.swapped["bn2"].words == "the addition behind it, as bn2_add; gelu behind it, as bn2_activation"
    assert [*report.swapped] == ["bn1", "bn2", "bn3", "inner/bn4", "bn5"]
    swapped = report.model
    assert_unchanged(model, state)
    assert all(not type(layer).__module__.startswith("normwise") for layer in swapped._flatten_layers())
    assert (swapped.name, [each.name for each in swapped.inputs]) == ("net", ["images"])
    assert [layer.name for layer in model.layers if layer.name not in {each.name for each in swapped.layers}] == []
    np.testing.assert_allclose(swapped.predict(x, verbose=0), before, rtol=1e-4, atol=1e-5)
    assert int(values(swapped.optimizer.iterations)) == int(values(model.optimizer.iterations)) == 2
    keras.utils.set_random_seed(1)
    ours = model.fit(x, x[:, 0, 0, :1], shuffle=False, verbose=0).history["loss"]
    keras.utils.set_random_seed(1)
    theirs = swapped.fit(x, x[:, 0, 0, :1], shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(ours + theirs).all()


def test_training_goes_on_as_it_would_have() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    y = BatchNormalization(name="bn", activation="silu")(keras.layers.Dense(4)(inputs), residual=inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(y))
    x = np.random.default_rng(0).normal(2, 3, (32, 4)).astype("float32")
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, x[:, :1], shuffle=False, verbose=0)
    swapped = swap(model).model
    ours, theirs = (
        each.fit(x, x[:, :1], epochs=3, shuffle=False, verbose=0).history["loss"] for each in (swapped, model)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_files_load_where_normwise_cannot_be_imported(tmp_path: Path) -> None:
    model = network()
    np.save(tmp_path / "x.npy", images())
    np.save(tmp_path / "y.npy", model.predict(images(), verbose=0))
    swap(model).model.save(tmp_path / "model.keras")
    served(tmp_path)
    model.save(tmp_path / "ours.keras")
    with pytest.raises(AssertionError, match="normwise"):
        served(tmp_path)


def served(folder: Path) -> None:
    program = Path(__file__).parent / "serve.py"
    done = subprocess.run(
        [sys.executable, str(program), str(folder)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_only_classes_change_where_that_is_enough() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), BatchNormalization(name="bn")], name="m")
    weights, x = [*model.weights], np.ones((3, 4), "float32")
    before = values(model(x))
    assert swap(model).model is model
    assert type(model.layers[1]) is Theirs
    assert swap(model, to="normwise").swapped == {
        "m/bn": Swap("keras BatchNormalization", "normwise BatchNormalization")
    }
    assert all(one is other for one, other in zip(model.weights, weights, strict=True))
    np.testing.assert_allclose(values(model(x)), before, atol=1e-6)


@pytest.mark.parametrize(("to", "settings"), [("group", {"num_groups": 2}), ("layer", {}), ("instance", {})])
def test_calibrated_layers_start_from_the_moments_that_were(to: str, settings: dict[str, Any]) -> None:
    model, x = network(), images()
    wanted = moments(model, x)
    report = swap(model, to, calibrate=x, batch_size=10, **settings)
    assert report.skipped == {}
    found = moments(report.model, x)
    for name in ("bn1", "bn3", "bn4", "bn5"):  # bn2 is called twice, and its second inputs come from its first
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-4)
    before, after = (each.predict(x, verbose=0) for each in (model, report.model))
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert math.isclose(report.output_change, change, rel_tol=1e-3)
    assert report.output_change < report.uncalibrated_change


def moments(model: Any, x: Any) -> dict[str, Any]:
    """Mean and variance per channel of what each normalization puts out before anything else."""
    found: dict[str, Any] = {}
    layers = [layer for layer in model._flatten_layers() if layer.name.startswith("bn") and hasattr(layer, "gamma")]
    for layer in layers:

        def listen(*args: Any, layer: Any = layer, below: Any = layer.call, **named: Any) -> Any:
            if isinstance(layer, BatchNormalization):
                scale = values(layer.gamma) / np.sqrt(values(layer.moving_variance) + layer.epsilon)
                y = (values(args[0]) - values(layer.moving_mean)) * scale + values(layer.beta)
            else:
                y = values(below(*args, **named))
            found[layer.name] = (y.mean((0, 1, 2)), y.var((0, 1, 2)))
            return below(*args, **named)

        vars(layer)["call"] = listen
    model(x, training=False)
    for layer in layers:
        del vars(layer)["call"]
    return found


@pytest.mark.parametrize(
    ("to", "settings", "kind"),
    [
        ("ghost", {"num_splits": 2}, GhostBatchNormalization),
        ("renorm", {}, BatchNormalization),
        ("sync", {}, BatchNormalization),
        ("domains", {"domains": ["day", "night"]}, PerDomainBatchNormalization),
        (["day", "night"], {}, PerDomainBatchNormalization),
    ],
)
def test_other_ways_of_training_leave_inference_as_it_is(to: Any, settings: dict[str, Any], kind: type) -> None:
    model, x = network(), images()
    report = swap(model, to, calibrate=x, **settings)
    assert [*report.swapped] == ["bn1", "bn2", "bn3", "inner/bn4", "bn5"]
    assert report.output_change < 1e-5
    assert all(type(report.model.get_layer(name)) is kind for name in ("bn1", "bn2", "bn3", "bn5"))
    assert report.model.get_layer("bn1").activation is keras.activations.relu
    report.model.fit(x, x[:, 0, 0, :1], verbose=0)
    assert swap(report.model, to, **settings).swapped == {}
    if kind is PerDomainBatchNormalization:
        back = swap(report.model, to="keras", domain="night")
        assert back.swapped["bn1"].words == "relu behind it, as bn1_activation; the statistics of night"
        np.testing.assert_allclose(
            values(back.model.get_layer("bn1").moving_mean), values(report.model.get_layer("bn1").moving_mean)[1]
        )


def test_the_domain_that_is_chosen_first_is_the_callers() -> None:
    model = network()
    before = whole_of(model)
    with pytest.raises(NormwiseError, match="unknown domain 'dusk'"):
        swap(model, ["day", "night"], domain="dusk")
    assert_unchanged(model, before)
    swapped = swap(model, ["day", "night"], domain="night").model
    assert {swapped.get_layer(name).domain for name in ("bn1", "bn2", "bn3", "bn5")} == {"night"}
    assert swap(model, ["day", "night"]).model.get_layer("bn1").domain == "day"


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="own")
        self.plain = BatchNormalization(name="plain")
        self.active = BatchNormalization(name="active", activation="relu")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.active(self.plain(inputs, training=training), training=training)


def test_a_class_of_its_own_keeps_what_would_need_a_place() -> None:
    model = Subclassed()
    before = values(model(np.ones((2, 4), "float32")))
    report = swap(model)
    assert report.model is model
    assert [*report.swapped] == ["own/plain"]
    assert type(model.plain) is Theirs
    assert report.skipped == {
        "own/active": "Subclassed is a class of its own, whose call cannot be rewritten: build the model with the "
        "activation behind the layer, or ship it by model.export"
    }
    np.testing.assert_allclose(values(model(np.ones((2, 4), "float32"))), before, atol=1e-6)
    assert swap(model, to="group").swapped == {}


def test_what_is_inside_of_a_wrapper() -> None:
    inputs = keras.Input((5, 4))
    y = keras.layers.TimeDistributed(BatchNormalization(name="inside"))(inputs)
    y = BatchNormalization(name="outside", activation="relu")(y)
    y = keras.layers.TimeDistributed(BatchNormalization(name="active", activation="relu"), name="second")(y)
    model, x = keras.Model(inputs, y), np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    report = swap(model)
    assert len(report.swapped) == 2
    (why,) = report.skipped.values()
    assert why == (
        "it is inside of a layer that calls it: build the model with the activation behind the layer, or ship it by "
        "model.export"
    )
    ours = [layer.name for layer in report.model._flatten_layers() if type(layer) is BatchNormalization]
    assert ours == ["active"]
    np.testing.assert_allclose(values(report.model(x)), values(model(x)), atol=1e-6)


def test_single_values_are_not_normalized_by_themselves() -> None:
    model = keras.Sequential([keras.Input((4,)), BatchNormalization(name="bn")], name="m")
    single = "its inputs are (N, C), where every group of one channel of a sample is a single value"
    assert swap(model, "instance").skipped == {"m/bn": single}
    assert swap(model, "group", num_groups=4).skipped == {"m/bn": single}
    assert swap(model, "group", num_groups=3).swapped["m/bn"].words == "2 groups of 2 channels; 3 do not divide 4"


@pytest.mark.parametrize("to", ["keras", "group", "ghost"])
def test_an_error_in_the_middle_leaves_everything(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    before = whole_of(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(Calibration, "after", fail)
    with pytest.raises(RuntimeError, match=r"^in the middle$"):
        swap(model, to, calibrate=images(), num_splits=2 if to == "ghost" else None)
    assert_unchanged(model, before)


class Spoilt(Exception):
    """The error of a loader."""


class Once:
    """Batches that can be gone through once."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        yield images(8)
        self.passes += 1
        if self.passes > 1:
            raise Spoilt


def test_an_error_behind_a_change_of_classes_leaves_everything() -> None:
    model = keras.Sequential([keras.Input((6, 6, 4)), Theirs(), keras.layers.Conv2D(3, 1), Theirs()])
    before = whole_of(model)
    with pytest.raises(Spoilt):
        swap(model, "normwise", calibrate=Once())
    assert_unchanged(model, before)


def test_batches_that_are_not_finite_are_refused() -> None:
    model, spoilt = keras.Sequential([keras.Input((6, 6, 4)), Theirs()]), images(8)
    spoilt[0, 0, 0, 0] = np.nan
    with pytest.raises(NormwiseError, match="has NaN or infinite values: leave such samples out of calibrate"):
        swap(model, "group", calibrate=[spoilt])


def test_wrong_calls_are_refused_in_one_sentence() -> None:
    model = keras.Sequential([keras.Input((4,)), BatchNormalization(name="bn")], name="m")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"to": "keas"}, "unknown target of swap 'keas': did you mean 'keras'? Known: domains, ghost, group, instance, "
         "keras, layer, normwise, renorm, sync."),
        ({"layers": ["bm"]}, "unknown normalization layer 'bm'; known: m/bn."),
        ({"num_groups": 4}, "num_groups is a setting of swap for to='group', received to='keras': leave it out."),
        ({"to": "domains"}, "swap to domains needs their names: pass for example domains=['day', 'night']."),
        ({"to": "domains", "domains": "day"}, "domains must be a list of names, received 'day': pass ['day']."),
        ({"to": "ghost"}, "swap to ghost norms needs either virtual_batch_size or num_splits: pass one of them."),
        ({"to": "group", "calibrate": []}, "swap got no batches to calibrate with: pass at least one."),
    ]  # fmt: skip
    for settings, message in wrong:
        with pytest.raises(NormwiseError) as error:
            swap(model, **settings)
        assert str(error.value) == message
        assert isinstance(error.value, UnknownName) is message.startswith("unknown")
    with pytest.raises(UnsuitableModel):
        swap("model")
