"""The door to other normalization layers in a model: the framework's own, normwise's, or another kind."""

# mypy: disable-error-code="empty-body"
# A door has a signature and a docstring; its decorator is the body.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normwise.surgery.door import door, lazy_import_module

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from normwise.reports.swap_report import SwapReport

__all__ = ["swap"]


@door(
    torch=lazy_import_module("normwise.torch.models.conversion.swap", "swap"),
    keras=lazy_import_module("normwise.keras.models.swap", "swap"),
    moved="swapped",
)
def swap(
    model: Any,
    to: str | Iterable[str] | None = None,
    *,
    layers: Collection[str] | None = None,
    calibrate: Any = None,
    at_most: int | None = None,
    forward_fn: Callable[[Any, Any], Any] | None = None,
    num_groups: int | None = None,
    virtual_batch_size: int | None = None,
    num_splits: int | None = None,
    process_group: Any = None,
    domains: Iterable[str] | None = None,
    domain: str | None = None,
    batch_size: int = 32,
) -> SwapReport:
    """Put other normalization layers into a PyTorch or Keras model: the framework's own, normwise's, or another kind.

    With the framework's own layers you can save, export and serve a model where normwise is not installed: activations
    and additions that normwise's layers computed go back into the model, to where ``fuse`` found them.
    ``to="normwise"`` puts normwise's layers in again. Scale, shift and mode of a layer stay. On any error nothing is
    changed.

    Args:
        model: a ``torch.nn.Module``, changed in place; or a Keras model, changed in place where only the classes of
            layers change, and else built once more as ``report.model``.
        to: None for the framework's own.

            * ``"torch"``, ``"keras"``: the framework's own batch norms for normwise's.
            * ``"normwise"``: normwise's batch norms for the framework's own, without fusing anything.
            * ``"group"``, ``"layer"``, ``"instance"``: norms that normalize each sample alone.
            * ``"ghost"``, ``"renorm"``, ``"sync"``: batch norms that train by virtual batches, with renormalization, or
              by the batches of all processes; inference stays as it is.
            * ``"domains"`` with ``domains=``, or a list of names: statistics for each domain.
        layers: the names of the only layers to be swapped; None for all.
        calibrate: batches as ``recalibrate`` takes them. The report then says how far the model's output for them
            moved. Layers that normalize in another way than before get the scale and shift with which their output has
            the mean and variance per channel that it had in the model before.
        at_most: largest number of batches to use; None for all.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the first items of a batch are not
            the model's inputs.
        num_groups: for ``"group"``: largest number of groups; the layer takes the largest number up to it that divides
            its channels. None for 32, or fewer where groups would have one channel.
        virtual_batch_size: for ``"ghost"``: samples in a virtual batch. This or ``num_splits`` is given.
        num_splits: for ``"ghost"``: into how many virtual batches to split a batch.
        process_group: for PyTorch models and ``"sync"``: whose batches are taken together; None for all processes.
        domains: for ``"domains"``: their names.
        domain: the domain whose statistics are kept, if a layer has several; for ``"domains"``, the one that is used
            until the program chooses another.
        batch_size: for Keras models. Rows per batch of arrays.

    Returns:
        which layers were swapped for what, which were skipped and why, which no batch reached, and how far the model's
        output moved.

    Raises:
        UnsuitableModel: not a PyTorch or Keras model, or one that torch.jit or torch.export compiled.
        UnknownName: ``to``, or a name in ``layers``, does not exist.
        TypeError: a keyword that does not exist, or not for this framework.
        NormwiseError: a setting that is not for this ``to``, or one that is missing.

    Warns:
        NothingChanged: nothing was swapped, and why.

    References:
        Wu and He, Group normalization, 2018 (32 groups).

    Example:
        >>> import torch
        >>> from normwise import swap
        >>> from normwise.torch import BatchNorm1d
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), BatchNorm1d(4, activation="relu"))
        >>> print(swap(model))
        1 of 1 normalization layers swapped
          swapped      1: normwise BatchNorm1d -> torch BatchNorm1d: relu behind it, as 1_activation
    """
