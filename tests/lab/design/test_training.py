"""Training at every rate is the training that one rate alone gets."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from normwise.lab.data.splits import batches, digits
from normwise.lab.design import DenseTraining, OneNetwork, SideBySide, Training, by_pair, on_both
from normwise.lab.networks.dense import Dense, he
from normwise.lab.training.descent import accuracy, train
from normwise.lab.training.stacks import accuracies


@dataclass(frozen=True)
class Settings(DenseTraining):
    rates: tuple[float, ...] = (0.1, 0.5)
    steps: int = 20
    depth: int = 2
    width: int = 16


def network() -> Dense:
    return Dense(depth=2, width=16, activation="relu", batch_norm=True, std=he, seed=0)


def test_at_every_rate_each_network_is_trained_as_if_alone() -> None:
    data, settings = digits(0), Settings()
    found = settings.at_every_rate(
        network, data.train, 0, {"test": lambda model: accuracy(model, data.test), "one": lambda _: 1}, batch=30
    )
    alone = []
    for rate in settings.rates:
        model = network()
        train(model, data.train, rate=rate, steps=20, batch=30, seed=0)
        alone.append(accuracy(model, data.test))
    assert found == {"test": alone, "one": [1, 1]}


@pytest.mark.parametrize("normalize", [True, False])
def test_a_stack_has_a_network_for_each_rate_and_learns(normalize: bool) -> None:
    data, settings = digits(0), Settings(steps=60)
    stack = settings.stack(0, normalize)
    assert stack.members == 2
    before = accuracies(stack, data.test)
    assert settings.train(stack, data.train, 0) == [True, True]
    assert min(accuracies(stack, data.test)) > max(before)


def test_batches_can_be_given_instead_of_drawn() -> None:
    data, settings = digits(0), Settings()
    drawn, given = settings.stack(0, True), settings.stack(0, True)
    settings.train(drawn, data.train, 0)
    settings.train(given, batches(data.train, settings.batch, 0), seed=99)
    assert all(torch.equal(one, two) for one, two in zip(drawn.parameters(), given.parameters(), strict=True))


def test_the_depth_is_a_setting_or_is_said() -> None:
    assert SideBySide(width=8).stack(0, True, depth=3).depth == 3
    assert DenseTraining(width=8).stack(0, None).depth == 5
    with pytest.raises(KeyError, match="depth"):
        SideBySide(width=8).stack(0, True)


def test_lists_over_pairs_become_lists_of_lists() -> None:
    found = by_pair({"test": [1, 2, 3, 4, 5, 6], "curve": [[i, i] for i in range(6)]}, ("a", "b", "c"), (0.1, 0.5))
    assert found["test"] == [[1, 2], [3, 4], [5, 6]]
    assert found["curve"][2] == [[4, 4], [5, 5]]


def test_every_training_has_rates_and_steps() -> None:
    assert Training(rates=(0.1,)).steps == 600


def test_one_network_is_trained_at_its_rate_and_given_back() -> None:
    data, settings = digits(0), OneNetwork(depth=2, width=16, rate=0.5, steps=20)
    model, expected = settings.dense(0), network()
    assert settings.train(model, data.train, 3) is model
    train(expected, data.train, rate=0.5, steps=20, batch=60, seed=3)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert {name: measure(model) for name, measure in on_both(data).items()} == {
        "validation": accuracy(expected, data.validation),
        "test": accuracy(expected, data.test),
    }
