"""Errors: torch's word for word, our own in whole sentences, and nothing is changed by any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise import estimators
from normwise.errors import NormwiseError, UnknownName
from normwise.kernels.reference_activations import ACTIVATIONS
from normwise.torch.functional import batch_norm


def refusal(call: Callable[[], object]) -> tuple[type[BaseException], str]:
    """The type and the words of the error."""
    try:
        call()
    except Exception as error:
        return type(error), str(error)
    pytest.fail("nothing was refused")


def ones(dtype: torch.dtype = torch.float32, *shape: int) -> Tensor:
    return torch.ones(shape or (3,), dtype=dtype)


F32, F64, BF16, I64 = torch.float32, torch.float64, torch.bfloat16, torch.int64

# (settings of the layer, its buffers, the input): what a torch.nn layer refuses in training
LAYERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], torch.dtype]] = {
    "1-D input": ("BatchNorm1d", {}, (3,), F32),
    "4-D input to 1d": ("BatchNorm1d", {}, (2, 3, 2, 2), F32),
    "3-D input to 2d": ("BatchNorm2d", {}, (2, 3, 2), F32),
    "4-D input to 3d": ("BatchNorm3d", {}, (2, 3, 2, 2), F32),
    "scalar": ("BatchNorm1d", {}, (), F32),
    "one value per channel": ("BatchNorm1d", {}, (1, 3), F32),
    "one value per channel of one pixel": ("BatchNorm2d", {}, (1, 3, 1, 1), F32),
    "one value per channel of a volume": ("BatchNorm3d", {}, (1, 3, 1, 1, 1), F32),
    "too few channels": ("BatchNorm1d", {}, (4, 2), F32),
    "too many channels": ("BatchNorm2d", {}, (4, 5, 2, 2), F32),
    "too many channels, no parameters": ("BatchNorm2d", {"affine": False}, (4, 5, 2, 2), F32),
    "too many channels, no statistics": ("BatchNorm2d", {"track_running_stats": False}, (4, 5, 2, 2), F32),
    "eps 0": ("BatchNorm1d", {"eps": 0.0}, (4, 3), F32),
    "eps below 0": ("BatchNorm1d", {"eps": -1e-5}, (4, 3), F32),
    "integers": ("BatchNorm1d", {}, (4, 3), I64),
    "booleans": ("BatchNorm1d", {}, (4, 3), torch.bool),
    "complex numbers": ("BatchNorm1d", {}, (4, 3), torch.complex64),
    "float64 into float32": ("BatchNorm1d", {}, (4, 3), F64),
    "float32 into float64": ("BatchNorm1d", {"dtype": F64}, (4, 3), F32),
    "float32 into bfloat16": ("BatchNorm1d", {"dtype": BF16}, (4, 3), F32),
    "float16 into bfloat16": ("BatchNorm1d", {"dtype": BF16}, (4, 3), torch.float16),
    "float64 into float32, many values, channels last": ("BatchNorm1d", {}, (2000, 3), F64),
    "float32 into bfloat16, many values, channels last": ("BatchNorm1d", {"dtype": BF16}, (2000, 3), F32),
    "too many channels, many values, channels last": ("BatchNorm1d", {}, (2000, 4), F32),
    "eps 0, many values, channels last": ("BatchNorm1d", {"eps": 0.0}, (2000, 3), F32),
}
PATHS: dict[str, dict[str, Any]] = {"": {}, "average": {"momentum": None}, "pooled": {"estimator": "pooled"}}


def made(module: Any, name: str, settings: dict[str, Any], training: bool) -> nn.Module:
    layer = getattr(module, name)(3, **settings)
    assert isinstance(layer, nn.Module)
    return layer.train(training)


def cases(training: bool) -> Iterator[tuple[str, str, bool]]:
    """The cases that torch refuses, on every path of ours."""
    for case, path, masked in product(LAYERS, PATHS, (False, True)):
        name, settings, shape, dtype = LAYERS[case]
        try:
            made(nn, name, settings, training)(torch.ones(shape, dtype=dtype))
        except Exception:
            if masked and len(shape) < 2:
                continue  # there is nothing to mask
            yield case, path, masked


TRAINING, INFERENCE = [*cases(True)], [*cases(False)]


def test_torch_refuses_what_it_is_meant_to() -> None:
    assert len(TRAINING) == 25 * 6 - 2 * 3
    assert len(INFERENCE) == len(TRAINING) - 6 * 5  # one value, and eps 0, are fine with fixed statistics


def assert_refused_alike(case: str, path: str, masked: bool, training: bool) -> None:
    name, settings, shape, dtype = LAYERS[case]
    x = torch.ones(shape, dtype=dtype)
    layer = made(nt, name, {**settings, **PATHS[path]}, training)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    extras = {"mask": torch.ones((shape[0], *shape[2:]), dtype=torch.bool)} if masked else {}
    expected = refusal(lambda: made(nn, name, settings, training)(x))
    assert refusal(lambda: layer(x, **extras)) == expected
    assert {key: value.tolist() for key, value in before.items()} == {
        key: value.tolist() for key, value in layer.state_dict().items()
    }


@pytest.mark.parametrize(("case", "path", "masked"), TRAINING)
def test_in_training_the_words_are_torchs(case: str, path: str, masked: bool) -> None:
    assert_refused_alike(case, path, masked, training=True)


@pytest.mark.parametrize(("case", "path", "masked"), INFERENCE)
def test_in_inference_the_words_are_torchs(case: str, path: str, masked: bool) -> None:
    assert_refused_alike(case, path, masked, training=False)


# What torch.nn.functional.batch_norm refuses for x of (4, 3) and of (2000, 3): mean, var, weight, bias, training, more
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "no statistics for inference": (None, None, None, None, False),
    "a mean without a variance": (ones(), None, None, None, True),
    "a variance without a mean": (None, ones(), None, None, True),
    "a mean without a variance for inference": (ones(), None, None, None, False),
    "a mean of the wrong length": (ones(F32, 2), ones(), None, None, True),
    "a variance of the wrong length": (ones(), ones(F32, 2), None, None, True),
    "a weight of the wrong length": (ones(), ones(), ones(F32, 4), None, True),
    "a bias of the wrong length": (ones(), ones(), None, ones(F32, 4), True),
    "a bias of the wrong length for inference": (ones(), ones(), None, ones(F32, 4), False),
    "statistics of another dtype": (ones(F64), ones(F64), ones(), ones(), True),
    "statistics of low precision": (ones(BF16), ones(BF16), ones(), ones(), True),
    "statistics of another dtype for inference": (ones(F64), ones(F64), ones(), ones(), False),
    "statistics of another dtype and no parameters": (ones(F64), ones(F64), None, None, True),
    "integer statistics": (ones(I64), ones(I64), None, None, True),
    "a weight of another dtype": (ones(), ones(), ones(F64), ones(F64), True),
    "a weight that is a number": (ones(), ones(), 1.0, None, True),
    "momentum=None": (ones(), ones(), None, None, True, None),
    "eps below 0 for inference": (ones(), ones(), None, None, False, 0.1, -1.0),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("values", [4, 2000])
@pytest.mark.parametrize("case", ARGUMENTS)
def test_the_functions_words_are_torchs(case: str, values: int, masked: bool) -> None:
    x = torch.ones(values, 3)
    theirs, ours = (
        [argument.clone() if isinstance(argument, Tensor) else argument for argument in ARGUMENTS[case]]
        for _ in range(2)
    )
    torchs: Any = nn.functional.batch_norm
    function: Any = batch_norm
    expected = refusal(lambda: torchs(x, *theirs))
    extras = {"mask": torch.ones(values, dtype=torch.bool)} if masked else {}
    assert refusal(lambda: function(x, *ours, **extras)) == expected
    for argument, original in zip(ours, ARGUMENTS[case], strict=True):
        assert not isinstance(argument, Tensor) or torch.equal(argument, original)


@pytest.mark.parametrize("module", [nt.BatchNorm1d, nt.BatchNorm2d, nt.BatchNorm3d, nt.LazyBatchNorm2d])
def test_an_activation_that_does_not_exist(module: Any) -> None:
    arguments = () if module is nt.LazyBatchNorm2d else (3,)
    words, far = (str(UnknownName("activation", name, sorted(ACTIVATIONS))) for name in ("rellu", "zzz"))
    assert words.startswith("unknown activation 'rellu': did you mean 'relu'")
    assert refusal(lambda: module(*arguments, activation="rellu")) == (UnknownName, words)
    assert refusal(lambda: module(*arguments, activation="zzz")) == (UnknownName, far)
    x = torch.ones(4, 3)
    assert refusal(lambda: batch_norm(x, None, None, training=True, activation="rellu")) == (UnknownName, words)
    assert issubclass(UnknownName, ValueError)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("leaky_relu:a", "must be a finite number other than 0, received 'a': write for example 'leaky_relu:0.2'."),
        ("leaky_relu:", "must be a finite number other than 0, received '': write for example 'leaky_relu:0.2'."),
        ("elu:0", "must be a finite number other than 0, received '0': write for example 'elu:0.2'."),
        ("relu:0.1", "takes no setting, received 'relu:0.1': write 'relu'; only elu and leaky_relu take one."),
    ],
)
def test_an_activation_with_a_wrong_setting(name: str, words: str) -> None:
    kind, said = refusal(lambda: nt.BatchNorm1d(3, activation=name))
    assert kind is NormwiseError
    assert f"the activation {name.partition(':')[0]!r} {words}" in said


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("training", [True, False])
def test_an_activation_set_later_that_does_not_exist(path: str, training: bool) -> None:
    layer = nt.BatchNorm1d(3, **PATHS[path]).train(training)
    layer.activation = "rellu"
    kind, words = refusal(lambda: layer(torch.randn(4, 3)))
    assert kind is UnknownName
    assert words.startswith("unknown activation 'rellu': did you mean 'relu'?")
    assert int(layer.state_dict()["num_batches_tracked"]) == 0


def test_an_estimator_that_does_not_exist() -> None:
    assert refusal(lambda: nt.BatchNorm1d(3, estimator="poold")) == (
        UnknownName,
        f"unknown estimator 'poold': did you mean 'pooled'? Known: {', '.join(estimators.names())}.",
    )
    wrong: Any = 3
    assert refusal(lambda: nt.BatchNorm1d(3, estimator=wrong)) == (
        TypeError,
        "estimator must be a name or a normwise.estimators.Estimator, received int: pass for example 'pooled'.",
    )
    assert refusal(lambda: nt.BatchNorm1d(3, estimator="window")) == (
        NormwiseError,
        "estimator 'window' has settings, received only its name: "
        "pass normwise.estimators.Window(start=..., stop=...).",
    )
    assert refusal(lambda: nt.BatchNorm1d(3, momentum=None, estimator="ema")) == (
        NormwiseError,
        "estimator 'ema' needs the weight of a new batch, received None: state it (momentum in PyTorch).",
    )


HERE = "one entry per position, or one per position and channel."
FITS = "mask must broadcast to the input, (4, 3, 5), or to it without its channels, (4, 5), received"
OWN: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "residual of another shape": (
        {"residual": torch.ones(4, 3, 1)},
        ValueError,
        "residual must have the shape of the input, (4, 3, 5), received (4, 3, 1): expand it or project it first.",
    ),
    "residual that is no tensor": (
        {"residual": 1.0},
        TypeError,
        "residual must be a tensor, received float: pass the tensor to be added.",
    ),
    "residual on another device": (
        {"residual": torch.ones(4, 3, 5, device="meta")},
        ValueError,
        "residual must be on the device of the input, cpu, received meta: move it first.",
    ),
    "mask of integers": (
        {"mask": torch.ones(4, 5, dtype=torch.int64)},
        TypeError,
        "mask must be a boolean tensor, received torch.int64: pass for example lengths > positions.",
    ),
    "mask that is no tensor": (
        {"mask": [True]},
        TypeError,
        "mask must be a boolean tensor, received list: pass for example lengths > positions.",
    ),
    "mask on another device": (
        {"mask": torch.ones(4, 5, dtype=torch.bool, device="meta")},
        ValueError,
        "mask must be on the device of the input, cpu, received meta: move it first.",
    ),
    "mask of another length": (
        {"mask": torch.ones(4, 6, dtype=torch.bool)},
        ValueError,
        f"{FITS} (4, 6): {HERE}",
    ),
    "mask of other channels": (
        {"mask": torch.ones(4, 2, 5, dtype=torch.bool)},
        ValueError,
        f"{FITS} (4, 2, 5): {HERE}",
    ),
    "mask of one axis": (
        {"mask": torch.ones(4, dtype=torch.bool)},
        ValueError,
        f"{FITS} (4,): {HERE}",
    ),
    "weights of integers": (
        {"sample_weight": torch.ones(4, dtype=torch.int64)},
        TypeError,
        "sample_weight must be a floating tensor, received torch.int64: pass how much each sample counts.",
    ),
    "weights that are no tensor": (
        {"sample_weight": 2.0},
        TypeError,
        "sample_weight must be a floating tensor, received float: pass how much each sample counts.",
    ),
    "weights on another device": (
        {"sample_weight": torch.ones(4, device="meta")},
        ValueError,
        "sample_weight must be on the device of the input, cpu, received meta: move it first.",
    ),
    "weights of another length": (
        {"sample_weight": torch.ones(5)},
        ValueError,
        "sample_weight must broadcast to the input, (4, 3, 5), or to it without its channels, (4, 5), received (5,): "
        "one entry per sample, per position, or per value.",
    ),
    "a negative weight": (
        {"sample_weight": torch.tensor([1.0, 1.0, -0.5, 1.0])},
        ValueError,
        "sample_weight must be 0 or more everywhere, received -0.5: a negative weight takes values away, which leaves "
        "no variance.",
    ),
    "mask that leaves one value": (
        {"mask": torch.zeros(4, 5, dtype=torch.bool).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(True))},
        ValueError,
        "Expected more than 1 value per channel when training, got 1 value where the mask is True "
        "in input size torch.Size([4, 3, 5])",
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", OWN)
def test_our_own_errors_in_training(case: str, path: str) -> None:
    arguments, kind, words = OWN[case]
    layer = nt.BatchNorm1d(3, activation="relu", **PATHS[path])
    layer(torch.randn(4, 3, 5))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    assert refusal(lambda: layer(torch.randn(4, 3, 5), **arguments)) == (kind, words)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("case", [case for case in OWN if case != "mask that leaves one value"])
def test_our_own_errors_in_inference(case: str) -> None:
    arguments, kind, words = OWN[case]
    layer = nt.BatchNorm1d(3).eval()
    assert refusal(lambda: layer(torch.randn(4, 3, 5), **arguments)) == (kind, words)
