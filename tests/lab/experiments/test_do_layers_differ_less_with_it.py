"""Layers in a tiny setting."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from normwise.lab.data.splits import batches, digits
from normwise.lab.experiments import do_layers_differ_less_with_it as experiment
from normwise.lab.networks.dense import Dense, glorot
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.by_layer import RATES, Received, best_rates, sizes

SETTINGS = experiment.Settings(depth=3, steps=20, width=16)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_best_rate_of_a_layer_lowers_the_loss_more_than_its_neighbours(batch_norm: bool) -> None:
    train = digits(0).train
    images, labels = train.images[:50], train.labels[:50]
    model = Dense(depth=2, width=8, batch_norm=batch_norm, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    best = best_rates(model, images, labels)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    weight = model.get_parameter("linear.1.weight")
    (gradient,) = torch.autograd.grad(cross_entropy(model(images), labels), [weight])
    losses = []
    with torch.no_grad():
        for times in (0.5, 1.0, 2.0):
            weight.copy_(before["linear.1.weight"] - times * best[1] * gradient)
            losses.append(float(cross_entropy(model(images), labels)))
    assert losses[1] == min(losses)


def test_the_best_rate_of_a_layer_does_not_hang_on_where_the_rates_end() -> None:
    """With batch norm ever longer steps change nothing any more, now and then at a loss lower than elsewhere."""
    train = digits(1000).train
    images, labels = next(batches(train, 60, 1000))
    model = Dense(depth=10, width=64, batch_norm=True, seed=1000)
    every = [best_rates(model, images, labels, rates) for rates in (RATES, RATES[:-4], RATES[:-10])]
    assert every[0] == every[1] == every[2]
    assert RATES[0] < min(every[0]) <= max(every[0]) < RATES[-11]


def test_layers_whose_rates_are_the_last_that_were_tried_bear_no_verdict(outcomes: Outcomes) -> None:
    trials, made_up = zip(*outcomes, strict=True)
    edge = "the best rate of a layer lies at the edge of its grid"
    for rate, hindered in ((1.0, False), (RATES[-1], True), (RATES[0], True)):
        rates = {f"rates_{moment}": [rate, 1.0, 1.0] for moment in experiment.MOMENTS}
        found = experiment.conclude(SETTINGS, Outcomes(trials, [each | rates for each in made_up])).statements
        about = [each for each in found if "best rates" in each.text]
        assert about
        assert all(each.effect.obstacle.startswith(edge) == hindered for each in about)


def test_sizes_are_those_that_activations_receive() -> None:
    images = digits(0).train.images[:60]
    plain, normalized = (Dense(depth=3, width=32, batch_norm=each, std=glorot, seed=0) for each in (False, True))
    assert sizes(normalized, images) == pytest.approx([(60 / 59) ** 0.5] * 3, rel=0.01)
    found = sizes(plain, images)
    assert found[0] == pytest.approx(float(plain.get_submodule("linear.0")(images).detach().std(dim=0).mean()))
    assert found[2] < found[0]


def test_what_stands_still_does_not_drift() -> None:
    data = digits(0)
    received = Received(Dense(depth=2, width=8, seed=0).eval(), data.validation)
    with torch.no_grad():
        for step in (1, 2, 9):
            received(step)
    assert received.drift() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_every_layer_is_measured(outcomes: Outcomes) -> None:
    for what in ("sizes_before", "sizes_after", "drift", "rates_before", "rates_after"):
        assert outcomes.array(what).shape == (8, 3)


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 7 + 8
    assert len(conclusion.table.rows) == 4
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[4, 4, 4, 4]]
