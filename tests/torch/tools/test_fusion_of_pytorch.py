"""torch's fusion of a linear layer and the batch norm behind it: exact, or refused where an activation would go."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

import normwise.torch as nt
from normwise.errors import NormwiseError


def test_a_foreign_layers_activation_is_lost_without_a_word() -> None:
    class WithReLU(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).relu()

    norm = WithReLU(4).eval()
    fused = fuse_conv_bn_eval(nn.Conv2d(3, 4, 1).eval(), norm)
    assert bool((fused(torch.randn(2, 3, 5, 5)) < 0).any())


@pytest.mark.parametrize(
    "norm",
    [
        nt.BatchNorm2d(4, activation="silu"),
        nt.BatchRenorm2d(4, activation="relu"),
        nt.GhostBatchNorm2d(4, num_splits=2, activation="relu"),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_an_activation_is_refused_by_name(norm: nn.BatchNorm2d) -> None:
    convolution, norm = nn.Conv2d(3, 4, 1).eval(), norm.eval()
    before = {name: value.clone() for name, value in convolution.state_dict().items()}
    with pytest.raises(NormwiseError) as caught:
        fuse_conv_bn_eval(convolution, norm)
    assert str(caught.value) == (
        "torch.nn.utils.fuse_conv_bn_eval would lose the activation of "
        f"{type(norm).__name__}({norm.extra_repr()}): build the layer without activation= "
        "and put the activation behind it, or leave it unfused."
    )
    assert all(torch.equal(value, before[name]) for name, value in convolution.state_dict().items())


def test_behind_a_linear_layer_too() -> None:
    with pytest.raises(NormwiseError, match="fuse_linear_bn_eval would lose the activation of BatchNorm1d"):
        fuse_linear_bn_eval(nn.Linear(3, 4).eval(), nt.BatchNorm1d(4, activation="relu").eval())


@pytest.mark.parametrize("kind", [nt.BatchNorm2d, nt.BatchRenorm2d])
def test_without_an_activation_it_is_exact(kind: type[nn.BatchNorm2d]) -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 4, 3, dtype=torch.float64), kind(4, dtype=torch.float64)
    for _ in range(3):
        norm(convolution(torch.randn(8, 3, 6, 6, dtype=torch.float64)))
    convolution.eval(), norm.eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(fuse_conv_bn_eval(convolution, norm)(x), norm(convolution(x)))


def test_the_statistics_of_a_layer_with_an_activation_can_be_read_by_all_others() -> None:
    norm = nt.BatchNorm2d(4, activation="relu")
    assert norm.running_var is not None
    assert not hasattr(norm, "running_variance")
