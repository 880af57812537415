"""The cost of statistics: bytes that are held at once, images that go through a network, and seconds."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode  # where PyTorch's own notes import it from
from torch.utils._pytree import tree_leaves

from normwise.lab.data.splits import Split
from normwise.lab.networks.dense import Dense
from normwise.lab.training.timing import in_turns, step_of
from normwise.torch import BatchNorm1d
from normwise.torch.models.recalibration.recalibrate import recalibrate

STEPS = 20
"""The steps of training that are timed together, because one of them is short."""


class HeldBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make while it is entered, until the last view of them is gone.

    ``peak`` is the most that was held at once. What an operation needs inside is not counted, nor is what was there
    before.

    Example:
        >>> with HeldBytes() as held:
        ...     _ = torch.ones(100).exp()
        >>> held.peak
        800
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no annotations here
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation, and count what it made."""
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor):
                self._note(each, count=False)
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                self._note(each, count=True)
        return found

    def _note(self, tensor: Tensor, *, count: bool) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes() if count else 0
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, lambda _: self._gone(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self.live -= size
        del self._known[key]


def costs(model: Dense, data: Split, batch: int, repeats: int) -> dict[str, float]:
    """The costs of a training step and of exact statistics of a network.

    Args:
        model: is left with the statistics of the data.
        data: what the statistics are of.
        batch: images in a step, and in the batches by which the statistics are gathered.
        repeats: how often each is timed.

    Returns:
        ``seconds`` and ``bytes``, of a ``step``, of statistics ``by batches``, layer by layer, and of all images ``at
        once``; ``passes`` over the images, by batches and with all batches side by side; ``difference``, the largest
        between the statistics of the two ways, in the layers' deviations.
    """
    model.train()
    parts = list(data.images.split(batch))
    ways: dict[str, Callable[[], object]] = {
        "step": partial(step_of, model, data.images[:batch], data.labels[:batch]),
        "by batches": partial(recalibrate, model, parts, memory=0),
        "side by side": partial(recalibrate, model, parts),
        "at once": partial(recalibrate, model, [data.images], memory=0),
    }
    timed = ways | {"step": lambda: [ways["step"]() for _ in range(STEPS)]}
    seconds = zip(timed, in_turns(list(timed.values()), repeats), strict=True)
    found = {f"seconds, {name}": each / (STEPS if name == "step" else 1) for name, each in seconds}
    for name in ("step", "by batches", "at once"):
        with HeldBytes() as held:
            ways[name]()
        found[f"bytes, {name}"] = held.peak
    for name in ("by batches", "side by side"):
        found[f"passes, {name}"] = _images_through(model, ways[name]) / len(data.images)
    ways["by batches"]()
    one = _statistics(model)
    ways["at once"]()
    pairs = zip(one, _statistics(model), strict=True)
    found["difference"] = max(_difference(*mine, *theirs) for mine, theirs in pairs)
    return found


def _images_through(model: nn.Module, deed: Callable[[], object]) -> int:
    """The number of images that go through a network during ``deed``."""
    counts: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    deed()
    hook.remove()
    return sum(counts)


def _statistics(model: Dense) -> Sequence[tuple[Tensor, Tensor]]:
    found = []
    for layer in model.normalize:
        assert isinstance(layer, BatchNorm1d)  # nn.ModuleList does not know what it holds
        assert layer.running_mean is not None
        assert layer.running_var is not None
        found.append((layer.running_mean.double().clone(), layer.running_var.double().sqrt()))
    return found


def _difference(mean: Tensor, deviation: Tensor, other_mean: Tensor, other_deviation: Tensor) -> float:
    """The largest of two layers' statistics, over the deviation of the channel; 0 of a channel that is always 0."""
    away = torch.maximum((mean - other_mean).abs(), (deviation - other_deviation).abs())
    return float((away / deviation.clamp_min(1e-6)).max())


def kept_for_backward(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """The bytes of what the operations of a network and of its loss save for the backward pass, parameters aside.

    Args:
        model: in the mode that it is in.
        images: a batch.
        labels: their classes.
    """
    there = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cross_entropy(model(images), labels)
    return sum(value.untyped_storage().nbytes() for place, value in kept.items() if place not in there)
