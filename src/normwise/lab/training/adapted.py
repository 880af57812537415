"""Errors of a network whose statistics come from other images than those it was trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from normwise.lab.data.splits import Split
from normwise.lab.networks.dense import Dense
from normwise.lab.training.descent import accuracy
from normwise.torch.models.recalibration.adapt import adapt


def error_after(model: Dense, images: Tensor, test: Split, prior: float) -> float:
    """The test error of a copy that is adapted to some images with a prior."""
    other = copy.deepcopy(model)
    adapt(other, [images], prior=prior)
    return 1 - accuracy(other, test)


def errors_in(stream: Iterable[tuple[Tensor, Tensor]], model: Dense) -> list[float]:
    """The error in every batch of a stream of images and labels, in the mode that the model is in."""
    with torch.no_grad():
        return [float((model(images).argmax(dim=1) != labels).double().mean()) for images, labels in stream]
