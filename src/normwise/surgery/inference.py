"""Doors to what a model does at inference: layers that are frozen, and batch norms that are folded away."""

# mypy: disable-error-code="empty-body"
# A door has a signature and a docstring; its decorator is the body.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normwise.surgery.door import door, lazy_import_module

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from normwise.reports.fold_report import FoldReport
    from normwise.reports.freeze_report import FreezeReport

__all__ = ["fold", "freeze", "unfreeze"]


@door(
    torch=lazy_import_module("normwise.torch.models.conversion.freeze", "freeze"),
    keras=lazy_import_module("normwise.keras.models.freeze", "freeze"),
    moved="layers",
)
def freeze(
    model: Any, *, statistics: bool = True, affine: bool = True, layers: Collection[str] | None = None
) -> FreezeReport:
    """Freeze running statistics, affine parameters, or both, of a PyTorch or Keras model's normalization layers.

    A layer whose statistics are frozen normalizes by them and never changes them, even if you call ``train()`` or pass
    ``training=True``. Affine parameters (scale and shift) that are frozen do not learn. The keys of checkpoints stay;
    a checkpoint does not record which layers are frozen. ``unfreeze`` undoes it.

    Args:
        model: a ``torch.nn.Module``, before ``DistributedDataParallel``, or a built Keras model; changed in place. On
            any error it is as before.
        statistics: whether to freeze running statistics, of batch norms and of instance norms that keep some.
        affine: whether to freeze scale and shift, of every normalization layer.
        layers: the names of the only layers to change; None for all.

    Returns:
        which layers were frozen, and what of them; which were skipped, and which could not be reached, with the reason.

    Raises:
        UnsuitableModel: not a PyTorch or Keras model, or one that torch.jit or torch.export compiled.
        UnknownName: ``layers`` names what is no normalization layer of the model.
        TypeError: ``layers`` is a string; a keyword that does not exist.
        ValueError: neither ``statistics`` nor ``affine``.
        NormwiseError: affine parameters in a ``DistributedDataParallel``, which waits for their gradients.

    Warns:
        NothingChanged: nothing was frozen, and why.

    Example:
        >>> import torch
        >>> from normwise import freeze
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        >>> print(freeze(model))
        1 of 1 normalization layers frozen
          frozen       1: statistics and affine parameters
        >>> model.train()[1].training
        False
    """


@door(
    torch=lazy_import_module("normwise.torch.models.conversion.freeze", "unfreeze"),
    keras=lazy_import_module("normwise.keras.models.freeze", "unfreeze"),
    moved="layers",
)
def unfreeze(
    model: Any, *, statistics: bool = True, affine: bool = True, layers: Collection[str] | None = None
) -> FreezeReport:
    """Undo ``freeze`` in a PyTorch or Keras model: its layers follow its mode again, and their parameters learn again.

    Args:
        model: a ``torch.nn.Module`` or a Keras model, changed in place; on any error it is as before.
        statistics: whether running statistics may move again.
        affine: whether scale and shift may learn again.
        layers: the names of the only layers to change; None for all.

    Returns:
        which layers were unfrozen, and what of them; which were skipped, and which could not be reached, with the
        reason.

    Raises:
        UnsuitableModel: not a PyTorch or Keras model, or one that torch.jit or torch.export compiled.
        UnknownName: ``layers`` names what is no normalization layer of the model.
        TypeError: ``layers`` is a string; a keyword that does not exist.
        ValueError: neither ``statistics`` nor ``affine``.
        NormwiseError: affine parameters in a ``DistributedDataParallel``, which does not synchronize
            parameters that begin to learn after it was made.

    Warns:
        NothingChanged: nothing was unfrozen, and why.

    Example:
        >>> import torch
        >>> from normwise import freeze, unfreeze
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(4))
        >>> _ = freeze(model)
        >>> unfreeze(model).layers
        {'0': ('statistics', 'affine parameters')}
    """


@door(
    torch=lazy_import_module("normwise.torch.models.conversion.fold", "fold"),
    keras=lazy_import_module("normwise.keras.models.fold", "fold"),
    moved="folded",
)
def fold(
    model: Any,
    batches: Any = None,
    *,
    layers: Collection[str] | None = None,
    forward_fn: Callable[[Any, Any], Any] | None = None,
    at_most: int | None = None,
    batch_size: int = 32,
) -> FoldReport:
    r"""Fold the batch norms of a PyTorch or Keras model into the layers beside them, for inference.

    .. math:: \gamma \frac{(W x + b) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = (s W) x + (s (b - \mu) + \beta),
        \quad s = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}

    For models that are ready to be shipped: they compute the same with fewer layers, and cannot be trained further as
    before. A batch norm goes into the convolution (transposed, grouped), linear layer or batch norm in front of it,
    else into the one behind it where that is exact. Activations stay. New weights are worked out in float64 and rounded
    once. A batch norm that is shared, called twice, in training mode, without running statistics, or not directly
    beside such a layer is left, and the report says why. In PyTorch, ``fold`` looks at the forward only, not at other
    methods that use what is computed between the two layers.

    For a file that is read without normwise, call ``normwise.swap(model)`` too, before ``fold`` or after it. ``fold``
    follows most forwards best before ``fuse``, or after ``swap`` has undone that.

    Args:
        model: a ``torch.nn.Module`` in inference mode, changed in place; or a functional or sequential Keras model,
            which stays as it is, because Keras cannot take a layer out of a graph.
        batches: data on which the outputs before and after are compared; None to compare nothing.
        layers: the names of the only batch norms to change; None for all.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the first items of a batch are not
            the model's inputs.
        at_most: largest number of batches to use; None for all.
        batch_size: for Keras models. Rows per batch of arrays.

    Returns:
        which batch norms were folded and into what, which were skipped and why, how much the largest weights grew, the
        largest relative error of an output on the data, and in ``model`` the folded model.

    Raises:
        UnsuitableModel: not a PyTorch or Keras model, or one whose calls cannot be followed.
        UnknownName: ``layers`` names what is no batch norm of the model.
        TypeError: not an iterable of batches; ``layers`` is a string; a keyword that does not exist, or not for this
            framework.
        NormwiseError: ``batches`` is empty; ``forward_fn`` or ``at_most`` is given without ``batches``.

    Warns:
        NothingChanged: nothing was folded, and why.

    Example:
        >>> import torch
        >>> from normwise import fold
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU()).eval()
        >>> fold(model).folded["1"].into
        '0'
    """
