"""Layers that are each a little stale and together do harm, and models that are trained in ordinary ways."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from normwise.doctor import examine
from normwise.doctor.distances import suspects, together
from tests.doctor.digits import MODELS, Residual, accuracy, examined, held_out, serious, train


def deep() -> nn.Sequential:
    """Nine norms."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        *(Residual(12) for _ in range(4)), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def slightly_stale(model: Any, by: float) -> Any:
    """Every variance larger by a factor, every mean off by less than a check of one layer can tell."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean += by * 0.5 * module.running_var.sqrt()
            module.running_var *= 1 + by
    return model


@pytest.fixture(scope="module")
def trained_deep() -> Any:
    torch.manual_seed(0)
    model = train(deep(), epochs=3)
    for _ in range(2):
        for images, _labels in held_out():
            model(images)
    return model.eval()


def test_layers_that_look_fine_one_by_one_are_found_together(trained_deep: Any) -> None:
    model = slightly_stale(trained_deep, 0.36)
    diagnosis = examined(model)
    assert suspects(diagnosis.facts.tracked()) == []
    (found,) = [each for each in diagnosis.findings if each.check == "stale_running_statistics"]
    assert found.severity == "error"
    assert found.cost is not None
    assert found.cost.remedied > found.cost.now + 0.1
    assert any(name.startswith("share of layer ") for name in found.evidence)
    assert "together" in found.message


def test_the_same_model_with_its_own_statistics_is_healthy(trained_deep: Any) -> None:
    diagnosis = examined(trained_deep)
    assert serious(diagnosis) == []


@pytest.mark.parametrize(("name", "momentum", "epochs"), [*((name, 0.1, 3) for name in MODELS), ("dense", 0.01, 12)])
def test_an_average_that_is_finished_is_healthy(name: str, momentum: float, epochs: int) -> None:
    torch.manual_seed(3)
    model = MODELS[name]()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
    model = train(model, epochs=epochs, size=32).eval()
    assert serious(examined(model)) == []


def test_without_a_loss_the_model_as_a_whole_is_not_judged(trained_deep: Any) -> None:
    facts = examine(slightly_stale(trained_deep, 0.36), held_out(), metric=accuracy).facts
    found = together(facts)
    assert found is not None
    assert found.loss != found.loss
