"""The measurements of a stack while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from normwise.lab.data.splits import digits
from normwise.lab.networks.dense import he
from normwise.lab.networks.stack import Stack, batch_norm
from normwise.lab.training.stacks import accuracies
from normwise.lab.training.watching import Log, Watch
from normwise.torch import BatchNorm1d


@pytest.mark.parametrize("normalized", [False, True])
def test_drift_is_that_of_what_the_last_activations_receive(normalized: bool) -> None:
    data = digits(0)
    normalize = batch_norm if normalized else None
    stack = Stack(2, depth=2, width=16, activation="relu", normalize=normalize, std=he, seed=3).eval()
    watch, means, deviations = Watch(stack, data), [], []
    for step in (10, 20, 40):
        with torch.no_grad():
            watch(step)
            received = values = data.validation.images.T.expand(2, -1, -1)
            for layer in range(2):
                linear = stack.weights[layer] @ values + (0 if normalized else stack.biases[layer])
                received = stack.normalized(layer, linear)
                values = received.relu()
            means.append(received.mean(dim=2).numpy())
            deviations.append(received.std(dim=2).numpy())
            stack.weights[0].mul_(1.5)
    found = watch.found()
    time = np.array([5, 15, 10]) / 30  # from 10 to 15, to 30, to 40: what each look is nearest to
    middle = np.tensordot(time, means, 1)
    spread = np.sqrt(np.tensordot(time, (np.array(means) - middle) ** 2, 1))
    drift = np.median(spread / np.tensordot(time, deviations, 1), axis=1)
    np.testing.assert_allclose(found["drift"], drift, rtol=1e-4)
    assert np.shape(found["validation"]) == np.shape(found["test"]) == (2, 3)


def test_accuracies_are_looked_at_outside_of_what_drift_is_measured_by() -> None:
    data = digits(0)
    stack = Stack(1, depth=1, width=16, activation="relu", normalize=batch_norm, std=he, seed=3).eval()

    @contextmanager
    def without_signal() -> Iterator[None]:
        weight = stack.weights[0].detach().clone()
        stack.weights[0].data.zero_()
        yield
        stack.weights[0].data.copy_(weight)

    watch = Watch(stack, data, without_signal)
    with torch.no_grad():
        watch(0)
    assert watch.test == [accuracies(stack, data.test)]
    assert float(watch.deviations[0].max()) == 0


def test_the_moving_average_is_the_layer_s_own() -> None:
    layer = BatchNorm1d(3, momentum=0.1, dtype=torch.float64)
    log = Log(layer)
    for seed in range(7):
        layer(torch.randn(1, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    layer.eval()(torch.zeros(1, 3, 20, dtype=torch.float64))  # in inference nothing is logged
    own = torch.stack((layer.get_buffer("running_mean"), layer.get_buffer("running_var")))
    assert len(log.moments) == 7
    assert torch.allclose(log.average(0.1), own)


def test_parts_of_training_are_the_steps_that_they_say() -> None:
    log = Log(BatchNorm1d(1))
    log.moments = [torch.full((2, 1), float(step)) for step in range(8)]
    assert log.part(0, 1).unique().item() == 3.5
    assert log.part(0.25, 0.75).unique().item() == 3.5
    assert log.part(0.75, 1).unique().item() == 6.5
    log.moments = log.moments[:1]
    assert log.part(0.75, 1).unique().item() == 0
