"""One architecture, in a process of its own: build it, try every operation on a copy, and return what came of it."""

from __future__ import annotations

import copy
import resource
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.architectures import Architecture, NotHere, build, surveyed
from benchmarks.zoo.comparison import CLOSE, ILL_CONDITIONED, WHAT, compared, measured, outputs
from benchmarks.zoo.followed import followed
from benchmarks.zoo.operations import OPERATIONS, Trying
from benchmarks.zoo.reference import norms_of, settle
from normwise.errors import NormwiseError, UnsuitableModel

Conditioning = Callable[[], dict[str, float]]
"""The distance that each kind of number of a model moves where the last digit of its input does."""


def main(task: dict[str, Any]) -> dict[str, Any]:
    """The results of one architecture.

    Args:
        task: ``source``, ``name``, ``family``, ``sizes``, ``seed``, ``batch``, ``operations``, ``memory`` in GiB,
            ``parameters`` in millions, ``pairs`` in seconds.
    """
    if task["memory"]:
        limit = int(task["memory"] * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(1)
    architecture = Architecture(task["source"], task["family"], task["name"])
    try:
        if architecture.source.startswith("keras"):
            from benchmarks.zoo import keras_trial

            return keras_trial.tried(architecture, task)
        return _tried(architecture, task)
    except NotHere as why:
        return {"absent": str(why)}


def _tried(architecture: Architecture, task: dict[str, Any]) -> dict[str, Any]:
    known = surveyed(architecture, task["parameters"])
    if "absent" in known:
        return {"absent": known["absent"]}
    torch.manual_seed(task["seed"])
    model = build(architecture)
    norms = norms_of(model)
    parameters = sum(each.numel() for each in model.parameters())
    for norm in norms.values():  # not what a layer starts with, or a wrong scale would not show
        if norm.affine and norm.weight is not None:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.0, 0.1)
    size, why = _size(model, task["sizes"])
    if size is None:
        return {"absent": f"no forward pass: {why}"}
    batches = [images(task["batch"], size, seed, torch.float32) for seed in (1, 2)]
    settle(model, batches)
    for norm in norms.values():  # near what data give, so that nothing overflows, and not the same
        if norm.running_var is not None:
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.8, 1.25))
            norm.running_mean.add_(0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean))
    found = followed(model, lambda model: model(batches[0]))
    double, dtype = _double(model, batches[0])
    result: dict[str, Any] = {
        "size": size,
        "dtype": str(dtype).removeprefix("torch."),
        "norms": len(norms),
        "parameters": parameters,
        "followed": len([what for what in found.values() if "add" not in what]),
        "followed_by_addition": len([what for what in found.values() if "add" in what]),
        "operations": {},
    }
    given = [batch.to(dtype) for batch in batches]
    plain = measured(double.train(), given[0])
    trying = Trying(double, model.train(), given, plain, found, task["pairs"])
    for name in task["operations"]:
        apply = partial(OPERATIONS[name], trying)
        result["operations"][name] = operated(apply, result["dtype"], partial(_conditioning, trying))
    return result


def operated(apply: Callable[[], dict[str, Any]], dtype: str, conditioning: Conditioning) -> dict[str, Any]:
    """The result of one operation: what it returned and what of it is ``wrong``, or ``refused``, or ``error``."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a warning says is in the report as well
            found = apply()
    except (UnsuitableModel, NormwiseError) as error:
        return {"refused": str(error).partition("\n")[0]}
    except Exception as error:  # what an operation says about a foreign model is what is asked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]} ({where.name})"}
    wrong, rounding = judged(found["compared"], dtype, conditioning)
    found["wrong"] = [*found.get("wrong", []), *wrong]
    if rounding:
        found["rounding"] = rounding
    return {**found, "seconds": round(time.perf_counter() - began, 2)}


def judged(found: dict[str, Any], dtype: str, conditioning: Conditioning) -> tuple[list[str], str]:
    """The differences that are wrong, in words; and those that are large only because the model multiplies rounding."""
    wrong, rounding = [f"{what}: {value}" for what, value in found.items() if isinstance(value, str)], ""
    large = {what: value for what, value in found.items() if not isinstance(value, str) and value > CLOSE[dtype]}
    if large:
        own = conditioning()
        for what in [*large]:
            kind = what.rpartition(", ")[2]
            if large[what] <= ILL_CONDITIONED * own.get(kind, 0.0):
                rounding = f"{what} by {large[what]:.0e}, and by {own[kind]:.0e} where the input is rounded otherwise"
                del large[what]
    return [*wrong, *[f"{what} differ by {value:.0e}" for what, value in large.items()]], rounding


def images(batch: int, size: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Inputs that do not depend on the machine."""
    return torch.randn((batch, 3, size, size), generator=torch.Generator().manual_seed(seed)).to(dtype)


def _conditioning(trying: Trying) -> dict[str, float]:
    """The distance that everything moves by where the last digit of the input does."""
    x = trying.x * (1 + torch.finfo(trying.x.dtype).eps * torch.randn_like(trying.x))
    found = compared(trying.plain, measured(trying.model, x))
    return {what: value for what, value in found.items() if what in WHAT and not isinstance(value, str)}


def _double(model: nn.Module, x: Tensor) -> tuple[nn.Module, torch.dtype]:
    """The model in float64, where rounding is small against every fault; or as it is, where it makes float32 itself."""
    double = copy.deepcopy(model).double()
    try:
        with torch.no_grad():
            outputs(double, x.double(), training=False)
    except (RuntimeError, TypeError):
        return copy.deepcopy(model), torch.float32
    return double, torch.float64


def _size(model: nn.Module, sizes: list[int]) -> tuple[int | None, str]:
    """The first side of an image that the model takes, in training and in inference."""
    why = "no size was tried"
    own = getattr(model, "default_cfg", None)
    own_size = [own["input_size"][-1]] if own else []
    for size in [*sizes, *[each for each in own_size if each <= max([256, *sizes])]]:
        twin = copy.deepcopy(model)
        try:
            for training in (True, False):
                outputs(twin, images(2, size, 0, torch.float32), training=training)
        except Exception as error:  # whatever a foreign model says about this size
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"
            continue
        return size, ""
    return None, why
