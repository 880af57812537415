"""One architecture, in a process of its own: build it, try every operation on a copy, and print what came of it."""

from __future__ import annotations

import copy
import json
import resource
import sys
import time
import traceback
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.architectures import Architecture, NotHere, build
from benchmarks.zoo.followed import followed
from benchmarks.zoo.operations import OPERATIONS, Operation, Trying


def main(task: dict[str, Any]) -> dict[str, Any]:
    """What came of one architecture.

    Args:
        task: ``source``, ``name``, ``family``, ``sizes``, ``seed``, ``batch``, ``operations``, ``memory`` in GiB.
    """
    if task["memory"]:
        limit = int(task["memory"] * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(1)
    architecture = Architecture(task["source"], task["family"], task["name"])
    try:
        if architecture.source == "keras":
            from benchmarks.zoo import keras_trial

            return keras_trial.tried(architecture, task)
        return _tried(architecture, task)
    except NotHere as why:
        return {"absent": str(why)}


def _tried(architecture: Architecture, task: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(task["seed"])
    model = build(architecture)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return {"absent": "it has no batch norm"}
    for norm in norms:  # not what a layer starts with, or a wrong scale would not show
        if norm.affine and norm.weight is not None:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.0, 0.1)
    size, why = _size(model, task["sizes"])
    if size is None:
        return {"absent": f"no forward pass: {why}"}
    batches = [images(task["batch"], size, seed, torch.float32) for seed in (1, 2)]
    with torch.no_grad():
        model.eval()
    found = followed(model, lambda model: model(batches[0]))
    double = copy.deepcopy(model).double()
    dtype = torch.float64
    try:
        with torch.no_grad():
            _outputs(double, batches[0].double(), training=False)
    except (RuntimeError, TypeError):  # a model that makes float32 tensors of its own
        double, dtype = copy.deepcopy(model), torch.float32
    result: dict[str, Any] = {
        "size": size,
        "dtype": str(dtype).removeprefix("torch."),
        "norms": len(norms),
        "parameters": sum(each.numel() for each in model.parameters()),
        "followed": len([what for what in found.values() if "add" not in what]),
        "followed_by_addition": len([what for what in found.values() if "add" in what]),
        "operations": {},
    }
    plain = _measured(double, batches[0].to(dtype))
    for name in task["operations"]:
        operation = OPERATIONS[name]
        if "torch" in operation.frameworks:
            given = [batch.to(dtype) for batch in batches]
            result["operations"][name] = _operated(operation, double, given, found, plain)
    return result


def images(batch: int, size: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Inputs that do not depend on the machine."""
    return torch.randn((batch, 3, size, size), generator=torch.Generator().manual_seed(seed)).to(dtype)


def _size(model: nn.Module, sizes: list[int]) -> tuple[int | None, str]:
    """The first side of an image that the model takes, in training and in inference."""
    why = "no size was tried"
    own = getattr(model, "default_cfg", None)
    for size in [*sizes, *([own["input_size"][-1]] if own else [])]:
        twin = copy.deepcopy(model)
        try:
            for training in (True, False):
                _outputs(twin, images(2, size, 0, torch.float32), training=training)
        except Exception as error:  # whatever a foreign model says about this size
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"
            continue
        return size, ""
    return None, why


def _operated(
    operation: Operation, model: nn.Module, batches: list[Tensor], found: dict[str, str], plain: dict[str, Any]
) -> dict[str, Any]:
    twin = copy.deepcopy(model).train()
    try:
        began = time.perf_counter()
        said = operation.apply(Trying(twin, batches, found))
        seconds = time.perf_counter() - began
        after = _measured(twin, batches[0])
    except Exception as error:  # what an operation says about a foreign model is what is asked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        return {"error": f"{text} ({where.name})"}
    compared = {
        "inference": _difference(plain["inference"], after["inference"]),
        "training": _difference(plain["training"], after["training"]),
        "gradients": _difference(plain["gradients"], after["gradients"]),
        "statistics": _difference(plain["statistics"], after["statistics"]),
    }
    times = {
        "seconds": round(seconds, 3),
        "before_ms": round(1e3 * plain["seconds"], 1),
        "after_ms": round(1e3 * after["seconds"], 1),
    }
    return {**said, **times, **(compared if operation.same else {"finite": _finite(after["inference"])})}


def _measured(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Outputs in inference, then of one training step with its gradients, and the statistics behind it."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        inference = _outputs(twin, x, training=False)
        began = time.perf_counter()
        _outputs(twin, x, training=False)
        seconds = time.perf_counter() - began
    training = _outputs(twin, x, training=True)
    losses = [each.double().square().mean() for each in training.values() if each.requires_grad]
    torch.stack(losses).sum().backward()
    gradients = {name: each.grad for name, each in twin.named_parameters() if each.grad is not None}
    statistics = {name: each for name, each in twin.state_dict().items() if "running_" in name or "tracked" in name}
    return {
        "inference": inference,
        "training": {name: each.detach() for name, each in training.items()},
        "gradients": gradients,
        "statistics": {name: each.detach().clone() for name, each in statistics.items()},
        "seconds": seconds,
    }


def _outputs(model: nn.Module, x: Tensor, *, training: bool) -> dict[str, Tensor]:
    torch.manual_seed(3)  # for dropout and its like
    with torch.no_grad():  # some models keep what they made when their mode changed
        model.train(training)
    return dict(_flat(model(x.clone())))


def _flat(value: Any, name: str = "y") -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(name, value)] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = [*value.values()]
    items = value if isinstance(value, list | tuple) else []
    return [pair for number, item in enumerate(items) for pair in _flat(item, f"{name}.{number}")]


def _difference(before: dict[str, Tensor], after: dict[str, Tensor]) -> float | str:
    """The largest difference, relative to the largest value of the tensor.

    Where that is rounding itself, such as the gradient of a bias before a batch norm, which is 0, it is relative to a
    millionth of the largest value of all tensors.
    """
    if missing := before.keys() ^ after.keys():
        return f"not the same tensors: {min(missing)}"
    largest = 0.0
    floor = 1e-6 * max(
        [float(each.abs().max()) for each in before.values() if each.numel() and each.isfinite().all()] or [0.0]
    )
    for name, one in before.items():
        a, b = one.detach().double(), after[name].detach().double()
        if not bool(a.isfinite().all()):
            continue  # nothing can be compared where the model itself overflows
        largest = (
            max(largest, float((a - b).abs().max() / a.abs().max().clamp_min(max(floor, 1e-30))))
            if a.numel()
            else largest
        )
    return largest


def _finite(outputs: dict[str, Tensor]) -> bool:
    return all(bool(each.isfinite().all()) for each in outputs.values())


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
