"""Noise behind batch normalization in a tiny setting."""

from __future__ import annotations

from normwise.lab.experiments import is_covariate_shift_only_packaging as experiment
from normwise.lab.networks.variants import Noise
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.descent import looks

SETTINGS = experiment.Settings(rates=(0.1, 0.3), steps=60, depth=2, width=24)


def test_noise_makes_the_inputs_drift(outcomes: Outcomes) -> None:
    drift = {arm: outcomes.where(arm=arm).array("drift").min() for arm in experiment.ARMS}
    assert drift["noisy_batch_norm"] > 1.5 * drift["batch_norm"]


def test_every_layer_has_noise_of_its_own() -> None:
    """Layers whose noise comes from one seed would all get the same at every step."""
    seeds = [0, 1, 1000]
    drawn = []
    for seed in seeds:
        stack = SETTINGS.stack(seed, experiment.normalization("noisy_batch_norm", seed))
        layers = [layer for layer in stack.normalize if isinstance(layer, Noise)]
        drawn += [layer.source.initial_seed() for layer in layers]
    assert len(drawn) == len(set(drawn)) == SETTINGS.depth * len(seeds)
    assert not set(drawn) & set(range(2000))  # the weights' and the batches'


def test_verdicts_follow_hand_made_numbers() -> None:
    trials = experiment.trials(SETTINGS, range(3))
    at = looks(SETTINGS.steps)
    when = {
        "plain": 40,
        "batch_norm": 12,
        "noisy_batch_norm": 14,
        "noisy_plain": 1000,
        "noisy_batch_norm_2": 20,
        "noisy_batch_norm_4": 22,
    }
    drift = {
        "plain": 1.0,
        "batch_norm": 0.3,
        "noisy_batch_norm": 1.5,
        "noisy_plain": 2.0,
        "noisy_batch_norm_2": 3.0,
        "noisy_batch_norm_4": 4.0,
    }
    made_up = []
    for trial in trials:
        curve = [0.96 if step >= when[trial.arm] else 0.1 for step in at]
        made_up.append({"validation": [curve] * 2, "test": [curve] * 2, "drift": [drift[trial.arm]] * 2})
    found = experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements
    assert {statement.verdict for statement in found} == {Verdict.REPRODUCED}


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5
    assert len(conclusion.table.rows) == 6
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[6]]
