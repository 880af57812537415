"""Whose object is this, and which frameworks are installed: answered without importing any."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str) -> str | None:
    """The version of an installed package, or None; reads its metadata and imports nothing.

    Example:
        >>> installed_version("no-such-package") is None
        True
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def framework_of(model: object) -> str | None:
    """Whose model or layer this is, ``"torch"`` or ``"keras"``, or None; imports nothing.

    Example:
        >>> framework_of("resnet18") is None
        True
    """
    keras = sys.modules.get("keras")  # before torch: with that backend, a layer of Keras's is one of torch's too
    if keras is not None and isinstance(model, keras.Layer):
        return "keras"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return "torch"
    return None
