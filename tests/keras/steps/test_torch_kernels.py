"""The kernel that ``NORMWISE_KERNEL`` asks for serves a call of a Keras layer on PyTorch, or the call is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from normwise.errors import KernelUnavailable
from normwise.keras import BatchNormalization, GhostBatchNormalization
from normwise.kernels import choose
from tests.keras.calls import BACKEND

if BACKEND != "torch":
    pytest.skip("these kernels are PyTorch's", allow_module_level=True)

import torch

X = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
MASK = np.arange(5)[None, :] < np.arange(1, 9)[:, None]
OPERATOR = {"cpu": "normwise::batch_norm_forward", "aten": "aten::native_batch_norm"}
SERVED: dict[str, Callable[[], Any]] = {
    "training": lambda: BatchNormalization()(X, training=True),
    "inference": lambda: BatchNormalization()(X, training=False),
    "inference of renorm": lambda: BatchNormalization(renorm=True)(X, training=False),
    "inference with a policy": lambda: BatchNormalization(on_tiny_batch="renorm")(X, training=False),
    "inference of ghosts": lambda: GhostBatchNormalization(num_splits=2)(X, training=False),
}
REFUSED: dict[str, Callable[[], Any]] = {
    "mask": lambda: BatchNormalization()(X, training=True, mask=MASK),
    "renorm": lambda: BatchNormalization(renorm=True)(X, training=True),
    "policy": lambda: BatchNormalization(on_tiny_batch="renorm")(X[:2], training=True),
    "ghosts": lambda: GhostBatchNormalization(num_splits=2)(X, training=True),
    "no epsilon": lambda: BatchNormalization(epsilon=0.0)(X, training=True),
}


@pytest.mark.parametrize("name", OPERATOR)
@pytest.mark.parametrize("call", SERVED)
def test_it_serves(call: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", name)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        SERVED[call]()
    called = {event.key for event in profile.key_averages()}
    assert called & {*OPERATOR.values()} == {OPERATOR[name]}


@pytest.mark.parametrize("name", [*OPERATOR, "triton"])
@pytest.mark.parametrize("call", REFUSED)
def test_it_is_refused(call: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", name)
    with pytest.raises(KernelUnavailable, match=f"NORMWISE_KERNEL={name} asks for kernels that normwise.keras gives"):
        REFUSED[call]()


@pytest.mark.parametrize("call", [*SERVED, *REFUSED])
def test_plain_operations_serve_everything(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", "two_pass")
    y = {**SERVED, **REFUSED}[call]()
    assert y.shape[1:] == X.shape[1:]
