"""Several sets of running statistics in one layer, one for each domain that the data come from."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, compiler, nn
from torch.nn.parameter import is_lazy

from normwise.errors import NormwiseError, UnknownName
from normwise.torch.layers.domain import CHOSEN
from normwise.torch.layers.recordable import Recordable
from normwise.torch.steps.estimate_recomputation import recomputing

# What a module keeps of hooks that run when it is called; a copy for a domain has none of them.
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class PerDomain(Recordable):
    """A normalization layer with running statistics of its own for every domain, chosen per batch.

    One set of statistics for several domains (cameras, hospitals, real and generated images, the steps of a recurrent
    network) is wrong for each of them. Here each domain has a layer of its own, a copy of the one that is given with
    its estimator, activation and statistics; by default they share their parameters.

    The domain is, in this order: the argument ``domain=`` of ``forward``, the one of ``statistics_from``, the one of
    the ``with domain(model, ...)`` around the call, the default.

    Args:
        layer: every domain gets a copy of it: any module that keeps running statistics, normwise's or torch's. Its
            parameters become this layer's, so that an optimizer that has them keeps them.
        domains: their names, at least one.
        own_affine: whether every domain also learns a weight and a bias of its own.
        default: the domain where none is chosen; None to refuse that.

    ``forward`` takes what ``layer`` takes, and ``domain=``. The entries of the ``state_dict`` are ``weight`` and
    ``bias``, and for each domain ``domain_<name>.running_mean`` and so on. A checkpoint of the plain layer loads too:
    every domain starts from its statistics.

    Under ``torch.utils.checkpoint`` a forward is run again outside the block that chose its domain: the layer remembers
    what it ran with. Where it was several domains since the last backward, it refuses to guess.

    Raises:
        TypeError: ``domains`` is a string or holds something else than strings.
        ValueError: a layer without running statistics; no domain, one twice, an empty name or one with a dot.

    References:
        Chang, You, Seo, Kwak and Han, Domain-specific batch normalization for unsupervised domain adaptation, 2019. Li,
        Wang, Shi, Liu and Hou, Revisiting batch normalization for practical domain adaptation, 2016 (shared
        parameters).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from normwise.torch import PerDomain
        >>> layer = PerDomain(nn.BatchNorm1d(1), ["day", "night"])
        >>> _ = layer(torch.tensor([[1.0], [3.0]]), domain="day")
        >>> layer.of("day").running_mean, layer.of("night").running_mean
        (tensor([0.2000]), tensor([0.]))
    """

    _statistics_from: str | None = None  # the domain of a block of that name
    why_not_joined: ClassVar[str | None] = (
        "it keeps statistics for each domain, and which one a batch is of may differ between processes"
    )

    def __init__(
        self, layer: nn.Module, domains: Iterable[str], *, own_affine: bool = False, default: str | None = None
    ) -> None:
        super().__init__()
        reason = reason_against(layer)
        if reason is not None:
            raise ValueError(f"a layer per domain needs running statistics, and {reason}: pass one that keeps them.")
        if isinstance(domains, str):
            raise TypeError(f"domains must be a list of names, received {domains!r}: pass [{domains!r}].")
        self.domains: tuple[str, ...] = ()
        self.own_affine = own_affine
        self.default = default
        self.training = layer.training
        # The domains of the forwards since one was last run again, in inference and in training.
        self._ran: tuple[set[str], set[str]] = (set(), set())
        self._ran_again = False
        if not own_affine:
            for name, parameter in layer._parameters.items():
                self.register_parameter(name, parameter)
        for name in domains:
            self._add(name, layer)
        if not self.domains:
            raise ValueError("domains must hold at least one name, received none: pass for example ['day', 'night'].")
        if default is not None and default not in self.domains:
            raise UnknownName("domain", default, self.domains)
        self.register_state_dict_post_hook(_without_copies)
        self.register_load_state_dict_post_hook(_tied_again)

    def forward(self, input: Tensor, *args: Any, domain: str | None = None, **kwargs: Any) -> Any:
        """The output of the layer of the chosen domain.

        Raises:
            UnknownName: the layer has no such domain; the message names those that it has.
            NormwiseError: none was chosen, or a forward is run again and cannot tell which it was.
        """
        return self.of(self._choice(domain))(input, *args, **kwargs)

    def of(self, domain: str) -> Any:
        """The layer of a domain.

        Raises:
            UnknownName: there is none.
        """
        if domain not in self.domains:
            raise UnknownName("domain", domain, self.domains)
        return self._modules[f"domain_{domain}"]

    def add(self, domain: str, *, like: str) -> None:
        """One more domain, which starts from the statistics of another.

        Args:
            domain: its name.
            like: the domain whose statistics it copies; its parameters too, where domains have their own.

        Raises:
            UnknownName: there is no domain to copy.
            ValueError: the name is taken, empty or has a dot.

        Example:
            >>> from torch import nn
            >>> from normwise.torch import PerDomain
            >>> layer = PerDomain(nn.BatchNorm1d(1), ["day"])
            >>> layer.add("night", like="day")
            >>> layer.domains
            ('day', 'night')
        """
        self._add(domain, self.of(like))

    def _add(self, name: str, source: nn.Module) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a domain is a name, received {type(name).__name__}: pass for example 'night'.")
        if not name or "." in name or name in self.domains:
            wrong = "is there already" if name in self.domains else "cannot be a part of a checkpoint's keys"
            raise ValueError(f"every domain needs a name of its own without a dot, and {name!r} {wrong}: rename it.")
        kept: dict[int, Any] = {id(getattr(source, hooks)): type(getattr(source, hooks))() for hooks in HOOKS}
        if not self.own_affine:
            kept |= {id(parameter): parameter for parameter in source.parameters()}
        self.add_module(f"domain_{name}", copy.deepcopy(source, kept))
        self.domains = (*self.domains, name)

    @property
    def _pinned(self) -> str | None:
        """The domain that a block around the call chose for this very layer."""
        return self._statistics_from or CHOSEN.layers.get(id(self))

    def _choice(self, given: str | None) -> str:
        chosen = given or self._pinned or CHOSEN.domain or self.default
        if compiler.is_compiling() or given is not None:
            pass
        elif recomputing():
            self._ran_again = True
            ran = self._ran[self.training]
            if len(ran) > 1:
                raise NormwiseError(
                    "a forward is run again for its gradients, and the layer ran with the domains "
                    f"{', '.join(sorted(ran))} since the last backward: call backward after each domain, or pass "
                    "domain= to the layer inside what is checkpointed."
                )
            chosen = next(iter(ran), chosen)
        elif chosen is not None:
            if self._ran_again:
                self._ran, self._ran_again = (set(), set()), False
            self._ran[self.training].add(chosen)
        if chosen is None:
            raise NormwiseError(
                f"no domain was chosen for a layer with the domains {', '.join(self.domains)}: run the model inside "
                f"normwise.torch.domain(model, {self.domains[0]!r}), or pass domain= to the layer."
            )
        return chosen

    def _tie(self) -> None:
        """Every domain's parameters are this layer's own, after these were replaced."""
        for name, parameter in self._parameters.items():
            for domain in self.domains:
                self.of(domain)._parameters[name] = parameter

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Convert as torch does, which replaces parameters on some ways between devices, and tie the domains again."""
        self._tie()  # what was set here by hand is the domains' too
        super()._apply(fn, recurse)
        self._tie()
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        first = self.of(self.domains[0])
        # A layer that whitens takes a plain one's running_var.
        for name in dict.fromkeys([*first._buffers, *first._parameters, "running_var"]):
            value = state_dict.get(f"{prefix}{name}")
            if value is None:
                continue
            shared = name in self._parameters
            for domain in self.domains:
                # Every domain a copy: assign=True takes the very tensors.
                state_dict.setdefault(f"{prefix}domain_{domain}.{name}", value if shared else value.clone())
            if not shared:
                del state_dict[f"{prefix}{name}"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        """The domains, and what is not the default."""
        own = ", own_affine=True" if self.own_affine else ""
        default = "" if self.default is None else f", default={self.default!r}"
        return f"{list(self.domains)}{own}{default}"


def reason_against(layer: nn.Module) -> str | None:
    """Why a module cannot have statistics per domain, or None where it can."""
    mean = layer._buffers.get("running_mean")
    if mean is None:
        return f"{type(layer).__name__} keeps none"
    if is_lazy(mean):
        return f"{type(layer).__name__} has not seen an input yet"
    return None


def _without_copies(module: Any, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Shared parameters are in a checkpoint once."""
    _ = local_metadata
    for name in module._parameters:
        for domain in module.domains:
            state_dict.pop(f"{prefix}domain_{domain}.{name}", None)


def _tied_again(module: Any, incompatible_keys: Any) -> None:
    _ = incompatible_keys
    module._tie()
