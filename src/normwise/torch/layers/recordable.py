"""Support for the tools of PyTorch that record a model: ``torch.jit`` and ``torch.fx``.

``torch.fx`` makes one node of a layer that is a *leaf*, and takes for leaves what is defined in ``torch.nn``; its
tracers, that of quantization and those of other libraries too, look at ``layer.__module__`` for it, in a method that is
always called ``is_leaf_module``. To them the layers here say ``torch.nn``. A layer that is followed into its forward
instead would have its hooks twice, in the graph and in the node.

``torch.jit.trace`` calls ``_slow_forward`` in the place of ``forward``, ``torch.jit.script`` asks every module for
``__prepare_scriptable__`` before it compiles one.
"""

from __future__ import annotations

import sys
import warnings
from inspect import signature
from typing import Any

import torch
from torch import nn

from normwise.errors import NormwiseError

_TracerWarning = torch.jit.TracerWarning  # type: ignore[attr-defined]  # public, and not in the list of exports


class _Home(str):
    """The name of the module that a class is in; instances say ``torch.nn`` to what looks for leaves."""

    __slots__ = ()

    def __get__(self, layer: object, owner: type) -> str:
        if layer is not None and sys._getframe(1).f_code.co_name == "is_leaf_module":
            return "torch.nn"
        return str(self)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # a class is pickled by this name, which has to come back as a plain one


def at_home(module: str) -> str:
    """The name of a module for a class whose instances every tracer of torch.fx takes for leaves.

    Example:
        >>> at_home("mine")
        'mine'
    """
    return _Home(module)


class Recordable(nn.Module):
    """A layer that every PyTorch recorder takes as it takes PyTorch's own layers, or that says why not."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("normwise."):  # a user's subclass is followed by torch.fx, as one of torch's is
            cls.__module__ = _Home(cls.__module__)

    def _slow_forward(self, *input: Any, **kwargs: Any) -> Any:
        """The forward under ``torch.jit.trace``, which would warn of every question about a size.

        What is asked of sizes here is which of two ways to go that are both right for every size, or a refusal. Where a
        size becomes a number, as in virtual batches, the warning stays.
        """
        values, keywords = self._by_name(input, kwargs)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean", _TracerWarning)
            return super()._slow_forward(*values, **keywords)

    def _by_name(self, values: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The old ONNX exporter gives the top module all its arguments by position, keyword-only ones too."""
        names, positions = [], 0
        for each in signature(self.forward).parameters.values():
            if each.kind is each.VAR_POSITIONAL:  # the layer inside need not know what it is not given
                given = next((place for place, value in reversed([*enumerate(values, 1)]) if value is not None), 0)
                return values[:given], keywords
            if each.kind is each.KEYWORD_ONLY:
                names.append(each.name)
            elif each.kind is not each.VAR_KEYWORD:
                positions += 1
        return values[:positions], {**keywords, **dict(zip(names, values[positions:], strict=False))}

    def __prepare_scriptable__(self) -> Any:
        """Refuse to be scripted.

        Raises:
            NormwiseError: always.
        """
        raise NormwiseError(
            f"torch.jit.script cannot compile {type(self).__name__}({self.extra_repr()}), whose Python chooses among "
            "kernels and keeps statistics finite: record the model by torch.jit.trace or torch.export.export instead."
        )
