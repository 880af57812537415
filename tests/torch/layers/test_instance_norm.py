"""Instance norm's own: running statistics, inputs without a batch, lazy layers, torch's words for what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import normwise.torch as nt
from normwise.torch.functional import instance_norm
from tests.cases import running

SHAPES = {"1d": (3, 4, 5), "2d": (2, 4, 3, 5), "3d": (2, 4, 2, 3, 2)}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "affine": {"affine": True},
    "tracking": {"track_running_stats": True},
    "both, another momentum": {"affine": True, "track_running_stats": True, "momentum": 0.3},
    "momentum None leaves the statistics": {"track_running_stats": True, "momentum": None},
}


def pair(kind: str, prefix: str = "", *args: Any, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Our layer and torch's."""
    name = f"{prefix}InstanceNorm{kind}"
    return getattr(nt, name)(*args, **settings), getattr(nn, name)(*args, **settings)


def normal(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 1


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    mine, right = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(right)
    for key, value in right.items():
        assert mine[key].dtype is value.dtype
        torch.testing.assert_close(mine[key], value)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", SHAPES)
def test_training_and_inference_are_torchs(kind: str, settings: str) -> None:
    ours, theirs = pair(kind, "", 4, **SETTINGS[settings])
    for step in range(4):
        for layer in (ours, theirs):
            layer.train(step < 3)
        x = normal(SHAPES[kind], step)
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(ours(x[0]), theirs(x[0]))  # without a batch
        assert_same_state(ours, theirs)


@pytest.mark.parametrize("kind", SHAPES)
def test_large_inputs_go_through_the_compiled_kernels_with_the_same_result(kind: str) -> None:
    shape = (4, 8, *[{"1d": 4096, "2d": 48, "3d": 12}[kind]] * (len(SHAPES[kind]) - 2))
    ours, theirs = pair(kind, "", 8, **SETTINGS["both, another momentum"])
    inputs = [normal(shape).requires_grad_() for _ in range(2)]
    for layer, x in zip((ours, theirs), inputs, strict=True):
        layer(x).pow(3).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-4)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("kind", SHAPES)
def test_lazy_layers(kind: str) -> None:
    ours, theirs = pair(kind, "Lazy")
    assert repr(ours) == repr(theirs)
    x = normal(SHAPES[kind])
    torch.testing.assert_close(ours(x), theirs(x))
    assert type(ours) is getattr(nt, f"InstanceNorm{kind}")
    assert_same_state(ours, theirs)
    fused = getattr(nt, f"LazyInstanceNorm{kind}")(activation="relu")
    torch.testing.assert_close(fused(x), theirs(x).relu())


def test_checkpoints_with_statistics_go_both_ways() -> None:
    ours, theirs = pair("2d", "", 4, affine=True, track_running_stats=True)
    ours(normal(SHAPES["2d"]))
    theirs.load_state_dict(ours.state_dict())
    fresh, _ = pair("2d", "", 4, affine=True, track_running_stats=True)
    fresh.load_state_dict(theirs.state_dict())
    assert_same_state(fresh, ours)


def test_masked_instances_have_the_moments_of_the_values_that_are_there() -> None:
    layer = nt.InstanceNorm1d(3, track_running_stats=True, momentum=1.0)
    x = normal((2, 3, 6))
    lengths = torch.tensor([4, 6])
    y = layer(x, mask=torch.arange(6) < lengths[:, None])
    for sample, length in enumerate(lengths.tolist()):
        right = nn.functional.instance_norm(x[sample : sample + 1, :, :length])
        torch.testing.assert_close(y[sample : sample + 1, :, :length], right)
    parts = [x[sample, :, :length] for sample, length in enumerate(lengths.tolist())]
    mean, var = running(layer)
    torch.testing.assert_close(mean, torch.stack([part.mean(1) for part in parts]).mean(0))
    torch.testing.assert_close(var, torch.stack([part.var(1) for part in parts]).mean(0))


def test_a_sample_that_is_all_padding_does_not_enter_and_nothing_changes_nothing() -> None:
    layer, alone = (nt.InstanceNorm1d(3, track_running_stats=True, momentum=0.5) for _ in range(2))
    x = normal((2, 3, 6))
    mask = torch.tensor([[True], [False]]).expand(2, 6)
    layer(x, mask=mask)
    alone(x[:1])
    assert_same_state(layer, alone)
    layer(x, mask=mask & False)
    assert_same_state(layer, alone)


