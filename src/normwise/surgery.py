"""Operations on a whole model, whatever framework it is of: each names the layers it touched and is a transaction."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from normwise.errors import NothingChanged, UnsuitableModel
from normwise.frameworks import framework_of, instead_of, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from normwise.recalibration.adaptation_report import AdaptReport
    from normwise.recalibration.report import RecalibrateReport
    from normwise.torch.models.fusion.fuse import FuseReport
    from normwise.torch.models.recalibration.adapting import Adaptation

Report = TypeVar("Report")


def fuse(model: Any) -> FuseReport:
    """Let the batch norms of a PyTorch model do the activation and the residual addition that follow them.

    Args:
        model: a ``torch.nn.Module``, changed in place; ``normwise.torch.models.fusion.fuse.fuse`` says what stays.

    Returns:
        which batch norms were fused, which were only swapped for normwise's own, and which were left, and why.

    Raises:
        UnsuitableModel: not a PyTorch model.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.SiLU())
        >>> fuse(model).fused
        {'1': 'silu'}
    """
    framework = framework_of(model)
    if framework == "torch":
        from normwise.torch.models.fusion.fuse import fuse as fuse_torch

        return fuse_torch(model)
    raise _not_of_torch("fuse", model, framework)


def recalibrate(model: Any, batches: Iterable[Any], **settings: Any) -> RecalibrateReport:
    """Set the running statistics of a PyTorch or Keras model's batch norms to those of data, for its present weights.

    Args:
        model: a ``torch.nn.Module`` or ``keras.Model``, changed in place, or nothing of it on any error.
        batches: a ``DataLoader`` or any iterable of batches of the model's inputs, with or without labels; for Keras
            also arrays, a ``tf.data.Dataset`` or a ``keras.utils.PyDataset``.
        **settings: ``estimator``, ``upstream``, ``forward_fn``, ``at_most``, ``tolerance`` and ``layers``, for PyTorch
            ``distributed``, for Keras ``batch_size``; all explained in
            ``normwise.torch.models.recalibration.recalibrate`` and ``normwise.keras.models.recalibrate``.

    Returns:
        which batch norms were recalibrated and how far they moved, which were skipped and why, which were not reached.

    Raises:
        UnsuitableModel: not a model of either.

    Warns:
        NothingChanged: nothing was recalibrated, and why.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1), torch.nn.Linear(1, 1))
        >>> recalibrate(model, [torch.tensor([[1.0], [3.0]])]).samples
        2
        >>> model[0].running_mean
        tensor([2.])
    """
    framework = framework_of(model)
    if framework == "torch":
        from normwise.torch.models.recalibration.recalibrate import recalibrate as recalibrate_torch

        report = recalibrate_torch(model, batches, **settings)
        return _heard(report, report.recalibrated)
    if framework == "keras":
        from normwise.keras.models.recalibrate import recalibrate as recalibrate_keras

        report = recalibrate_keras(model, batches, **settings)
        return _heard(report, report.recalibrated)
    raise _no_model("recalibrate", model)


def adapt(model: Any, batches: Iterable[Any], **settings: Any) -> AdaptReport:
    """Move the running statistics of a PyTorch or Keras model's batch norms towards those of shifted data, and back.

    Args:
        model: a ``torch.nn.Module`` or ``keras.Model``, changed in place, or nothing of it on any error.
        batches: as for ``recalibrate``.
        **settings: ``prior``, the weight of the current statistics, in samples; ``upstream``, ``forward_fn``,
            ``at_most``, ``layers`` and ``domain``, for PyTorch ``distributed``, for Keras ``batch_size``; all explained
            in ``normwise.torch.models.recalibration.adapt.adapt`` and ``normwise.keras.models.adapt.adapt``.

    Returns:
        which batch norms were adapted and how far they moved, which were skipped and why, which were not reached; and
        the way back: ``report.undo()``, or ``with adapt(...):``.

    Raises:
        UnsuitableModel: not a model of either.

    Warns:
        NothingChanged: nothing was adapted, and why.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1), torch.nn.Linear(1, 1))
        >>> with adapt(model, [torch.tensor([[1.0], [3.0]])], prior=2):
        ...     print(model[0].running_mean)
        tensor([1.])
        >>> model[0].running_mean
        tensor([0.])
    """
    framework = framework_of(model)
    if framework == "torch":
        from normwise.torch.models.recalibration.adapt import adapt as adapt_torch

        report = adapt_torch(model, batches, **settings)
        return _heard(report, report.adapted)
    if framework == "keras":
        from normwise.keras.models.adapt import adapt as adapt_keras

        report = adapt_keras(model, batches, **settings)
        return _heard(report, report.adapted)
    raise _no_model("adapt", model)


def adapting(model: Any, **settings: Any) -> Adaptation:
    """Inside the block, every batch adapts the batch norms of a PyTorch model before they normalize it.

    For data that go on drifting, or come one by one.

    Args:
        model: a ``torch.nn.Module`` in inference mode; at the end of the block it is as before.
        **settings: ``prior``, for how many samples the statistics that are there count; ``memory`` and ``layers``, all
            explained in ``normwise.torch.models.recalibration.adapting.adapting``.

    Returns:
        a context manager with ``keep``, ``reset`` and ``report``.

    Raises:
        UnsuitableModel: not a PyTorch model.

    Example:
        >>> import torch
        >>> layer = torch.nn.BatchNorm1d(1).eval()
        >>> with adapting(layer, prior=2):
        ...     _ = layer(torch.tensor([[1.0], [3.0]]))
        ...     print(layer.running_mean)
        tensor([1.])
    """
    framework = framework_of(model)
    if framework == "torch":
        from normwise.torch.models.recalibration.adapting import adapting as adapting_torch

        return adapting_torch(model, **settings)
    raise _not_of_torch("adapting", model, framework)


def paused_statistics(model: Any) -> AbstractContextManager[None]:
    """Inside, forward passes of a PyTorch model leave every running statistic as it is, in training mode too.

    Args:
        model: a ``torch.nn.Module``; ``normwise.torch.models.paused.paused_statistics`` says what holds meanwhile.

    Raises:
        UnsuitableModel: not a PyTorch model.

    Example:
        >>> import torch
        >>> layer = torch.nn.BatchNorm1d(2)
        >>> with paused_statistics(layer):
        ...     _ = layer(torch.randn(8, 2))
        >>> layer.num_batches_tracked
        tensor(0)
    """
    framework = framework_of(model)
    if framework == "torch":
        from normwise.torch.models.paused import paused_statistics as paused_in_torch

        return paused_in_torch(model)
    raise _not_of_torch("paused_statistics", model, framework)


def param_groups(model: Any, weight_decay: float, decay_norm: bool = False, **settings: Any) -> list[dict[str, Any]]:
    """Groups for an optimizer of PyTorch, in which the scale and shift of normalization layers do not decay.

    Args:
        model: a ``torch.nn.Module``.
        weight_decay: for the parameters that decay.
        decay_norm: whether those of normalization layers do.
        **settings: ``decay_bias`` and ``norm_types``, explained in ``normwise.torch.models.param_groups.param_groups``.

    Returns:
        the groups, with every parameter in exactly one.

    Raises:
        UnsuitableModel: not a PyTorch model.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
        >>> [group["weight_decay"] for group in param_groups(model, 0.01)]
        [0.01, 0.0]
    """
    framework = framework_of(model)
    if framework == "torch":
        from normwise.torch.models.param_groups import param_groups as param_groups_of_torch

        return param_groups_of_torch(model, weight_decay, decay_norm, **settings)
    raise _not_of_torch("param_groups", model, framework)


def _not_of_torch(operation: str, model: object, framework: str | None) -> UnsuitableModel:
    needed = "a PyTorch model (torch.nn.Module)"
    if framework == "keras":
        what = f"a Keras model ({type(model).__name__})"
        return UnsuitableModel(f"{operation} needs {needed}, received {what}: {instead_of(operation)}.")
    return UnsuitableModel(refusal(operation, needed, model))


def _no_model(operation: str, model: object) -> UnsuitableModel:
    return UnsuitableModel(refusal(operation, "a PyTorch or Keras model (torch.nn.Module or keras.Model)", model))


def _heard(report: Report, moved: object) -> Report:
    """The report; where nothing moved, whoever does not look at it should hear of it."""
    if not moved:
        warnings.warn(str(report), NothingChanged, stacklevel=3)
    return report
