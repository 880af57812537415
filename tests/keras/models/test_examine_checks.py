"""Every check finds its fault in a Keras model, or Keras cannot show it and the diagnosis says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import normwise
from normwise.doctor import Diagnosis, Severity, examine, names
from normwise.doctor.not_in_keras import NOT_IN_KERAS
from tests.keras.calls import values

Sick = Callable[[], Diagnosis]


def data(samples: int = 256, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(samples, 8)).astype("float32")


def labels(samples: int = 256) -> Any:
    return (data(samples)[:, 0] > 0).astype("int64")


def dense(*, bias: bool = False, settle: bool = True, **norm: Any) -> Any:
    """One norm behind a dense layer, with the statistics of the data."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, use_bias=bias, name="first"),
            keras.layers.BatchNormalization(name="bn", **norm),
            keras.layers.ReLU(),
            keras.layers.Dense(2, name="last"),
        ],
        name="m",
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if settle:
        hidden = data() @ values(model.get_layer("first").kernel)
        model.get_layer("bn").moving_mean.assign(hidden.mean(0))
        model.get_layer("bn").moving_variance.assign(hidden.var(0) * 32 / 31)
    return model


def bn_of(model: Any) -> Any:
    return model.get_layer("bn")


def off(model: Any, by: float = 3.0) -> Any:
    bn_of(model).moving_mean.assign(
        values(bn_of(model).moving_mean) + by * np.sqrt(values(bn_of(model).moving_variance))
    )
    return model


def fit(model: Any, batch: Any) -> None:
    model.train_on_batch(*batch)


def loss(outputs: Any, targets: Any) -> Any:
    return ops.mean(keras.losses.sparse_categorical_crossentropy(targets, outputs, from_logits=True))


class Fixed(keras.Model):
    """Its norm is called in one mode, whatever the model is told."""

    def __init__(self, *, training: bool) -> None:
        super().__init__(name="m")
        self.mode = training
        self.norm = keras.layers.BatchNormalization(name="bn")
        self.last = keras.layers.Dense(2)

    def call(self, x: Any) -> Any:
        return self.last(self.norm(x, training=self.mode))


def batch_dependent_output() -> Diagnosis:
    model = Fixed(training=True)
    model(data(8))
    return examine(model, data())


def changed_eps() -> Diagnosis:
    source, model = dense(epsilon=1e-3), dense(epsilon=1e-5)
    for each in (source, model):
        bn_of(each).moving_variance.assign(np.full(8, 1e-3))
    return examine(model, data(), source_model=source)


def dead_channels() -> Diagnosis:
    model = dense()
    bn_of(model).gamma.assign(np.where(np.arange(8) < 3, 0.0, 1.0))
    return examine(model, data())


def decayed_scales() -> Diagnosis:
    model = dense()
    bn_of(model).gamma.assign(np.where(np.arange(8) < 6, 1e-6, 1.0))
    return examine(model, data())


def differing_derived_model() -> Diagnosis:
    source = dense()
    folded = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    return examine(folded, data(), source_model=source)


def dropout_before_normalization() -> Diagnosis:
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dropout(0.5), keras.layers.BatchNormalization(name="bn")], name="m"
    )
    bn_of(model).moving_mean.assign(np.full(8, 3.0))
    return examine(model, 3 + data())


def exploding_channels() -> Diagnosis:
    model = dense()
    bn_of(model).moving_variance.assign(np.full(8, 1e-9))
    bn_of(model).epsilon = 1e-9
    return examine(model, data(), only=["exploding_channels"])


def gradients_lost_in_depth() -> Diagnosis:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "sigmoid") for _ in range(24)]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(2)], name="m")
    return examine(model, (data(), labels()), loss=loss)


def half_frozen_layer() -> Diagnosis:
    model = Fixed(training=False)
    model(data(8))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return examine(model, (data(), labels()), train_step=fit)


def low_precision_statistics() -> Diagnosis:
    return examine(dense(dtype="bfloat16"), data())


def missing_updates() -> Diagnosis:
    return examine(dense(momentum=1.0), (data(), labels()), train_step=fit, only=["missing_updates"])


def mixed_domains() -> Diagnosis:
    both = [data(32, seed) + (4 if seed % 2 else 0) for seed in range(16)]
    model = dense()
    hidden = np.concatenate(both) @ values(model.get_layer("first").kernel)
    bn_of(model).moving_mean.assign(hidden.mean(0))
    bn_of(model).moving_variance.assign(hidden.var(0))
    return examine(model, both)


