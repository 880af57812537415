"""Statistics of the whole set in a tiny setting, and what is counted of their costs by hand."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.experiments import what_do_whole_set_statistics_cost as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.cost import HeldBytes
from normwise.lab.training.watching import Log
from normwise.torch import BatchNorm1d

SETTINGS = experiment.Settings(rates=(0.1, 0.5, 2.0), epochs=(1, 3), depth=2, width=16, repeats=1)


def test_bytes_are_counted_until_the_last_view_is_gone() -> None:
    with HeldBytes() as held:
        first = torch.ones(100)  # 400 bytes
        view = first.view(10, 10)
        del first
        view.add_(1)
        assert held.live == 400
        second = view @ view  # another 400
        assert (held.live, held.peak) == (800, 800)
        del view
        second = second * 2
        del second
    assert (held.live, held.peak) == (0, 800)


def test_what_was_there_before_is_not_counted() -> None:
    there = torch.ones(100)
    with HeldBytes() as held:
        there.add_(1)
        there.view(10, 10).mul_(2)
    assert held.peak == 0


def test_a_pass_for_each_layer_and_the_same_statistics(outcomes: Outcomes) -> None:
    assert (outcomes.array("passes, by batches") >= 1).all()
    assert (outcomes.array("passes, by batches") <= SETTINGS.depth).all()
    assert (outcomes.array("difference") < 1e-5).all()
    assert (outcomes.array("bytes, at once") > 5 * outcomes.array("bytes, by batches")).all()


def test_the_mean_of_an_epoch_comes_from_its_batches_alone() -> None:
    layer = BatchNorm1d(1)
    log = Log(layer)
    for value in (9.0, 1.0, 3.0):
        layer(torch.tensor([[[value - 1, value + 1]]]))
    assert log.last(2)[0].tolist() == [2.0]
    assert log.last(3)[0].tolist() == pytest.approx([13 / 3])


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 3 * len(SETTINGS.rates) + 4
    assert conclusion.statements[-1].verdict is Verdict.EXACT
    assert len(conclusion.table.rows) == 3 * 3 + 3 + 3 + 2 + 2
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [3, 3, 3]
