"""Several forwards of one model side by side, in step with each other at chosen layers.

Each forward has a thread of its own, and only one of them runs at a time: the first one up to the first of the layers,
then the second one up to the same place, and so on. When all have come, the layer is called once, on what all of them
brought. So the order of everything is fixed, and a forward may be any Python.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from normwise.errors import NormwiseError
from normwise.side_by_side import SideBySide, Work
from normwise.torch.models.thread_state import state_of_this_thread

Joint = Callable[[Callable[..., Any], nn.Module, Sequence[tuple[Any, ...]], Sequence[dict[str, Any]]], Sequence[Any]]


class _Lockstep:
    def __init__(self, works: Sequence[Callable[[], Any]], names: dict[nn.Module, str], joint: Joint) -> None:
        self.names, self.joint = names, joint
        self.together = SideBySide(works, state_of_this_thread())
        self.forwards = self.together.works
        self.calls = False  # whether the first one is calling a layer for all
        self.gets: dict[Work, Any] = {}

    def run(self) -> list[Any]:
        """Return what the forwards return; or raise the first error of any, when all of them have ended."""
        with self.together:
            while not all(forward.done for forward in self.forwards):
                for forward in self.forwards:
                    if not forward.done:
                        self.together.resume(forward)
                self._check()
        return [forward.result for forward in self.forwards]

    def meet(self, layer: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Wait for the others in the place of the layer's forward; the first one calls the layer for all."""
        mine = self.together.current()
        if mine is None or self.calls:  # someone else's call, or one inside of a layer that is called for all
            return call(*args, **kwargs)
        if _in_a_checkpoint():
            raise NormwiseError(
                f"batch norm {self.names[layer]!r} is inside torch.utils.checkpoint, and a part of a batch that is run "
                "again does not have the other parts at hand: leave the checkpoints out here, or run the whole batch "
                "with them, which is as exact."
            )
        self.together.wait(layer, (args, kwargs))
        if mine is self.forwards[0]:
            brought = [(args, kwargs), *(other.brought for other in self.forwards[1:])]
            for other in self.forwards[1:]:
                other.brought = None
            self.calls = True
            results = self.joint(call, layer, [each for each, _ in brought], [named for _, named in brought])
            self.calls = False
            self.gets = dict(zip(self.forwards, results, strict=True))
        return self.gets.pop(mine)

    def _check(self) -> None:
        """All have come to the same place."""
        first = self.forwards[0]
        for number, other in enumerate(self.forwards):
            if other.at is not first.at:
                one, two = (
                    "ended" if each.at is None else f"came to {self.names[each.at]!r}" for each in (first, other)
                )
                raise NormwiseError(
                    f"the micro-batches took different ways through the model: number 0 {one} and number {number} "
                    f"{two}, so there is no batch that they are parts of; let all of them go through the same layers."
                )


def _in_a_checkpoint() -> bool:
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back  # type: ignore[assignment]  # None at the outermost
    return False


def in_lockstep(works: Sequence[Callable[[], Any]], layers: dict[nn.Module, str], joint: Joint) -> list[Any]:
    """Run them side by side, each in the state of autograd and autocast that the caller is in.

    Args:
        works: each runs the same model once.
        layers: those at which they meet, and their names.
        joint: called with the layer's own forward, the layer, and the arguments of every call, at every meeting; gives
            back each one's result.

    Returns:
        what the works return.

    Raises:
        NormwiseError: they do not meet the same layers in the same order.

    Example:
        >>> layer = nn.Identity()
        >>> def joint(call, layer, args, kwargs):
        ...     return [sum(x for (x,) in args)] * len(args)
        >>> in_lockstep([lambda: layer(1) + 1, lambda: layer(2) * 10], {layer: "layer"}, joint)
        [4, 30]
    """
    steps = _Lockstep(works, layers, joint)
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_instead(layer, steps))
        return steps.run()


@contextmanager
def _instead(layer: nn.Module, steps: _Lockstep) -> Iterator[None]:
    """The layer's forward is to meet; hooks of the layer are called around it, as ever."""
    before = vars(layer).get("forward")
    own: Callable[..., Any] = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return steps.meet(layer, own, args, kwargs)

    vars(layer)["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del vars(layer)["forward"]
        else:
            vars(layer)["forward"] = before
