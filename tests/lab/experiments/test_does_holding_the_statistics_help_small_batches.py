"""Statistics that are held, in a tiny setting."""

from __future__ import annotations

import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import does_holding_the_statistics_help_small_batches as experiment
from normwise.lab.networks.stack import Ghost, Stack
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.averaging import hold
from normwise.lab.training.stacks import train_stack

SETTINGS = experiment.Settings(rates=(0.1, 0.3), parts=(2, 64), steps=100, depth=2, width=24)


def test_held_statistics_stay_and_everything_else_learns_on() -> None:
    data = digits(0).train
    stack = Stack(2, depth=2, width=8, normalize=lambda channels: Ghost(channels, 4), seed=0)
    train_stack(stack, data, rates=(0.1, 0.3), steps=3, batch=20, seed=0)
    before = {name.replace("layer.", ""): value.clone() for name, value in stack.state_dict().items()}
    hold(stack)
    train_stack(stack, data, rates=(0.1, 0.3), steps=3, batch=20, seed=0)
    learnt = {name.replace("layer.", ""): value for name, value in stack.state_dict().items()}
    assert set(before) == set(learnt)
    parameters = {name.replace("layer.", "") for name, _ in stack.named_parameters()}
    for name, value in learnt.items():
        assert torch.equal(value, before[name]) == (name not in parameters), name


def test_held_statistics_give_the_same_numbers_in_training_and_in_inference() -> None:
    stack, images = Stack(1, depth=2, width=8, normalize=lambda channels: Ghost(channels, 4), seed=0), torch.rand(8, 64)
    stack(images)
    hold(stack)
    torch.testing.assert_close(stack.train()(images), stack.eval()(images))


def test_all_networks_learn(outcomes: Outcomes) -> None:
    assert (outcomes.array("test").max(axis=1) > 0.3).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert [("more" in each.text, "less" in each.text) for each in conclusion.statements] == [
        (True, False),
        (False, True),
    ]
    assert len(conclusion.table.rows) == 4
    (figure,) = conclusion.figures
    assert [len(panel.series) for panel in figure.panels] == [2, 2]
