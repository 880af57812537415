"""Chains with remedies in a tiny setting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from normwise.lab.experiments import do_remedies_let_deep_chains_train as experiment
from normwise.lab.networks.remedies import Shortcuts, beginning
from normwise.lab.networks.stack import Stack
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.by_layer import log_norms

SETTINGS = experiment.Settings(depth=20, rates=(0.03, 0.1), steps=3, width=16)


def test_normalization_begins_as_it_is_told() -> None:
    layer = beginning(eps=0.5, scale=0.1, shift=3.0)(4)
    x = torch.randn(1, 4, 50)
    expected = (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 0.5).sqrt() * 0.1 + 3
    torch.testing.assert_close(layer(x), expected)


def test_shortcuts_add_what_the_layer_below_received() -> None:
    model, images = Shortcuts(2, depth=3, width=4, normalize=beginning(), seed=0), torch.rand(20, 64)
    h = model.normalized(0, torch.matmul(model.weights[0], images.T))
    for layer in (1, 2):
        h = h + model.normalized(layer, torch.matmul(model.weights[layer], torch.relu(h)))
    torch.testing.assert_close(model(images), torch.matmul(model.weights[-1], torch.relu(h)) + model.biases[-1])


def test_gradients_are_of_each_members_layers_and_the_network_stays_as_it_is() -> None:
    stack = Stack(2, depth=3, width=4, normalize=beginning(), seed=0)
    with torch.no_grad():
        stack.weights[1][1] *= 10.0  # normalized, so that the gradient is a tenth
    images, labels = torch.rand(20, 64), torch.arange(20) % 10
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    first, second = log_norms(stack.eval(), images, labels)
    assert second == pytest.approx([first[0], first[1] - 1, first[2]], abs=1e-2)
    assert not stack.training
    assert all(torch.equal(before[name], value) for name, value in stack.state_dict().items())


def test_shortcuts_and_linear_units_keep_the_gradients_size_where_the_plain_chain_does_not(outcomes: Outcomes) -> None:
    growth = {arm: outcomes.where(arm=arm).array("before")[:, [0, -1]] for arm in experiment.ARMS}
    logs = {arm: (ends[:, 0] - ends[:, 1]).mean() for arm, ends in growth.items()}
    assert logs["relu"] > 1
    assert max(logs["shift"], logs["shortcuts"]) < logs["relu"] - 0.5
    assert logs["scale"] < logs["tanh"]


def test_only_tanh_begins_with_small_scales() -> None:
    scales = {}
    for arm in experiment.ARMS:
        layer = experiment.chain(arm, SETTINGS, 0, 1).normalize[0]
        assert isinstance(layer, nn.Module)
        scales[arm] = float(layer.get_parameter("weight").detach()[0])
    assert {arm for arm, scale in scales.items() if scale != 1} == {"scale"}


def test_a_chain_that_still_learns_bears_no_verdict_on_accuracy() -> None:
    settings = replace(SETTINGS, rates=(0.03, 0.1, 0.3))
    trials = experiment.trials(settings, range(3))
    values = {name: [0.4, 0.5, 0.4] for name in ("validation", "test")}
    values |= {"before": [1.0] * 20, "after": [1.0] * 20}
    for late, hindered in ((0.495, False), (0.4, True)):
        made_up = Outcomes(trials, [values | {"late": [late] * 3} for _ in trials])
        for each in experiment.conclude(settings, made_up).statements:
            if "ends higher" in each.text:
                assert each.effect.obstacle.startswith("the training did not reach a plateau") == hindered


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 2 * len(experiment.REMEDIES) + 2
    assert len(conclusion.table.rows) == len(experiment.ARMS)
    gradients, accuracy = conclusion.figures
    assert [len(panel.series) for panel in gradients.panels] == [4, 2]
    assert [len(panel.series) for panel in accuracy.panels] == [6]
