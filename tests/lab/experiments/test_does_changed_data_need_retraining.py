"""Fresh statistics against training again, in a tiny setting."""

from __future__ import annotations

import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import does_changed_data_need_retraining as experiment
from normwise.lab.networks.stack import Stack, all_like, batch_norm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.stacks import train_stack

SETTINGS = experiment.Settings(rates=(0.1, 0.3, 1.0), steps=25, again_steps=3, images=(32, 200), depth=2, width=16)


def test_all_networks_become_like_one() -> None:
    stack, data = Stack(3, depth=2, width=4, normalize=batch_norm, seed=0), digits(0)
    train_stack(stack, data.train, rates=(0.0, 0.1, 1.0), steps=5, batch=30, seed=0)
    stack.eval()
    before = stack(data.test.images)
    after = all_like(stack, 1)(data.test.images)
    assert torch.allclose(after, before[1].expand_as(after), atol=1e-6)
    assert not torch.allclose(before[0], before[1], atol=1e-3)


def test_new_images_are_none_of_the_old_ones() -> None:
    old, new = experiment._before_and_after(digits(0), "inverted", 200)
    assert not set(old.train.rows.tolist()) & set(new.train.rows.tolist())
    assert torch.equal(new.test.images, 1 - old.test.images)


def test_fresh_statistics_follow_what_is_affine(outcomes: Outcomes) -> None:
    for shift in experiment.AFFINE[:2]:
        found = outcomes.where(shift=shift, way="further")
        assert (found.array("fresh")[:, -1] > found.array("before") - 0.05).all()
    inverted = outcomes.where(shift="inverted", way="further")
    assert (inverted.array("fresh")[:, -1] < inverted.array("before") - 0.2).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5 + 6 + 3 + 1
    assert len(conclusion.table.rows) == 7 * len(SETTINGS.images)
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [4] * 4
