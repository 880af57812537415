"""The door to the doctor: what normalization does wrong in a model, on some data."""

# mypy: disable-error-code="empty-body"
# A door has a signature and a docstring; its decorator is the body.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normwise.surgery.door import door, lazy_import_module

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from normwise.doctor.diagnosis import Diagnosis

__all__ = ["examine"]


@door(
    torch=lazy_import_module("normwise.doctor.examination", "examine"),
    keras=lazy_import_module("normwise.doctor.examination", "examine"),
)
def examine(
    model: Any,
    batches: Any,
    *,
    loss: Callable[[Any, Any], Any] | str | None = None,
    metric: Callable[[Any, Any], Any] | str | None = None,
    train_step: Callable[[Any, Any], object] | None = None,
    source_model: Any = None,
    only: Collection[str] | None = None,
    allow: Collection[str] = (),
    forward_fn: Callable[[Any, Any], Any] | None = None,
    at_most: int | None = None,
    distributed: Any = None,
) -> Diagnosis:
    """Name what normalization does wrong in a PyTorch or Keras model, in which layer, with the number that proves it.

    Afterwards the model is as before, byte for byte, also after an error. The doctor goes through the data five times
    at most, and once more for each layer that it suspects.

    Args:
        model: a ``torch.nn.Module`` or a built ``keras.Model``.
        batches: as for ``recalibrate``; with targets, if you have some: ``(x, y)``.
        loss: ``loss(outputs, targets)``, a mean over the batch; for a Keras model also a loss of Keras, which takes
            the targets first, or its name, so that ``model.loss`` serves after ``compile(loss="mse")``. The diagnosis
            then says what a fault costs. A loss or metric also decides whether running statistics that are
            off cost anything, and can take a finding away; ``skipped`` lists what was taken away, with the numbers.
            ``normwise explain stale_running_statistics`` states the rule.
        metric: ``metric(outputs, targets)``, for example an accuracy; for a Keras model also a metric of Keras or its
            name, for example ``"accuracy"``: the same for it. With both,
            a metric that changes by 50 % or more is enough, if the loss agrees with it.
        train_step: ``train_step(model, batch)``, one step of the optimizer as your loop does it, with its own optimizer
            on the model that it is given; three steps on a copy show updates per step and frozen layers that move.
        source_model: what this model was derived from (folded, converted, averaged, exported).
        only: names of the only checks to run; None for all that need not be named.
        allow: names of checks not to run.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the first items of a batch are not
            the model's inputs.
        at_most: largest number of batches to use; None for all.
        distributed: for PyTorch models. None: this process examines for itself. True, or a process group of
            ``torch.distributed``: every process of it calls ``examine``, and they compare their running statistics and
            weights before each goes through its own data; they wait until every process has called it.

    Returns:
        findings, the most expensive first, and the checks that could not be carried out.

    Raises:
        UnsuitableModel: not a model of either framework.
        UnknownName: no such check, or no loss or metric of this name in Keras.
        TypeError: not an iterable of batches; a keyword that does not exist.
        CallFailed: the model does not take a batch, or a batch, ``loss``, ``metric`` or ``train_step`` failed.
        NormwiseError: no batches, batches without samples or with values that are not finite; with ``distributed``,
            another process failed or is gone.

    Example:
        >>> import torch
        >>> from normwise import examine
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)).eval()
        >>> data = [5 + torch.randn(32, 4) for _ in range(4)]
        >>> diagnosis = examine(model, data)
        >>> diagnosis.findings[0].check, diagnosis.findings[0].layers
        ('never_updated_statistics', ('0',))
    """
