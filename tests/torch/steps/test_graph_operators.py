"""The operators that a compiled graph holds: in every layout they give what the kernels give, and cost no copies."""

from __future__ import annotations

import copy
import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.kernels import cpu
from normwise.kernels.choose import built

pytestmark = [
    pytest.mark.skipif(not built(), reason="the compiled kernels are not built"),
    # What opcheck itself does in PyTorch 2.14.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

LAYOUTS = {
    "first": lambda x: x.contiguous(),
    "last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "turned": lambda x: x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
    "gaps": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
}


def arguments(x: Tensor, residual: Tensor | None) -> tuple[Any, ...]:
    scale, shift = torch.linspace(0.5, 2, x.shape[1]), torch.linspace(-1, 1, x.shape[1])
    return x, residual, None, scale, shift, None, None, 1e-5, cpu.ACTIVATIONS["relu"], residual is not None, 0


def gradients(
    forward: Any, backward: Any, x: Tensor, residual: Tensor | None, dy: Tensor, seen: Tensor
) -> list[Tensor]:
    """Output and gradients; the backward is given x as ``seen``, which has the same values."""
    given = arguments(x, residual)
    y, mean, var, bits = forward(*given)
    kept = None if residual is not None else residual
    found = backward(
        dy, seen, kept, None, given[3], given[4], mean, var, bits, 1e-5, given[8], True, True, residual is not None, 0
    )
    return [y, *found]


@pytest.mark.parametrize("added", [False, True], ids=["", "added"])
@pytest.mark.parametrize(("forward", "backward"), [*itertools.product(LAYOUTS, LAYOUTS)])
def test_whatever_layout_each_pass_is_given(forward: str, backward: str, added: bool) -> None:
    torch.manual_seed(0)
    x, residual, dy = torch.randn(3, 2, 20, 5, 7)
    other = residual if added else None
    operators = torch.ops.normwise
    right = gradients(operators.batch_norm_forward, operators.batch_norm_backward, x, other, dy, x)
    found = gradients(
        operators.forward_in_graph,
        operators.backward_in_graph,
        LAYOUTS[forward](x),
        None if other is None else LAYOUTS[backward](other),
        LAYOUTS[forward](dy),
        LAYOUTS[backward](x),
    )
    for mine, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert found[0].stride() == torch.empty_like(LAYOUTS[forward](x)).stride()
    assert found[1].stride() == torch.empty_like(LAYOUTS[backward](x)).stride()


@pytest.mark.parametrize("added", [False, True], ids=["", "added"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torchs_own_check_of_an_operator(layout: str, added: bool) -> None:
    x = LAYOUTS[layout](torch.randn(2, 20, 5, 7)).requires_grad_()
    residual = torch.randn(2, 20, 5, 7).requires_grad_() if added else None
    found = torch.library.opcheck(torch.ops.normwise.forward_in_graph.default, arguments(x, residual))
    assert set(found.values()) == {"SUCCESS"}


class Residual(nn.Module):
    """Two convolutions, of which the second is added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(24, 24, 3, 1, 1, bias=False), nt.BatchNorm2d(24, activation="relu")
        self.conv2, self.bn2 = nn.Conv2d(24, 24, 3, 1, 1, bias=False), nt.BatchNorm2d(24, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x))), x)
        return y


def compilation_counts_as_export() -> bool:
    """True with PyTorch 2.11, whose ``is_exporting`` is true in every graph: it then gets no kernels."""
    asked = torch.compile(lambda x: x + int(torch.compiler.is_exporting()), backend="eager")
    return bool(asked(torch.zeros(1)) > 0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_lays_a_network_as_its_convolutions_want_it_and_copies_nothing_for_the_kernels() -> None:
    if compilation_counts_as_export():
        pytest.skip("this PyTorch takes every graph for one that is exported, where Inductor computes")
    from torch._inductor.utils import run_fw_bw_and_get_code

    torch.compiler.reset()
    torch.manual_seed(0)
    model = nn.Sequential(Residual(), Residual())
    twin, x = copy.deepcopy(model), torch.randn(8, 24, 32, 32)
    compiled = torch.compile(model, fullgraph=True)
    y, codes = run_fw_bw_and_get_code(lambda: compiled(x))
    calls = re.findall(r"normwise\.(forward|backward)_in_graph\.default\(", "".join(codes))
    assert calls == 4 * ["forward"] + 4 * ["backward"]
    # The output alone is laid as the network has it.
    assert "".join(codes).count("empty_strided_cpu((8, 24, 32, 32), (24576, 1024, 32, 1)") == 1
    right = twin(x)
    right.sum().backward()
    torch.testing.assert_close(y, right, rtol=1e-4, atol=1e-4)
    for parameter, its in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, its.grad, rtol=1e-3, atol=1e-3)
    for buffer, its_buffer in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, its_buffer)
