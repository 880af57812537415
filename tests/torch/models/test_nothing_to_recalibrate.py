"""The warning of recalibrate and adapt where they change nothing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import normwise
from normwise.errors import NothingChanged

DATA = [torch.randn(8, 2)]


@pytest.mark.parametrize(("operation", "deed"), [(normwise.recalibrate, "recalibrated"), (normwise.adapt, "adapted")])
def test_a_model_whose_batch_norms_are_all_frozen_is_warned_about(operation: Callable[..., Any], deed: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    with pytest.warns(NothingChanged, match=rf"^0 of 1 batch norms? {deed}.*\n  skipped       0: it is fro"):
        report = operation(model, DATA)
    assert list(report.skipped) == ["0"]


@pytest.mark.parametrize(("operation", "deed"), [(normwise.recalibrate, "recalibrated"), (normwise.adapt, "adapted")])
def test_a_model_without_batch_norms_is_too(operation: Callable[..., Any], deed: str) -> None:
    with pytest.warns(NothingChanged, match=f"^{re.escape(f'nothing {deed}: the model has no batch norm')}$") as heard:
        operation(nn.Linear(2, 1), DATA)
    assert heard[0].filename == __file__


@pytest.mark.parametrize("operation", [normwise.recalibrate, normwise.adapt])
def test_one_that_moved_is_not(operation: Callable[..., Any]) -> None:
    with warnings.catch_warnings(record=True) as heard:
        operation(nn.Sequential(nn.BatchNorm1d(2)), DATA)
    assert heard == []
