"""Whose object is this, and which frameworks are installed: answered without importing any."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec

UNKNOWN = "of unknown version"
"""In the place of a version: the library can be imported, and no distribution says that it brought it."""

# Distributions that bring a library under its own import name: the usual one first, as it is looked up on every start.
_DISTRIBUTIONS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-macos", "tf-nightly", "intel-tensorflow"),
    "keras": ("keras", "keras-nightly"),
}


def installed_version(library: str) -> str | None:
    """The version of an installed library, or None; reads metadata and imports nothing.

    Args:
        library: as it is imported. The distribution that brings it may have another name (``tensorflow-cpu``).

    Example:
        >>> installed_version("no_such_library") is None
        True
    """
    for distribution in _DISTRIBUTIONS.get(library, (library,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            pass
    if not _can_be_imported(library):
        return None
    for distribution in packages_distributions().get(library, ()):  # slow: it reads every distribution's list of files
        try:
            return version(distribution)
        except PackageNotFoundError:
            pass
    return UNKNOWN


def _can_be_imported(library: str) -> bool:
    """Whether there is a package of that name; a folder that merely is called so, without code, is none."""
    try:
        found = find_spec(library)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None


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
