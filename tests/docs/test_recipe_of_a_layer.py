"""The recipe for a layer, followed: a batch norm that subtracts the mean and does not divide."""

from __future__ import annotations

from pathlib import Path

from tests.docs.following import Copy

LAYER = '''"""Batch normalization that subtracts the mean and does not divide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.estimators import Estimator
from normwise.kernels.torch_activations import activate
from normwise.kernels.two_pass import gather
from normwise.torch.layers.batch_norm import torch_bias
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.steps.call import like_torch


class CenteredBatchNorm(TrackedBatchNorm):
    """The normalize step without the division, for all numbers of axes. Not for direct use."""

    why_not_joined = "it is an example"
    unlike_torch = "does not divide"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        estimator: Estimator | str | None = None,
        on_tiny_batch: str = "error",
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **torch_bias(bias))
        self._settle(activation, estimator, on_tiny_batch)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """``activation(input - mean + residual)``, scaled and shifted."""
        self._check_input_dim(input)
        call, _ = self._checked(input, residual, mask, sample_weight, ask_torch=False)
        by_batch = self.training or call.mean is None
        call = like_torch(call, by_batch=by_batch)
        shape = (1, -1) + (1,) * (input.dim() - 2)
        if by_batch:
            gathered = gather(call.x, call.weights)
            y = gathered.centred
            if self.training and self.track_running_stats and input.numel():
                self._enter(gathered.moments(), call.weights)
        else:
            assert call.mean is not None
            y = call.x - call.mean.view(shape)
        y = y if call.scale is None else y * call.scale.view(shape)
        y = y if call.shift is None else y + call.shift.view(shape)
        return activate(y.to(input.dtype, copy=True), self.activation, residual)


class CenteredBatchNorm1d(CenteredBatchNorm, torch.nn.BatchNorm1d):
    r"""Batch normalization of (N, C) or (N, C, L) by the mean alone.

    .. math:: y = f(\\gamma (x - \\mu) + \\beta + r)

    Example:
        >>> import torch
        >>> from normwise.torch import CenteredBatchNorm1d
        >>> CenteredBatchNorm1d(1)(torch.tensor([[1.0], [3.0]])).tolist()
        [[-1.0], [1.0]]
    """


class CenteredBatchNorm2d(CenteredBatchNorm, torch.nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W) by the mean alone; arguments as ``BatchNorm1d``."""


class CenteredBatchNorm3d(CenteredBatchNorm, torch.nn.BatchNorm3d):
    """Batch normalization of (N, C, D, H, W) by the mean alone; arguments as ``BatchNorm1d``."""
'''
ITS_TEST = '''"""Centred by the batch: the output and every gradient are those of the formula."""

import numpy as np
import torch
from torch import nn

from normwise.kernels import reference
from normwise.torch import CenteredBatchNorm1d
from normwise.torch.models.conversion.fold import fold
from normwise.torch.models.conversion.swap import swap


def test_centered_batch_norm_is_its_formula() -> None:
    layer = CenteredBatchNorm1d(3, dtype=torch.float64)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(8, 3, dtype=torch.float64)
    torch.nn.init.normal_(layer.weight)
    layer(x).backward(dy)
    scale, slope, centred = (each.detach().numpy() for each in (layer.weight, dy, x - x.mean(0)))
    values = x.detach().numpy()
    np.testing.assert_allclose(layer(x).detach(), scale * (values - reference.moments(values).mean))
    np.testing.assert_allclose(x.grad, scale * (slope - slope.mean(0)))
    np.testing.assert_allclose(layer.weight.grad, (slope * centred).sum(0))
    np.testing.assert_allclose(layer.bias.grad, slope.sum(0))


def test_centered_batch_norm_is_left_by_what_takes_it_for_a_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(3, 3), CenteredBatchNorm1d(3)).eval()
    assert fold(model).skipped["1"] == "it does not divide, which is not what a batch norm does in inference"
    assert "does not divide, which no layer of torch.nn does" in swap(model).skipped["1"]
'''
NAMES = [f"CenteredBatchNorm{axes}d" for axes in (1, 2, 3)]


def test_a_layer(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "Add a layer")
    copy.write("src/normwise/torch/layers/centered_batch_norm.py", LAYER)
    copy.write("tests/torch/layers/test_centered_batch_norm.py", ITS_TEST)
    room, before = "src/normwise/torch/__init__.py", "from normwise.torch.layers.decorrelated_batch_norm import"
    copy.change(room, before, f"from normwise.torch.layers.centered_batch_norm import {', '.join(NAMES)}\n{before}")
    before = '    "DecorrelatedBatchNorm1d",\n    "DecorrelatedBatchNorm2d",\n'
    copy.change(room, before, "".join(f'    "{name}",\n' for name in NAMES) + before)
    tools = ("exact_classes", "fx", "tools_on_every_layer", "tools_that_rebuild")
    copy.check_tests(
        *(f"tests/torch/layers/test_{name}.py" for name in ("centered_batch_norm", "meta_device")),
        *(f"tests/torch/models/test_{name}.py" for name in ("swap", "fold")),
        *(f"tests/torch/tools/test_{name}.py" for name in tools),
        "src/normwise/torch/layers/centered_batch_norm.py",
        only="(CenteredBatchNorm2d or centered_batch_norm) and not inductor",
        at_least=60,
    )
    pages = copy.pages()
    assert "\nnormwise.torch.CenteredBatchNorm1d(" in pages["docs/layers/CenteredBatchNorm1d.md"]
    for name in NAMES:
        assert f"- [{name}]({name}.md): " in pages["docs/layers/index.md"]
