"""Whose object is this, what is it if nobody's, and which frameworks are installed: answered without importing any."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from os import PathLike

UNKNOWN = "of unknown version"
"""The words in the place of a version: the library can be imported, and no distribution says that it brought it."""

# Distributions that bring a library under its own import name: the usual one first, as it is looked up on every start.
_DISTRIBUTIONS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-macos", "tf-nightly", "intel-tensorflow"),
    "keras": ("keras", "keras-nightly"),
}

# What a Keras user has in the place of an operation for PyTorch.
_INSTEAD = {
    "fuse": "pass activation= to normwise.keras.BatchNormalization, which does it in one step",
    "recalibrate": "call normwise.recalibrate, which takes models of both",
    "adapt": "call normwise.adapt, which takes models of both",
    "adapting": "call normwise.adapt on each lot of new data, and undo() what it reports before the next",
    "paused_statistics": "call the model with training=False, or its batch norms with trainable = False",
    "param_groups": "call the optimizer's exclude_from_weight_decay with the names 'gamma' and 'beta'",
    "save_memory": "call normwise.save_memory, which takes models of both",
    "convert_to_synchronized": "pass synchronized=True to normwise.keras.BatchNormalization",
    "convert_to_domains": "build the model with normwise.keras.PerDomainBatchNormalization",
}

# What a user of PyTorch has in the place of an operation for Keras.
_INSTEAD_FOR_TORCH = {
    "convert_from_keras": "call normwise.fuse, which also makes PyTorch's batch norms normwise's",
    "convert_to_keras": "pass its state_dict to a model with torch's own layers, which load it",
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
    """True if there is a package of that name; a folder that merely has that name, without code, is none."""
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
    keras = sys.modules.get("keras")  # before torch: with that backend, a Keras layer is a torch module too
    if keras is not None and isinstance(model, keras.Layer):
        return "keras"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return "torch"
    return None


def instead_of(operation: str, framework: str = "keras") -> str:
    """The advice for a model of one framework in the place of an operation for the other.

    Args:
        operation: its name.
        framework: whose the model is.

    Example:
        >>> instead_of("adapt")
        'call normwise.adapt, which takes models of both'
        >>> instead_of("convert_to_keras", "torch")
        "pass its state_dict to a model with torch's own layers, which load it"
    """
    if framework == "torch":
        return _INSTEAD_FOR_TORCH.get(
            operation, "there is no such operation for PyTorch, so build the model with Keras for it"
        )
    return _INSTEAD.get(operation, "there is no such operation for Keras, so build the model with PyTorch for it")


def refusal(operation: str, needed: str, received: object) -> str:
    """The sentence that refuses what is no model of any framework.

    Args:
        operation: its name.
        needed: what it takes.
        received: what it was given.

    Example:
        >>> print(refusal("fuse", "a torch.nn.Module", "resnet18"))
        fuse needs a torch.nn.Module, received the string 'resnet18': build the model, load its weights, and pass it.
    """
    return f"{operation} needs {needed}, received {_told(received)}."


def _told(thing: object) -> str:
    import functools  # what an error alone needs
    import inspect

    kind = type(thing).__name__
    if isinstance(thing, type):
        return f"the class {thing.__name__}: pass an instance of it"
    if isinstance(thing, str | PathLike):
        text = str(thing)
        what = "the string" if isinstance(thing, str) else "the path"
        return (
            f"{what} {text if len(text) < 80 else text[:77] + '...'!r}: build the model, load its weights, and pass it"
        )
    if isinstance(thing, Mapping):
        return f"{with_article(kind)}: build the model, load what is in it with load_state_dict, and pass the model"
    if isinstance(thing, list | tuple | set):
        return f"{with_article(kind)}: pass one model at a time"
    if kind == "ExportedProgram":
        return "an ExportedProgram, whose layers are operations in a graph: pass the model that was exported"
    if inspect.isroutine(thing) or isinstance(thing, functools.partial):
        name = getattr(getattr(thing, "func", thing), "__name__", kind)
        return f"the function {name}: call it, and pass the model that it returns"
    return f"{kind}: pass the model itself"


def with_article(kind: str) -> str:
    """The name of a class behind the article that it takes.

    Example:
        >>> with_article("OrderedDict"), with_article("dict")
        ('an OrderedDict', 'a dict')
    """
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
