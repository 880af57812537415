"""The loop descends, stops where nothing comes back, and looks without touching."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from normwise.lab.data import Split, digits
from normwise.lab.models import Dense, he
from normwise.lab.training import accuracy, looks, train


def model(*, batch_norm: bool = True) -> Dense:
    return Dense(depth=2, width=32, activation="relu", batch_norm=batch_norm, std=he, seed=0)


def test_a_step_is_plain_gradient_descent() -> None:
    data = digits(0).train
    one = Split(data.images[:60], data.labels[:60], data.rows[:60])
    trained, expected = model(batch_norm=False), model(batch_norm=False)
    torch.nn.functional.cross_entropy(expected(one.images), one.labels).backward()
    assert train(trained, one, rate=0.1, steps=1, batch=60, seed=0)
    for after, before in zip(trained.parameters(), expected.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after, before - 0.1 * before.grad)


def test_training_learns_and_the_test_images_are_not_needed_for_it() -> None:
    data, network = digits(0), model()
    before = accuracy(network, data.test)
    assert train(network, data.train, rate=0.3, steps=150, batch=60, seed=0)
    assert before < 0.4 < 0.9 < accuracy(network, data.test)


def test_looking_changes_nothing() -> None:
    data, alone, watched = digits(0), model(), model()
    seen: list[int] = []

    def look(step: int) -> None:
        seen.append(step)
        assert not watched.training
        accuracy(watched, data.test)

    train(alone, data.train, rate=0.3, steps=20, batch=60, seed=0)
    train(watched, data.train, rate=0.3, steps=20, batch=60, seed=0, look=look, look_at=frozenset((1, 7, 20)))
    assert seen == [1, 7, 20]
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name])


def test_a_run_that_diverges_stops_and_counts_as_guessing() -> None:
    data, network = digits(0), model(batch_norm=False)
    assert not train(network, data.train, rate=1e9, steps=50, batch=60, seed=0)
    assert accuracy(network, data.test) == pytest.approx(0.1)


def test_looks_are_a_tenth_apart_and_end_with_the_last_step() -> None:
    found = looks(1000)
    assert found[0] == 10
    assert found[-1] == 1000
    assert found == sorted(set(found))
    assert all(after - before <= 0.2 * before for before, after in pairwise(found))
    assert looks(5) == [5]
