"""Probes of the landscape, against a network by hand."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.splits import digits
from normwise.lab.networks.dense import he
from normwise.lab.networks.stack import Normalization, Stack, batch_norm
from normwise.lab.training.landscape import along_the_gradient, cosine_after_the_layers_below, gradients_of, layer_of


def stack(normalize: Normalization | None) -> Stack:
    return Stack(
        2, depth=2, width=16, activation="linear", normalize=normalize, std=he, seed=0, dtype=torch.float64
    )  # fmt: skip


def probe(made: Stack, rates: tuple[float, float]) -> tuple[torch.Tensor, ...]:
    data = digits(0).train
    images, labels = data.images[:30].double(), data.labels[:30]
    steps = torch.tensor(rates, dtype=torch.float64)
    found = along_the_gradient(made, images, labels, steps)
    return (*found, cosine_after_the_layers_below(made, images, labels, steps))


def test_tiny_steps_find_a_flat_loss_and_the_slope_is_the_squared_gradient() -> None:
    spread, distance, cosine = probe(stack(None), (1e-7, 2e-7))
    data = digits(0).train
    made = stack(None)
    _, gradients = gradients_of(made, data.images[:30].double(), data.labels[:30])
    squared = torch.cat([each.reshape(2, -1) for each in gradients], dim=1).square().sum(dim=1)
    torch.testing.assert_close(spread, squared * 4 * torch.tensor([1e-7, 2e-7]).double(), rtol=1e-4, atol=0)
    assert (distance < 1e-3).all()
    assert cosine == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("normalize", [None, batch_norm])
def test_probing_changes_nothing(normalize: Normalization | None) -> None:
    made = stack(normalize)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    probe(made, (0.1, 0.3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


def test_the_layers_below_are_those_in_front_of_a_weight() -> None:
    for normalize in (None, batch_norm):
        made = stack(normalize)
        names = [name for name, _ in made.named_parameters()]
        layers = [layer_of(name, 2, len(made.biases) == 1) for name in names]
        readout = {name for name, layer in zip(names, layers, strict=True) if layer == 2}
        assert readout == {"weights.2", "biases.0" if normalize else "biases.2"}