def test_what_is_not_finite_does_not_enter_the_statistics() -> None:
    ours, theirs = pair("1d", "", 3, track_running_stats=True)
    x = normal((2, 3, 6))
    x[0, 1, 2] = float("nan")
    for layer in (ours, theirs):
        layer(x)
    assert bool(running(theirs)[0].isnan()[1])  # torch's is spoilt for ever
    mean, var = running(ours)
    assert mean[1] == 0
    assert var[1] == 1
    torch.testing.assert_close(mean[::2], running(theirs)[0][::2])
    assert int(dict(ours.named_buffers())["num_batches_skipped"]) == 1


def test_statistics_stay_in_float32_under_half_precision() -> None:
    layer = nt.InstanceNorm2d(3, affine=True, track_running_stats=True)
    x = normal((4, 3, 5, 5))
    layer(x)
    before = running(layer)[0].clone()
    layer.bfloat16()
    assert running(layer)[0].dtype is torch.float32
    assert torch.equal(running(layer)[0], before)
    assert layer(x.bfloat16()).dtype is torch.bfloat16
    assert layer.eval()(x.bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_forward_enters_once(reentrant: bool) -> None:
    once, again = (nt.InstanceNorm1d(3, track_running_stats=True) for _ in range(2))
    x = normal((2, 3, 6)).requires_grad_()
    once(x).sum().backward()
    checkpoint(again, x, use_reentrant=reentrant).sum().backward()
    assert_same_state(again, once)


def test_no_positions_but_one() -> None:
    ours, theirs = pair("1d", "", 3)
    for layer in (ours, theirs):
        with pytest.raises(ValueError) as error:  # noqa: PT011  # the whole message is compared below
            layer(torch.ones(2, 3, 1))
        assert str(error.value) == (
            "Expected more than 1 spatial element when training, got input size torch.Size([2, 3, 1])"
        )
    with pytest.raises(ValueError) as masked:  # noqa: PT011  # the whole message is compared below
        ours(torch.ones(2, 3, 4), mask=torch.arange(4) < torch.tensor([[4], [1]]))
    assert str(masked.value) == (
        "Expected more than 1 spatial element when training, got 1 position where the mask is True in input size "
        "torch.Size([2, 3, 4])"
    )


def words(call: Any) -> tuple[type[BaseException], str]:
    try:
        call()
    except Exception as error:
        return type(error), str(error)
    pytest.fail("nothing was refused")


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (2, 3, 4, 5)),
        ({}, (3,)),
        ({"affine": True}, (2, 5, 4)),
        ({"track_running_stats": True}, (2, 3, 1)),
        ({"affine": True, "dtype": torch.float64}, (2, 3, 4)),
        ({"eps": -1.0, "affine": True}, (2, 5, 4)),
    ],
    ids=str,
)
def test_the_words_are_torchs(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    ours, theirs = pair("1d", "", 3, **settings)
    assert words(lambda: ours(torch.ones(shape))) == words(lambda: theirs(torch.ones(shape)))


def test_the_functions_words_are_torchs() -> None:
    x = torch.ones(2, 3, 4)
    for arguments in ((None, None, torch.ones(2)), (torch.zeros(3), None), (torch.zeros(2), torch.ones(2))):
        assert words(lambda given=arguments: instance_norm(x, *given)) == words(
            lambda given=arguments: nn.functional.instance_norm(x, *given)
        )


def test_another_number_of_channels_is_a_warning_without_parameters() -> None:
    ours, theirs = pair("1d", "", 3)
    x = normal((2, 5, 4))
    found = []
    for layer in (ours, theirs):
        with pytest.warns(UserWarning, match="num_features") as record:
            found.append(layer(x))
        assert str(record[0].message) == (
            "input's size at dim=1 does not match num_features. You can silence this warning by not passing in "
            "num_features, which is not used because affine=False"
        )
    torch.testing.assert_close(*found)


def test_resetting_forgets_everything_seen() -> None:
    layer = nt.InstanceNorm1d(3, track_running_stats=True)
    layer(torch.full((2, 3, 4), float("nan")))
    layer(normal((2, 3, 4)))
    layer.reset_running_stats()
    assert_same_state(layer, nt.InstanceNorm1d(3, track_running_stats=True))
    assert int(dict(layer.named_buffers())["num_batches_skipped"]) == 0
