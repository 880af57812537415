"""The same gradients with fewer activations kept: outputs of batch norms are made again when the backward asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.torch.models.feeding import arguments, device_of, moved, unwrapped
from normwise.torch.models.memory import packing, recipes
from normwise.torch.models.memory.bytes_kept import bytes_kept
from normwise.torch.models.model_checks import check_model, out_of_reach
from normwise.torch.models.transaction import unchanged

_NOT_CALLED = "the forward of the example did not call it"
WATCHED = "made again from its input wherever it can be"


@dataclass(frozen=True)
class SaveMemoryReport:
    """The report of ``save_memory``; every batch norm of the model stands in exactly one of its first two fields.

    It undoes it, too: by ``undo()``, or the end of a ``with`` block.

    Args:
        saved: the layer's name -> how its output is made again.
        kept: the layer's name -> why its output is kept as before.
        bytes_before: what autograd kept between the forward and the backward of the example, parameters not counted;
            None without an example.
        bytes_after: the same from now on.

    Example:
        >>> print(SaveMemoryReport({"bn1": "made again from its input"}, {"bn2": "it is small"}, 4_000_000, 2_000_000))
        1 of 2 batch norms saved, 4.0 MB kept for the backward before, 2.0 MB after (0.50)
          saved  bn1: made again from its input
          kept   bn2: it is small
    """

    saved: Mapping[str, str]
    kept: Mapping[str, str]
    bytes_before: int | None = None
    bytes_after: int | None = None
    _undo: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    @property
    def ratio(self) -> float | None:
        """Bytes after by bytes before; None without an example."""
        if self.bytes_before is None or self.bytes_after is None:
            return None
        return self.bytes_after / self.bytes_before if self.bytes_before else 1.0

    def undo(self) -> None:
        """Let autograd keep again what it kept before, from the next forward on.

        Example:
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
            >>> save_memory(model).undo()
            >>> len(model._forward_hooks)
            0
        """
        if self._undo is not None:
            self._undo()

    def __enter__(self) -> SaveMemoryReport:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __str__(self) -> str:
        total = len(self.saved) + len(self.kept)
        if total == 0:
            return "nothing saved: the model has no batch norm"
        first = f"{len(self.saved)} of {total} batch norms saved"
        if self.bytes_before is None or self.bytes_after is None:
            first += "; pass an example batch for the bytes and for what becomes of each"
        else:
            first += (
                f", {_megabytes(self.bytes_before)} kept for the backward before, {_megabytes(self.bytes_after)} after "
                f"({self.ratio:.2f})"
            )
        lines = [first]
        lines += [f"  saved  {name or '(the model)'}: {what}" for name, what in self.saved.items()]
        lines += [f"  kept   {name or '(the model)'}: {why}" for name, why in self.kept.items()]
        return "\n".join(lines)


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"


def save_memory(model: nn.Module, example: Any = None) -> SaveMemoryReport:
    r"""Let autograd keep about half as much between forward and backward, for bit-for-bit the same gradients.

    A network keeps the input x of a batch norm and its output y, which the next layer saves:

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    From now on a forward of the model lets the other layers save how y is made from x, and y is freed as soon as
    nothing else holds it. Where the backward asks for it, the kernel that made it runs once more with the
    statistics that it had, which is one elementwise pass. Call ``normwise.fuse`` first: of a batch norm with an
    activation behind it in another layer, the output is the activation's, and is kept.

    * Outputs, gradients and running statistics are the same to the last bit, and random layers draw as before.
      Where a kernel does not give the same bits from its statistics, which is tried once in each process, y is kept.
    * Of outputs to which residuals are added one after the other, every second is made again.
    * An output is known by its autograd node. One that is changed in place is noticed: before it is saved, it is
      kept as it then is; behind that, the backward raises PyTorch's own error.
    * It works under autocast, in ``DistributedDataParallel`` (which is passed by), in ``fully_shard``, beside
      ``torch.utils.checkpoint``, with ``create_graph=True`` and ``retain_graph=True``, and hands what it keeps to
      hooks of others around it (``torch.autograd.graph.save_on_cpu``). What ``torch.compile`` compiles is left to it,
      and so is what ``torch.func`` transforms.
    * Only forwards of the model itself count, not calls of its parts from outside.

    Args:
        model: any module on any device, on meta too. It gets forward hooks, which copies of it and pickles have too;
            ``save_memory(copy).undo()`` takes them away from a copy.
        example: a batch, as ``recalibrate`` takes them. With it two forwards are run, which leave the model and the
            random state as they are, and the report says the bytes and what becomes of each layer.

    Returns:
        what is saved and kept, with ``undo()``; also a context manager, which undoes it at the end of the block.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.

    References:
        Rota Bulò et al., In-place activated BatchNorm for memory-optimized training of DNNs, 2018, where y is kept,
        x is made again from it, and ReLU has to become leaky for that.

    Example:
        >>> import normwise
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> _ = normwise.fuse(model)
        >>> print(str(save_memory(model, torch.randn(4, 3, 16, 16))).splitlines()[1].strip())
        saved  1: made again from its input
    """
    check_model(model, called="save_memory")
    inner = unwrapped(model)
    _remove(inner)
    kept = out_of_reach(model)
    norms = {name: module for name, module in inner.named_modules() if isinstance(module, _BatchNorm)}
    norms = {name: module for name, module in norms.items() if not isinstance(module, torch.jit.ScriptModule)}
    _add(inner, norms.values())
    if example is None:
        return SaveMemoryReport(dict.fromkeys(norms, WATCHED), kept, _undo=partial(_remove, inner))
    try:
        before, after, verdicts = _measured(inner, example)
    except BaseException:
        _remove(inner)
        raise
    saved, others = divided(norms, verdicts)
    return SaveMemoryReport(saved, kept | others, before, after, _undo=partial(_remove, inner))


def divided(norms: Mapping[str, Any], verdicts: Mapping[int, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The layers whose outputs are made again, and those whose outputs are kept, with what was said of each."""
    said = {name: verdicts.get(id(norm), _NOT_CALLED) for name, norm in norms.items()}
    made = (recipes.MADE, recipes.MADE_WITH_RESIDUAL)
    return (
        {name: what for name, what in said.items() if what in made},
        {name: what for name, what in said.items() if what not in made},
    )


