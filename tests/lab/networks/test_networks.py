"""Convolutional, residual and recurrent networks: arms begin alike, and each computes what its formula says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from normwise.lab.data.splits import digits
from normwise.lab.networks.convolutional import Chain, Convolutional, Inception
from normwise.lab.networks.dense import Dense, Norm, he
from normwise.lab.networks.recurrent import Recurrent
from normwise.lab.networks.residual import Block, Residual
from normwise.lab.training.descent import accuracy, train
from normwise.torch import BatchNorm1d, BatchNorm2d

MAKERS: dict[str, tuple[Callable[[Norm | None, int], nn.Module], Norm]] = {
    "dense": (lambda n, s: Dense(depth=2, width=8, activation="relu", norm=n, std=he, seed=s), BatchNorm1d),
    "after": (
        lambda n, s: Dense(depth=2, width=8, activation="relu", norm=n, place="after", std=he, seed=s),
        BatchNorm1d,
    ),
    "convolutional": (lambda n, s: Convolutional(width=4, activation="relu", norm=n, seed=s), BatchNorm2d),
    "chain": (lambda n, s: Chain(widths=(4, 6), norm=n, seed=s), BatchNorm2d),
    "residual": (lambda n, s: Residual(blocks=3, width=8, norm=n, seed=s), BatchNorm1d),
    "recurrent": (lambda n, s: Recurrent(inputs=8, width=8, norm=n, seed=s), BatchNorm1d),
}


def weights(model: nn.Module) -> list[torch.Tensor]:
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


def test_a_branch_that_begins_at_nothing_leaves_the_identity() -> None:
    x = torch.rand(5, 8)
    assert torch.equal(Block(8, None, 0.0)(x), x)
    assert not torch.equal(Block(8, None, None)(x), x)


def test_a_recurrent_step_is_its_formula_and_steps_beyond_take_the_last_normalization() -> None:
    model = Recurrent(inputs=3, width=4, norm=BatchNorm1d, seed=0, own=2)
    x = torch.rand(6, 3, 3)
    model(x)
    tracked = [dict(norm.named_buffers())["num_batches_tracked"].item() for norm in model.normalize]
    assert tracked == [1, 2]
    plain = Recurrent(inputs=3, width=4, norm=None, seed=0)
    h = torch.zeros(6, 4)
    for step in range(3):
        h = torch.tanh(plain.inwards(x[:, step]) + plain.onwards(h))
    torch.testing.assert_close(plain(x), plain.readout(h))


@pytest.mark.parametrize("name", ["convolutional", "residual"])
def test_they_learn(name: str) -> None:
    make, norm = MAKERS[name]
    model, data = make(norm, 0), digits(0)
    assert train(model, data.train, rate=0.3, steps=120, batch=60, seed=0)
    assert accuracy(model, data.test) > 0.7
