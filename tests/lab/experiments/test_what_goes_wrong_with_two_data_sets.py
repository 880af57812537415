"""Two data sets in one network, in a tiny setting."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.splits import digits, digits_on_photos
from normwise.lab.experiments import what_goes_wrong_with_two_data_sets as experiment
from normwise.lab.networks.dense import he
from normwise.lab.networks.stack import Stack
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.domains import train_on_all
from normwise.torch import PerDomain

SETTINGS = experiment.Settings(rates=(0.3, 0.4), steps=80, depth=2, width=32)


def test_the_average_of_both_data_sets_lies_between_them() -> None:
    """The mistake: after training, each data set is normalized by a mean that neither has."""
    data = dict(zip(experiment.DOMAINS, (digits(0), digits_on_photos(0)), strict=True))
    means: list[list[torch.Tensor]] = []
    for arm in ("shared", "statistics"):
        stack = Stack(
            1,
            depth=1,
            width=8,
            activation="relu",
            normalize=lambda channels, arm=arm: experiment.normalization(arm, channels),  # type: ignore[misc]
            std=he,
            seed=0,
        )
        sets = {name: each.train for name, each in data.items()}
        train_on_all(stack, sets, rates=(0.0,), steps=60, each=30, mixed=False, seed=0)
        (layer,) = stack.normalize
        kept = [layer.of(name) for name in experiment.DOMAINS] if isinstance(layer, PerDomain) else [layer]
        means.append([each.get_buffer("running_mean") for each in kept])
    ((both,), (plain, photos)) = means
    far = (plain - photos).abs() > 0.3
    assert far.any()
    assert ((both > torch.minimum(plain, photos)) & (both < torch.maximum(plain, photos)))[far].all()


def test_statistics_of_their_own_give_back_what_shared_averages_lose(outcomes: Outcomes) -> None:
    shared = outcomes.where(arm="shared")
    assert (shared.array("test_own_statistics") > shared.array("test")).all()


def test_accuracy_is_the_mean_of_both_data_sets(outcomes: Outcomes) -> None:
    both = outcomes.array("test")
    assert both == pytest.approx((outcomes.array("plain") + outcomes.array("photos")) / 2)
    assert (both > 0.4).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 6
    assert len(conclusion.table.rows) == len(experiment.ARMS)
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [5, 5, 5]
