"""The distortions, training on them in a tiny setting, and the numbers that the verdicts follow from."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data import changes
from normwise.lab.data.changes import NOISE, distort
from normwise.lab.experiments import should_photometric_distortions_be_weaker as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Statement, Verdict

SETTINGS = experiment.Settings(rates=(0.3, 1.0), steps=12, widths=(4, 4))


def source() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_no_distortions_leave_images_as_they_are() -> None:
    images = torch.rand(5, 64)
    assert torch.equal(distort(images, 0, source()), images)


def test_an_image_without_contrast_only_changes_in_brightness_and_by_noise() -> None:
    grey = torch.full((4000, 64), 0.5)
    found = distort(grey, 1, source())
    shifts = found.mean(dim=1) - 0.5
    assert 0.19 < float(shifts.abs().max()) < 0.25  # up to .2, and the mean of the noise
    assert float(shifts.mean()) == pytest.approx(0, abs=0.01)
    assert float(found.std(dim=1).mean()) == pytest.approx(NOISE, rel=0.05)


def test_strong_is_twice_mild_before_anything_is_cut() -> None:
    images = 0.5 + 0.02 * torch.randn(500, 64, generator=source())
    mild, strong = (distort(images, times, source()) for times in (1, 2))
    inside = (strong > 0) & (strong < 1) & (mild > 0) & (mild < 1)
    assert float(inside.double().mean()) > 0.8
    torch.testing.assert_close((strong - images)[inside], 2 * (mild - images)[inside], rtol=1e-4, atol=1e-5)
    assert (float(strong.min()), float(strong.max())) == (0, 1)


def test_contrast_changes_about_the_images_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "NOISE", 0.0)
    monkeypatch.setattr(changes, "BRIGHTNESS", 0.0)
    images = 0.4 + 0.2 * torch.rand(2000, 64, generator=source())
    found = distort(images, 2, source())
    torch.testing.assert_close(found.mean(dim=1), images.mean(dim=1))
    factors = found.std(dim=1) / images.std(dim=1)
    assert 0.5 <= float(factors.min()) < 0.51
    assert 1.49 < float(factors.max()) <= 1.5 + 1e-6


def test_arms_see_the_same_distortions_and_the_strength_matters(outcomes: Outcomes) -> None:
    strong = experiment.Trial(True, 2, 1.0, 0)
    assert experiment.run(strong, SETTINGS) == experiment.run(strong, SETTINGS)
    ends = {times: outcomes.where(batch_norm=True, strength=times).array("test").tolist() for times in (0, 1, 2)}
    assert ends[0] != ends[1] != ends[2]


def test_the_network_learns() -> None:
    settings = experiment.Settings(steps=250, widths=(8, 8, 8))
    quarter, _, end = experiment.run(experiment.Trial(True, 1, 1.0, 0), settings)["test"]
    assert end > 0.4
    assert end > quarter


def said(
    with_it: tuple[float, float, float], without: tuple[float, float, float], before: float = 1.0
) -> list[Statement]:
    """The statements when the networks end so with no, mild and strong distortions, and had that share of it before."""
    trials = experiment.trials(SETTINGS, range(3))
    made_up = []
    for trial in trials:
        end = (with_it if trial.batch_norm else without)[trial.strength] if trial.rate == 1.0 else 0.1
        made_up.append({"validation": [0.0, before * end, end], "test": [0.1, end, end]})
    return list(experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements)


def test_the_verdicts_follow_the_ends() -> None:
    weak, strong, same = (0.90, 0.92, 0.88), (0.70, 0.75, 0.80), (0.9, 0.9, 0.9)
    for networks, verdict in (
        ((weak, strong), Verdict.REPRODUCED),
        ((strong, weak), Verdict.CONTRADICTED),
        ((same, same), Verdict.SMALLER),
    ):
        assert [each.verdict for each in said(*networks)] == [verdict] * 3


def test_a_training_that_still_rises_bears_no_verdict() -> None:
    ends = (0.90, 0.92, 0.88), (0.70, 0.75, 0.80)
    for each in said(*ends, before=0.9):
        assert each.effect.obstacle.startswith("the training did not reach a plateau (with")
    assert not any("plateau" in each.effect.obstacle for each in said(*ends, before=0.995))


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 3
    assert len(conclusion.table.rows) == 6
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2]]
    for figure in conclusion.figures:
        for panel in figure.panels:
            for series in panel.series:
                assert len(series.x) == len(series.y) == len(series.low) == 3
