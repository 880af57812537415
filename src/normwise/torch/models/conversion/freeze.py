"""The normalization layers of a model keep what they have: running statistics, affine parameters, or both."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _LazyNormBase, _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from normwise.errors import NormwiseError
from normwise.recalibration.asked import names_asked
from normwise.reports.freeze_report import AFFINE, STATISTICS, FreezeReport
from normwise.torch.layers.frozen import FrozenStatistics, freeze_statistics, is_frozen, unfreeze_statistics
from normwise.torch.layers.per_domain import PerDomain
from normwise.torch.models.model_checks import ALL_NORMS, check_model, out_of_reach, why_fixed
from normwise.torch.models.param_groups import NAME, TORCHS
from normwise.torch.models.transaction import transaction

# Where a module keeps which of its parameters learned before they were frozen; not in a state_dict.
LEARNED = "_learned_before"


def freeze(
    model: nn.Module, *, statistics: bool = True, affine: bool = True, layers: Collection[str] | None = None
) -> FreezeReport:
    """Let normalization layers keep their running statistics, their affine parameters, or both, whatever comes.

    A layer whose **statistics** are frozen normalizes by them and never changes them, whatever ``train()`` is called on
    it, on the model, or on what wraps the model. ``eval()`` alone holds until the next ``train()`` only. The object
    stays; its class becomes ``FrozenBatchNorm2d`` or the like, a subclass of what it was, whose ``training`` is False.
    **Affine** parameters that are frozen do not learn: ``requires_grad`` is False, and the gradient that they had is
    gone, so that no optimizer's momentum or weight decay moves them either.

    The keys of the ``state_dict`` are the same, and what is frozen is not a part of it: a frozen model's checkpoint
    loads into one that is not, and the other way round, and loading changes values and never what is frozen.
    ``copy.deepcopy``, ``pickle``, ``torch.save`` of the whole model, ``AveragedModel``, ``torch.compile``,
    ``torch.fx``, ``torch.jit.trace`` and ``torch.export`` keep it. ``torch.jit.script`` compiles that moment's mode.
    ``normwise.recalibrate`` passes frozen layers by in a model in training mode, unless it is given their names.

    Args:
        model: any module, changed in place; before ``DistributedDataParallel`` and ``fully_shard``. On any error it is
            as before.
        statistics: whether to freeze running statistics, of batch norms and of instance norms that keep some.
        affine: whether to freeze the parameters, of every normalization layer: group, layer and RMS norms too.
        layers: the names of the only layers to change, as ``named_modules`` has them; None for all. A
            ``PerDomain`` layer is one.

    Returns:
        which layers were frozen, and what of them; which were skipped, and which could not be reached, with the reason.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        UnknownName: ``layers`` names what is no normalization layer of the model.
        TypeError: ``layers`` is a string.
        ValueError: neither ``statistics`` nor ``affine``.
        NormwiseError: affine parameters in a ``DistributedDataParallel``, which waits for their gradients.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> print(freeze(model))
        1 of 1 normalization layers frozen
          frozen       1: statistics and affine parameters
        >>> model.train()[1].training, model[1].weight.requires_grad
        (False, False)
        >>> unfreeze(model).layers
        {'1': ('statistics', 'affine parameters')}
        >>> model[1].training, model[1].weight.requires_grad
        (True, True)
    """
    return _Change(model, "freeze", statistics, affine, layers).carry_out()


def unfreeze(
    model: nn.Module, *, statistics: bool = True, affine: bool = True, layers: Collection[str] | None = None
) -> FreezeReport:
    """Undo ``freeze``: layers follow the mode of their model again, and parameters learn that learned before.

    A layer is in the mode that its model was put into last. What ``freeze`` did not freeze is as it is: batch norms
    that were put into inference mode by ``eval()``, and parameters that had ``requires_grad=False`` before.

    Args:
        model: any module, changed in place; on any error it is as before.
        statistics: whether running statistics may move again.
        affine: whether affine parameters may learn again.
        layers: the names of the only layers to change; None for all.

    Returns:
        which layers were unfrozen, and what of them; which were skipped, and which could not be reached, with the
        reason.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        UnknownName: ``layers`` names what is no normalization layer of the model.
        TypeError: ``layers`` is a string.
        ValueError: neither ``statistics`` nor ``affine``.
        NormwiseError: affine parameters in a ``DistributedDataParallel``, which knows no parameters that come now.

    Example:
        >>> model = nn.Sequential(nn.LayerNorm(4), nn.BatchNorm1d(4))
        >>> print(freeze(model, layers=["0"]))
        1 of 2 normalization layers frozen, 1 skipped
          frozen       0: affine parameters, nothing else: it keeps no running statistics
          skipped      1: it was not asked for
        >>> print(unfreeze(model))
        1 of 2 normalization layers unfrozen, 1 skipped
          unfrozen     0: affine parameters, nothing else: it keeps no running statistics
          skipped      1: freeze has not frozen it
    """
    return _Change(model, "unfreeze", statistics, affine, layers).carry_out()


class _Change:
    """One call of ``freeze`` or ``unfreeze``: what it may change is settled first, then all of it is changed."""

    def __init__(
        self, model: nn.Module, called: str, statistics: bool, affine: bool, layers: Collection[str] | None
    ) -> None:
        check_model(model, called=called)
        if not statistics and not affine:
            raise ValueError(f"{called} was asked for nothing: pass statistics=True, affine=True, or both.")
        self.model, self.freezes = model, called == "freeze"
        self.asked = {STATISTICS: statistics, AFFINE: affine}
        self.norms = norms_of(model)
        layers = names_asked(layers, self.norms, "normalization layer")
        self.chosen = {name: norm for name, norm in self.norms.items() if layers is None or name in layers}
        self.fixed = why_fixed(model, replaced=False)
        self.holders = _holders(model)
        self.inside = {id(part) for norm in self.chosen.values() for part in norm.modules()}

    def carry_out(self) -> FreezeReport:
        touched: dict[str, tuple[str, ...]] = {}
        partly: dict[str, str] = {}
        skipped = {name: "it was not asked for" for name in self.norms if name not in self.chosen}
        to_change: dict[str, list[nn.Module]] = {STATISTICS: [], AFFINE: []}
        for name, norm in self.chosen.items():
            reasons = {part: self._reason(norm, part) for part, asked in self.asked.items() if asked}
            parts = tuple(part for part, reason in reasons.items() if reason is None)
            against = dict.fromkeys(reason for reason in reasons.values() if reason is not None)
            if parts:
                touched[name] = parts
                if against:
                    partly[name] = ", ".join(against)
            else:
                skipped[name] = ", ".join(against)
            for part in parts:
                to_change[part].append(norm)
        self._check_wrapper(to_change[AFFINE])
        with transaction(self.model):
            for norm in to_change[STATISTICS]:
                for keeper in _with_statistics(norm):
                    if self.freezes and not isinstance(keeper, FrozenStatistics):
                        freeze_statistics(keeper)
                    elif not self.freezes and is_frozen(keeper):
                        unfreeze_statistics(keeper)
            self._let_learn(to_change[AFFINE])
        deed = "frozen" if self.freezes else "unfrozen"
        order = [name for name in self.norms if name in skipped]
        not_reached = out_of_reach(self.model, ALL_NORMS)
        return FreezeReport(touched, {name: skipped[name] for name in order}, not_reached, partly, deed)

    def _let_learn(self, norms: list[nn.Module]) -> None:
        """Parameters that several layers share are asked before any of them is changed."""
        parts = [part for norm in norms for part in norm.modules() if part._parameters]
        if not self.freezes:
            learned = [(part, vars(part).pop(LEARNED)) for part in parts if LEARNED in vars(part)]
            for part, before in learned:
                for name, parameter in part._parameters.items():
                    if parameter is not None and before.get(name, False):
                        parameter.requires_grad_(True)
            return
        before = [
            {name: each.requires_grad for name, each in part._parameters.items() if each is not None} for part in parts
        ]
        for part, record in zip(parts, before, strict=True):
            # What was frozen already, and has been made to learn by other means since, keeps its record.
            vars(part).setdefault(LEARNED, record)
        parameters = [each for part in parts for each in part._parameters.values() if each is not None]
        for parameter in parameters:
            parameter.requires_grad_(False)
        for parameter in parameters:  # last, as no transaction brings a gradient back
            parameter.grad = None

    def _reason(self, norm: nn.Module, part: str) -> str | None:
        """Why this part of the layer stays as it is, or None."""
        if any(is_lazy(tensor) for tensor in (*norm.parameters(), *norm.buffers())) or isinstance(norm, _LazyNormBase):
            return "it has not seen an input yet"
        fixed = next((self.fixed[id(each)] for each in norm.modules() if id(each) in self.fixed), None)
        if fixed is not None:
            return fixed
        return self._against_statistics(norm) if part == STATISTICS else self._against_affine(norm)

    def _against_statistics(self, norm: nn.Module) -> str | None:
        kept = _with_statistics(norm)
        if not kept:
            return "it keeps no running statistics"
        frozen = [isinstance(part, FrozenStatistics) for part in kept]
        if self.freezes and all(frozen):
            return "its statistics are frozen already"
        if self.freezes:
            changed = any(is_parametrized(part) for part in kept)
            return (
                "it has parametrizations, which would be left without their class: freeze it before"
                if changed
                else None
            )
        if not any(frozen):
            return "freeze has not frozen it"
        if not any(is_frozen(part) for part in kept):
            return "its class was changed once more after freeze, for example by a parametrization: undo that first"
        return None

    def _against_affine(self, norm: nn.Module) -> str | None:
        parameters = [*norm.parameters()]
        if not parameters:
            return "it has no affine parameters"
        recorded = any(LEARNED in vars(part) for part in norm.modules())
        if self.freezes and recorded and not any(each.requires_grad for each in parameters):
            return "its affine parameters are frozen already"
        if not self.freezes and not recorded:
            return "freeze has not frozen it"
        for parameter in parameters:
            for name, module in self.holders[id(parameter)]:
                if id(module) not in self.inside:
                    return f"it shares a parameter with {name or 'the model'}, which would be {self._done_too()} too"
        return None

    def _done_too(self) -> str:
        return "frozen" if self.freezes else "unfrozen"

    def _check_wrapper(self, norms: list[nn.Module]) -> None:
        wrapper = nn.parallel.DistributedDataParallel
        inside = {id(part) for each in self.model.modules() if isinstance(each, wrapper) for part in each.modules()}
        if any(id(norm) in inside and _would_change(norm, self.freezes) for norm in norms):
            called, why = ("freeze", "waits for the gradients of the parameters that it was given")
            if not self.freezes:
                called, why = ("unfreeze", "would not join the gradients of parameters that learn only now")
            raise NormwiseError(
                f"{called} received a model that DistributedDataParallel wraps, which {why}: call it on the model "
                "before that, or pass affine=False."
            )


def norms_of(model: nn.Module) -> dict[str, nn.Module]:
    """The normalization layers of a model by name; a ``PerDomain`` layer is one, and so is whatever is inside of one.

    Example:
        >>> [*norms_of(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU(), nn.LayerNorm(2)))]
        ['0', '2']
    """
    found: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module not in inside and _is_norm(module):
            found[name] = module
            inside.update(module.modules())
    return found


def _is_norm(module: nn.Module) -> bool:
    if isinstance(module, (*TORCHS, PerDomain)):
        return True
    # Those of other packages, where they hold something themselves.
    named = NAME.search(type(module).__name__) is not None
    return named and bool(module._parameters or "running_mean" in module._buffers)


def _with_statistics(norm: nn.Module) -> list[nn.Module]:
    """The layer, or those within it, of which each keeps running statistics and asks ``training`` about them."""
    parts = norm.modules() if isinstance(norm, PerDomain) else [norm]
    return [part for part in parts if _keeps_statistics(part)]


def _keeps_statistics(module: nn.Module) -> bool:
    tracks = not isinstance(module, _NormBase) or bool(module.track_running_stats)
    return tracks and module._buffers.get("running_mean") is not None


def _holders(model: nn.Module) -> Mapping[int, list[tuple[str, nn.Module]]]:
    """Who has a parameter, by the parameter's id."""
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((name, module))
    return found


def _would_change(norm: nn.Module, freezes: bool) -> bool:
    if freezes:
        return any(each.requires_grad for each in norm.parameters())
    return any(any(vars(part).get(LEARNED, {}).values()) for part in norm.modules())
