"""A result made of tensors, which is made again only when they have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from normwise.kernels.internals import innermost_transform, listening_modes
from normwise.kernels.recording import recording

Made = TypeVar("Made")


class Kept(Generic[Made]):
    """The last thing that was made, with copies of what it was made of.

    Values are compared, and not PyTorch's version counters: these do not see what is written through ``.data``, as
    PyTorch's own batch norm and much other code does it, or through NumPy. A comparison reads little, stops at the
    first difference, and cannot be wrong. A copy of it, by ``copy`` or ``pickle``, is empty.

    Example:
        >>> kept, x = Kept(), torch.ones(2)
        >>> def make():
        ...     print("made")
        ...     return 2 * x
        >>> _ = kept.of([x], (), make)
        made
        >>> _ = kept.of([x], (), make)
        >>> x.data.add_(1)
        tensor([2., 2.])
        >>> kept.of([x], (), make)
        made
        tensor([4., 4.])
    """

    def __init__(self) -> None:
        # One attribute, so that threads see all of it or nothing.
        self._last: tuple[list[Tensor | None], tuple[Any, ...], Made] | None = None

    def of(self, tensors: Sequence[Tensor | None], settings: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        """The result of ``make`` for these tensors, or for equal ones before.

        Args:
            tensors: plain ones on the CPU, as ``comparable`` says.
            settings: whatever else it depends on.
            make: called without gradients, and outside of inference mode, whose tensors cannot learn later.
        """
        last = self._last
        if last is not None and last[1] == settings and all(map(_same, last[0], tensors)):
            return last[2]
        with torch.inference_mode(False), torch.no_grad():
            copies = [None if tensor is None else tensor.detach().clone() for tensor in tensors]
            made = make()
        self._last = copies, settings, made
        return made

    def __reduce__(self) -> tuple[type[Kept[Any]], tuple[()]]:
        return Kept, ()


def comparable(*tensors: Tensor | None) -> bool:
    """True if values may be looked at now: plain tensors on the CPU that nothing records, maps or differentiates."""
    return (
        not recording()
        and listening_modes() == 0
        and innermost_transform() is None
        and torch.autograd.forward_ad._current_level < 0
        and all(tensor is None or (type(tensor) in (Tensor, Parameter) and tensor.is_cpu) for tensor in tensors)
    )


def learning(*tensors: Tensor | None) -> bool:
    """True if a gradient of one of these is wanted.

    Example:
        >>> learning(None, torch.ones(1)), learning(torch.ones(1, requires_grad=True))
        (False, True)
    """
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype is other.dtype and torch.equal(one, other)
