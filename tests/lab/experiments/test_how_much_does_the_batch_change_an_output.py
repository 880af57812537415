"""The same image in different batches, in a tiny setting, and what is measured of it by hand."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import how_much_does_the_batch_change_an_output as experiment
from normwise.lab.networks.dense import Dense
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.random_batches import in_random_batches, share_of, spread

SETTINGS = experiment.Settings(depth=2, width=16, steps=60, sizes=(2, 8, 32), images=64, times=4)
NOT = torch.nan


def test_every_image_comes_in_its_place_and_the_network_stays_as_it_was() -> None:
    model, images = Dense(depth=1, width=4, batch_norm=True, seed=0).eval(), digits(0).test.images[:10]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = in_random_batches(model, images, 4, times=3, seed=0)
    assert found["layer"].shape == (3, 10, 4)
    for values in found["logits"]:
        placed = ~values[:, 0].isnan()
        assert 1 < placed.sum() <= 8  # two batches of 4, drawn with repetition
        assert torch.allclose(values[placed], model(images)[placed], atol=1e-6)
    in_random_batches(model.train(), images, 4, times=3, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_spread_by_hand() -> None:
    values = torch.tensor([[[0.0], [10.0], [NOT]], [[2.0], [NOT], [NOT]], [[NOT], [12.0], [5.0]]])
    # images 0 and 1 have the means 1 and 11 and variances of 2 each; image 2 was there but once
    assert spread(values) == pytest.approx((2 / 25) ** 0.5)


def test_shares_leave_out_what_is_not_known() -> None:
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[NOT, NOT], [1.0, 0.0]]])
    assert share_of(logits, lambda answers: (answers != answers[0]).any()) == 0.5


def test_smaller_batches_change_an_output_more(outcomes: Outcomes) -> None:
    for name in ("layer", "logits"):
        assert (outcomes.array(name)[:, 0] > 2 * outcomes.array(name)[:, 2]).all()
    assert (outcomes.array("inference") < 1e-13).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 8
    assert len(conclusion.table.rows) == len(SETTINGS.sizes) + 1
    ((panel,),) = (figure.panels for figure in conclusion.figures)
    assert len(panel.series) == 2
