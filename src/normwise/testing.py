"""The check for your own tests: ``assert_healthy(model, batches)``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.examination import examine

__all__ = ["assert_healthy"]


def assert_healthy(model: Any, batches: Any, *, allow: Collection[str] = (), **settings: Any) -> Diagnosis:
    """Fail with the whole diagnosis, unless normalization does nothing wrong in a model.

    Args:
        model: a ``torch.nn.Module`` or a built ``keras.Model``; it is not changed.
        batches: as for ``normwise.doctor.examine``.
        allow: names of checks not to run.
        **settings: of ``examine``: ``loss``, ``metric``, ``train_step``, ``source_model``, ``only``, ``forward_fn``,
            ``at_most``, ``distributed``.

    Returns:
        the diagnosis, which may hold notes.

    Raises:
        AssertionError: there is an error or a warning, or every check was skipped.

    Example:
        >>> import normwise
        >>> import torch
        >>> from normwise.testing import assert_healthy
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)).eval()
        >>> data = [5 + torch.randn(32, 4) for _ in range(4)]
        >>> try:
        ...     assert_healthy(model, data)
        ... except AssertionError as error:
        ...     print(str(error).splitlines()[1])
          error    never_updated_statistics in layer '0'
        >>> report = normwise.recalibrate(model, data)
        >>> assert_healthy(model, data).healthy
        True
    """
    __tracebackhide__ = True  # pytest shows the line of the test instead
    diagnosis = examine(model, batches, allow=allow, **settings)
    if not diagnosis.healthy:
        raise AssertionError(str(diagnosis))
    return diagnosis
