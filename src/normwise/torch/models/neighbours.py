"""The neighbours of the batch norms of a model, found by following tensors from call to call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normwise.facts import Neighbours

LAST = {"linear", "lstm", "gru", "rnn_tanh", "rnn_relu", "embedding", "layer_norm", "multi_head_attention_forward"}
"""Functions for which the features are the last axis."""
FIRST = {f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)}
"""Functions for which the features are axis 1."""
SAME = {"contiguous", "clone", "to", "float", "double", "detach", "requires_grad_"}
EACH = {
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "gelu", "silu", "elu", "elu_", "selu", "celu", "sigmoid",
    "tanh", "hardswish", "hardtanh", "hardsigmoid", "mish", "softplus", "prelu", "dropout", "dropout1d", "dropout2d",
    "dropout3d", "alpha_dropout", "feature_alpha_dropout", "add", "add_", "sub", "__add__", "__iadd__", "__radd__",
    "__sub__", "mul", "__mul__", "div", "__truediv__", "clamp", "clamp_min", "abs", "square", "exp", "log", "sqrt",
}  # fmt: skip
"""Functions of each element, behind which the axes mean what they did in front."""


@dataclass(frozen=True)
class _Origin:
    """The origin of a tensor."""

    axis: int | None = None
    bias: bool = False
    data: bool = False
    norms: frozenset[str] = frozenset()


class _Following(TorchFunctionMode):
    """Knows of each tensor where it comes from, as long as only functions of each element lie between."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[int, _Origin] = {}
        self.alive: list[Tensor] = []  # or another tensor would get the id of one that is gone
        self.behind: dict[str, set[int]] = {}

    def origin(self, value: Any) -> _Origin:
        """The origin of a tensor; nothing is known of other things."""
        return self.origins.get(id(value), _Origin())

    def put(self, value: Any, origin: _Origin) -> None:
        """Remember where a tensor comes from."""
        if isinstance(value, Tensor):
            self.alive.append(value)
            self.origins[id(value)] = origin

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        x = next((arg for arg in (*args, *(kwargs or {}).values()) if isinstance(arg, Tensor)), None)
        if x is not None and (name in LAST or name in FIRST):
            axis = x.dim() - 1 if name in LAST and name != "embedding" else 1
            for norm in self.origin(x).norms:
                self.behind.setdefault(norm, set()).add(axis)
            self._made(result, name, (len(args) > 2 and isinstance(args[2], Tensor)) or _bias_in(kwargs))
        elif isinstance(result, Tensor) and (name in EACH or name in SAME):
            sources = [self.origin(arg) for arg in args if isinstance(arg, Tensor) and id(arg) in self.origins]
            if sources:
                origin = sources[0] if name in SAME else replace(sources[0], bias=False, data=False)
                self.put(result, replace(origin, norms=frozenset().union(*(each.norms for each in sources))))
        return result

    def _made(self, result: Any, name: str, bias: bool) -> None:
        first = result[0] if isinstance(result, tuple) else result
        if isinstance(first, Tensor):
            axis = 1 if name in FIRST else first.dim() - 1
            self.put(first, _Origin(axis, bias and name in FIRST | {"linear"}))


def _bias_in(kwargs: Mapping[str, Any] | None) -> bool:
    return (kwargs or {}).get("bias") is not None


def neighbours(
    model: nn.Module, norms: Mapping[str, nn.Module], forward: Callable[[], object]
) -> dict[str, Neighbours]:
    """The neighbours of batch norms.

    Args:
        model: in inference mode.
        norms: its batch norms by their paths.
        forward: runs the model.
    """
    following = _Following()
    front: dict[str, tuple[_Origin, int]] = {}
    with ExitStack() as ends:

        def enter(_: nn.Module, args: Any, named: Any) -> None:
            for value in (*args, *named.values()):
                following.put(value, _Origin(data=True))

        ends.callback(model.register_forward_pre_hook(enter, with_kwargs=True, prepend=True).remove)
        for name, norm in norms.items():

            def before(_: nn.Module, args: Any, named: Any, name: str = name) -> None:
                x = args[0] if args else next(iter(named.values()), None)
                if isinstance(x, Tensor):
                    front.setdefault(name, (following.origin(x), x.dim()))

            def after(_: nn.Module, args: Any, result: Any, name: str = name) -> None:
                x = args[0] if args else None
                following.put(result, _Origin(following.origin(x).axis, norms=frozenset({name})))

            ends.callback(norm.register_forward_pre_hook(before, with_kwargs=True).remove)
            ends.callback(norm.register_forward_hook(after).remove)
        with following:
            forward()
    return {name: _told(origin, following.behind.get(name, set())) for name, (origin, _) in front.items()}


def _told(origin: _Origin, behind: set[int]) -> Neighbours:
    axes = behind | ({origin.axis} if origin.axis is not None else set())
    return Neighbours(origin.bias, origin.data, axes.pop() if len(axes) == 1 else None)
