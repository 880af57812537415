"""The user's rows for a comparison: an ``.npz``, or what a callable returns."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from normwise.errors import NormwiseError
from normwise.lab.compare_training import Data
from normwise.torch import loading

FEWEST = 20
"""Rows; with fewer there is nothing to split."""


def load(place: str) -> Data:
    """Inputs with targets.

    Args:
        place: an ``.npz`` with the arrays ``x`` and ``y``, or ``FILE.py:CALLABLE`` that returns the two.

    Raises:
        NormwiseError: they are not there, do not fit each other, are too few, or are not finite.
    """
    inputs, targets = _arrays(Path(place)) if place.endswith(".npz") else _returned(place)
    if len(inputs) != len(targets):
        raise NormwiseError(
            f"{place} must give a target for every row: got {len(inputs)} rows, {len(targets)} targets."
        )
    if len(inputs) < FEWEST:
        raise NormwiseError(f"{place} gives {len(inputs)} rows, too few to split: give at least {FEWEST}.")
    if inputs.is_floating_point() and not torch.isfinite(inputs).all():
        row = int((~torch.isfinite(inputs.flatten(1))).any(dim=1).nonzero()[0])
        raise NormwiseError(f"{place} gives values that are not finite, first in row {row}: clean the data.")
    return Data(
        inputs.float() if inputs.is_floating_point() else inputs,
        targets.float() if targets.is_floating_point() else targets.long(),
    )


def _arrays(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("x", "y") if name not in file.files]
            if missing:
                held = ", ".join(file.files) or "nothing"
                raise NormwiseError(f"{str(path)!r} must hold the arrays x and y: it holds {held}.")
            return torch.as_tensor(file["x"]), torch.as_tensor(file["y"])
    except (OSError, ValueError, zipfile.BadZipFile, TypeError) as error:
        words = " ".join(str(error).split())
        raise NormwiseError(f"{str(path)!r} cannot be read as an .npz with the arrays x and y: {words}") from error


def _returned(place: str) -> tuple[torch.Tensor, torch.Tensor]:
    found: Any = loading.load_batches(place, nn.Identity(), 1)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise NormwiseError(f"{place} must return two arrays, inputs and targets: received {type(found).__name__}.")
    inputs, targets = (torch.as_tensor(each) for each in found)
    return inputs, targets
