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
    loss: Callable[[Any, Any], Any] | None = None,
    metric: Callable[[Any, Any], Any] | None = None,
    train_step: Callable[[Any, Any], object] | None = None,
    source_model: Any = None,
    only: Collection[str] | None = None,
    allow: Collection[str] = (),
    forward_fn: Callable[[Any, Any], Any] | None = None,
    at_most: int | None = None,
    distributed: Any = None,
) -> Diagnosis:
    """Name what normalization does wrong in a PyTorch or Keras model, in which layer, with the number that proves it.

    The model is afterwards as before, byte for byte, also after an error. The data are gone through five times at most,
    and once more for each layer in question.

    Args:
        model: a ``torch.nn.Module`` or a built ``keras.Model``.
        batches: as for ``recalibrate``, with targets where there are some: ``(x, y)``.
        loss: ``loss(outputs, targets)``, a mean over the batch; lets the diagnosis say what a fault costs.
        metric: the same of a metric, for example an accuracy.
        train_step: ``train_step(model, batch)``, one step of the optimizer as your loop does it, with its own optimizer
            on the model that it is given; three steps on a copy show updates per step and frozen layers that move.
        source_model: what this model was derived from (folded, converted, averaged, exported).
        only: names of the only checks to run; None for all that need not be named.
        allow: names of checks not to run.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve.
        at_most: use so many batches; None for all.
        distributed: for PyTorch models. None: this process examines for itself. True, or a process group of
            ``torch.distributed``: every process of it calls ``examine``, and they compare their running statistics and
            weights before each goes through its own data; a process that does not call is waited for.

    Returns:
        findings, the most expensive first, and the checks that could not be carried out.

    Raises:
        UnsuitableModel: not a model of either framework.
        UnknownName: no such check.
        TypeError: not an iterable of batches; a keyword that there is not.
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
