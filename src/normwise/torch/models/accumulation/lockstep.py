"""Several forwards of one model side by side, in step with each other at chosen layers.

Each forward has a thread of its own, of which only one runs at a time: the first one up to the first of the layers,
then the second one up to the same place, and so on. When all have come, the layer is called once, on what all of them
brought. So the order of everything is fixed, and a forward may be any Python.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from normwise.errors import NormwiseError
from normwise.kernels.internals import saved_tensors_hooks

Joint = Callable[[Callable[..., Any], nn.Module, Sequence[tuple[Any, ...]], Sequence[dict[str, Any]]], Sequence[Any]]


class _Abandoned(BaseException):
    """Another forward failed; no ``except Exception`` on the way out of this one is meant."""


class _Forward:
    """One of them: its thread, where it stands, and what it brought there or gets."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.may_run = threading.Semaphore(0)
        self.done = self.calls = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.at: nn.Module | None = None
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.gets: Any = None


class _Lockstep:
    def __init__(self, works: Sequence[Callable[[], Any]], names: dict[nn.Module, str], joint: Joint) -> None:
        self.forwards = [_Forward(work) for work in works]
        self.names, self.joint = names, joint
        self.stopped = threading.Semaphore(0)
        self.abandoned = False
        self.own = threading.local()

    def run(self) -> list[Any]:
        """What the forwards return; or the first error of any, when all of them have ended."""
        threads = [_thread(self._work, forward) for forward in self.forwards]
        try:
            for thread in threads:
                thread.start()
            while not all(forward.done for forward in self.forwards):
                for forward in self.forwards:
                    self._let_run(forward)
                self._check()
        finally:
            self.abandoned = True
            for forward in self.forwards:
                forward.may_run.release()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        return [forward.result for forward in self.forwards]

    def meet(self, layer: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In the place of the layer's forward: wait for the others; the first one calls the layer for all."""
        mine: _Forward | None = getattr(self.own, "forward", None)
        if mine is None or mine.calls:  # someone else's call, or one inside of a layer that is called for all
            return call(*args, **kwargs)
        if _in_a_checkpoint():
            raise NormwiseError(
                f"batch norm {self.names[layer]!r} is inside torch.utils.checkpoint, and a part of a batch that is run "
                "again does not have the other parts at hand: leave the checkpoints out here, or run the whole batch "
                "with them, which is as exact."
            )
        mine.at, mine.args, mine.kwargs = layer, args, kwargs
        self.stopped.release()
        mine.may_run.acquire()
        if self.abandoned:
            raise _Abandoned
        if mine is self.forwards[0]:
            every, all_kwargs = [each.args for each in self.forwards], [each.kwargs for each in self.forwards]
            for each in self.forwards:
                each.args, each.kwargs = (), {}
            mine.calls = True
            results = self.joint(call, layer, every, all_kwargs)
            mine.calls = False
            for each, result in zip(self.forwards, results, strict=True):
                each.gets = result
        result, mine.gets = mine.gets, None
        return result

    def _work(self, mine: _Forward) -> None:
        self.own.forward = mine
        mine.may_run.acquire()
        try:
            if not self.abandoned:
                mine.result = mine.work()
        except BaseException as error:  # ``run`` raises it again, on the caller's thread
            mine.error = error
        finally:
            mine.done, mine.at = True, None
            self.stopped.release()

    def _let_run(self, forward: _Forward) -> None:
        if forward.done:
            return
        forward.may_run.release()
        self.stopped.acquire()
        if forward.error is not None:
            raise forward.error

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


def _thread(work: Callable[[_Forward], None], forward: _Forward) -> threading.Thread:
    """A thread in the caller's state, as far as PyTorch keeps it per thread."""
    context = contextvars.copy_context()
    enter = _state_of_this_thread()

    def run() -> None:
        with ExitStack() as stack:
            enter(stack)
            context.run(work, forward)

    return threading.Thread(target=run, daemon=True)


def _state_of_this_thread() -> Callable[[ExitStack], None]:
    learning, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    hooks = saved_tensors_hooks(False)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kinds = {"cpu"} if accelerator is None else {"cpu", accelerator.type}
    casts = [
        (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), torch.is_autocast_cache_enabled())
        for kind in kinds
    ]
    device = torch.get_default_device()
    streams = [] if accelerator is None else [torch.accelerator.current_stream()]

    def enter(stack: ExitStack) -> None:
        for stream in streams:
            stack.enter_context(stream)  # its device with it
        if device is not None and device.type != "cpu":
            stack.enter_context(device)
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(learning))
        for kind, dtype, enabled, cached in casts:
            stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=cached))
        if hooks is not None:
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(*hooks))

    return enter
