"""The two arms of a comparison differ in the normalization and in nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normwise.lab.networks.dense import ACTIVATIONS, Dense, constant, glorot, he
from normwise.torch import BatchNorm1d


def dense(batch_norm: bool, seed: int = 0, activation: str = "relu") -> Dense:
    return Dense(depth=3, width=8, activation=activation, batch_norm=batch_norm, std=he, seed=seed)


def weights(model: Dense) -> list[torch.Tensor]:
    return [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]


def test_both_arms_begin_with_the_same_weights() -> None:
    for plain, normalized in zip(weights(dense(False)), weights(dense(True)), strict=True):
        assert torch.equal(plain, normalized)
    assert not torch.equal(weights(dense(True))[0], weights(dense(True, seed=1))[0])


def test_the_layer_is_the_packages_own_and_takes_the_bias_over() -> None:
    normalized = dense(True)
    assert [type(layer) for layer in normalized.normalize] == [BatchNorm1d] * 3
    assert all(isinstance(layer, nn.Linear) and layer.bias is None for layer in normalized.linear)
    assert all(isinstance(layer, nn.Linear) and layer.bias is not None for layer in dense(False).linear)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_without_normalization_it_is_what_its_formula_says(activation: str) -> None:
    model, x = dense(False, activation=activation), torch.rand(5, 64)
    y = x
    for layer in model.linear:
        y = getattr(torch, activation)(layer(y))
    assert torch.equal(model(x), model.readout(y))


def test_the_scales_are_those_of_their_formulas() -> None:
    assert (constant(0.1)(64), glorot(64), he(50)) == (0.1, 0.125, 0.2)
    model = Dense(depth=1, width=400, activation="relu", batch_norm=False, std=constant(0.3), seed=0)
    assert float(weights(model)[0].detach().std()) == pytest.approx(0.3, rel=0.02)
