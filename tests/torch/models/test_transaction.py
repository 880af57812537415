"""Snapshots of whole models: every byte, mode, hook and random number comes back, and nothing else happens."""

from __future__ import annotations

import copy
import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normwise.torch.models.transaction import RandomState, Snapshot, transaction, unchanged, write


def network() -> Any:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(), nn.Linear(4, 4)))
    model.tied = model[2][1]
    model.register_buffer("bare", torch.zeros(2), persistent=False)
    return model


class Spoilt(Exception):
    """The error that ends a block."""


def spoil(model: Any) -> None:
    """Everything that one can do to a model without leaving Python."""
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002  # the global one is what must come back
    model.eval()
    model[2].train()
    model.double()
    with torch.no_grad():
        model[0].weight.add_(1)
    model[0].weight.data = torch.zeros(4, 3).t().contiguous()
    model[0].bias = nn.Parameter(torch.ones(4))
    model[1].running_mean = torch.full((4,), 7.0)
    model[1].register_buffer("more", torch.zeros(1))
    model[1].momentum = 0.9
    model[1].__class__ = nn.BatchNorm2d
    model[2].append(nn.ReLU())
    model[2][0] = nn.Identity()
    model.bare.fill_(3)
    model.note = "spoilt"
    del model.tied
    model.requires_grad_(False)
    for hook in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        getattr(model, hook)(lambda *_: None)


def spoil_and_raise(model: Any, error: type[BaseException]) -> None:
    spoil(model)
    raise error


def seen(model: Any) -> dict[str, Any]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {
        "values": {name: (tensor.tolist(), tensor.dtype, tensor.stride()) for name, tensor in tensors},
        "places": {name: (id(tensor), tensor.data_ptr(), tensor.requires_grad) for name, tensor in tensors},
        "modules": {name: (id(module), type(module), module.training) for name, module in model.named_modules()},
        "momentum": model[1].momentum,
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "tied": model.tied is model[2][1],
    }


def draws() -> tuple[Any, ...]:
    return (*torch.rand(3).tolist(), random.random(), *np.random.rand(2).tolist())  # noqa: NPY002  # as above


def test_everything_comes_back() -> None:
    model = network()
    before, snapshot = seen(model), Snapshot(model)
    expected = draws()
    snapshot.restore()
    for _ in range(2):  # it can be used again
        spoil(model)
        snapshot.restore()
        assert seen(model) == before
        assert draws() == expected
        snapshot.restore()


def test_a_block_that_leaves_the_model_unchanged_does_so_on_both_ends() -> None:
    model = network()
    before = seen(model)
    with unchanged(model):
        spoil(model)
    assert seen(model) == before
    with pytest.raises(Spoilt), unchanged(model):
        spoil_and_raise(model, Spoilt)
    assert seen(model) == before


@pytest.mark.parametrize("error", [Spoilt, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_transaction_is_undone_by_any_error(error: type[BaseException]) -> None:
    model = network()
    before = seen(model)
    with pytest.raises(error), transaction(model):
        spoil_and_raise(model, error)
    assert seen(model) == before


def test_a_transaction_that_ends_well_stays() -> None:
    model = network()
    with transaction(model):
        model.eval()
        write(model[1].running_mean, torch.ones(4))
    assert not model.training
    assert model[1].running_mean.tolist() == [1.0] * 4


def test_the_handles_of_hooks_work_on() -> None:
    model, calls = network(), []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    with unchanged(model):
        handle.remove()
        model(torch.ones(2, 3))
    assert calls == []
    model(torch.ones(2, 3))
    assert calls == [1]
    handle.remove()
    model(torch.ones(2, 3))
    assert calls == [1]


def test_an_earlier_forward_still_has_its_backward() -> None:
    model = network()
    theirs = copy.deepcopy(model)
    for each in (model, theirs):
        torch.manual_seed(0)
        loss = each(torch.arange(12.0).view(4, 3)).square().sum()
        if each is model:
            with unchanged(model):
                model(torch.ones(5, 3))
            write(model[1].running_mean, torch.ones(4))
        loss.backward()
    for ours, other in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours.grad, other.grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
def test_numbers_that_are_no_numbers_come_back_bit_for_bit(value: float) -> None:
    model = nn.BatchNorm1d(3)
    assert model.running_mean is not None
    model.running_mean.fill_(value)
    before = model.running_mean.view(torch.int32).tolist()
    with unchanged(model):
        model.running_mean.zero_()
    assert model.running_mean.view(torch.int32).tolist() == before


def test_a_model_made_in_inference_mode_is_restored_too() -> None:
    with torch.inference_mode():
        model = nn.BatchNorm1d(3)
    assert model.running_mean is not None
    with unchanged(model), torch.inference_mode():
        model.running_mean.fill_(3)
    assert model.running_mean.tolist() == [0.0] * 3


def test_a_scripted_model_is_restored() -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted: Any = torch.jit.script(nn.Sequential(nn.BatchNorm1d(3)))
    with unchanged(scripted):
        scripted(torch.randn(4, 3))
        scripted.eval()
    assert scripted.training
    assert dict(scripted.named_buffers())["0.running_mean"].tolist() == [0.0] * 3


@pytest.mark.parametrize("end", [None, Spoilt])
def test_a_buffer_that_is_expanded_hinders_nothing(end: type[BaseException] | None) -> None:
    model = network()
    model.register_buffer("mask", torch.ones(1, 3).expand(4, 3))
    before = copy.deepcopy(model.state_dict())
    with suppress(Spoilt), unchanged(model):
        spoil(model)
        model.mask.data[0].fill_(2)
        if end is not None:
            raise end
    torch.testing.assert_close(model.state_dict(), before)
    assert model.mask.stride() == (0, 1)


def test_the_random_state_alone() -> None:
    state = RandomState()
    first = draws()
    state.restore()
    assert draws() == first
