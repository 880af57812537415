"""The operations that the zoo tries on PyTorch models: a row each, so that another one is another row."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.optim.swa_utils import update_bn

import normwise
from benchmarks.zoo import comparison, pairs
from benchmarks.zoo.comparison import Measured, compared, difference, measured, outputs
from benchmarks.zoo.reasons import grouped
from benchmarks.zoo.reference import norms_of, settle

NEEDS_US = "needs normwise"
"""The words in a report of swap where a file of the whole model cannot do without us."""


@dataclass(frozen=True)
class Trying:
    """The things that an operation is given, and takes copies of.

    Args:
        model: in training mode, of float64 where it can be.
        single: the same in float32, in which times are taken.
        batches: inputs of ``model``.
        plain: what it computes.
        followed: its batch norms that an activation follows, by ``followed.followed``.
        seconds: how long the pairs of a time may take; 0 for no times.
    """

    model: nn.Module
    single: nn.Module
    batches: Sequence[Tensor]
    plain: Measured
    followed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 2.0

    @property
    def x(self) -> Tensor:
        """The batch on which everything is compared."""
        return self.batches[0]

    @property
    def norms(self) -> int:
        """The number of batch norms."""
        return len(norms_of(self.model))

    def groups(self, reasons: Mapping[str, str]) -> dict[str, int]:
        """Reasons by layer, as counts."""
        own = {type(module) for module in self.model.modules() if not type(module).__module__.startswith("torch.nn.")}
        names = [name for name, _ in self.model.named_modules() if name]
        return grouped(reasons.values(), names, [kind.__name__ for kind in own])

    def times(self, changed: nn.Module) -> dict[str, Any]:
        """The time that inference takes, before and after, in float32 and without gradients."""
        if not self.seconds:
            return {}
        before, after, x = copy.deepcopy(self.single).eval(), changed.eval(), self.x.float()
        with torch.inference_mode():
            return {"inference": pairs.paired(lambda: before(x), lambda: after(x), seconds=self.seconds)}


def _fuse(trying: Trying) -> dict[str, Any]:
    twin = copy.deepcopy(trying.model)
    report = normwise.fuse(twin)
    missed = [name for name in trying.followed if name not in report.fused]
    left = {**report.swapped, **report.left}
    said = {name: f"{'add, ' * trying.followed[name].startswith('add')}activation: {left[name]}" for name in missed}
    found = {
        "done": len(report.fused),
        "of": trying.norms,
        "reasons": trying.groups(left),
        "swapped": len(report.swapped),
        "left": len(report.left),
        "missed": sum("add" not in trying.followed[name] for name in missed),
        "missed_by_addition": sum("add" in trying.followed[name] for name in missed),
        "why_missed": trying.groups(said),
        "compared": compared(trying.plain, measured(twin, trying.x)),
    }
    if not trying.seconds:
        return {**found, "times": {}}
    fused = copy.deepcopy(trying.single)
    normwise.fuse(fused)
    return {**found, "times": trying.times(fused)}


def _there_and_back(trying: Trying) -> dict[str, Any]:
    twin = copy.deepcopy(trying.model)
    normwise.fuse(twin)
    ours = _ours(twin)
    there = normwise.swap(twin, to="torch")
    found = compared(trying.plain, measured(twin, trying.x))
    wrong = []
    kept = {name for name in _ours(twin) if name not in there.skipped}
    if kept:
        wrong.append(f"{len(kept)} layers are normwise's still, and the report does not say so")
    for name in ours.keys() & norms_of(twin).keys() - there.skipped.keys():
        was, now = type(trying.model.get_submodule(name)), type(twin.get_submodule(name))
        if was is not now:
            wrong.append(f"a {was.__name__} came back as a {now.__name__}")
            break
    alone = (
        not any(NEEDS_US in swap.words for swap in there.swapped.values()) and not ours.keys() & there.skipped.keys()
    )
    if alone and _pickled(trying.model) and b"normwise" in (_pickled(twin) or b"normwise"):
        wrong.append("a file of the whole model names normwise, or cannot be written")
    normwise.swap(twin, to="normwise")
    back = compared(trying.plain, measured(twin, trying.x))
    return {
        "done": len(there.swapped),
        "of": len(ours),
        "reasons": trying.groups({name: why for name, why in there.skipped.items() if name in ours}),
        "compared": {**_under("there", found), **_under("back", back)},
        "wrong": wrong,
        "alone": alone,
    }


def _normwise(trying: Trying) -> dict[str, Any]:
    twin = copy.deepcopy(trying.model)
    report = normwise.swap(twin, to="normwise")
    norms = norms_of(trying.model)
    return {
        "done": len(report.swapped.keys() & norms.keys()),
        "of": trying.norms,
        "reasons": trying.groups({name: why for name, why in report.skipped.items() if name in norms}),
        "compared": compared(trying.plain, measured(twin, trying.x)),
    }


def _freeze(trying: Trying) -> dict[str, Any]:
    twin, reference = copy.deepcopy(trying.model), copy.deepcopy(trying.model)
    learned = {name: each.requires_grad for name, each in twin.named_parameters()}
    report = normwise.freeze(twin)
    state = comparison.changed_state(trying.plain.state, twin.state_dict())
    found: dict[str, Any] = {"state": state} if state else {}
    # Everything else in training, against a model whose batch norms alone are in inference.
    expected = outputs(_norms_in_inference(reference), trying.x, training=None)
    trained = outputs(twin, trying.x, training=True)
    found["training"] = difference(expected, trained)
    gradients, plain = comparison.backward(twin, trained), comparison.backward(reference, expected)
    found["gradients"] = difference({name: plain[name] for name in plain.keys() & gradients.keys()}, gradients)
    found["statistics"] = difference(_statistics(trying.plain.state), _statistics(twin.state_dict()))
    # The batch norms alone in training, against a model in inference.
    for norm in norms_of(twin.eval()).values():
        norm.train()
    with torch.no_grad():
        found["inference"] = difference(trying.plain.inference, outputs(twin, trying.x, training=None))
    wrong = []
    if left := [name for name in plain.keys() - gradients.keys() if not _of_a_norm(trying.model, name)]:
        wrong.append(f"{len(left)} parameters that are of no normalization layer learn no longer")
    normwise.unfreeze(twin.train())
    if {name: each.requires_grad for name, each in twin.named_parameters()} != learned:
        wrong.append("after unfreeze other parameters learn than before")
    twin.zero_grad()
    norms = norms_of(trying.model)
    return {
        "done": sum("statistics" in report.layers.get(name, ()) for name in norms),
        "of": trying.norms,
        "reasons": trying.groups({name: why for name, why in report.skipped.items() if name in norms}),
        "compared": {**found, **_under("unfrozen", compared(trying.plain, measured(twin, trying.x)))},
        "wrong": wrong,
    }


def _fold(trying: Trying, prepare: Callable[[nn.Module], Any] = nn.Module.eval) -> dict[str, Any]:
    twin = copy.deepcopy(trying.model).eval()
    prepare(twin)
    report = normwise.fold(twin, trying.batches)
    with torch.no_grad():
        found = {"inference": difference(trying.plain.inference, outputs(twin, trying.x, training=False))}
    single, x = copy.deepcopy(trying.single).eval(), trying.x.float()
    prepare(single)  # the report is about what folding changes, not about what came before it
    with torch.no_grad():
        before = outputs(single, x, training=False)
        is_double = trying.x.dtype == torch.float64
        unfolded = difference(trying.plain.inference, before) if is_double else None
        said = normwise.fold(single, [x]).output_error
        error = difference(before, outputs(single, x, training=False))
    wrong = []
    if isinstance(error, str) or abs(error - said) > 1e-6 + 0.5 * max(error, said):
        wrong.append(f"the report says an error of {said:.1e} of outputs in float32, and it is {error}")
    return {
        "done": len(report.folded),
        "of": len(report.folded) + len(report.skipped),
        "reasons": trying.groups({**report.skipped, **report.not_reached}),
        "compared": found,
        "wrong": wrong,
        "output_error": said,
        "float32_error_unfolded": unfolded,
        "growth": max([each.growth for each in report.folded.values()] or [1.0]),
        "times": trying.times(single) if report.folded else {},
    }


def _fuse_and_fold(trying: Trying) -> dict[str, Any]:
    return _fold(trying, normwise.fuse)


def _recalibrate(trying: Trying) -> dict[str, Any]:
    twin, reference = copy.deepcopy(trying.model).eval(), copy.deepcopy(trying.model)
    report = normwise.recalibrate(twin, trying.batches)
    calls = settle(reference, trying.batches)
    once = {name for name in report.recalibrated if calls.get(name) == 1}
    ours, theirs = (_statistics(model.state_dict()) for model in (twin, reference))
    # What is behind a layer that is called twice sees other inputs, so that nothing there can be compared.
    twice = [name for name, number in calls.items() if number > 1]
    chosen = [name for name in theirs if not twice and name.rpartition(".")[0] in once]
    chosen = [name for name in chosen if not name.endswith("tracked")]
    found: dict[str, Any] = {
        "statistics": difference({name: theirs[name] for name in chosen}, {name: ours[name] for name in chosen})
    }
    wrong = []
    with torch.no_grad():
        after = outputs(twin, trying.x, training=False)
        if not twice:
            found["inference"] = difference(outputs(reference, trying.x, training=False), after)
    if not comparison.finite(after):
        wrong.append("outputs are not finite")
    if difference(trying.plain.inference, after) == 0.0 and once:
        wrong.append("the outputs are what they were")
    silent = {
        name: each for name, each in trying.plain.state.items() if "running_" not in name and "tracked" not in name
    }
    now = twin.state_dict()
    if words := comparison.changed_state(silent, {name: now[name] for name in silent}):
        wrong.append(f"not statistics only: {words}")
    ones, others = copy.deepcopy(trying.single).eval(), copy.deepcopy(trying.single)
    small = [batch.float() for batch in trying.batches] * 2  # update_bn refuses one value per channel
    names = norms_of(trying.model)
    times = {}
    if trying.seconds:
        ways = (lambda: update_bn(small, others)), (lambda: normwise.recalibrate(ones, small, tolerance=0.0))
        times = {"update_bn": pairs.paired(*ways, seconds=trying.seconds)}
    return {
        "done": len(report.recalibrated),
        "of": trying.norms,
        "reasons": trying.groups(
            {
                **{name: why for name, why in report.skipped.items() if name in names},
                **dict.fromkeys(report.not_reached, "no batch came to it"),
            }
        ),
        "compared": found,
        "wrong": wrong,
        "twice": len(twice),
        "in_step": report.in_step,
        "why_not_in_step": next(iter(trying.groups({"": report.why_not_in_step}))),
        "times": times,
    }


OPERATIONS: dict[str, Callable[[Trying], dict[str, Any]]] = {
    "fuse": _fuse,
    "swap there and back": _there_and_back,
    "swap to normwise": _normwise,
    "freeze": _freeze,
    "fold": _fold,
    "fuse and fold": _fuse_and_fold,
    "recalibrate": _recalibrate,
}


def _ours(model: nn.Module) -> dict[str, nn.Module]:
    """The batch norms that are of a class of normwise's, or of one that it made."""
    return {
        name: norm
        for name, norm in norms_of(model).items()
        if any(kind.__module__.startswith("normwise.") for kind in type(norm).__mro__)
    }


def _norms_in_inference(model: nn.Module) -> nn.Module:
    for module in model.train().modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


def _of_a_norm(model: nn.Module, parameter: str) -> bool:
    holder = model.get_submodule(parameter.rpartition(".")[0])
    return isinstance(holder, _NormBase | nn.GroupNorm | nn.LayerNorm) or "norm" in type(holder).__name__.lower()


def _statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in state.items() if "running_" in name or "tracked" in name}


def _under(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}, {what}": value for what, value in found.items()}


def _pickled(model: nn.Module) -> bytes | None:
    """The model as a file names its classes; None where it cannot be pickled."""
    try:
        return pickle.dumps(copy.deepcopy(model).to("meta"))
    except Exception:  # whatever a foreign model holds
        return None
