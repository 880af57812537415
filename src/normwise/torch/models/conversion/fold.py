"""Batch norms in inference are affine maps: the convolution or linear layer beside one takes it over."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor, nn

from normwise.errors import NormwiseError
from normwise.recalibration.asked import names_asked
from normwise.reports.fold_report import Folded, FoldReport
from normwise.torch.layers.activation import Activation
from normwise.torch.models.conversion.fold_plan import Plan, Planned, named_norms
from normwise.torch.models.conversion.fold_weights import Changed, wide
from normwise.torch.models.conversion.output_comparison import Comparison
from normwise.torch.models.feeding import ForwardFn, unwrapped
from normwise.torch.models.fusion.activation_calls import module_of
from normwise.torch.models.fusion.rewriting import layers_left_to_methods
from normwise.torch.models.model_checks import check_model, out_of_reach
from normwise.torch.models.transaction import transaction, write


def fold(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    layers: Collection[str] | None = None,
    forward_fn: ForwardFn | None = None,
    at_most: int | None = None,
) -> FoldReport:
    r"""Let the layer in front of each batch norm, or the one behind it, do what the batch norm does in inference.

    .. math:: \gamma \frac{(W x + b) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = (s W) x + (s (b - \mu) + \beta),
        \quad s = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}

    For models that are ready to be shipped: they compute the same with fewer layers, and cannot be trained further as
    they were. A batch norm goes

    * into the convolution, transposed convolution, linear layer or batch norm directly **in front** of it;
    * else into the convolution, transposed convolution or linear layer directly **behind** it, where that is exact: a
      convolution that pads with zeros takes a shift only if it is 0 in every channel.

    In its place and under its name stands an ``nn.Identity``, or the activation of a layer with ``activation=``, with
    the addition of the residual where ``fuse`` has put it there. A layer without a bias gets one. The new parameters
    are worked out in float64 and rounded once. In place, under the same names; on any error the model is as before.

    A batch norm is left, with the reason, where the result would not be the same: in training mode, without running
    statistics, shared, called more than once, with hooks, with something else between; where a weight is tied or made
    by a parametrization; where the forward around it cannot be followed (as for ``fuse``), or where one that cannot,
    or another method, calls a part of the module around it; where another method, which the forward does not call, uses
    one of the two layers without the other, but for settings such as ``in_channels``. A method that folds the two by
    itself finds no statistics any more, and fails.

    Without ``batches``, a linear layer and a ``BatchNorm1d`` behind it are taken to see inputs of shape (N, C). With
    them this is looked at, and how often each layer is called, too.

    Args:
        model: any module in inference mode, changed in place.
        batches: data on which outputs are compared, as ``normwise.recalibrate`` takes them; they and their outputs are
            kept in memory meanwhile. None to compare nothing.
        layers: the names of the only batch norms to change; None for all.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules of ``recalibrate`` do not
            serve.
        at_most: use so many batches; None for all.

    Returns:
        which batch norms were folded and into what, which were skipped and why, which could not be reached; how much
        the largest weights grew, and the largest relative error of an output on the data.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        UnknownName: ``layers`` names what is no batch norm of the model.
        TypeError: not an iterable of batches, or ``layers`` is a string.
        NormwiseError: no batches in ``batches``, or ``forward_fn`` without any.

    References:
        Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
        2018, section 3.2.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> report = fold(model, [torch.randn(4, 3, 8, 8)])
        >>> report.folded["1"].into, report.output_error < 1e-5, model[1]
        ('0', True, Identity())
    """
    check_model(model, called="fold")
    norms = named_norms(model)
    layers = names_asked(layers, norms, "batch norm")
    if batches is None and (forward_fn is not None or at_most is not None):
        raise NormwiseError("fold was told how to use batches, and received none: pass batches too.")
    inner, names = unwrapped(model), {id(module): name for name, module in model.named_modules()}
    data = None if batches is None else Comparison(model, inner, batches, forward_fn, at_most)
    plan = Plan(model, inner, None if data is None else data.seen)
    skipped = {}
    for name, norm in norms.items():
        why = plan.add(norm) if layers is None or name in layers else "it was not asked for"
        if why is not None:
            skipped[name] = why
    growth = {id(each.into): _growth(each.into, plan.changed[id(each.into)]) for each in plan.folded}
    folded = {
        names[id(each.norm)]: Folded(
            names[id(each.into)],
            growth[id(each.into)],
            each.stays,
            "its inputs are (N, C)" if data is None and isinstance(each.into, nn.Linear) else "",
        )
        for each in plan.folded
    }
    folded = {name: folded[name] for name in norms if name in folded}
    into = {id(each.into): each.into for each in plan.folded}
    methods_too = layers_left_to_methods(model)
    with transaction(model):
        for number, layer in into.items():
            _take_over(layer, plan.changed[number])
        for each in plan.folded:
            _replace(model, names[id(each.norm)], each, ours=each.norm in methods_too)
        error = math.nan if data is None else data.error()
    counted = (0, 0) if data is None else (data.batches, data.samples)
    return FoldReport(folded, skipped, out_of_reach(model), error, *counted, model)


def _growth(layer: Any, changed: Changed) -> float:
    """The ratio of the largest weight to the largest one before."""
    before = 1.0 if layer.weight is None else float(wide(layer.weight).abs().max())
    after = float(changed.weight.abs().max())
    return after / before if before else math.inf if after else 1.0


def _take_over(layer: Any, changed: Changed) -> None:
    """Write the parameters, and make those that the layer has not got."""
    own = [each for each in (layer.weight, layer.bias) if each is not None]
    like: Tensor = own[0] if own else layer.running_mean
    for name, value in zip(("weight", "bias"), changed, strict=True):
        parameter = getattr(layer, name)
        if parameter is None:
            made = nn.Parameter(value.to(like.device, like.dtype), requires_grad=bool(own) and like.requires_grad)
            setattr(layer, name, made)
        else:
            write(parameter, value)
    if hasattr(layer, "affine"):
        layer.affine = True


def _replace(model: nn.Module, name: str, planned: Planned, *, ours: bool) -> None:
    """Put what is left of a batch norm in its place; ``ours`` is an activation that methods can leave away."""
    activation = planned.activation
    left: nn.Module = nn.Identity()
    if planned.residual or (ours and activation is not None):
        left = Activation(activation)
    elif activation is not None:
        left = module_of(activation)
    place, _, key = name.rpartition(".")
    model.get_submodule(place)._modules[key] = left.train(planned.norm.training)