def moving_frozen_layer() -> Diagnosis:
    model = dense()
    for variable in (bn_of(model).gamma, bn_of(model).beta):
        variable.trainable = False
    return examine(model, (data(), labels()), train_step=fit)


def non_finite_statistics() -> Diagnosis:
    model = dense()
    bn_of(model).moving_variance.assign(np.full(8, np.nan))
    return examine(model, data())


def padding_in_statistics() -> Diagnosis:
    x = np.random.default_rng(0).normal(3, 1, size=(64, 12, 4)).astype("float32")
    for number, row in enumerate(x):
        row[2 + number % 10 :] = 0
    model = keras.Sequential([keras.Input((12, 4)), keras.layers.BatchNormalization(name="bn")], name="m")
    bn_of(model).moving_mean.assign(x.mean((0, 1)))
    bn_of(model).moving_variance.assign(x.var((0, 1)))
    return examine(model, x)


def repeated_updates() -> Diagnosis:
    def step(model: Any, batch: Any) -> None:
        model(batch[0], training=True)
        model.train_on_batch(*batch)

    return examine(dense(), (data(), labels()), train_step=step)


def sorted_batches() -> Diagnosis:
    x = data(512)
    order = np.argsort(x[:, 0])
    return examine(dense(), (x[order], (x[order, 0] > 0).astype("int64")))


def statistics_of_other_weights() -> Diagnosis:
    source, model = dense(), dense()
    model.get_layer("first").kernel.assign(values(model.get_layer("first").kernel) * 4)
    return examine(model, 1 + data(), source_model=source)


def unfinished_warm_up() -> Diagnosis:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(2)], name="m"
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(3 + data(), labels(), batch_size=32, verbose=0)
    return examine(model, 3 + data())


def wrong_axis() -> Diagnosis:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8))
    hidden = ops.relu(keras.layers.Dense(8, bias_initializer=keras.initializers.RandomNormal(stddev=3.0))(inputs))
    hidden = keras.layers.BatchNormalization(axis=1, name="bn")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden), name="m")
    return examine(model, np.random.default_rng(0).normal(size=(64, 8, 8)).astype("float32"))


SICK: dict[str, Sick] = {
    "batch_dependent_output": batch_dependent_output,
    "bias_before_normalization": lambda: examine(dense(bias=True), data()),
    "cancelling_variance": lambda: examine(
        keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(name="bn")], name="m"), 3000 + data()
    ),
    "changed_eps": changed_eps,
    "dead_channels": dead_channels,
    "decayed_scales": decayed_scales,
    "differing_derived_model": differing_derived_model,
    "drifted_data": lambda: examine(dense(), 4 + data(), source_model=dense()),
    "dropout_before_normalization": dropout_before_normalization,
    "exploding_channels": exploding_channels,
    "gradients_lost_in_depth": gradients_lost_in_depth,
    "half_frozen_layer": half_frozen_layer,
    "inverted_momentum": lambda: examine(dense(momentum=0.1), data()),
    "low_precision_statistics": low_precision_statistics,
    "missing_updates": missing_updates,
    "mixed_domains": mixed_domains,
    "moving_frozen_layer": moving_frozen_layer,
    "never_updated_statistics": lambda: examine(dense(settle=False), 3 + data()),
    "non_finite_statistics": non_finite_statistics,
    "padding_in_statistics": padding_in_statistics,
    "repeated_updates": repeated_updates,
    "sorted_batches": sorted_batches,
    "stale_running_statistics": lambda: examine(off(dense()), data()),
    "statistics_of_other_weights": statistics_of_other_weights,
    "too_few_values": lambda: examine(dense(), [data(4, seed) for seed in range(16)]),
    "unfinished_warm_up": unfinished_warm_up,
    "wrong_axis": wrong_axis,
    "zero_momentum": lambda: examine(dense(momentum=1.0), data()),
}


def test_every_check_is_tried_on_keras_or_cannot_be() -> None:
    assert {*SICK} | {*NOT_IN_KERAS} == {*names()}
    assert not {*SICK} & {*NOT_IN_KERAS}


@pytest.mark.parametrize("name", SICK)
def test_a_check_finds_its_fault_in_a_keras_model(name: str) -> None:
    diagnosis = SICK[name]()
    assert name in [finding.check for finding in diagnosis.findings], str(diagnosis)


