"""The Triton kernels serve where they are asked for by name; what they do not serve is refused in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from normwise.errors import KernelUnavailable
from normwise.kernels import choose, choose_triton
from normwise.kernels.choose import asked_for, implementations
from normwise.kernels.choose_group import ONE_PASS, choose_group, choose_layer
from normwise.kernels.kernel import Call
from normwise.torch.functional import batch_norm

X = torch.zeros(2, 4, 3)
MASK = torch.ones(2, 1, 3, dtype=torch.bool)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for Triton as ``NORMWISE_KERNEL=triton`` does, in a process in which the interpreter runs the kernels."""
    monkeypatch.setattr(choose, "_ASKED", "triton")
    monkeypatch.setattr(choose_triton, "INTERPRETED", True)


def test_nothing_is_given_to_them_without_being_asked() -> None:
    for x in (X, torch.zeros(8, 64, 56, 56), X.to("meta")):
        assert choose.choose(Call(x)).name != "triton"


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("options", [{}, {"by_batch": False}, {"compiling": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_they_serve_what_they_are_asked_for(dtype: torch.dtype, options: dict[str, Any]) -> None:
    for weights in (None, MASK, MASK.expand(2, 4, 3)):
        assert choose.choose(Call(X.to(dtype), weights), **options).name == "triton"


REFUSED: list[tuple[Tensor, Tensor | None, dict[str, bool], str]] = [
    (
        X.to("meta"),
        None,
        {},
        "asks for the GPU kernels, and a tensor on the device meta was received",
    ),
    (
        X.double(),
        None,
        {},
        "asks for kernels of float32, bfloat16 and float16, and a tensor of torch.float64 was received",
    ),
    (
        X.long(),
        None,
        {},
        "asks for kernels of float32, bfloat16 and float16, and a tensor of torch.int64 was received",
    ),
    (
        X,
        MASK.float(),
        {},
        "asks for kernels that know masks, and sample weights were received",
    ),
    (
        X,
        None,
        {"transformed": True},
        "asks for the GPU kernels, which torch.func does not see through, and a call under one of its transforms was "
        "received",
    ),
    (
        X,
        None,
        {"recorded": True},
        "asks for the GPU kernels, which a recording cannot hold, and a call that is recorded (torch.jit.trace, "
        "torch.onnx.export, make_fx) was received",
    ),
]


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(("x", "weights", "options", "why"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_they_do_not_serve(x: Tensor, weights: Tensor | None, options: dict[str, bool], why: str) -> None:
    with pytest.raises(KernelUnavailable) as error:
        choose.choose(Call(x, weights), **options)
    assert str(error.value) == f"NORMWISE_KERNEL=triton {why}: unset NORMWISE_KERNEL."


def test_a_tensor_on_the_cpu_is_for_the_interpreter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", "triton")
    monkeypatch.setattr(choose_triton, "INTERPRETED", False)
    with pytest.raises(KernelUnavailable) as error:
        batch_norm(X, None, None, training=True)
    assert str(error.value) == (
        "NORMWISE_KERNEL=triton asks for the GPU kernels, and a tensor on the device cpu was received: unset "
        "NORMWISE_KERNEL."
    )


@pytest.mark.usefixtures("asked")
def test_group_and_layer_norm_are_chosen_as_without_it() -> None:
    assert choose_group(X, masked=False, channels_last=False) is ONE_PASS
    assert choose_layer(X, masked=False) is ONE_PASS


def test_asked_for_where_there_is_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMWISE_KERNEL", "triton")
    monkeypatch.setattr(choose_triton, "importable", lambda: False)
    with pytest.raises(KernelUnavailable) as error:
        asked_for()
    assert str(error.value) == (
        "NORMWISE_KERNEL=triton asks for the GPU kernels, and Triton is not installed; it comes with PyTorch's builds "
        "for CUDA and ROCm: unset NORMWISE_KERNEL."
    )


@pytest.mark.parametrize(
    ("there", "asked", "active", "reason"),
    [
        (
            False,
            None,
            False,
            "Triton is not installed; it comes with PyTorch's builds for CUDA and ROCm",
        ),
        (
            True,
            None,
            False,
            "nobody has timed them on a GPU yet; set NORMWISE_KERNEL=triton to use them in the place of PyTorch's "
            "operator",
        ),
        (
            True,
            "triton",
            True,
            "NORMWISE_KERNEL=triton asks for them; tested in Triton's interpreter, not timed on a GPU yet",
        ),
    ],
)
def test_info_says_why(
    there: bool, asked: str | None, active: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_triton, "importable", lambda: there)
    monkeypatch.setattr(choose, "_ASKED", asked)
    (found,) = (one for one in implementations() if one.name == "triton")
    assert (found.available, found.reason) == (active, reason)


def test_the_layers_work_where_there_is_no_triton() -> None:
    """And nothing of ours looks for it in a call."""
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, normwise.torch as nt\n"
        "x = torch.randn(4, 3, 5, 5, requires_grad=True)\n"
        "nt.BatchNorm2d(3, activation='relu')(x, torch.zeros_like(x)).sum().backward()\n"
        "print(x.grad is not None)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NORMWISE_KERNEL"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
