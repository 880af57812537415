"""Convolutional, residual and recurrent networks: arms begin alike, and each computes what its formula says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from normwise.lab.data.splits import digits
from normwise.lab.networks.convolutional import Chain, Convolutional, Inception
from normwise.lab.networks.dense import Dense, Norm, he
from normwise.lab.networks.recurrent import Recurrent, sequences
from normwise.lab.networks.residual import Residual
from normwise.lab.networks.stack import Together, batch_norm
from normwise.lab.networks.variants import LayerNorms
from normwise.lab.training.descent import accuracy, train
from normwise.lab.training.stacks import accuracies, train_stack
from normwise.torch import BatchNorm1d, BatchNorm2d

MAKERS: dict[str, tuple[Callable[[Norm | None, int], nn.Module], Norm]] = {
    "dense": (lambda n, s: Dense(depth=2, width=8, activation="relu", norm=n, std=he, seed=s), BatchNorm1d),
    "after": (
        lambda n, s: Dense(depth=2, width=8, activation="relu", norm=n, place="after", std=he, seed=s),
        BatchNorm1d,
    ),
    "convolutional": (lambda n, s: Convolutional(width=4, activation="relu", norm=n, seed=s), BatchNorm2d),
    "chain": (lambda n, s: Chain(widths=(4, 6), norm=n, seed=s), BatchNorm2d),
    "residual": (lambda n, s: Residual(1, blocks=3, width=8, normalize=n, seed=s), BatchNorm1d),
    "recurrent": (lambda n, s: Recurrent(1, inputs=8, width=8, normalize=n, seed=s), BatchNorm1d),
}


def weights(model: nn.Module) -> list[torch.Tensor]:
    if isinstance(model, Together):
        return list(model.weights)
    return [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


@pytest.mark.parametrize("name", MAKERS)
def test_arms_begin_with_the_same_weights(name: str) -> None:
    make, norm = MAKERS[name]
    plain, normalized = make(None, 0), make(norm, 0)
    for one, other in zip(weights(plain), weights(normalized), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(weights(plain)[0], weights(make(None, 1))[0])
    assert not any(isinstance(layer, norm) for layer in plain.modules())  # type: ignore[arg-type]  # a class here
    assert any(isinstance(layer, norm) for layer in normalized.modules())  # type: ignore[arg-type]  # as above


def test_a_normalization_after_the_activation_is_there() -> None:
    model, x = MAKERS["after"][0](BatchNorm1d, 0), torch.rand(20, 64)
    assert isinstance(model, Dense)
    y = x
    for linear, normalize in zip(model.linear, model.normalize, strict=True):
        y = normalize(torch.relu(linear(y)))
        assert float(y.mean(0).abs().max().detach()) < 1e-5
    torch.testing.assert_close(model(x), model.readout(y))


def test_what_stands_behind_a_chains_activations_is_behind_all_but_the_last_and_behind_the_pooling() -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    x = torch.rand(3, 64)
    plain, doubled = (Chain(widths=(4, 6, 5), norm=None, seed=0, behind=behind) for behind in (None, Twice))
    y = nn.functional.max_pool2d(plain.units[0](x.view(3, 1, 8, 8)), 2)
    y = plain.units[2](plain.units[1](y))
    assert y.shape == (3, 5, 4, 4)
    torch.testing.assert_close(plain(x), plain.readout(y.mean(dim=(2, 3))))
    torch.testing.assert_close(doubled(x), 4 * plain(x))  # biases are 0 at first, and ReLU keeps factors


def test_an_inception_block_sets_its_branches_side_by_side() -> None:
    block, x = Inception(3, 5, "relu", None), torch.rand(2, 3, 8, 8)
    y = block(x)
    assert y.shape == (2, 20, 8, 8)
    torch.testing.assert_close(y[:, 5:10], block.branches[1](x))
    # how far a branch sees: 1, 3, 5 and 3 pixels
    x.requires_grad_()
    for place, reach in enumerate((1, 3, 5, 3)):
        (slope,) = torch.autograd.grad(block(x)[0, 5 * place : 5 * place + 5, 4, 4].sum(), x)
        rows = slope[0].abs().sum(dim=(0, 2)).nonzero().flatten().tolist()
        assert rows == [] or (rows[-1] - rows[0] < reach and abs(rows[0] - 4) <= reach // 2)


def test_a_residual_network_is_its_formula() -> None:
    x = torch.rand(5, 64)
    model = Residual(2, blocks=2, width=8, normalize=None, seed=0, scale=0.5)
    first, *inner, readout = model.weights
    h = first @ x.T
    for below, above in zip(inner[::2], inner[1::2], strict=True):
        h = h + 0.5 * (above @ torch.relu(below @ torch.relu(h)))
    torch.testing.assert_close(model(x), readout @ torch.relu(h))  # biases are 0 at first


def test_fixup_begins_by_its_three_rules() -> None:
    fixup, plain = (Residual(2, blocks=4, width=8, normalize=None, seed=0, fixup=each) for each in (True, False))
    assert not fixup(torch.rand(5, 64)).any()
    for place, (one, other) in enumerate(zip(fixup.weights, plain.weights, strict=True)):
        factor = {0: 1.0, len(plain.weights) - 1: 0.0}.get(place, 0.5 if place % 2 else 0.0)
        torch.testing.assert_close(one, factor * other)
    assert fixup.scales is not None
    assert fixup.shifts is not None
    assert (fixup.scales == 1).all()
    assert fixup.shifts.shape[:2] == (2, 4 * 4 + 2)
    with torch.no_grad():
        fixup.shifts.add_(1.0)
        x = torch.full((2, 8, 1), -0.5)
        fixup.weights[2].copy_(torch.eye(8))
    above = torch.relu(fixup.weights[1] @ torch.full((2, 8, 1), 1.5) + 1) + 1
    torch.testing.assert_close(fixup.branch(0, x), above)


def test_a_recurrent_step_is_its_formula_and_steps_beyond_take_the_last_normalization() -> None:
    model = Recurrent(2, inputs=3, width=4, normalize=batch_norm, seed=0, own=2)
    x = torch.rand(6, 3, 3)
    model(x)
    tracked = [dict(norm.named_buffers())["num_batches_tracked"].item() for norm in model.normalize]
    assert tracked == [1, 2]
    plain = Recurrent(2, inputs=3, width=4, normalize=None, seed=0)
    inwards, onwards, readout = plain.weights
    h = torch.zeros(2, 4, 6)
    for step in range(3):
        h = torch.tanh(inwards @ x[:, step].T + onwards @ h)
    torch.testing.assert_close(plain(x), readout @ h)


def test_members_of_a_recurrent_network_learn_apart() -> None:
    data = sequences(digits(0).train)
    norms = (None, batch_norm, partial(LayerNorms, 2)), (None, batch_norm, partial(LayerNorms, 1))
    for together, alone in zip(*norms, strict=True):
        both = Recurrent(2, inputs=8, width=8, normalize=together, seed=3)
        train_stack(both, data, rates=(0.1, 0.5), steps=10, batch=20, seed=5)
        one = Recurrent(1, inputs=8, width=8, normalize=alone, seed=3)
        train_stack(one, data, rates=(0.5,), steps=10, batch=20, seed=5)
        torch.testing.assert_close(both.eval()(data.images)[1], one.eval()(data.images)[0], rtol=1e-3, atol=1e-3)


def test_a_convolutional_network_learns() -> None:
    make, norm = MAKERS["convolutional"]
    model, data = make(norm, 0), digits(0)
    assert train(model, data.train, rate=0.3, steps=120, batch=60, seed=0)
    assert accuracy(model, data.test) > 0.7


def test_a_residual_network_learns() -> None:
    model, data = Residual(2, blocks=3, width=8, normalize=batch_norm, seed=0), digits(0)
    assert all(train_stack(model, data.train, rates=(0.1, 0.3), steps=120, batch=60, seed=0))
    assert accuracies(model, data.test)[1] > 0.7
