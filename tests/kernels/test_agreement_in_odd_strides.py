"""Strides that an axis of one entry may have: they mean nothing, and nothing may depend on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from normwise.kernels import reference
from normwise.torch.functional import batch_norm
from tests.cases import array

Function = Callable[..., Tensor]


def image() -> Tensor:
    """An image of (H, W, C), as files hold them, made into a batch of one in the usual way."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn((5, 4, 3), generator=draw, dtype=torch.float64).permute(2, 0, 1).unsqueeze(0)
    assert x.stride() == (3, 1, 12, 3)  # the first of them is not what a batch of two would have
    return x


def column() -> Tensor:
    """One column of pixels, cut out of images that are stored channels last."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn((2, 5, 6, 3), generator=draw, dtype=torch.float64)[:, :, 2:3].permute(0, 3, 1, 2)
    assert x.shape == (2, 3, 5, 1)
    return x


def wrong_by(function: Function, x: Tensor, training: bool) -> float:
    """The largest distance of the gradient for x from the reference's."""
    leaf = x.detach().requires_grad_()
    mean, var = torch.zeros(3).double(), torch.ones(3).double()
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = function(leaf, mean.clone(), var.clone(), None, None, training)
    y.backward(dy)
    assert leaf.grad is not None
    if training:
        right = reference.backward_batch(array(dy), array(x), None, None, 1e-5).x
    else:
        right = reference.backward_fixed(array(dy), array(x), array(mean), array(var), None, None, 1e-5).x
    return float(np.abs(leaf.grad.numpy() - right).max())


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("make", [image, column])
def test_the_gradient_is_right(make: Callable[[], Tensor], training: bool) -> None:
    assert wrong_by(batch_norm, make(), training) <= 1e-12


# PyTorch takes such a tensor for channels last in one place and for contiguous in another, and mixes up the pixels of
# the gradient. Should this be put right, this test says so, and what keeps the layers from it is no longer needed.
def test_pytorch_is_still_wrong() -> None:
    function = torch.nn.functional.batch_norm
    assert wrong_by(function, image().contiguous(), training=False) <= 1e-12
    assert wrong_by(function, image(), training=False) > 0.1
