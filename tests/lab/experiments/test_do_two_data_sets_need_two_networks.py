"""One network or two for two data sets, in a tiny setting."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.data.splits import digits, digits_on_photos
from normwise.lab.experiments import do_two_data_sets_need_two_networks as experiment
from normwise.lab.networks.dense import Dense
from normwise.lab.networks.stack import Stack, batch_norm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.domains import train_apart, train_on_all

SETTINGS = experiment.Settings(rates=(0.1, 0.3, 1.0), steps=12, images=(60,), depth=2, width=16)


@pytest.mark.parametrize(("width", "depth"), [(64, 3), (96, 3), (16, 2)])
def test_two_of_half_the_size_have_no_more_parameters_and_hardly_less(width: int, depth: int) -> None:
    model = Dense(depth=depth, width=width, batch_norm=True, seed=0)
    assert experiment.parameters(width, depth) == sum(each.numel() for each in model.parameters())
    whole, small = (experiment.parameters(each, depth) for each in (width, experiment.half(width, depth)))
    assert 0.9 * whole < 2 * small <= whole


def test_networks_apart_see_the_images_that_one_network_sees() -> None:
    """The two ways of training are the same for one data set alone."""
    sets = {"plain": digits(0).train}
    one, other = (Stack(2, depth=1, width=8, normalize=batch_norm, seed=0) for _ in range(2))
    train_apart({"plain": one}, sets, rates=(0.1, 0.3), steps=5, each=30, seed=0)
    train_on_all(other, sets, rates=(0.1, 0.3), steps=5, each=30, mixed=True, seed=0)
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert np.allclose(ours.detach(), theirs.detach(), atol=1e-6)
    assert not np.array_equal(digits(0).train.images, digits_on_photos(0).train.images)


def test_accuracy_is_the_mean_of_both_data_sets(outcomes: Outcomes) -> None:
    both = outcomes.array("test")
    assert both == pytest.approx((outcomes.array("plain") + outcomes.array("photos")) / 2)


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 4 * len(SETTINGS.images)
    assert len(conclusion.table.rows) == len(SETTINGS.images) * len(experiment.ARMS)
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [5, 5, 5]
