"""The shift of the variance, before and after statistics are estimated again."""

from __future__ import annotations

import pytest

from normwise.lab.data.splits import digits
from normwise.lab.networks.dense import he
from normwise.lab.networks.stack import Stack, batch_norm
from normwise.lab.training.stacks import train_stack
from normwise.lab.training.variance_shift import estimate_again, shifts


def stack(dropout: float) -> Stack:
    made = Stack(
        1, depth=3, width=32, activation="relu", normalize=batch_norm, std=he, seed=0, dropout=(dropout,)
    )  # fmt: skip
    train_stack(made, digits(0).train, rates=(0.1,), steps=40, batch=60, seed=0)
    return made


def test_estimated_again_the_variances_agree_exactly() -> None:
    made, train = stack(0.5), digits(0).train
    (before,) = shifts(made, train)
    estimate_again(made, train)
    (after,) = shifts(made, train)
    assert before[-1] > 1.2
    assert after == pytest.approx([1.0] * 3, abs=1e-5)
