"""Scale and shift alone, in a tiny setting."""

from __future__ import annotations

import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import do_scale_and_shift_alone_learn as experiment
from normwise.lab.networks.dense import Dense, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.parts import thawed, train_only

SETTINGS = experiment.Settings(widths=(8, 64), rates=(0.5,), steps=80)


def test_only_scales_and_shifts_move() -> None:
    model = Dense(depth=2, width=8, activation="relu", batch_norm=True, std=he, seed=0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    parameters = thawed(model, model.normalize)
    data = digits(0).train
    train_only(parameters, model, data, rate=0.5, steps=3, batch=60, seed=0)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {f"normalize.{layer}.{name}" for layer in range(2) for name in ("weight", "bias")}


def test_wider_is_better(outcomes: Outcomes) -> None:
    only = outcomes.where(arm="only")
    assert (only.where(width=64).array("test") > only.where(width=8).array("test")).all()
    assert (only.where(width=64).array("parameters") == 4 * 64).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 4
    assert len(conclusion.table.rows) == 4
    ((panel,),) = (figure.panels for figure in conclusion.figures)
    assert [len(series.x) for series in panel.series] == [2, 2]
