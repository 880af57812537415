"""What a stack is watched by while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from normwise.lab.data import digits
from normwise.lab.models import he
from normwise.lab.stack import Stack, batch_norm
from normwise.lab.stack_training import accuracies
from normwise.lab.watching import Watch


@pytest.mark.parametrize("normalized", [False, True])
def test_drift_is_that_of_what_the_last_activations_receive(normalized: bool) -> None:
    data = digits(0)
    normalize = batch_norm if normalized else None
    stack = Stack(2, depth=2, width=16, activation="relu", normalize=normalize, std=he, seed=3).eval()
    watch, means, deviations = Watch(stack, data), [], []
    for _ in range(3):
        with torch.no_grad():
            watch(0)
            received = values = data.validation.images.T.expand(2, -1, -1)
            for layer in range(2):
                linear = stack.weights[layer] @ values + (0 if normalized else stack.biases[layer])
                received = stack.normalized(layer, linear)
                values = received.relu()
            means.append(received.mean(dim=2).numpy())
            deviations.append(received.std(dim=2).numpy())
            stack.weights[0].mul_(1.5)
    found = watch.found()
    drift = np.median(np.std(means, axis=0) / np.mean(deviations, axis=0), axis=1)
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
