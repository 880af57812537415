"""Adversarial networks in a tiny setting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from normwise.lab.experiments import should_gans_use_spectral_norm as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.adversarial import linear_layers

ADAM = ((0.002, 0.5), (0.001, 0.5), (0.003, 0.5), (0.005, 0.5), (0.002, 0.9))
SETTINGS = experiment.Settings(adam=ADAM, looks=(20, 150), longer=(160,), batch=30, width=24)
EXACT = slice(0, 2)
ONE_ITERATION = 2


def test_the_singular_values_and_slopes_are_exact(conclusion: Conclusion) -> None:
    assert [each.verdict for each in conclusion.statements[EXACT]] == [Verdict.EXACT] * 2


def test_every_generator_comes_nearer_and_real_images_are_nearest(outcomes: Outcomes) -> None:
    test = outcomes.where(generator="batch").array("test")
    assert (test[:, 0, -1] < test[:, 0, 0]).mean() > 0.7
    assert (outcomes.array("real") < test.min()).all()
    assert (outcomes.array("real_classes") == 10).all()
    assert (outcomes.array("shuffled") > 5 * outcomes.array("real")).all()


def test_arms_begin_alike_and_have_the_normalization_of_their_name() -> None:
    networks = {name: experiment.networks(experiment.Trial(name, "batch", 0), SETTINGS) for name in
                experiment.DISCRIMINATORS}  # fmt: skip
    generators = [torch.cat([w.flatten() for w in generator.parameters()]) for generator, _ in networks.values()]
    assert all(torch.equal(generators[0], each) for each in generators)
    kinds = {name: {type(layer).__name__ for layer in network} for name, (_, network) in networks.items()}
    assert kinds["none"] == {"Linear", "LeakyReLU"}
    assert kinds["mixed"] == kinds["apart"] == kinds["none"] | {"BatchNorm1d"}
    assert kinds["layer"] == kinds["none"] | {"LayerNorm"}
    assert [hasattr(layer, "parametrizations") for layer in linear_layers(networks["spectral"][1])] == [True] * 4


@pytest.mark.parametrize("diverged", [math.nan, math.inf])
def test_a_setting_at_which_a_seed_diverges_is_not_the_best(diverged: float) -> None:
    trials = experiment.trials(SETTINGS, range(2))[:2]
    runs = Outcomes(trials, [{"validation": [2.0, 1.0]}, {"validation": [2.0, diverged]}])
    assert experiment.best(runs) == 0


def test_verdicts_follow_hand_made_numbers() -> None:
    trials = experiment.trials(SETTINGS, range(3))
    ends = {"none": 2.0, "mixed": 1.5, "apart": 3.0, "layer": 1.0, "spectral": 1.2}
    classes = {"none": 9, "mixed": 10, "apart": 8, "layer": 10, "spectral": 9}
    longer = {"none": 2.0, "mixed": 0.9, "spectral": 1.0}
    made_up = []
    for trial in trials:
        end = ends[trial.discriminator] * (1.0 if trial.generator == "batch" else 2.0)
        made_up.append(
            {
                "test": [[9.0, end], *[[9.0, 2 * end]] * 4],
                "validation": [end, *[2 * end] * 4],
                "classes": [classes[trial.discriminator]] * 5,
                "slope": [0.5] * 5,
                "longer": [[end, longer[trial.discriminator]] if trial.discriminator in experiment.LONGER else []]
                + [[]] * 4,
                "sigma": [0.05, *[0.02] * 4],
                "sigma_converged": [1e-9] * 5,
                "slope_above_1": [0.0] * 5,
                "real": 0.3,
                "real_classes": 10,
                "shuffled": 6.0,
                "shuffled_classes": 5,
            }
        )
    found = experiment.conclude(SETTINGS, Outcomes(trials, made_up))
    verdicts = [each.verdict for each in found.statements]
    yes, no = Verdict.REPRODUCED, Verdict.CONTRADICTED
    assert verdicts[EXACT] == [Verdict.EXACT] * 2
    assert verdicts[ONE_ITERATION:] == [no, *(yes, yes, yes), *(yes, yes, no), *(no, no, no), yes, no, no, yes, yes]
    assert found.statements[3].effect.value == pytest.approx(2.0 / 1.2)
    assert found.statements[12].effect.value == pytest.approx(2.0)
    assert found.statements[14].effect.value == pytest.approx(1.5 / 3.0)


def test_the_best_setting_is_picked_on_validation_images() -> None:
    trials = [experiment.Trial("none", "batch", seed) for seed in range(2)]
    arm = Outcomes(trials, [{"validation": [4.0, 3.0]}, {"validation": [4.0, 5.0]}])
    assert math.sqrt(3.0 * 5.0) < 4.0 < np.mean([3.0, 5.0]) + 1e-9
    assert experiment.best(arm) == 1


@pytest.mark.parametrize("place", range(6))
def test_a_setting_with_the_lowest_or_the_highest_rate_bears_no_verdict(place: int) -> None:
    trials = [experiment.Trial("spectral", "batch", seed) for seed in range(2)]
    arm = Outcomes(trials, [{"validation": [1.0 if i == place else 2.0 for i in range(6)]}] * 2)
    assert experiment.best(arm) == place
    words = "the best rate lies at the edge of its grid (spectral norm, generator with batch norm)"
    assert experiment.edge(experiment.Settings(), arm) == (words if place in (1, 5) else "")


def test_the_high_rate_and_the_usual_setting_are_between_others() -> None:
    adam = experiment.Settings().adam
    rates = sorted(rate for rate, momentum in adam if momentum == adam[0][1])
    assert (adam[experiment.HIGH_RATE][0], rates[1]) == (rates[-2], adam[0][0])
    assert len(rates) >= 4


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 17
    assert len(conclusion.table.rows) == 5 + 2 + 2
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [5, 5, 5]
    on = {experiment.DISCRIMINATORS[name] for name in experiment.LONGER}
    for i, panel in enumerate(panels):
        for series in panel.series:
            assert series.x == ((20.0, 150.0, 160.0) if i == 0 and series.label in on else (20.0, 150.0))
            assert len(series.y) == len(series.low) == len(series.x)


def test_going_on_changes_nothing_of_what_was_before() -> None:
    trial = experiment.Trial("spectral", "batch", 0)
    short = experiment.Settings(adam=((0.002, 0.5),), looks=(5, 10), longer=(), batch=30, width=24)
    longer = experiment.Settings(adam=((0.002, 0.5),), looks=(5, 10), longer=(12,), batch=30, width=24)
    before, after = (experiment.run(trial, settings) for settings in (short, longer))
    assert [len(each["longer"][0]) for each in (before, after)] == [0, 1]
    assert {**after, "longer": before["longer"]} == before
