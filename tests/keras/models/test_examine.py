"""``examine`` on Keras models: healthy and sick ones, and that nothing of them changes, on each backend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from normwise.doctor import Diagnosis, Severity, examine
from normwise.errors import CallFailed, NormwiseError
from normwise.facts import Steps
from normwise.keras import BatchNormalization
from normwise.keras.models.observe import KerasSubject
from tests.keras.calls import values
from tests.keras.recalibration_models import MODELS, everything, images

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 256)
X = (2 + RNG.normal(size=(256, 8, 8, 2)) * (1 + LABELS[:, None, None, None]) + LABELS[:, None, None, None]).astype(
    "float32"
)


def cross_entropy(outputs: Any, targets: Any) -> Any:
    return ops.mean(keras.losses.sparse_categorical_crossentropy(targets, outputs, from_logits=True))


def accuracy(outputs: Any, targets: Any) -> Any:
    return np.mean(values(outputs).argmax(1) == values(targets))


def untrained(norm: Any = keras.layers.BatchNormalization, momentum: float = 0.8) -> Any:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(6, 3),
            norm(momentum=momentum, name="low"),
            keras.layers.ReLU(),
            keras.layers.Conv2D(6, 3),
            norm(momentum=momentum, name="high"),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ],
        name="digits",
    )
    model.compile(
        keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return model


@functools.cache
def weights_of_a_trained_one() -> list[Any]:
    keras.utils.set_random_seed(1)
    model = untrained()
    model.fit(X, LABELS, epochs=4, batch_size=32, verbose=0)
    found: list[Any] = model.get_weights()
    return found


def trained(norm: Any = keras.layers.BatchNormalization) -> Any:
    model = untrained(norm)
    model.set_weights(weights_of_a_trained_one())
    return model


def found(diagnosis: Diagnosis) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.check, each.layers) for each in diagnosis.findings if each.severity is not Severity.NOTE]


@pytest.mark.parametrize("norm", [keras.layers.BatchNormalization, BatchNormalization], ids=["keras", "normwise"])
def test_a_trained_model_is_healthy(norm: Any) -> None:
    model = trained(norm)
    diagnosis = examine(model, (X, LABELS), loss=cross_entropy, metric=accuracy)
    assert found(diagnosis) == []
    assert diagnosis.healthy
    facts = diagnosis.facts
    assert (facts.framework, facts.batches, facts.samples) == ("keras", 8, 256)
    assert [layer.name for layer in facts.layers] == ["digits/low", "digits/high"]
    assert facts.stored is not None
    assert facts.stored.metric is not None
    assert facts.stored.metric > 0.6
    dense = f"digits/{model.layers[-1].name}"
    assert [name for name in facts.gradients if "conv" not in name] == ["digits/low", "digits/high", dense]
    assert len(facts.gradients) == 5
    assert all(0 < gradient < np.inf for gradient in facts.gradients.values())
    assert sorted(facts.missing) == ["source", "steps", "updates"]


def test_stale_statistics_are_found_and_the_guilty_layer_is_named_first() -> None:
    model = trained()
    layer = model.get_layer("high")
    layer.moving_mean.assign(values(layer.moving_mean) + 4 * np.sqrt(values(layer.moving_variance)))
    diagnosis = examine(model, (X, LABELS), metric=accuracy)
    assert [(check, layers[0]) for check, layers in found(diagnosis)] == [("stale_running_statistics", "digits/high")]
    finding = diagnosis.findings[0]  # notes may follow
    assert finding.cost is not None
    assert finding.cost.remedied > finding.cost.now


def test_statistics_that_no_batch_ever_moved_are_found() -> None:
    model = trained()
    for name in ("low", "high"):
        model.get_layer(name).moving_mean.assign(np.zeros(6))
        model.get_layer(name).moving_variance.assign(np.ones(6))
    assert [check for check, _ in found(examine(model, X))] == ["never_updated_statistics"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_statistics_that_are_no_numbers_are_found(bad: float) -> None:
    model = trained()
    layer = model.get_layer("low")
    layer.moving_variance.assign(np.where(np.arange(6) == 2, bad, values(layer.moving_variance)))
    assert found(examine(model, X, only=["non_finite_statistics"])) == [("non_finite_statistics", ("digits/low",))]


@pytest.mark.parametrize("name", [*MODELS])
def test_models_of_every_make_are_examined_and_nothing_of_them_changes(name: str) -> None:
    model = MODELS[name]()
    model.compile("adam", "mse", metrics=["mae"])
    before = everything(model), [layer.trainable for layer in model._flatten_layers()], model.optimizer
    attributes = [dict(vars(layer)) for layer in model._flatten_layers()]
    state: Any = np.random.get_state()  # noqa: NPY002  # the global one is what must be as before
    diagnosis = examine(
        model,
        [images(8), images(12)],
        train_step=lambda model, x: model.train_on_batch(x, np.zeros_like(values(model(x)))),
    )
    assert {layer.name for layer in diagnosis.facts.layers} == {*KerasSubject(model, None).norms}
    assert all(layer.own is not None and layer.input is not None for layer in diagnosis.facts.layers)
    assert (everything(model), [layer.trainable for layer in model._flatten_layers()], model.optimizer) == before
    for layer, was in zip(model._flatten_layers(), attributes, strict=True):
        assert vars(layer).keys() == was.keys()
        assert [name for name, value in vars(layer).items() if value is not was[name]] == []
    now: Any = np.random.get_state()  # noqa: NPY002  # as above
    assert (now[1] == state[1]).all()
    assert not model.optimizer.built


def test_nothing_changes_when_a_batch_raises() -> None:
    model = trained()
    before = everything(model)

    def step(model: Any, batch: Any) -> None:
        model.train_on_batch(*batch)
        raise RuntimeError("the step failed")

    with pytest.raises(CallFailed, match=r"^train_step failed on batch 1, a tuple .* the step failed; pass a function"):
        examine(model, (X, LABELS), train_step=step)
    with pytest.raises(
        CallFailed, match=r"^examine could not run the model on batch 2, a float32 array of shape \(4, 5"
    ):
        examine(model, [X[:16], np.zeros((4, 5, 5, 3), "float32")])
    assert everything(model) == before
    assert all("call" not in vars(layer) for layer in model._flatten_layers())


def steps_of(model: Any, step: Callable[[Any, Any], object]) -> Steps:
    steps = examine(model, (X, LABELS), train_step=step, only=["missing_updates"]).facts.steps
    assert steps is not None
    return steps


def test_a_step_that_trains_another_model_or_none_is_no_healthy_one() -> None:
    model, other = trained(), trained()
    for step in (lambda model, batch: None, lambda _, batch: other.train_on_batch(*batch)):  # noqa: ARG005
        diagnosis = examine(model, (X, LABELS), train_step=step, only=["missing_updates", "repeated_updates"])
        assert {each.check: each.reason for each in diagnosis.skipped} == dict.fromkeys(
            ("missing_updates", "repeated_updates"),
            "no weight of the model that train_step was given changed: let it train that model",
        )


@pytest.mark.parametrize("norm", [keras.layers.BatchNormalization, BatchNormalization], ids=["keras", "normwise"])
def test_steps_of_training_tell_what_moves(norm: Any) -> None:
    model = trained(norm)
    model.get_layer("low").trainable = False
    model.compile("sgd", model.loss)
    model.fit(X[:32], LABELS[:32], verbose=0)  # so that a compiled function is there
    before = everything(model)
    steps = steps_of(model, lambda model, batch: model.train_on_batch(*batch))
    assert steps.number == 3
    assert steps.updates == {"digits/low": 0.0, "digits/high": 1.0}
    assert steps.statistics_moved == steps.affine_moved == {"digits/high"}
    assert everything(model) == before
    assert model.train_function is not None


def test_several_updates_in_one_step_are_counted() -> None:
    model = trained()

    def step(model: Any, batch: Any) -> None:
        model(batch[0], training=True)
        model.train_on_batch(*batch)

    assert steps_of(model, step).updates == {"digits/low": 2.0, "digits/high": 2.0}


def test_settings_and_state_of_a_layer() -> None:
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=0.01, name="plain")(x)
    x = keras.layers.Dense(5, use_bias=False)(x)
    x = BatchNormalization(estimator="cumulative", center=False, scale=False, name="average")(x)
    x = keras.layers.BatchNormalization(momentum=1.0, trainable=False, name="frozen")(x)
    model = keras.Model(inputs, x, name="model")
    data = RNG.normal(size=(32, 4)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(data, np.zeros((32, 5)), batch_size=8, verbose=0)
    plain, average, frozen = KerasSubject(model, None).facts.values()
    assert (plain.name, plain.kind, plain.eps) == ("plain", "BatchNormalization", 0.01)
    assert plain.weight_of_new == pytest.approx(0.1)
    assert (average.weight_of_new, average.updates, plain.updates) == (None, 4, 4)  # by the optimizer's counter
    assert (plain.trains, plain.learns, average.learns, frozen.trains, frozen.learns) == (
        True,
        True,
        None,
        False,
        False,
    )
    assert (plain.frozen, frozen.frozen) == (None, "it is frozen: its momentum is 1")
    near = KerasSubject(model, None).neighbours(data[:8])
    assert {name: each.bias_in_front for name, each in near.items()} == {
        "plain": True, "average": False, "frozen": False,
    }  # fmt: skip
    assert np.array_equal(plain.mean, values(model.get_layer("plain").moving_mean))  # type: ignore[arg-type]  # it is there


def test_dropout_in_front_is_seen_with_dropout_on() -> None:
    drops = [
        keras.layers.Dropout(0.5, name="a"),
        keras.layers.GaussianDropout(0.5, name="a"),
        keras.layers.SpatialDropout1D(0.5, name="a"),
    ]
    for drop in drops:
        model = keras.Sequential([keras.Input((6, 4)), drop, keras.layers.BatchNormalization(name="bn")])
        (layer,) = examine(model, RNG.normal(3, 1, size=(64, 6, 4)).astype("float32")).facts.layers
        assert layer.own is not None
        assert layer.noisy is not None
        assert (layer.noisy.pooled().var > 3 * layer.own.pooled().var).all()
    (layer, _) = examine(trained(), X[:64]).facts.layers
    assert layer.own is not None  # it has no dropout in front, and the one behind does not matter
    assert layer.noisy is not None
    assert np.allclose(layer.own.pooled().var, layer.noisy.pooled().var)


def test_what_comes_into_a_layer_is_looked_at() -> None:
    x = RNG.normal(size=(4, 10, 3)).astype("float32")
    x[1, 6:] = 0.0
    x[2, 0, 0] = -50.0
    model = keras.Sequential([keras.Input((10, 3)), keras.layers.BatchNormalization(name="bn")])
    (layer,) = examine(model, x).facts.layers
    assert layer.input is not None
    assert (layer.input.shape, layer.input.axis, layer.input.largest, layer.input.dtype) == (
        (4, 10, 3),
        2,
        50,
        "float32",
    )
    assert layer.input.tails.tolist() == [0.0, 0.4, 0.0, 0.0]
    masked = keras.Sequential([keras.Input((10, 3)), keras.layers.Masking(), keras.layers.BatchNormalization()])
    (layer,) = examine(masked, x).facts.layers
    assert layer.input is not None
    assert np.isnan(layer.input.tails).all()  # what is masked does not count


def test_targets_by_the_conventions_of_keras() -> None:
    one = KerasSubject(trained(), None)
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    added = keras.layers.BatchNormalization()(keras.layers.Add()([a, b]))
    two = KerasSubject(keras.Model([a, b], added), None)
    assert (
        one.targets(("x", "y", "weights"))
        == one.targets(["x", "y"])
        == one.targets({"image": "x", "label": "y"})
        == "y"
    )
    assert two.targets(("a", "b", "y")) == two.targets((("a", "b"), "y")) == "y"
    assert one.targets("x") is one.targets(("x",)) is None
    assert KerasSubject(two.model, lambda model, batch: model(batch[0])).targets(("x", "y")) == "y"


def test_a_layer_that_looks_at_the_rest_of_the_batch_is_named() -> None:
    class Careless(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x - ops.mean(x, axis=0, keepdims=True)

    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(name="before"),
            Careless(),
            keras.layers.BatchNormalization(name="behind"),
        ],
        name="model",
    )
    company = examine(model, RNG.normal(size=(16, 4)).astype("float32")).facts.company
    assert company is not None
    assert company.apart > 0.1
    assert company.first == "model/careless"
    company = examine(trained(), X[:32]).facts.company
    assert company is not None
    assert company.apart < 1e-5


def test_gradients_agree_with_differences() -> None:
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3), keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(1)],
        name="model",
    )
    x, y = RNG.normal(size=(8, 3)).astype("float32"), RNG.normal(size=(8, 1))
    facts = examine(model, [(x, y)], loss=lambda outputs, targets: ops.mean((outputs - targets) ** 2)).facts
    hidden = x.astype("float64") @ values(model.layers[0].kernel)
    kernel = values(model.layers[2].kernel).astype("float64")

    def loss(hidden: Any) -> float:
        normal = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-3)
        return float(np.mean((normal @ kernel - y) ** 2))

    steps = [1e-5 * np.eye(24)[k].reshape(8, 3) for k in range(24)]
    wanted = np.array([(loss(hidden + step) - loss(hidden - step)) / 2e-5 for step in steps])
    assert facts.gradients["model/bn"] == pytest.approx(np.sqrt(np.mean(wanted**2)), rel=1e-3)


def test_a_loss_without_gradients_is_measured_all_the_same() -> None:
    facts = examine(
        trained(), (X[:64], LABELS[:64]), loss=lambda y, t: float(np.mean(values(y)[:, 0] > values(t)))
    ).facts
    assert facts.stored is not None
    assert facts.stored.loss is not None
    assert facts.gradients == {}
    assert facts.missing["gradients"].startswith("the loss could not be differentiated (")


@pytest.mark.parametrize(
    "own",
    [
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
        functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True),
    ],
    ids=["loss", "metric", "partial"],
)
def test_losses_and_metrics_of_keras_take_the_targets_first(own: Any) -> None:
    theirs, ours = (examine(trained(), (X, LABELS), loss=loss, metric=loss).facts for loss in (own, cross_entropy))
    assert theirs.stored is not None
    assert ours.stored is not None
    assert theirs.stored.loss == pytest.approx(ours.stored.loss, rel=1e-5)
    assert theirs.stored.metric == pytest.approx(ours.stored.metric, rel=1e-5)


def test_a_model_is_compared_with_its_source() -> None:
    source, model = trained(), trained()
    same = KerasSubject(model, None).compared(source, [X[:32]])
    assert (same.apart, same.weights_apart, same.norms) == (0.0, 0.0, 2)
    assert same.statistics_apart == {"digits/low": 0.0, "digits/high": 0.0}
    model.get_layer("high").moving_mean.assign(values(model.get_layer("high").moving_mean) + 1)
    model.layers[0].kernel.assign(2 * values(model.layers[0].kernel))
    other = KerasSubject(model, None).compared(source, [X[:32]])
    assert other.apart > 0.05
    assert 0 < other.weights_apart < 1
    assert other.statistics_apart["digits/low"] == 0.0 < other.statistics_apart["digits/high"]
    assert other.eps == {"digits/low": 1e-3, "digits/high": 1e-3}


def test_a_model_without_variables_is_refused() -> None:
    model = keras.Sequential([keras.layers.BatchNormalization()], name="empty")
    message = (
        "examine needs a model that is built, and 'empty' has no variables yet: run one batch through the model first."
    )
    with pytest.raises(NormwiseError) as caught:
        examine(model, X)
    assert str(caught.value) == message


def test_a_model_without_batch_norm_is_nothing_to_examine() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    diagnosis = examine(model, np.ones((4, 2), "float32"))
    assert diagnosis.healthy
    assert diagnosis.verdict() == "nothing to examine: the model has no batch norm that runs as a layer (4 samples)"
