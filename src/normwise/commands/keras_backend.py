"""Keras's backend, looked at before Keras is imported, which takes seconds and ends in words about something else."""

from __future__ import annotations

import json
import os
from pathlib import Path

from normwise.errors import MissingExtra, NormwiseError, UnknownName
from normwise.frameworks import installed_version

VARIABLE = "KERAS_BACKEND"
BACKENDS = ("jax", "numpy", "openvino", "tensorflow", "torch")


def check() -> None:
    """Refuse a backend that there is not.

    Raises:
        MissingExtra: Keras is not installed.
        NormwiseError: its backend is unknown or not installed.
    """
    if installed_version("keras") is None:
        raise MissingExtra("keras", extra="keras")
    name, source = _chosen()
    if name not in BACKENDS:
        raise UnknownName(f"backend in {source}", name, BACKENDS)
    if installed_version(name) is None:
        here = [each for each in ("tensorflow", "jax", "torch") if installed_version(each)]
        other = f", or set {VARIABLE}={here[0]}, which is installed" if here else ""
        raise NormwiseError(f"Keras needs its backend {name} ({source}), which is not installed: install it{other}.")


def quiet() -> None:
    """Let TensorFlow, which Keras imports whatever its backend is, keep its news of the processor to itself."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _chosen() -> tuple[str, str]:
    """The backend that Keras will take, and who says so."""
    if os.environ.get(VARIABLE):
        return os.environ[VARIABLE], VARIABLE
    file = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras.json"
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["backend"]), str(file)
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow", "its default"
