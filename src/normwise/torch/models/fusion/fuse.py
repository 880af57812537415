"""Let the batch norms of a model do the activation and the residual addition that follow them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from normwise.torch.layers.class_change import OURS, PLAIN, become_ours
from normwise.torch.layers.frozen import FrozenStatistics
from normwise.torch.layers.replacement_guard import STOOD_HERE
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.models.feeding import unwrapped
from normwise.torch.models.fusion.activation_calls import settings_of
from normwise.torch.models.fusion.patterns import hooked
from normwise.torch.models.fusion.questions import settings_read
from normwise.torch.models.fusion.rewriting import (
    Terms,
    class_with_forwards,
    pass_on,
    rewrite,
    sequence_that_passes_on,
)
from normwise.torch.models.fusion.subclass_change import become_both, inside_kept
from normwise.torch.models.fusion.subclasses import Inside, Traces, inside_of
from normwise.torch.models.fusion.survey import Site, Survey, path_of
from normwise.torch.models.model_checks import check_model, out_of_reach, why_fixed
from normwise.torch.models.transaction import RandomState, transaction_of_modules


@dataclass(frozen=True)
class FuseReport:
    """The report of ``fuse``; every batch norm of the model stands in exactly one of its three fields.

    Args:
        fused: the layer's name -> what it does itself now: ``"relu"``, or ``"add, relu"``.
        swapped: the layers that became normwise's own and nothing else -> why. Its length is their number, and going
            through it gives their names.
        left: the layer's name -> why it is as it was.

    Example:
        >>> print(FuseReport({"bn1": "relu"}, {"bn2": "its output is returned"}, {"bn3": "it has hooks"}))
        1 of 3 batch norms fused, 1 swapped, 1 left
          fused    bn1: relu
          swapped  bn2: its output is returned
          left     bn3: it has hooks
    """

    fused: Mapping[str, str]
    swapped: Mapping[str, str]
    left: Mapping[str, str]

    def __str__(self) -> str:
        total = len(self.fused) + len(self.swapped) + len(self.left)
        if total == 0:
            return "nothing fused: the model has no batch norm"
        done = f"{len(self.fused)} of {total} batch norms fused"
        lines = [f"{done}, {len(self.swapped)} swapped, {len(self.left)} left"]
        lines += [f"  fused    {name or '(the model)'}: {what}" for name, what in self.fused.items()]
        lines += [f"  swapped  {name or '(the model)'}: {why}" for name, why in self.swapped.items()]
        lines += [f"  left     {name or '(the model)'}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Rewriting:
    """The tasks of the new forward of a module.

    Args:
        owner: the module.
        sites: where batch norms do what it did.
        passing: the children that it gives a residual to, one at most, and the batch norms inside that it is for.
        guarded: the batch norms whose output is the module's for the settings that it has, and then goes into what
            they do.
    """

    owner: nn.Module
    sites: list[Site] = field(default_factory=list)
    passing: list[tuple[str, str]] = field(default_factory=list)
    guarded: list[str] = field(default_factory=list)


def fuse(model: nn.Module) -> FuseReport:
    r"""Let every batch norm of the model do the activation, and the addition before it, that follow it.

    .. math:: f(\mathrm{bn}(x) + r) \quad\text{in one layer instead of three}

    The model is changed in place and stays what it is: the same modules under the same names, the same parameters and
    buffers (an optimizer goes on with them), the same ``state_dict`` keys, hooks, modes, devices and dtypes. Outputs,
    gradients and running statistics are the same within rounding, in training and in inference. On any error the model
    is as before.

    * A ``torch.nn.BatchNorm*d`` becomes ``normwise.torch``'s layer of that name: the object stays, its class changes.
    * A batch norm of a subclass, whose own forward is PyTorch's and then an activation (timm's
      ``BatchNormAct2d``), becomes both: its class and normwise's. Its children stay; where one of them is replaced or
      hooked later, the forward of its class runs again. The forwards are compared as graphs, never the names.
    * Where batch norm and activation are modules that are called one behind the other, and the activation is used
      nowhere else, an ``nn.Identity`` takes the activation's place.
    * Else (an activation that is a function or is shared, an addition) the forward of the module around them is
      rewritten from its ``torch.fx`` graph; its children stay calls, so hooks and later replacements of them work
      (those by which an activation would be lost, or done twice, are errors). The module's class becomes a subclass of
      its own with the same name. The new forward is for the settings that the module and its parts have now
      (``self.training`` is followed): it refuses to run with others. Values outside of them, such as global variables,
      are taken as they are now. Other methods that call the layers do what they did, in threads that share the model
      too. Where nobody can tell their calls from the forward's (in a generator, a property, a function that runs
      later, a checkpoint), the layer is left.

    Where a batch norm's output is its module's, the activation may stand in the forward that calls the module, with or
    without an addition before it: the module then returns the activation's output, and takes ``residual=`` too. (Not so
    for a part of several batch norms that the model itself calls, such as ``model.features``, which users call too.)
    Optional arguments may be there or not. A question about the module itself, such as
    ``isinstance(self.layer, nn.Identity)``, is asked again at every call, which ends with an error where the answer is
    another one by then. What cannot be followed is left: control flow that depends on the data, questions about data,
    random numbers, parts without gradients or with checkpoints of activations. Within such a module, children are
    still followed, and an ``nn.Sequential`` that it only ever calls is fused by its order; but a child of which it
    calls a part, as in ``self.encoder.conv1(x)``, is left.

    A residual is rounded to the dtype of the layer's input, which differs from the addition only under autocast with
    a residual of another dtype. ``copy.deepcopy`` and ``pickle`` work as before. Wrappers (``torch.compile``,
    ``DataParallel``, ``DistributedDataParallel``) are passed by; ``fuse`` comes before ``fully_shard`` and
    ``AveragedModel``. ``torch.jit.script`` is not supported where a forward was rewritten.

    Args:
        model: any module, on any device, on meta too.

    Returns:
        which batch norms were fused, swapped and left, and why. A second call finds nothing to do and says so.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> print(fuse(model))
        1 of 1 batch norms fused, 0 swapped, 0 left
          fused    1: relu
        >>> model[1].activation, model[2]
        ('relu', Identity())
    """
    check_model(model, called="fuse")
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    inner, fixed = unwrapped(model), why_fixed(model)
    traces: Traces = {}
    inside = {
        id(norm): _inside(norm, traces) for norm in norms.values() if type(norm) not in PLAIN and id(norm) not in fixed
    }
    refused = {
        id(norm): why
        for norm in norms.values()
        if (why := fixed.get(id(norm)) or _refusal(norm, inner, inside.get(id(norm))))
    }
    does_it = {key: each.activation for key, each in inside.items() if isinstance(each, Inside) and each.activation}
    random = RandomState(tensor.device for tensor in model.parameters())
    try:
        survey = Survey(inner, {**does_it, **refused})
    finally:
        random.restore()  # a forward that is traced may draw
    fused: dict[str, str] = {}
    swapped: dict[str, str] = {}
    left = out_of_reach(model)
    by_order: list[tuple[nn.Module, str]] = []
    by_graph: dict[int, Rewriting] = {}
    changes: list[tuple[nn.Module, str | None]] = []
    for name, norm in norms.items():
        site = survey.verdict(norm) if id(norm) not in refused else refused[id(norm)]
        if id(norm) in does_it and id(norm) not in refused:
            fused[name] = does_it[id(norm)]
            changes.append((norm, does_it[id(norm)]))
        elif isinstance(site, str):
            left[name] = site
        elif site.activation is None and isinstance(norm, TrackedBatchNorm):
            left[name] = f"it is normwise's own already, and {site.why}"
        elif site.activation is None:
            swapped[name] = site.why
            changes.append((norm, None))
        elif (why := survey.why_not(site, slot := survey.slot_of(site))) is not None:
            left[name] = why
        else:
            fused[name] = site.what
            changes.append((norm, site.activation))
            for around, layer in site.guarded:
                by_graph.setdefault(id(around), Rewriting(around)).guarded.append(layer)
            if slot is not None:
                by_order.append(slot)
                continue
            by_graph.setdefault(id(site.owner), Rewriting(site.owner)).sites.append(site)
            for number, (around, child) in enumerate(site.inner if site.adds else ()):
                passing = by_graph.setdefault(id(around), Rewriting(around)).passing
                passing.append((child, path_of(site.inner[: number + 1])))
    classes = [(each.owner, _rewritten(each, survey)) for each in by_graph.values()]
    _apply(changes, by_order, classes, inside)
    return FuseReport(fused, swapped, left)


def _inside(norm: _BatchNorm, traces: Traces) -> Inside | str:
    """The computation of a batch norm of another class, or why it is left."""
    return inside_kept(norm) or ("" if isinstance(norm, _LazyNormBase) else inside_of(norm, traces))


def _refusal(norm: _BatchNorm, model: nn.Module, inside: Inside | str | None) -> str | None:
    """Why this batch norm must stay as it is, wherever it is called."""
    if isinstance(norm, _LazyNormBase):
        return "it is lazy and has not seen its first input"
    if isinstance(norm, FrozenStatistics):
        return "normwise.freeze froze its statistics: fuse the model before that, or unfreeze it"
    if isinstance(inside, str):
        return inside
    if isinstance(norm, TrackedBatchNorm) and norm.activation is not None:
        return f"it does its activation itself already: {norm.activation}"
    if "forward" in norm.__dict__:
        return "its forward was replaced on the instance"
    if hooked(norm):
        return "it has hooks"
    if model.training and not norm.training:
        return "it is frozen: in inference mode while the model is in training mode"
    return None


def _rewritten(what: Rewriting, survey: Survey) -> type[nn.Module]:
    """The class of a module with forwards that leave the rest to the batch norms inside."""
    owner, passing = what.owner, [(child, child == layer, layer) for child, layer in what.passing]
    if id(owner) not in survey.ways:
        ((child, is_norm, layer),) = passing
        return sequence_that_passes_on(owner, child, is_norm=is_norm, layer=layer)
    ways = survey.ways[id(owner)]
    for number, graph in enumerate(ways.graphs):
        rewrite(graph, [pattern for site in what.sites if (pattern := site.patterns[number]) is not None])
        for child, is_norm, _ in passing:
            pass_on(graph, child, is_norm=is_norm)
    layers = (*(site.layer for site in what.sites), *(layer for *_, layer in passing), *what.guarded)
    others = tuple(sorted(set[str]().union(*map(survey.methods_too, what.sites))))
    targets = {pattern.activation_target for site in what.sites for pattern in site.patterns if pattern is not None}
    taken_over = tuple(sorted(filter(None, targets)))
    settings = settings_read(owner, guarded=True)
    settings += tuple(setting for name in taken_over for setting in settings_of(owner, name))
    terms = Terms(settings, asked=ways.asked, fused=layers, others=others, taken_over=taken_over)
    return class_with_forwards(owner, ways.graphs, terms)


def _apply(
    changes: list[tuple[nn.Module, str | None]],
    by_order: list[tuple[nn.Module, str]],
    classes: list[tuple[nn.Module, type[nn.Module]]],
    inside: Mapping[int, Inside | str] = MappingProxyType({}),
) -> None:
    """All of it or, on any error, nothing."""
    norms, parents, owners = ([module for module, _ in each] for each in (changes, by_order, classes))
    with transaction_of_modules([*norms, *parents, *owners]):
        for norm, activation in changes:
            _become(norm, activation, inside.get(id(norm)))
        for parent, child in by_order:
            replaced = parent._modules[child]
            identity = nn.Identity()
            identity.training = replaced is None or replaced.training
            setattr(identity, STOOD_HERE, (replaced,))
            parent._modules[child] = identity
        for owner, made in classes:
            owner.__class__ = made


def _become(norm: nn.Module, activation: str | None, inside: Inside | str | None) -> None:
    """Make a batch norm normwise's, and let it do the activation; parameters and buffers stay the very same."""
    if type(norm) in OURS:
        become_ours(norm, activation)
    elif isinstance(inside, Inside) and not isinstance(norm, TrackedBatchNorm):
        become_both(norm, inside, activation)
    norm.activation = activation  # type: ignore[assignment]  # a str or None, no module
    does_it = isinstance(inside, Inside) and inside.activation is not None  # by its class's own forward
    if activation is not None and not does_it:
        norm._fused = True  # type: ignore[assignment]  # as above; `swap` asks whose activation it was
