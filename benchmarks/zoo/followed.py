"""The batch norms of a model that are followed by an activation: seen in a forward pass, not asked of ``fuse``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVATIONS = {
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "prelu", "relu", "relu6",
    "rrelu", "selu", "sigmoid", "silu", "softplus", "tanh",
}  # fmt: skip
ADDITIONS = {"add", "__add__", "__radd__", "__iadd__", "iadd"}
# Asking a tensor about itself is no use of its values.
QUESTIONS = {"__get__", "dim", "size", "numel", "is_floating_point", "stride", "is_contiguous", "__len__", "ndimension"}


class _Recorder(TorchFunctionMode):
    """Every output of a batch norm, and the names of the functions that take it."""

    def __init__(self, norms: dict[int, str]) -> None:
        super().__init__()
        self.norms = norms
        self.uses: dict[int, list[tuple[str, int]]] = {}
        self.made: dict[str, list[int]] = {}
        self._alive: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in QUESTIONS:
            return made
        given = [each for each in _tensors((args, kwargs)) if id(each) in self.uses]
        number = id(made) if isinstance(made, Tensor) else 0
        for tensor in given:
            self.uses[id(tensor)].append((name.strip("_") if name.endswith("_") else name, number))
        if name == "batch_norm" and isinstance(made, Tensor):
            mean = args[1] if len(args) > 1 else kwargs.get("running_mean")
            self._note(made)
            self.made.setdefault(self.norms.get(id(mean), "?"), []).append(id(made))
        elif isinstance(made, Tensor) and name.strip("_") in {each.strip("_") for each in ADDITIONS}:
            self._note(made)
        return made

    def _note(self, tensor: Tensor) -> None:
        self._alive.append(tensor)  # so that no other tensor gets its id
        self.uses.setdefault(id(tensor), [])


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = [*value.values()]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


def followed(model: nn.Module, run: Callable[[nn.Module], Any]) -> dict[str, str]:
    """The batch norms whose output is used once, by an activation, or by an addition and then an activation.

    Args:
        model: in inference mode.
        run: calls it.

    Returns:
        the name of the batch norm -> ``"relu"``, or ``"add, relu"``.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU(), nn.BatchNorm1d(2)).eval()
        >>> followed(model, lambda model: model(torch.ones(3, 2)))
        {'0': 'relu'}
    """
    norms = {
        id(mean): name
        for name, module in model.named_modules()
        if isinstance(mean := getattr(module, "running_mean", None), Tensor)
    }
    recorder = _Recorder(norms)
    with torch.no_grad(), recorder:
        run(model)
    found: dict[str, str] = {}
    for name, made in recorder.made.items():
        what = [_what(recorder, number) for number in made]
        if name != "?" and what[0] is not None and len(set(what)) == 1:
            found[name] = what[0]
    return found


def _what(recorder: _Recorder, number: int) -> str | None:
    uses = recorder.uses[number]
    added = ""
    # What works in place uses its result again under the same id: the first use decides then.
    if uses and uses[0][0].strip("_") in {"add", "radd", "iadd"} and (len(uses) == 1 or uses[0][1] == number):
        added, uses = "add, ", uses[1:] if uses[0][1] == number else recorder.uses.get(uses[0][1], [])
    in_place = len(uses) > 0 and uses[0][1] == number
    if uses and uses[0][0] in ACTIVATIONS and (len(uses) == 1 or in_place):
        return f"{added}{uses[0][0]}"
    return None
