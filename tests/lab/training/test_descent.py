"""The loop descends, stops where nothing comes back, and looks without touching."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from normwise.lab.data.splits import Split, digits
from normwise.lab.networks.dense import Dense, he
from normwise.lab.training.descent import accuracies, accuracy, half_a_cosine, looks, to_a_tenth, train


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


def test_a_schedule_multiplies_the_rate_of_each_step() -> None:
    data = digits(0).train
    scheduled, by_hand = model(batch_norm=False), model(batch_norm=False)
    one = Split(data.images[:60], data.labels[:60], data.rows[:60])
    train(scheduled, one, rate=0.2, steps=3, batch=60, seed=0, schedule=lambda step: (1.0, 0.5, 0.0)[step])
    for rate in (0.2, 0.1):
        train(by_hand, one, rate=rate, steps=1, batch=60, seed=0)
    for after, expected in zip(scheduled.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(after, expected)


def test_to_a_tenth_begins_at_1_and_falls_by_the_same_factor_at_every_step() -> None:
    schedule = to_a_tenth(50)
    assert (schedule(0), schedule(25), schedule(50)) == pytest.approx((1, 0.1**0.5, 0.1))


def test_what_is_distorted_is_what_is_trained_on_and_not_what_is_looked_at() -> None:
    data = digits(0)
    one = Split(data.train.images[:60], data.train.labels[:60], data.train.rows[:60])
    halves = Split(one.images / 2, one.labels, one.rows)
    distorted, expected = model(), model()
    train(distorted, one, rate=0.2, steps=4, batch=60, seed=0, distort=lambda images: images / 2)
    train(expected, halves, rate=0.2, steps=4, batch=60, seed=0)
    assert torch.equal(distorted.readout.weight, expected.readout.weight)
    assert accuracy(distorted, data.test) == accuracy(expected, data.test)


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


def test_half_a_cosine_falls_to_nothing() -> None:
    schedule = half_a_cosine(10)
    assert [schedule(step) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0])


def test_accuracies_are_those_on_validation_and_test_images() -> None:
    data, untrained = digits(0), model()
    assert accuracies(untrained, data) == {
        "validation": accuracy(untrained, data.validation),
        "test": accuracy(untrained, data.test),
    }
