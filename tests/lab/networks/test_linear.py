"""Linear networks side by side: what they compute, what turns and varies, and that looking leaves no trace."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.networks.linear import PROBES, Linear, gradients_of, losses, range_along, turns

RATES = torch.tensor([0.01, 0.1], dtype=torch.float64)


def made(*, batch_norm: bool, depth: int = 3) -> tuple[Linear, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    model = Linear(2, depth=depth, width=4, batch_norm=batch_norm, seed=0)
    return model, x, torch.randn(4, 4, generator=generator, dtype=torch.float64) @ x


def test_the_network_is_the_product_of_its_matrices() -> None:
    model, x, _ = made(batch_norm=False)
    first, second, third = (weight[1] for weight in model.weights)
    torch.testing.assert_close(model(x)[1], third @ second @ first @ x)


def test_with_batch_norm_every_layer_but_the_last_is_normalized() -> None:
    model, x, _ = made(batch_norm=True)
    y = x
    for weight in model.weights[:-1]:
        y = weight[0] @ y
        y = (y - y.mean(dim=1, keepdim=True)) / (y.var(dim=1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(model(x)[0], model.weights[-1][0] @ y)
    assert [len(layer) for layer in model.layers] == [3, 3, 1]


def test_predicting_0_has_the_loss_1() -> None:
    model, x, y = made(batch_norm=False)
    torch.nn.init.zeros_(model.weights[-1])
    torch.testing.assert_close(losses(model, x, y), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_turn_of_a_gradient_is_by_the_layers_below_alone_and_leaves_no_trace(batch_norm: bool) -> None:
    model, x, y = made(batch_norm=batch_norm)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = gradients_of(model, x, y)
    cosine, distance = turns(model, gradients, RATES, x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    cosines, distances = [], []
    for layer in (1, 2):  # by hand, from networks made again
        moved, _, _ = made(batch_norm=batch_norm)
        with torch.no_grad():
            for below in range(layer):
                for parameter, slope in zip(moved.layers[below], gradients[below], strict=True):
                    rates = RATES.repeat_interleave(len(parameter) // 2)
                    parameter -= rates.view(-1, *[1] * (parameter.dim() - 1)) * slope
        old, new = (each[layer][0][1].flatten() for each in (gradients, gradients_of(moved, x, y)))
        cosines.append(float(old @ new / old.norm() / new.norm()))
        distances.append(float((new - old).norm() / old.norm()))
    assert float(cosine[1]) == pytest.approx(sum(cosines) / 2)
    assert float(distance[1]) == pytest.approx(sum(distances) / 2)
    assert float(cosine[0]) > float(cosine[1])  # a tenth of the rate


def test_the_range_is_that_of_the_losses_along_the_step_and_leaves_no_trace() -> None:
    model, x, y = made(batch_norm=False, depth=1)
    before = model.weights[0].detach().clone()
    gradients = gradients_of(model, x, y)
    found = range_along(model, gradients, RATES, x, y)
    assert torch.equal(before, model.weights[0])
    along = []
    for times in PROBES:
        weight = before[1] - times * 0.1 * gradients[0][0][1]
        along.append(float((weight @ x - y).square().sum() / y.square().sum()))
    assert float(found[1]) == pytest.approx(max(along) - min(along))
