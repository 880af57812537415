"""Linear networks side by side in a tiny setting: what moves, what is put back, and what the verdicts follow from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from normwise.lab.experiments import does_it_steady_a_deep_linear_network as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training import looks

SETTINGS = experiment.Settings(rates=(0.03, 0.1, 1e6), small=0.03, steps=60, depth=5, width=4, points=40)
RATES = torch.tensor([0.01, 0.1], dtype=torch.float64)


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    trials = experiment.trials(SETTINGS, (0, 1))
    return Outcomes(trials, [experiment.run(trial, SETTINGS) for trial in trials])


@pytest.fixture(scope="module")
def conclusion(outcomes: Outcomes) -> Conclusion:
    return experiment.conclude(SETTINGS, outcomes)


def made(*, batch_norm: bool, depth: int = 3) -> tuple[experiment.Linear, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    model = experiment.Linear(2, depth=depth, width=4, batch_norm=batch_norm, seed=0)
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
    torch.testing.assert_close(experiment.losses(model, x, y), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_turn_of_a_gradient_is_by_the_layers_below_alone_and_leaves_no_trace(batch_norm: bool) -> None:
    model, x, y = made(batch_norm=batch_norm)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = experiment._gradients(model, x, y)
    cosine, distance = experiment.turns(model, gradients, RATES, x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    cosines, distances = [], []
    for layer in (1, 2):  # by hand, from networks made anew
        moved, _, _ = made(batch_norm=batch_norm)
        with torch.no_grad():
            for below in range(layer):
                for parameter, slope in zip(moved.layers[below], gradients[below], strict=True):
                    rates = RATES.repeat_interleave(len(parameter) // 2)
                    parameter -= rates.view(-1, *[1] * (parameter.dim() - 1)) * slope
        old, new = (each[layer][0][1].flatten() for each in (gradients, experiment._gradients(moved, x, y)))
        cosines.append(float(old @ new / old.norm() / new.norm()))
        distances.append(float((new - old).norm() / old.norm()))
    assert float(cosine[1]) == pytest.approx(sum(cosines) / 2)
    assert float(distance[1]) == pytest.approx(sum(distances) / 2)
    assert float(cosine[0]) > float(cosine[1])  # a tenth of the rate


def test_the_range_is_that_of_the_losses_along_the_step_and_leaves_no_trace() -> None:
    model, x, y = made(batch_norm=False, depth=1)
    before = model.weights[0].detach().clone()
    gradients = experiment._gradients(model, x, y)
    found = experiment._range(model, gradients, RATES, x, y)
    assert torch.equal(before, model.weights[0])
    along = []
    for times in experiment.PROBES:
        weight = before[1] - times * 0.1 * gradients[0][0][1]
        along.append(float((weight @ x - y).square().sum() / y.square().sum()))
    assert float(found[1]) == pytest.approx(max(along) - min(along))


def test_both_networks_learn_and_one_that_diverges_is_not_the_best(outcomes: Outcomes) -> None:
    for arm in experiment.ARMS:
        runs = outcomes.where(batch_norm=arm)
        chosen = experiment.best(runs)
        assert chosen < 2
        curves = runs.array("loss")[:, chosen]
        assert (curves[:, -1] < 0.9 * curves[:, 0]).all()
    assert not np.isfinite(outcomes.where(batch_norm=False).array("loss")[:, 2, -1]).any()


def verdicts(loss: float, cosine: float, distance: float, spread: float) -> list[Verdict]:
    """What is said when the network with batch norm has these and the one without a loss of .4, 1, .1 and 1."""
    trials, at = experiment.trials(SETTINGS, range(3)), len(looks(SETTINGS.steps, growth=1.5))
    made_up = []
    for trial in trials:
        given = (loss, cosine, distance, spread) if trial.batch_norm else (0.4, 1.0, 0.1, 1.0)
        names = ("loss", "cosine", "distance", "range")
        made_up.append(
            {name: [[value] * at, [9.0] * at, [math.nan] * at] for name, value in zip(names, given, strict=True)}
        )
    return [each.verdict for each in experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements]


def test_the_verdicts_follow_the_numbers_at_the_best_rates() -> None:
    right, wrong = Verdict.REPRODUCED, Verdict.CONTRADICTED
    assert verdicts(0.1, 0.1, 0.5, 0.2) == [right] * 6
    assert verdicts(0.8, 1.0, 0.05, 5.0) == [wrong, right, wrong, Verdict.NOT_VISIBLE, wrong, wrong]
    assert verdicts(0.3, 0.1, 0.5, 0.8)[0] is Verdict.SMALLER


def test_the_common_rates_are_the_small_one_and_the_best_without(conclusion: Conclusion, outcomes: Outcomes) -> None:
    assert experiment.best(outcomes.where(batch_norm=False)) == 1
    texts = [statement.text for statement in conclusion.statements]
    assert [sum(f"At the rate {rate}," in text for text in texts) for rate in ("0.03", "0.1")] == [5, 5]


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 11
    assert len(conclusion.table.rows) == 6
    assert conclusion.table.rows[-1][2] == "diverges"
    assert all(len(row) == len(conclusion.table.columns) for row in conclusion.table.rows)
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2], [2]]
    for figure in conclusion.figures:
        for panel in figure.panels:
            for series in panel.series:
                assert len(series.x) == len(series.y) == len(series.low) > 0
