"""Rewritten networks are the same functions."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.splits import digits
from normwise.lab.networks.dense import Dense, he
from normwise.lab.networks.rewriting import folded, with_identities
from normwise.lab.training.descent import train
from normwise.torch import BatchNorm1d


@pytest.fixture(params=[True, False])
def trained(request: pytest.FixtureRequest) -> Dense:
    data = digits(0)
    model = Dense(depth=2, width=16, activation="relu", batch_norm=request.param, std=he, seed=0)
    train(model, data.train, rate=0.1, steps=20, batch=60, seed=0)
    return model.double().eval()


def test_the_rewritten_network_has_the_same_logits_with_and_without_normalization(trained: Dense) -> None:
    images = digits(0).test.images.double()
    normalized = isinstance(trained.normalize[0], BatchNorm1d)
    other = folded(trained) if normalized else with_identities(trained, digits(0).train.images.double())
    assert isinstance(other.normalize[0], BatchNorm1d) is not normalized
    with torch.no_grad():
        torch.testing.assert_close(other(images), trained(images), rtol=1e-10, atol=1e-10)
