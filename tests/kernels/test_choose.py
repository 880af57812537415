"""The right kernel for each kind of call, with its reason; asked for by name, it fails loudly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from normwise.errors import KernelUnavailable, UnknownName
from normwise.frameworks import installed_version
from normwise.kernels import choose
from normwise.kernels.choose import asked_for, implementations
from normwise.kernels.kernel import Call

LARGE = torch.zeros(8, 16, 32, 32)
SMALL = torch.zeros(8, 16, 4, 4)
MASK = torch.ones(8, 1, 1, 1, dtype=torch.bool)
LAST = torch.zeros(4, 16, 9, 9).contiguous(memory_format=torch.channels_last)  # small, 324 values per channel


def test_the_kernels_are_built_where_a_compiler_is() -> None:
    """In CI a kernel that silently did not compile would leave every test of it to the fallback."""
    if os.environ.get("CI"):
        assert shutil.which("c++")
    if shutil.which("c++"):
        assert choose.built()
        assert choose.built_for_jax() or installed_version("jaxlib") is None


@pytest.mark.parametrize(
    ("x", "options", "built", "expected"),
    [
        (LARGE, {}, True, choose.LARGE),
        (LARGE, {}, False, choose.NOT_BUILT),
        (LARGE, {"by_batch": False}, True, choose.LARGE),
        (LARGE, {"by_batch": False}, False, choose.RUNNING),
        (SMALL, {}, True, choose.TOO_SMALL),
        (torch.zeros(128, 2048), {}, True, choose.TOO_SMALL),
        (torch.zeros(256, 2048), {}, True, choose.LARGE),
        (LAST, {}, True, choose.INEXACT),
        (LAST, {}, False, choose.NOT_BUILT_INEXACT),
        (LAST, {"by_batch": False}, True, choose.TOO_SMALL),
        (torch.zeros(300, 4), {}, True, choose.INEXACT),
        (torch.zeros(256, 4), {}, True, choose.TOO_SMALL),
        (torch.zeros(300, 1), {}, True, choose.TOO_SMALL),
        (LARGE, {"weights": MASK}, True, choose.MASKED),
        (SMALL, {"weights": MASK}, True, choose.MASKED),
        (LARGE, {"weights": MASK}, False, choose.MASKED_ELSEWHERE),
        (LARGE, {"weights": MASK, "compiling": True}, True, choose.MASKED_ELSEWHERE),
        (LARGE, {"weights": MASK, "transformed": True}, True, choose.MASKED_ELSEWHERE),
        (LARGE.to("meta"), {"weights": MASK}, True, choose.MASKED_ELSEWHERE),
        (LARGE, {"weights": MASK.float()}, True, choose.WEIGHTED),
        (LARGE, {"weights": MASK.expand(8, 16, 1, 1)}, True, choose.WEIGHTED),
        (LARGE, {"compiling": True}, True, choose.COMPILED_LARGE),
        (LAST, {"compiling": True}, True, choose.COMPILED),
        (LARGE, {"compiling": True}, False, choose.COMPILED),
        (LARGE, {"compiling": True, "by_batch": False}, True, choose.COMPILED),
        (LARGE.long(), {"compiling": True}, True, choose.COMPILED),
        (SMALL, {"compiling": True}, True, choose.COMPILED),
        (LARGE.to("meta"), {"compiling": True}, True, choose.COMPILED),
        (LARGE, {"transformed": True}, True, choose.TRANSFORMED),
        (LARGE.to("meta"), {}, True, choose.OTHER_DEVICE),
        (LARGE.long(), {}, True, choose.STRANGE),
        (torch.zeros(8), {}, True, choose.STRANGE),
    ],
)
def test_each_kind_of_call(
    x: torch.Tensor, options: dict[str, Any], built: bool, expected: choose.Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_BUILT", built)
    flags = {name: value for name, value in options.items() if name != "weights"}
    found = choose.choose(Call(x, options.get("weights")), **flags)
    assert found is expected
    assert found.reason


def test_a_name_is_obeyed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a silent change to another."""
    for name in ("cpu", "aten", "two_pass"):
        monkeypatch.setattr(choose, "_ASKED", name)
        assert choose.choose(Call(SMALL)).name == name
        if name != "aten":
            assert choose.choose(Call(SMALL, MASK)).name == name
            continue
        with pytest.raises(KernelUnavailable) as masked:
            choose.choose(Call(SMALL, MASK))
        assert str(masked.value) == (
            "NORMWISE_KERNEL=aten asks for PyTorch's operator, which does not know masks, and a mask was received: "
            "unset NORMWISE_KERNEL or set it to two_pass."
        )
    monkeypatch.setattr(choose, "_ASKED", "cpu")
    with pytest.raises(KernelUnavailable, match="a tensor on another device was received"):
        choose.choose(Call(SMALL.to("meta")))
    with pytest.raises(KernelUnavailable, match=r"which torch\.func does not see through"):
        choose.choose(Call(SMALL), transformed=True)


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMWISE_KERNEL", "atem")
    with pytest.raises(UnknownName) as unknown:
        asked_for()
    assert str(unknown.value) == (
        "unknown kernel 'atem' in NORMWISE_KERNEL: did you mean 'aten'? Known: aten, cpu, triton, two_pass."
    )


def test_asked_for_and_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMWISE_KERNEL", "cpu")
    monkeypatch.setattr(choose, "built", lambda: False)
    with pytest.raises(KernelUnavailable, match="asks for the compiled kernels, which are not built"):
        asked_for()


def test_the_environment_is_read_when_the_program_starts() -> None:
    """The layers of a whole program follow it."""
    code = (
        "import torch; from normwise.kernels import choose; from normwise.kernels.kernel import Call;"
        "import normwise.torch; print(choose.choose(Call(torch.zeros(9, 9))).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NORMWISE_KERNEL": "two_pass"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "two_pass"


def test_every_implementation_says_why() -> None:
    """The reasons that `normwise info` prints."""
    found = {one.name: one for one in implementations()}
    assert {*found} == {"reference", *choose.BY_NAME, "jax"}
    assert all(one.reason for one in found.values())
    assert all(one.available for name, one in found.items() if name not in ("cpu", "jax", "triton"))
    assert found["cpu"].available == choose.built()
    assert found["jax"].available == choose.built_for_jax()
