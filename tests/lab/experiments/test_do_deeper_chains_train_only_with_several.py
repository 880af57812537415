"""Chains in a tiny setting."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from normwise.lab.experiments import do_deeper_chains_train_only_with_several as experiment
from normwise.lab.networks.stack import Stack
from normwise.lab.networks.variants import Shift, only_in
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.torch import BatchNorm1d

SETTINGS = experiment.Settings(depths=(2, 20, 51), rates=(0.03, 0.1), steps=2, width=8)
LEVELS = (0.15, 0.2)


def test_batch_norm_is_where_it_is_said_to_be_and_biases_elsewhere() -> None:
    stack = Stack(2, depth=5, width=4, normalize=only_in((2,)), seed=0)
    assert [type(layer) for layer in stack.normalize] == [Shift, Shift, BatchNorm1d, Shift, Shift]


def test_a_shift_is_the_bias_of_a_layer_without_normalization() -> None:
    ours, theirs = (Stack(2, depth=2, width=4, normalize=each, seed=0) for each in (only_in(()), None))
    with torch.no_grad():
        for layer, bias in zip(ours.normalize, theirs.biases, strict=False):
            nn.init.normal_(bias)
            assert isinstance(layer, Shift)
            layer.bias.copy_(bias.flatten())
    images = torch.rand(3, 64)
    torch.testing.assert_close(ours(images), theirs(images))


def test_a_chain_that_still_learns_bears_no_verdict() -> None:
    settings = replace(SETTINGS, rates=(0.03, 0.1, 0.3))
    trials = experiment.trials(settings, range(3))
    values = {name: [0.4, 0.5, 0.4] for name in ("validation", "test", "train")}
    for late, hindered in ((0.495, False), (0.4, True)):
        made_up = Outcomes(trials, [values | {"late": [late] * 3} for _ in trials])
        for each in experiment.conclude(settings, made_up).statements:
            if "do not train" not in each.text:
                assert each.effect.obstacle.startswith("the training did not reach a plateau") == hindered


def test_a_chain_that_has_trained_refutes_that_it_does_not_though_it_learns_more() -> None:
    settings = replace(SETTINGS, rates=(0.03, 0.1, 0.3))
    trials = experiment.trials(settings, range(3))
    for end, refuted in ((0.4, True), (0.15, False)):
        # at the largest rate and still rising, which is an obstacle at chance only
        values = {name: [0.1, 0.1, end] for name in ("test", "train")} | {"validation": [0.1, 0.1, max(end, 0.21)]}
        made_up = Outcomes(trials, [values | {"late": [0.1] * 3} for _ in trials])
        for each in experiment.conclude(settings, made_up).statements:
            if "do not train" in each.text:
                assert (each.effect.obstacle == "") == refuted, each.text


def test_deep_is_said_of_deep_ones_only(conclusion: Conclusion) -> None:
    assert [text.text for text in conclusion.statements if "do not train" in text.text] == [
        "20 layers do not train without batch normalization (test accuracy near chance).",
        "51 layers do not train without batch normalization (test accuracy near chance).",
        "51 layers with batch normalization in each do not train (test accuracy near chance).",
    ]
    assert len(conclusion.table.rows) == 9
