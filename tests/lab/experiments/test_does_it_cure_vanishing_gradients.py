"""The gradients' experiment in a tiny setting."""

from __future__ import annotations

import math

import pytest

from normwise.lab.experiments import does_it_cure_vanishing_gradients as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(layers=12, width=48, scales=(0.5, 0.9, 1.0, 2.0))


def test_without_batch_norm_relu_has_the_factor_of_its_scale(outcomes: Outcomes) -> None:
    norms = {
        scale: outcomes.where(activation="relu", batch_norm=False, scale=scale).array("log10_norm")
        for scale in SETTINGS.scales
    }
    # relu is homogeneous and biases are 0: scale s multiplies by s per layer; only the weights of the samples in the
    # loss's gradient shift with the size of the logits
    for scale, logs in norms.items():
        slopes = (logs[:, 0] - logs[:, -1]) - (norms[1.0][:, 0] - norms[1.0][:, -1])
        assert slopes == pytest.approx(12 * math.log10(scale), abs=0.3)


def test_the_statements_come_out_as_theory_says(conclusion: Conclusion) -> None:
    verdicts = {statement.text: statement.verdict for statement in conclusion.statements}
    assert len(verdicts) == 9
    (change,) = (verdicts[text] for text in verdicts if "With batch normalization, 4 times larger" in text)
    assert change is Verdict.REPRODUCED
    (change,) = (verdicts[text] for text in verdicts if "Without batch normalization, 4 times larger" in text)
    assert change is Verdict.REPRODUCED
    (growth,) = (each.effect for each in conclusion.statements if "theorem 8" in each.text)
    assert 0.7 < growth.value < 1.3


def test_everything_shown_is_finite(conclusion: Conclusion) -> None:
    both, close = conclusion.figures
    assert [panel.title for panel in both.panels] == list(SETTINGS.activations)
    assert [len(panel.series) for panel in both.panels] == [4, 4, 4]
    assert [len(panel.series) for panel in close.panels] == [3, 3, 4]  # theorem 8 in the panel of relu
    for panel in both.panels + close.panels:
        for series in panel.series:
            assert len(series.x) == len(series.y) == 13
            assert all(y is not None and math.isfinite(y) and y > 0 for y in series.y)
    assert len(conclusion.table.rows) == 6
