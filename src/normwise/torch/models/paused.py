"""Control of the running statistics apart from training and inference mode."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from normwise.torch.layers.instance_norm import TrackedInstanceNorm
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.models.model_checks import check_model, graph_statistics
from normwise.torch.models.transaction import write

NAMES = (
    "running_mean",
    "running_var",
    "running_covariance",
    "running_count",
    "num_batches_tracked",
    "num_batches_skipped",
)

# Forwards of torch that leave the statistics alone in training, and use them in inference, when asked not to track.
_ASKING = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


@contextmanager
def paused_statistics(model: nn.Module) -> Iterator[None]:
    """Pause the running statistics of a model for a block: forward passes leave each as it is, in training mode too.

    A layer in training mode normalizes by the batch as always, with the same output and gradient; it only does not
    remember it: for dummy inputs and shape inference, profiling, a second forward for a loss (virtual adversarial
    training, gradient penalties, two views of an image), an evaluation of the training loss. Modes may be changed
    inside, and a layer in inference mode normalizes by its statistics.

    Blocks may be nested, in one thread and over several; a layer goes on when the last of them has ended, with an error
    or without. It holds for the layer, so also for what other threads run through it meanwhile: the replicas of
    ``nn.DataParallel`` are paused too. A copy that is made inside stays paused.

    What is paused: normwise's layers, and torch's batch norms. Layers that do not ask before they write
    (torch's ``InstanceNorm`` with statistics, foreign modules with a buffer ``running_mean``) do write, and get back
    what they had: after each of their calls, and at the end of the block those that are in scripted, exported or
    compiled code or are passed by, whose calls no hook sees. A compiled model is compiled once more for the
    block, and keeps both. Statistics of other kinds, as of spectral normalization or of quantization's observers, are
    not touched.

    Args:
        model: any module, in whatever mode; a wrapped or compiled one too.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from normwise.torch import paused_statistics
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> with paused_statistics(model):
        ...     _ = model(torch.randn(8, 2))
        >>> model[1].running_mean, model[1].num_batches_tracked
        (tensor([0., 0., 0.]), tensor(0))
    """
    check_model(model, called="paused_statistics", code=True)
    with ExitStack() as stack:
        for layer in model.modules():
            pause = _way_to_pause(layer)
            if pause is not None:
                _begin(layer, pause)
                stack.callback(_end, layer)
        yield


Resume = Callable[[], None]


@dataclass
class _Pause:
    """The number of blocks that a layer is in, and what is to be done after the last of them."""

    resume: Resume
    blocks: int = 1


_PAUSES: WeakKeyDictionary[nn.Module, _Pause] = WeakKeyDictionary()
_LOCK = threading.Lock()


def _begin(layer: nn.Module, pause: Callable[[Any], Resume]) -> None:
    with _LOCK:
        if layer in _PAUSES:
            _PAUSES[layer].blocks += 1
        else:
            _PAUSES[layer] = _Pause(pause(layer))


def _end(layer: nn.Module) -> None:
    with _LOCK:
        _PAUSES[layer].blocks -= 1
        if _PAUSES[layer].blocks == 0:
            _PAUSES.pop(layer).resume()


def _way_to_pause(layer: nn.Module) -> Callable[[Any], Resume] | None:
    if isinstance(layer, TrackedBatchNorm | TrackedInstanceNorm):
        return _by_word
    if isinstance(layer, GraphModule) and graph_statistics(layer):
        return _by_giving_back
    mean = getattr(layer, "running_mean", None)
    if not isinstance(mean, Tensor):
        return None
    asks = isinstance(layer, _BatchNorm) and type(layer).forward in _ASKING and "forward" not in vars(layer)
    # One that has not seen its first input makes its statistics in the forward, and only if it is to track them.
    return _by_flag if asks and not is_lazy(mean) else _by_giving_back


def _by_word(layer: TrackedBatchNorm | TrackedInstanceNorm) -> Resume:
    layer._paused = True
    return lambda: delattr(layer, "_paused")


def _by_flag(layer: _BatchNorm) -> Resume:
    before = layer.track_running_stats
    layer.track_running_stats = False

    def resume() -> None:
        layer.track_running_stats = before

    return resume


def _by_giving_back(layer: nn.Module) -> Resume:
    """Undo what the layer writes: behind each call that hooks see, and at the end."""
    calls = threading.local()
    at_first = _statistics(layer)

    def before(module: nn.Module, _: object) -> None:
        calls.kept = [*getattr(calls, "kept", ()), _statistics(module)]

    def after(*_: object) -> None:
        if getattr(calls, "kept", ()):  # none if an earlier hook refused the call
            _give_back(calls.kept.pop())

    handles = []
    if not isinstance(layer, torch.jit.ScriptModule):  # which takes no hooks
        handles = [layer.register_forward_pre_hook(before), layer.register_forward_hook(after, always_call=True)]

    def resume() -> None:
        for handle in handles:
            handle.remove()
        _give_back(at_first)

    return resume


def _statistics(layer: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Those that there are, and copies of them."""
    found = [getattr(layer, name, None) for name in NAMES]
    if isinstance(layer, GraphModule):
        found += graph_statistics(layer)
    return [(kept, kept.detach().clone()) for kept in found if isinstance(kept, Tensor) and not is_lazy(kept)]


def _give_back(statistics: list[tuple[Tensor, Tensor]]) -> None:
    for target, value in statistics:
        write(target, value)
