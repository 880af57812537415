"""A whole model in inference with the running statistics of one domain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from normwise.errors import NormwiseError
from normwise.torch.layers.per_domain import PerDomain
from normwise.torch.models.model_checks import check_model


@contextmanager
def statistics_from(model: nn.Module, domain: str) -> Iterator[None]:
    """Put every ``PerDomain`` layer of the model into inference for a block, with the statistics of this domain.

    Whatever the mode of the model is and whatever ``domain(model, ...)`` is around a call; afterwards all is as it was.
    It holds for the model, in all threads.

    Args:
        model: with at least one ``PerDomain`` layer.
        domain: one that all of them have.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        UnknownName: a layer does not have the domain; nothing is changed then.
        NormwiseError: the model has no such layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from normwise.torch import PerDomain, statistics_from
        >>> model = nn.Sequential(PerDomain(nn.BatchNorm1d(1, eps=0), ["day", "night"]))
        >>> _ = model[0].of("night").running_mean.fill_(3.0)
        >>> with statistics_from(model, "night"):
        ...     print(model(torch.tensor([[4.0]])).item())
        1.0
    """
    check_model(model, called="statistics_from")
    layers = [module for module in model.modules() if isinstance(module, PerDomain)]
    if not layers:
        raise NormwiseError(
            f"{type(model).__name__} has no layer with statistics per domain: "
            "make them with normwise.torch.convert_to_domains."
        )
    inside = [(layer, layer.of(domain), layer._statistics_from) for layer in layers]
    modes = [(module, module.training) for _, chosen, _ in inside for module in chosen.modules()]
    try:
        for layer, chosen, _ in inside:
            layer._statistics_from = domain
            chosen.eval()
        yield
    finally:
        for layer, _, before in inside:
            layer._statistics_from = before
        for module, training in modes:
            module.training = training
