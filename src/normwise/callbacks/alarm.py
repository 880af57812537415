"""The warning, and the numbers for the logs, that a callback makes of a diagnosis."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from normwise.doctor.check import chosen
from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.finding import Severity
from normwise.errors import NormwiseError, UnhealthyModel
from normwise.recalibration.asked import check_every

UNKNOWN = {"normalization_errors": float("nan"), "normalization_warnings": float("nan")}
"""The numbers in the logs before the first examination."""


def check_settings(settings: Mapping[str, Any], every: object) -> None:
    """Refuse what would fail only at the end of an epoch.

    Args:
        settings: of ``examine``.
        every: how many epochs are between two examinations.

    Raises:
        NormwiseError: no whole number of epochs, or training inside of training.
        UnknownName: no such check.

    Example:
        >>> check_settings({"only": ["stale_statistics"]}, 1)
        Traceback (most recent call last):
        ...
        normwise.errors.UnknownName: unknown check 'stale_statistics': did you mean ...
    """
    check_every(every)
    if settings.get("train_step") is not None:
        raise NormwiseError(
            "Examine looks at a model while it trains, received a train_step: pass that to normwise.doctor.examine, "
            "before or after the training."
        )
    chosen(settings.get("only"), settings.get("allow", ()))


def numbers_in(diagnosis: Diagnosis) -> dict[str, float]:
    """The numbers of errors and of warnings, by their names in the logs."""
    severities = [finding.severity for finding in diagnosis.findings]
    return {
        "normalization_errors": float(severities.count(Severity.ERROR)),
        "normalization_warnings": float(severities.count(Severity.WARNING)),
    }


def warn_of(diagnosis: Diagnosis, epoch: int) -> None:
    """Warn with all of the diagnosis, unless the model is healthy.

    Args:
        diagnosis: of the model after an epoch.
        epoch: its number, from 0.

    Warns:
        UnhealthyModel: there is an error or a warning.
    """
    if not diagnosis.healthy:
        warnings.warn(f"after epoch {epoch + 1}: {diagnosis}", UnhealthyModel, stacklevel=2)
