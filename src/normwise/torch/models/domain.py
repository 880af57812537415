"""The domain that the data of a whole model come from, chosen by a block around its calls."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import overload

from torch import compiler, nn

from normwise.errors import NormwiseError, UnknownName
from normwise.torch.layers.domain import CHOSEN
from normwise.torch.layers.domain import domain as domain_of_all
from normwise.torch.layers.per_domain import PerDomain
from normwise.torch.models.model_checks import check_model


class domain:  # it is used as a function is
    """Choose for a block the domain whose statistics every ``PerDomain`` layer of a model takes.

    It holds in this thread only, and blocks may be inside one another, also inside a function that ``torch.compile``
    compiles: the innermost one that is about a layer counts. A compiled model is compiled once for each domain. A copy
    of the model that is made inside the block is not in it.

    Args:
        model: with at least one such layer, or the layer itself; a wrapped or compiled model too.
        name: a domain that all of them have.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        UnknownName: a layer does not have the domain.
        NormwiseError: the model has no such layer.
        TypeError: the name is not a string.

    Until 0.2, ``domain(name)`` chooses it for every layer of every model, with a ``DeprecationWarning``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from normwise.torch import PerDomain, domain
        >>> model = nn.Sequential(PerDomain(nn.BatchNorm1d(1), ["day", "night"]))
        >>> with domain(model, "night"):
        ...     _ = model(torch.tensor([[1.0], [3.0]]))
        >>> model[0].of("day").running_mean, model[0].of("night").running_mean
        (tensor([0.]), tensor([0.2000]))
    """

    @overload
    def __init__(self, model: nn.Module, name: str) -> None: ...
    @overload
    def __init__(self, model: str, /) -> None: ...
    def __init__(self, model: nn.Module | str | None = None, name: str | None = None) -> None:
        self._all: domain_of_all | None = None
        self._before: list[Mapping[int, str]] = []
        if (model is None) != (name is None) and isinstance(model, str | None):
            name = name if model is None else model
            warnings.warn(
                "normwise.torch.domain takes the model first, and a name alone until 0.2: write "
                f"domain(model, {name!r}).",
                DeprecationWarning,
                stacklevel=2,
            )
            self._all = domain_of_all(name or "")
            return
        if not compiler.is_compiling():
            check_model(model, called="domain")
        assert isinstance(model, nn.Module)
        if not isinstance(name, str):
            raise TypeError(f"a domain is a name, received {type(name).__name__}: pass for example 'night'.")
        self._layers = [module for module in model.modules() if isinstance(module, PerDomain)]
        if not self._layers:
            raise NormwiseError(
                f"{type(model).__name__} has no layer with statistics per domain: make them with "
                "normwise.convert_to_domains, or leave the block out."
            )
        for layer in self._layers:
            if name not in layer.domains:
                raise UnknownName("domain", name, layer.domains)
        self._chosen = {id(layer): name for layer in self._layers}

    def __enter__(self) -> None:
        if self._all is not None:
            self._all.__enter__()
            return
        self._before.append(CHOSEN.layers)
        CHOSEN.layers = {**CHOSEN.layers, **self._chosen}

    def __exit__(self, *_: object) -> None:
        if self._all is not None:
            self._all.__exit__()
        else:
            CHOSEN.layers = self._before.pop()
