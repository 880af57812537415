"""Arguments that are refused, each in a sentence that says what was received and what to do."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from normwise.keras import BatchNormalization, GhostBatchNormalization

SEVERAL = (
    "axis must be one axis, received {}: Keras 3 has one axis of channels, so put several into one by "
    "keras.layers.Reshape first."
)
NO_AXIS = "axis must be a whole number, received {}: pass -1 where the channels come last, or 1 where they come first."
MOMENTUM = "{} must be a number from 0 to 1, received {}: pass for example 0.99."
EPSILON = "epsilon must be a number of 0 or more, and finite, received {}: pass for example 0.001."
SWITCH = "{} must be True or False, received {}: pass one of the two."
COUNT = "{} must be a whole number, 1 or more, received {}: pass for example 32."
ONE_OF_THE_TWO = (
    "virtual_batch_size or num_splits must be given, and not both, received virtual_batch_size={}, num_splits={}: pass "
    "for example virtual_batch_size=128."
)

REFUSED: list[tuple[type[Exception], dict[str, Any], str]] = [
    (ValueError, {"axis": [1, -1]}, SEVERAL.format("[1, -1]")),
    (ValueError, {"axis": (1, 2, 3)}, SEVERAL.format("(1, 2, 3)")),
    (ValueError, {"axis": []}, SEVERAL.format("[]")),
    (TypeError, {"axis": 1.5}, NO_AXIS.format("1.5")),
    (TypeError, {"axis": None}, NO_AXIS.format("None")),
    (TypeError, {"axis": True}, NO_AXIS.format("True")),
    (TypeError, {"axis": "channels"}, NO_AXIS.format("'channels'")),
    (TypeError, {"axis": [[1]]}, NO_AXIS.format("[[1]]")),
    (ValueError, {"momentum": 1.01}, MOMENTUM.format("momentum", "1.01")),
    (ValueError, {"momentum": -0.1}, MOMENTUM.format("momentum", "-0.1")),
    (ValueError, {"momentum": float("nan")}, MOMENTUM.format("momentum", "nan")),
    (TypeError, {"momentum": True}, MOMENTUM.format("momentum", "True")),
    (TypeError, {"momentum": None}, MOMENTUM.format("momentum", "None")),
    (TypeError, {"momentum": "0.9"}, MOMENTUM.format("momentum", "'0.9'")),
    (ValueError, {"renorm": True, "renorm_momentum": 2}, MOMENTUM.format("renorm_momentum", "2")),
    (ValueError, {"epsilon": -1e-3}, EPSILON.format("-0.001")),
    (ValueError, {"epsilon": float("inf")}, EPSILON.format("inf")),
    (TypeError, {"epsilon": False}, EPSILON.format("False")),
    (TypeError, {"epsilon": [1e-3]}, EPSILON.format("[0.001]")),
    (TypeError, {"center": "False"}, SWITCH.format("center", "'False'")),
    (TypeError, {"scale": None}, SWITCH.format("scale", "None")),
    (TypeError, {"renorm": 0.5}, SWITCH.format("renorm", "0.5")),
    (TypeError, {"synchronized": 2}, SWITCH.format("synchronized", "2")),
    (
        TypeError,
        {"renorm": True, "renorm_clipping": [1, 3]},
        "renorm_clipping must be a dict, received list: pass for example {'rmax': 3.0, 'dmax': 5.0}.",
    ),
    (
        ValueError,
        {"renorm": True, "renorm_clipping": {"r_max": 3, "d": 1}},
        "Received invalid keys for renorm_clipping, d, r_max: it has rmin, rmax and dmax, each of them optional.",
    ),
    (
        TypeError,
        {"renorm": True, "renorm_clipping": {"rmax": True}},
        "rmax should be a number, received True: pass for example 3.0.",
    ),
    (
        TypeError,
        {"renorm": True, "renorm_clipping": {"dmax": "5"}},
        "dmax should be a number, received '5': pass for example 5.0.",
    ),
    (
        ValueError,
        {"renorm": True, "renorm_clipping": {"rmin": float("nan")}},
        "rmin should be non-negative, received nan: pass for example 0.3.",
    ),
    (
        ValueError,
        {"renorm": True, "renorm_clipping": {"rmin": 3.0, "rmax": 0.5}},
        "rmax should be no less than rmin, received rmax=0.5 and rmin=3.0: swap them.",
    ),
]


@pytest.mark.parametrize(("error", "settings", "sentence"), REFUSED)
def test_a_setting_is_refused(error: type[Exception], settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(error) as caught:
        BatchNormalization(**settings)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"virtual_batch_size": 0}, COUNT.format("virtual_batch_size", "0")),
        ({"virtual_batch_size": True}, COUNT.format("virtual_batch_size", "True")),
        ({"num_splits": -1}, COUNT.format("num_splits", "-1")),
        ({"virtual_batch_size": 8, "smallest": 0.5}, COUNT.format("smallest", "0.5")),
        ({}, ONE_OF_THE_TWO.format("None", "None")),
        ({"virtual_batch_size": 8, "num_splits": 2}, ONE_OF_THE_TWO.format("8", "2")),
    ],
)
def test_a_size_of_virtual_batches_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=r"[Rr]eceived") as caught:
        GhostBatchNormalization(**settings)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("layer", [BatchNormalization, lambda **s: GhostBatchNormalization(num_splits=2, **s)])
@pytest.mark.parametrize(
    ("axis", "shape", "allowed"), [(3, (8, 3), "-2 to 1"), (-4, (8, 3, 5), "-3 to 2"), (2, (8, 3), "-2 to 1")]
)
def test_an_axis_that_inputs_have_not_is_refused(layer: Any, axis: int, shape: tuple[int, ...], allowed: str) -> None:
    with pytest.raises(ValueError, match=r"[Rr]eceived") as caught:
        layer(axis=axis).build(shape)
    assert str(caught.value) == (
        f"inputs of rank {len(shape)}, of shape {shape}, have no axis {axis}, received axis={axis}: pass an axis from "
        f"{allowed}."
    )


def test_a_scalar_several_inputs_and_an_unknown_number_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"[Rr]eceived") as caught:
        BatchNormalization().build(())
    assert str(caught.value) == (
        "inputs of rank 0, of shape (), have no axis -1, received axis=-1: give the input an axis of channels."
    )
    with pytest.raises(TypeError) as of_type:
        BatchNormalization().build([(8, 3), (8, 3)])
    assert str(of_type.value) == (
        "BatchNormalization takes one tensor, received inputs of shapes [(8, 3), (8, 3)]: call it on each, or join "
        "them with keras.layers.Concatenate."
    )
    with pytest.raises(ValueError, match=r"[Rr]eceived") as caught:
        BatchNormalization()(keras.Input((4, None)))
    assert str(caught.value) == (
        "the number of channels must be known, received axis=-1 for inputs of rank 3, of shape (None, 4, None): give "
        "that axis a length in keras.Input, or make it uniform in a ragged tensor."
    )


@pytest.mark.parametrize("axis", [[-1], (1,), np.int64(-1), -1])
def test_one_axis_in_a_list_is_the_axis(axis: Any) -> None:
    """Keras 2 wrote its files so."""
    layer = BatchNormalization(axis=axis)
    layer.build((8, 3))
    assert layer.gamma.shape == (3,)
    assert type(layer.get_config()["axis"]) is int


def test_bounds_and_switches_that_mean_something_are_taken() -> None:
    settings: dict[str, Any] = {"momentum": 0, "epsilon": 0, "center": 1, "scale": np.bool_(False)}
    layer = BatchNormalization(**settings)
    assert (layer.momentum, layer.epsilon) == (0, 0)
    clipping: dict[str, Any] = {"rmin": None, "rmax": 3, "dmax": 0}
    assert BatchNormalization(renorm=True, renorm_clipping=clipping).renorm


@pytest.mark.parametrize("shape", [(7,), (8, 3, 1), (8, 5)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"[Rr]eceived") as caught:
        BatchNormalization()(np.ones((8, 3), "float32"), training=True, mask=np.ones(shape, "bool"))
    assert (
        "The mask provided should be one dimension less than the inputs. Received: mask.shape="
        f"{shape}, inputs.shape=(8, 3): pass one entry per position, of shape (8,), in which any axis may be 1."
    ) in str(caught.value)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(8, 1), (3,), (8, 3, 1)])
def test_a_residual_of_another_shape_is_refused(shape: tuple[int, ...], training: bool) -> None:
    with pytest.raises(ValueError, match=r"[Rr]eceived") as caught:
        BatchNormalization()(np.ones((8, 3), "float32"), training=training, residual=keras.ops.ones(shape))
    assert (
        f"residual must have the shape of the inputs, (8, 3), received {shape}: expand it or project it first."
    ) in str(caught.value)