def test_statistics_that_fit_these_data_better_are_no_fault_of_a_derived_model_and_another_fault_is() -> None:
    x, recalibrated = 3 * data() + 1, dense()
    normwise.recalibrate(recalibrated, x)
    assert serious(examine(recalibrated, x, source_model=dense())) == []
    assert "statistics_of_other_weights" in serious(examine(recalibrated, data(), source_model=dense()))
    recalibrated.layers[2].negative_slope = 1.0  # as if a converter had forgotten the activation
    assert serious(examine(recalibrated, x, source_model=dense())) == ["differing_derived_model"]


def serious(diagnosis: Diagnosis) -> list[str]:
    return [finding.check for finding in diagnosis.findings if finding.severity is not Severity.NOTE]


def test_what_keras_cannot_show_is_skipped_with_the_reason() -> None:
    skipped = {each.check: each.reason for each in examine(dense(), data()).skipped}
    assert {name: skipped[name] for name in NOT_IN_KERAS} == NOT_IN_KERAS


def test_a_norm_in_a_model_of_the_users_own_class_and_in_a_nested_one_has_neighbours() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.dense = keras.layers.Dense(8, "linear")
            self.norm = keras.layers.BatchNormalization(name="bn")
            self.last = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.last(ops.gelu(self.norm(self.dense(x))))

    own = Own()
    own(data(8))
    inputs = keras.Input((8,))
    inner = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(name="inner")])
    nested = keras.Model(inputs, inner(keras.layers.Dense(8)(inputs)), name="nested")
    for model in (own, nested):
        (layer,) = examine(model, data(64)).facts.layers
        assert (layer.bias_in_front, layer.on_data, layer.features_axis) == (True, False, 1)


def test_a_norm_on_the_data_is_known_and_one_between_two_activations_has_no_bias_in_front() -> None:
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.BatchNormalization(name="data"),
            keras.layers.Dense(8, "relu"),
            keras.layers.BatchNormalization(name="behind"),
        ]
    )
    first, second = examine(model, data(64)).facts.layers
    assert (first.on_data, second.on_data) == (True, False)
    assert (first.bias_in_front, second.bias_in_front) == (False, False)


def test_a_layer_that_is_called_twice_in_a_forward_moves_twice_and_is_healthy() -> None:
    inputs = keras.Input((8,))
    norm = keras.layers.BatchNormalization(name="twice")
    model = keras.Model(inputs, keras.layers.Dense(2)(norm(keras.layers.Dense(8)(norm(inputs)))), name="m")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    diagnosis = examine(model, (data(), labels()), train_step=fit)
    assert diagnosis.facts.layers[0].calls == 2
    assert "repeated_updates" not in [finding.check for finding in diagnosis.findings]


def test_losses_and_metrics_have_the_names_that_compile_takes() -> None:
    """The accuracy of a name is the one that Keras chooses by the shapes."""
    sure = keras.Sequential([dense(), keras.layers.Softmax()])  # whose outputs are what losses by name take
    given = (data(), labels())
    one_hot = (given[0], np.eye(2, dtype="float32")[given[1]])
    found = examine(sure, given, loss=keras.losses.SparseCategoricalCrossentropy(), metric="accuracy").facts.stored
    named = examine(sure, given, loss="sparse_categorical_crossentropy", metric="ACC").facts.stored
    rows = examine(sure, one_hot, loss="categorical_crossentropy", metric="categorical_accuracy").facts.stored
    assert found is not None
    assert named is not None
    assert named.loss == pytest.approx(found.loss, rel=1e-5)
    assert named.metric == found.metric
    assert rows is not None
    assert rows.metric == examine(sure, one_hot, metric="accuracy").facts.stored.metric  # type: ignore[union-attr]  # it was given
    assert rows.metric == pytest.approx(found.metric)
    guessed = values(sure(given[0])).argmax(1)
    assert found.metric == pytest.approx((guessed == given[1]).mean())


def test_an_accuracy_of_one_output_asks_whether_it_is_above_a_half() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(), keras.layers.Dense(1, "sigmoid")])
    given = (data(), labels()[:, None])
    stored = examine(model, given, loss="binary_crossentropy", metric="accuracy").facts.stored
    assert stored is not None
    assert stored.metric == pytest.approx(((values(model(given[0])) > 0.5) == given[1]).mean())