# The hooks are functions of this module, so that models that have them can be copied and pickled.


def _enter(model: nn.Module, _: object) -> None:
    packing.enter(model)


def _leave(model: nn.Module, *_: object) -> None:
    packing.leave(model)


def _before(_: nn.Module, __: object) -> None:
    region = packing.running()
    if region is not None:
        region.begin_layer()


def _after(layer: Any, given: tuple[Any, ...], named: dict[str, Any], y: Any) -> None:
    region = packing.running()
    if region is not None:
        residual = named.get("residual", given[1] if len(given) > 1 else None)
        region.end_layer(layer, lambda frame: recipes.look(recipes.told(layer), y, residual, frame))


def _add(model: nn.Module, norms: Any) -> None:
    model.register_forward_pre_hook(_enter, prepend=True)
    for norm in norms:
        norm.register_forward_pre_hook(_before)
        norm.register_forward_hook(_after, prepend=True, with_kwargs=True, always_call=True)
    model.register_forward_hook(_leave, always_call=True)


def _remove(model: nn.Module) -> None:
    remove_hooks(model.modules(), (_enter, _before, _after, _leave))


def saves_memory(module: nn.Module) -> bool:
    """True if ``save_memory`` has its hooks on this very module.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2))
        >>> with save_memory(model):
        ...     saves_memory(model[0])
        True
        >>> saves_memory(model[0])
        False
    """
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(hook in (_enter, _before, _after, _leave) for hook in hooks)


def stop_saving(model: nn.Module, norms: Iterable[nn.Module]) -> bool:
    """Undo ``save_memory`` on some layers of a model, and on all around them if no other layer is left; whether it was.

    Args:
        model: a model that may have its hooks, with what is wrapped around it.
        norms: the layers.
    """
    layers = [part for norm in norms for part in norm.modules() if saves_memory(part)]
    remove_hooks(layers, (_before, _after))
    left = any(hook is _before for module in model.modules() for hook in module._forward_pre_hooks.values())
    around = [] if left else [module for module in model.modules() if saves_memory(module)]
    remove_hooks(around, (_enter, _leave))
    return bool(layers or around)


def remove_hooks(modules: Iterable[nn.Module], ours: tuple[Callable[..., Any], ...]) -> None:
    """Take some functions from the forward hooks of modules."""
    for module in modules:
        flags = (module._forward_hooks_with_kwargs, module._forward_hooks_always_called)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if hook in ours]:
                del hooks[key]
                for each in flags:
                    each.pop(key, None)


def _measured(model: nn.Module, example: Any) -> tuple[int, int, dict[int, str]]:
    """Bytes that autograd keeps before and after, and what became of each batch norm."""
    verdicts: dict[int, str] = {}
    positional, named = arguments(model, moved(example, device_of(model)))
    with unchanged(model), torch.enable_grad(), packing.switched_off():
        before = bytes_kept(model, lambda: model(*positional, **named))
    with unchanged(model), torch.enable_grad(), packing.telling(verdicts):
        after = bytes_kept(model, lambda: model(*positional, **named))
    return before, after, verdicts
