"""Batches of every kind, and their way into a Keras model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from normwise.errors import NormwiseError
from normwise.keras.models.feeding import batches_of, inputs_of, samples_in
from normwise.keras.models.recalibrate import recalibrate
from normwise.recalibration import batches as batches_of_recalibration
from tests.keras.calls import values

X = np.random.default_rng(0).normal(4, 2, (24, 3)).astype("float32")
Y = np.zeros(24, "float32")


def model_of_one() -> Any:
    return keras.Sequential([keras.Input((3,), name="x"), keras.layers.BatchNormalization()])


class Sequence(keras.utils.PyDataset):
    """A data set with the end that Keras gives it, and a slice behind it that is empty."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Any:
        return X[8 * number : 8 * number + 8], Y[8 * number : 8 * number + 8]


class Endless(keras.utils.PyDataset):
    """A data set of which Keras knows that it has no end."""

    @property
    def num_batches(self) -> None:
        return None

    def __getitem__(self, number: int) -> Any:
        return (X[:8],)


def dataset() -> Any:
    tf: Any = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(24).batch(8)


def loader() -> Any:
    torch: Any = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True)


SOURCES = {
    "an array": lambda: X,
    "a tensor": lambda: keras.ops.convert_to_tensor(X),
    "arrays of samples and labels": lambda: (X, Y),
    "with weights": lambda: (X, Y, Y),
    "arrays by name": lambda: {"y": Y, "x": X},
    "a list of batches": lambda: [X[:10], X[10:]],
    "a list of pairs": lambda: [(X[:10], Y[:10]), (X[10:], Y[10:])],
    "a list of lists": lambda: [[X[:10], Y[:10]], [X[10:], Y[10:]]],
    "a list of mappings": lambda: [{"x": X[:10], "y": 0}, {"x": X[10:], "y": 0}],
    "a generator": lambda: ((X[k : k + 6], None) for k in range(0, 24, 6)),
    "a PyDataset": Sequence,
    "tf.data": dataset,
    "a DataLoader": loader,
}


@pytest.mark.parametrize("name", SOURCES)
def test_data_of_every_make_gives_the_same(name: str) -> None:
    model = model_of_one()
    report = recalibrate(model, SOURCES[name](), batch_size=10)
    assert report.samples == 24
    np.testing.assert_allclose(values(model.layers[0].moving_mean), X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(values(model.layers[0].moving_variance), X.var(0, ddof=1), rtol=1e-5)


def test_a_generator_is_gone_through_again_for_every_layer() -> None:
    model = keras.Sequential([keras.Input((3,)), *[keras.layers.BatchNormalization() for _ in range(3)]])
    report = recalibrate(model, (X[k : k + 6] for k in range(0, 24, 6)), memory=0)
    assert (report.passes, report.batches) == (3, 4)
    np.testing.assert_allclose(values(model.layers[2].moving_mean), [0] * 3, atol=1e-5)


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_several_inputs(structure: str) -> None:
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    y = keras.layers.Concatenate()([keras.layers.BatchNormalization(name="bn_a")(a), b])
    inputs = [a, b] if structure == "list" else {"a": a, "b": b}
    z = np.arange(48, dtype="float32").reshape(24, 2)
    batches: list[Any] = [{"b": z, "a": X, "label": Y}, ({"a": X, "b": z}, Y)]
    if structure == "list":
        batches += [[X, z], ([X, z], Y), ((X, z), Y), (X, z, Y)]
    for batch in batches:
        model = keras.Model(inputs, keras.layers.BatchNormalization(name="bn")(y))
        recalibrate(model, [batch])
        np.testing.assert_allclose(values(model.get_layer("bn").moving_mean)[3:], z.mean(0), rtol=1e-5)


def test_a_subclassed_model_with_several_arguments() -> None:
    class Two(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def call(self, one: Any, two: Any, training: bool | None = None) -> Any:
            return self.norm(one + two, training=training)

    model = Two()
    model(X, X)
    recalibrate(model, [(X, X, Y)])
    np.testing.assert_allclose(values(model.norm.moving_mean), 2 * X.mean(0), rtol=1e-5)


def test_forward_fn_says_how_a_batch_enters() -> None:
    model = model_of_one()
    recalibrate(model, [{"pixels": X}], forward_fn=lambda model, batch: model(batch["pixels"] * 2, training=False))
    np.testing.assert_allclose(values(model.layers[0].moving_mean), 2 * X.mean(0), rtol=1e-5)


def test_at_most_so_many_batches_of_data_without_an_end() -> None:
    report = recalibrate(model_of_one(), Endless(), at_most=3)
    assert (report.batches, report.samples) == (3, 24)
    with pytest.raises(NormwiseError) as refused:
        recalibrate(model_of_one(), Endless())
    assert str(refused.value) == (
        "recalibrate received batches without an end (Endless): state how many to use, with at_most or --batches."
    )
    with pytest.raises(NormwiseError, match=r"^recalibrate received batches without an end \(_RepeatDataset\)"):
        recalibrate(model_of_one(), dataset().repeat())


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(NormwiseError) as refused:
        recalibrate(model_of_one(), (X, Y[:5]))
    assert str(refused.value) == (
        "recalibrate needs arrays with one row per sample, received arrays of [5, 24] rows: "
        "pass a list of batches if that is what they are."
    )
    with pytest.raises(NormwiseError, match=r"received batch_size=0: pass 32.$"):
        recalibrate(model_of_one(), X, batch_size=0)
    with pytest.raises(TypeError, match=r"^recalibrate needs an iterable of batches, received int"):
        recalibrate(model_of_one(), 3)


def test_one_bar_shows_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Bar:
        def __init__(self, **settings: Any) -> None:
            self.settings, self.total, self.done, self.closed = settings, None, 0, False
            bars.append(self)

        def update(self) -> None:
            self.done += 1

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(batches_of_recalibration, "tqdm", Bar)
    model = keras.Sequential([keras.Input((3,)), *[keras.layers.BatchNormalization() for _ in range(3)]])
    recalibrate(model, X, batch_size=12, memory=0)
    (bar,) = bars
    assert (bar.settings["desc"], bar.total, bar.done, bar.closed) == ("recalibrate", 6, 6, True)


def test_what_of_a_batch_goes_in() -> None:
    model = model_of_one()
    assert inputs_of(model, (1, 2, 3)) == 1
    assert inputs_of(model, {"x": 1, "y": 2}) == 1
    assert inputs_of(model, {"z": 1}) == {"z": 1}
    assert inputs_of(model, "text") == "text"
    assert samples_in(([X], Y)) == 24
    assert samples_in("text") == 0
    assert len(batches_of(X, 7, at_most=None, called="recalibrate")) == 4  # type: ignore[arg-type]
