"""Is it right? The very call that is timed, against the float64 formulas, on some of its channels."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import DTYPES, EPS, Case, Inputs, inputs
from benchmarks.peers import OURS, build
from normwise.kernels import reference
from normwise.kernels.kernel import Call
from normwise.torch.functional import batch_norm
from normwise.torch.steps.call import choice_for
from tests.cases import Problem, allowed, array, law
from tests.tolerances import wide, worst

VALUES = 500_000  # the reference sees about so many: few channels of a large layer, all of a small one
RATIOS = (0.0, 1e3)  # |mean| / std at which accuracy is stated
Accuracy = dict[str, dict[str, tuple[float, float]]]


def judged_channels(size: tuple[int, ...]) -> list[int]:
    """The first, the last and what is evenly between, as many as ``VALUES`` allows."""
    channels = size[1]
    per_channel = torch.Size(size).numel() // channels
    number = min(channels, max(1, VALUES // per_channel))
    return sorted({round(n * (channels - 1) / max(1, number - 1)) for n in range(number)} | {channels - 1})


def disagreement(case: Case, i: Inputs) -> str:
    """The error of our call, in words, or nothing; changes ``i.dy`` where rounding decides on the side of a kink.

    The bounds are those of the tests. Batch normalization goes channel by channel, so some channels of the whole call
    are compared with the reference on these channels alone.
    """
    some = judged_channels(case.shape.size)
    training = case.phase != "inference"

    def of(tensor: Tensor) -> Tensor:
        return tensor.detach()[some] if tensor.dim() == 1 else tensor.detach()[:, some]

    residual = None if i.residual is None else of(i.residual)
    p = Problem(
        of(i.x), of(i.weight), of(i.bias), of(i.mean), of(i.var), residual, None, case.activation, training, EPS
    )
    said, dy = law(p)
    i.dy[:, some] = dy
    results = build(OURS, case, i)()

    exact = choice_for(Call(i.x), by_batch=training).name != "aten"
    kept = wide(p.scale.dtype) if p.scale.dtype != p.x.dtype else p.x.dtype
    running = not exact and case.layout == "last"
    bound = allowed(p, said, dy, kept=None if exact and training else kept, running=running)
    right = (said.y, said.gradients.x, said.gradients.scale, said.gradients.shift, said.gradients.residual)
    names = ("y", "dx", "dweight", "dbias", "dresidual")
    for name, result, expected, limit in zip(names, results, right, bound, strict=False):
        assert expected is not None
        share = worst(of(result), expected, limit)
        if not share <= 1:
            return f"{name} is off by {share:.3g} times what rounding explains"
    return ""


def accuracy(case: Case) -> Accuracy:
    """The worst |error of y| / max(1, |y|) and the relative error of the variance, by mean/std and implementation.

    Args:
        case: whose operation and pass do not matter: it is plain batch normalization in training that is judged.
    """
    return _accuracy(replace(case, operation="bn", phase="forward", memory=""))


@cache
def _accuracy(case: Case) -> Accuracy:
    found: Accuracy = {}
    for ratio in RATIOS if DTYPES[case.dtype].itemsize > 2 else RATIOS[:1]:  # 16 bits cannot tell such values apart
        i = inputs(case, ratio=ratio)
        found[f"{ratio:g}"] = {name: _errors(i, ours=name == OURS) for name in (OURS, "PyTorch eager")}
    return found


@torch.no_grad()
def _errors(i: Inputs, *, ours: bool) -> tuple[float, float]:
    mean, var = torch.zeros_like(i.mean), torch.zeros_like(i.var)
    function = batch_norm if ours else F.batch_norm
    y = function(i.x, mean, var, i.weight, i.bias, True, 1.0, EPS)  # the running statistics become the batch's
    some = judged_channels(tuple(i.x.shape))
    right, batch = reference.forward_batch(array(i.x[:, some]), array(i.weight[some]), array(i.bias[some]), EPS)
    worst_y = abs(array(y[:, some]) - right) / abs(right).clip(min=1)
    worst_var = abs(array(var[some]) / batch.unbiased_var() - 1)
    return float(worst_y.max()), float(worst_var.max())
