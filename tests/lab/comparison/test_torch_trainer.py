"""The comparison on PyTorch models that are really trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normwise.errors import NormwiseError
from normwise.lab.comparison import compare
from normwise.lab.comparison.arms import NORMALIZERS, Arm, Trial
from normwise.lab.comparison.rows import Rows
from normwise.lab.comparison.torch_trainer import TorchTrainer
from tests.lab.comparison.conftest import Make

OWN = Arm("batch", "as built", 0.1, 32)


def test_a_trial_depends_on_its_seed_alone(net: Make, rows: Rows) -> None:
    trainer = TorchTrainer(net, rows, "")
    first = trainer.train(Trial(OWN, 30, 3))
    torch.manual_seed(99)
    assert trainer.train(Trial(OWN, 30, 3)).validation == first.validation
    assert trainer.train(Trial(OWN, 30, 4)).validation != first.validation


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("where", ["as built", "after"])
def test_every_arm_learns_digits(normalizer: str, where: str, images: Make, rows: Rows) -> None:
    trainer = TorchTrainer(images, rows, "")
    assert trainer.where == ("as built", "after")
    found = trainer.train(Trial(Arm(normalizer, where, 0.05, 32), 60, 0, final=True))
    assert all(score is not None and score > 40 for score in found.validation.values())
    names = {"batch": 3, "ghost": 3, "renorm": 2}.get(normalizer, 1)
    assert len(found.validation) == len(found.test) == names
    assert {len(scores or []) for scores in found.test.values()} == {len(rows.split(0)[2])}


def test_every_inference_statistics_is_examined_on_the_same_weights(images: Make, rows: Rows) -> None:
    """With no time for averages to arrive, running ones must be bad, and what is gathered afterwards not."""

    def late() -> nn.Module:
        model = images()
        norm = model.get_submodule("2")
        assert isinstance(norm, nn.BatchNorm2d)
        norm.momentum = 1e-6
        return model

    shifted = Rows(50 + 20 * rows.inputs, rows.targets)
    found = TorchTrainer(late, shifted, "").train(Trial(OWN, 60, 0, final=True)).validation
    running, recalibrated, batch = (found[way] or 0.0 for way in ("running", "recalibrated", "batch"))
    assert running < 50 < recalibrated
    assert abs(recalibrated - batch) < 10


def test_values_are_come_near_to_whatever_their_shape(rows: Rows) -> None:
    targets = rows.inputs.mean(axis=1)
    values = Rows(rows.inputs, targets)
    make = lambda: nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))  # noqa: E731
    found = TorchTrainer(make, values, "").train(Trial(Arm("batch", "as built", 0.05, 32), 100, 0))
    assert -(found.validation["recalibrated"] or -9) < float(np.var(targets))


def test_two_classes_may_have_one_output(rows: Rows) -> None:
    odd = Rows(rows.inputs, rows.targets % 2)
    make = lambda: nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))  # noqa: E731
    found = TorchTrainer(make, odd, "").train(Trial(Arm("batch", "as built", 0.1, 32), 60, 0))
    assert (found.validation["recalibrated"] or 0) > 75


def test_a_training_that_runs_away_is_no_error(net: Make, rows: Rows) -> None:
    huge = Rows(rows.inputs * np.float32(1e30), rows.targets)
    found = TorchTrainer(net, huge, "").train(Trial(Arm("none", "as built", 1e10, 32), 20, 0, final=True))
    assert (found.validation, found.test) == ({"none": None}, {"none": None})


class Lazy(nn.Module):
    """Layers that learn their sizes from the first batch, and a forward that cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Tensor:
        """One of two ways."""
        y = self.norm(self.first(x))
        return self.last(y if y.sum() > 0 else torch.relu(y))  # type: ignore[no-any-return]  # a module returns anything


def test_where_it_cannot_be_told_is_said_and_lazy_layers_are_begun(rows: Rows) -> None:
    trainer = TorchTrainer(Lazy, rows, "")
    assert trainer.where == ("as built",)
    assert trainer.remarks == (
        "Before or after the activation is not compared: norm: the model (Lazy) cannot be followed: its forward "
        "depends on the data.",
    )
    assert trainer.train(Trial(Arm("group", "as built", 0.1, 32), 20, 0)).rank > 0


def test_what_cannot_be_trained_is_one_sentence(net: Make, rows: Rows) -> None:
    with pytest.raises(NormwiseError, match=r"^MODEL cannot take the rows: RuntimeError: mat1 and mat2 shapes "):
        TorchTrainer(lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), rows, "")
    with pytest.raises(NormwiseError, match=r"^MODEL cannot be trained with instance at rate 0\.1, batches of 32: "):
        TorchTrainer(net, rows, "").train(Trial(Arm("instance", "as built", 0.1, 32), 2, 0))
    fixed = net().requires_grad_(False)
    sentence = r"^MODEL cannot be trained with batch at .*: ValueError: it has no parameters that learn\.$"
    with pytest.raises(NormwiseError, match=sentence):
        TorchTrainer(lambda: fixed, rows, "").train(Trial(OWN, 2, 0))


def test_a_normalizer_that_helps_is_found(net: Make, rows: Rows, tmp_path: Path) -> None:
    shifted = Rows(100 + 50 * rows.inputs, rows.targets)  # nothing but a normalized layer learns from this
    found = compare(net, shifted, normalizers=["batch", "none"], where=False, rates=[0.1, 0.5], budget=6, out=tmp_path)
    assert found.visible
    assert found.effect.high < -20
    assert found.recommendation.startswith("Keep batch at rate ")
    assert found.framework.startswith("torch ")
