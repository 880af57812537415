"""Other normalization layers in a model: PyTorch's own for normwise's and back, or layers that normalize otherwise."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from normwise.frameworks import with_article
from normwise.recalibration.asked import names_asked
from normwise.reports.swap_report import Swap, SwapReport
from normwise.swap_settings import APPLY, KINDS, checked
from normwise.torch.layers.counterparts import (
    OURS,
    THEIRS,
    become_domain,
    become_normwise,
    become_torch,
    reason_against_torch,
)
from normwise.torch.layers.frozen import is_frozen
from normwise.torch.layers.per_domain import PerDomain
from normwise.torch.layers.tracked import TrackedBatchNorm, unlike_torch
from normwise.torch.models.conversion.swap_calibration import Calibration
from normwise.torch.models.conversion.swap_norms import Change, NotPossible, Settings, change_to, moments_differ
from normwise.torch.models.conversion.swap_out import carry_out, plan, restore_forwards
from normwise.torch.models.conversion.swap_places import Places
from normwise.torch.models.conversion.swap_rests import put_back, rests_in, stands_by_itself
from normwise.torch.models.feeding import ForwardFn, unwrapped
from normwise.torch.models.fusion.subclass_change import become_both, become_own, own_class
from normwise.torch.models.fusion.subclasses import inside_of
from normwise.torch.models.memory.save_memory import stop_saving
from normwise.torch.models.model_checks import ALL_NORMS, check_model, check_runnable, out_of_reach, why_fixed
from normwise.torch.models.transaction import transaction

TARGETS = ("torch", "normwise", *KINDS)
_FOR = {**APPLY, "process_group": ("sync",), "domain": ("torch", "domains")}
NOT_ALONE = "the forward differs in training, so a file of the whole model, unlike all others, needs normwise"
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, PerDomain)


def swap(
    model: nn.Module,
    to: str | Iterable[str] | None = None,
    *,
    layers: Collection[str] | None = None,
    calibrate: Iterable[Any] | None = None,
    at_most: int | None = None,
    forward_fn: ForwardFn | None = None,
    num_groups: int | None = None,
    virtual_batch_size: int | None = None,
    num_splits: int | None = None,
    process_group: Any = None,
    domains: Iterable[str] | None = None,
    domain: str | None = None,
) -> SwapReport:
    r"""Put other normalization layers into the places of a model's: PyTorch's own, normwise's, or another kind.

    In place: the modules themselves stay and get another class, so that their parameters, an optimizer that has them,
    hooks, modes, devices and dtypes, and the model around them stay too. On any error every byte is as before.

    ``to="torch"`` makes a model that runs, loads and is exported where normwise is not installed. What a layer of
    normwise does behind its normalization goes back into the model:

    * What ``fuse`` has done is undone: the classes, the ``state_dict`` keys, the outputs and the gradients are those of
      the model before ``fuse``.
    * ``activation=`` of a layer in an ``nn.Sequential`` becomes a module of its own: in the place of an ``nn.Identity``
      behind the layer, else as one more module called ``<layer>_activation``. No key of the ``state_dict`` changes,
      and the positions of the modules behind it move by one.
    * Elsewhere the forward of the module around the layer is rewritten from its ``torch.fx`` graph, with the
      addition and the activation behind the call. The module is still an instance of its class; its other methods that
      call the layer are errors from now on, which the report names. In a file of the whole
      model (``torch.save(model)``) it is a ``torch.fx.GraphModule``, for which neither normwise nor that class is
      needed; if the forward is not the same in training and in inference, such a file needs normwise, and the report
      says so. Files of the ``state_dict``, ``torch.export``, ``torch.jit.trace`` and ONNX never do.

    * ``save_memory`` is undone on the layers, because its hooks need normwise.
    * What ``fold`` has left of the layers of a fused model, and the forwards that ``fuse`` wrote for it, become
      PyTorch's modules and the class's own forward.

    ``swap(model, to="normwise")`` undoes it: the keys, the outputs and the gradients are the same, and ``fuse``
    makes one layer of three again.

    Args:
        model: any module; wrappers are passed by.
        to: None for ``"torch"``.

            * ``"torch"``: for each layer of normwise the one of ``torch.nn`` that computes the same at inference.
            * ``"normwise"``: for each layer of ``torch.nn`` normwise's, without fusing anything; a batch norm of a
              class of your own, whose forward is that and an activation at most, becomes both.
            * ``"group"``, ``"instance"``: normwise's ``GroupNorm`` or ``InstanceNorm``. ``"layer"``: a ``GroupNorm``
              of one group, which is the layer norm of channels and positions that has a scale per channel.
            * ``"ghost"``, ``"renorm"``, ``"sync"``: the batch norms that train by virtual batches, with
              renormalization, or by the batches of all processes; inference stays as it is.
            * ``"domains"`` with ``domains=``, or a list of names: statistics for each domain.

            In all of them the layer keeps its scale and shift, its activation and its mode.
        layers: the names of the only layers to be swapped; None for all.
        calibrate: batches as ``recalibrate`` takes them. The report then says how far the model's output for them
            moved. Layers that normalize in another way than before (``"group"``, ``"layer"``, ``"instance"``) get the
            scale and shift with which their output has the mean and variance per channel that it had in the model
            before, in inference mode: one layer after the other, in the order of their calls, each with a pass over the
            batches that ends at it.
        at_most: use so many batches; None for all.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve.
        num_groups: for ``"group"``; if it does not divide the channels, the largest number below it that does is used.
            None for 32, or fewer where groups would have one channel.
        virtual_batch_size: for ``"ghost"``: samples in a virtual batch. This or ``num_splits`` is given.
        num_splits: for ``"ghost"``: into how many virtual batches to split a batch.
        process_group: for ``"sync"``: whose batches are taken together; None for all processes.
        domains: for ``"domains"``: their names.
        domain: for ``"torch"``: which domain's statistics a layer with several keeps; for ``"domains"``: the one where
            none is chosen.

    Returns:
        which layers were swapped for what, which were skipped and why, which no batch reached, and how far the model's
        output moved.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        UnknownName: ``to``, or a name in ``layers``, does not exist.
        NormwiseError: a setting that is not for this ``to``, or one that is missing.

    References:
        Wu and He, Group normalization, 2018 (32 groups).

    Example:
        >>> from normwise.torch import BatchNorm1d
        >>> model = nn.Sequential(nn.Linear(3, 4), BatchNorm1d(4, activation="relu"), nn.Linear(4, 2))
        >>> print(swap(model, to="torch"))
        1 of 1 normalization layers swapped
          swapped      1: normwise BatchNorm1d -> torch BatchNorm1d: relu behind it, as 1_activation
        >>> model
        Sequential(
          (0): Linear(in_features=3, out_features=4, bias=True)
          (1): BatchNorm1d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
          (1_activation): ReLU()
          (2): Linear(in_features=4, out_features=2, bias=True)
        )
        >>> print(swap(model, to="group", calibrate=[torch.randn(8, 3)], num_groups=2).swapped["1"])
        torch BatchNorm1d -> normwise GroupNorm: 2 groups of 2 channels
    """
    given = {
        "num_groups": num_groups,
        "virtual_batch_size": virtual_batch_size,
        "num_splits": num_splits,
        "process_group": process_group,
        "domains": domains,
        "domain": domain,
    }
    target, chosen = checked("torch" if to is None else to, given, TARGETS, _FOR)
    settings = Settings(**{**chosen, "domains": tuple(chosen["domains"] or ())})
    check_model(model, called="swap")
    if calibrate is not None:
        check_runnable(model, forward_fn, called="swap")
    inner = unwrapped(model)
    skipped = out_of_reach(model, ALL_NORMS)
    norms = _norms(model)
    layers = names_asked(layers, norms, "normalization layer")
    wanted: dict[str, nn.Module] = {}
    fixed = why_fixed(model, replaced=False)
    for name, norm in norms.items():
        if layers is not None and name not in layers:
            skipped[name] = "it is not among the layers that were asked for"
        elif id(norm) in fixed:
            skipped[name] = fixed[id(norm)]
        elif is_frozen(norm) and target not in ("sync", "domains"):  # which say why it would be no use
            skipped[name] = "its statistics are frozen, and a new layer's would not be: unfreeze the model first"
        else:
            wanted[name] = norm
    calibration = Calibration(inner, calibrate, at_most, forward_fn)
    also: list[str] = []
    with transaction(model):
        if target == "torch" and stop_saving(model, norms.values() if layers is None else wanted.values()):
            also.append("save_memory is undone: its hooks are normwise's; call it again to have it back")
        calibration.before({name: norm for name, norm in wanted.items() if moments_differ(target)})
        before = {name: _class_name(norm) for name, norm in wanted.items()}
        if target == "torch":
            words = _to_torch(inner, wanted, domain, skipped, also, rests_in(inner) if layers is None else {})
        elif target == "normwise":
            words = _to_normwise(wanted, skipped)
        else:
            words = _to_another(target, wanted, settings, calibration.axes, skipped)
        swapped = {name: Swap(before[name], _class_name(wanted[name]), said) for name, said in words.items()}
        calibration.after([name for name in swapped if moments_differ(target)])
    for name, why in calibration.uncalibrated.items():
        swapped[name] = Swap(swapped[name].was, swapped[name].became, _joined(swapped[name].words, why))
    return SwapReport(
        swapped,
        {name: skipped[name] for name in sorted(skipped, key=[*norms, *skipped].index)},
        tuple(calibration.not_reached),
        calibration.output_change,
        calibration.uncalibrated_change,
        target,
        model,
        tuple(also),
    )


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    """The normalization layers by their names; not those inside of a layer with several domains."""
    inside = {part for module in model.modules() if isinstance(module, PerDomain) for part in module.children()}
    inside = {part for module in inside for part in module.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _NORMS) and not isinstance(module, torch.jit.ScriptModule) and module not in inside
    }


def _to_torch(
    model: nn.Module,
    wanted: dict[str, nn.Module],
    domain: str | None,
    skipped: dict[str, str],
    also: list[str],
    rests: dict[nn.Module, str],
) -> dict[str, str]:
    """Everything of normwise becomes torch's; what is to be known of each.

    Args:
        model: without what is wrapped around it.
        wanted: the layers by name.
        domain: as in ``swap``.
        skipped: gets the layers that stay, with the reason.
        also: gets what became of the rests.
        rests: the modules that ``fold`` made, with their names; none to leave them as they are.
    """
    names = {norm: name for name, norm in wanted.items()}
    words: dict[str, str] = {}
    for name, norm in wanted.items():
        if type(norm) in OURS:
            skipped[name] = "it is torch.nn's own already"
        elif isinstance(norm, PerDomain):
            chosen = domain or norm.default or (norm.domains[0] if len(norm.domains) == 1 else None)
            if chosen is None:
                skipped[name] = f"it has statistics for {', '.join(norm.domains)}: choose with domain="
            elif (why := _against(norm.of(chosen))) is not None:
                skipped[name] = why
            else:
                become_domain(norm, chosen)
                words[name] = f"the statistics of {chosen}"
        elif (own := own_class(norm)) is not None:
            if (why := reason_against_torch(norm, own)) is not None:
                skipped[name] = why
        elif not isinstance(norm, tuple(THEIRS)) and unlike_torch(norm) is None:
            skipped[name] = f"{type(norm).__name__} is no layer of normwise"
        elif (why := reason_against_torch(norm)) is not None:
            skipped[name] = why
    left = {norm for name, norm in wanted.items() if name not in skipped and _is_ours(norm)}
    restored, refused = restore_forwards(model, left | {*rests})
    left -= {*refused}
    places = Places(model, left | {*rests})
    itself = {rest for rest in rests if rest not in restored and stands_by_itself(rest, places)}
    around = [rest for rest in rests if rest not in itself and rest not in refused]
    made = plan(places, [*(norm for norm in wanted.values() if norm in left), *around], restored)
    refused |= made.refused
    skipped |= {names[norm]: why for norm, why in refused.items() if norm in names}
    bound = carry_out(made, places)
    for rest, name in rests.items():
        if rest in refused and rest not in itself:
            said = f"it stays, and needs normwise: {refused[rest]}"
        else:
            said = _joined(f"now {put_back(model, rest, itself=rest in itself)}", made.words.get(rest, ""))
            said = _joined(said, NOT_ALONE if rest in bound else "")
        also.append(f"{name}, which fold left of a batch norm: {said}")
    for name, norm in wanted.items():
        if name in skipped:
            continue
        alone = "" if norm not in bound else NOT_ALONE
        said = ""
        if own_class(norm) is not None:
            become_own(norm)
            said = "its class's own forward again"
        elif type(norm) in THEIRS:
            said = become_torch(norm)
        words[name] = _joined(words.get(name, ""), made.words.get(norm, ""), alone, said)
    return {name: words[name] for name in wanted if name not in skipped}


def _is_ours(norm: nn.Module) -> bool:
    return type(norm) in THEIRS or own_class(norm) is not None


def _against(layer: nn.Module) -> str | None:
    return None if type(layer) in OURS else reason_against_torch(layer)


def _to_normwise(wanted: dict[str, nn.Module], skipped: dict[str, str]) -> dict[str, str]:
    words = {}
    for name, norm in wanted.items():
        if type(norm) in OURS and "forward" not in vars(norm):
            become_normwise(norm)
            words[name] = ""
        elif type(norm) in OURS:
            skipped[name] = "its forward was replaced on the instance"
        elif type(norm).__module__.startswith("normwise.") or own_class(norm) is not None:
            skipped[name] = "it is normwise's own already"
        elif not isinstance(norm, _BatchNorm) or isinstance(norm, TrackedBatchNorm):
            skipped[name] = f"it is {with_article(type(norm).__name__)}, not exactly a layer of torch.nn"
        elif "forward" in vars(norm):
            skipped[name] = "its forward was replaced on the instance"
        elif isinstance(inside := inside_of(norm), str):
            skipped[name] = inside
        else:
            become_both(norm, inside, inside.activation)
            words[name] = f"its {inside.activation} in it" if inside.activation is not None else ""
    return words


def _to_another(
    to: str, wanted: dict[str, nn.Module], settings: Settings, axes: dict[str, int], skipped: dict[str, str]
) -> dict[str, str]:
    changes: dict[str, Change] = {}
    for name, norm in wanted.items():
        try:
            changes[name] = change_to(to, name, norm, settings, axes.get(name))
        except NotPossible as why:
            skipped[name] = str(why)
    return {name: change() for name, change in changes.items()}


def _joined(*words: str) -> str:
    return "; ".join(filter(None, words))


def _class_name(norm: nn.Module) -> str:
    home = type(norm).__module__.partition(".")[0]
    return f"{home} {type(norm).__name__}" if home in ("torch", "normwise") else type(norm).__name__
