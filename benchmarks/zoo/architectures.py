"""The architectures of timm, torchvision and keras.applications, by name and family, built without weights."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SOURCES = ("timm", "torchvision", "keras")
# Of a family, the one whose name says that it is small is tried first.
SMALL = (
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xxt",
    "_s0",
    "_b0",
    "_xs",
    "tiny",
    "small",
    "mini",
    "18",
    "_050",
    "26",
)


class NotHere(Exception):
    """Why an architecture cannot be tried."""


@dataclass(frozen=True)
class Architecture:
    """Where it comes from, what it belongs to, and its name there."""

    source: str
    family: str
    name: str


def missing(sources: Iterable[str]) -> list[str]:
    """One sentence for each package that is not installed."""
    return [
        f"{source} is not installed, so its architectures are left out: pip install {source}."
        for source in sources
        if importlib.util.find_spec(source) is None
    ]


def listed(sources: Iterable[str]) -> list[Architecture]:
    """All architectures of the packages that are here; whether they have batch norms shows when they are built."""
    found: list[Architecture] = []
    for source in sources:
        if importlib.util.find_spec(source) is not None:
            found += {"timm": _of_timm, "torchvision": _of_torchvision, "keras": _of_keras}[source]()
    return found


def one_per_family(architectures: Iterable[Architecture]) -> dict[tuple[str, str], list[Architecture]]:
    """The families, and in each the architectures in the order in which they are to be tried until one can be."""
    families: dict[tuple[str, str], list[Architecture]] = {}
    for each in architectures:
        families.setdefault((each.source, each.family), []).append(each)
    return {family: sorted(members, key=_largeness) for family, members in families.items()}


def _largeness(architecture: Architecture) -> tuple[int, int]:
    place = next((number for number, word in enumerate(SMALL) if word in architecture.name), len(SMALL))
    return place, len(architecture.name)


def build(architecture: Architecture) -> nn.Module:
    """The architecture with random weights.

    Raises:
        NotHere: it cannot be built, with the reason.
    """
    try:
        if architecture.source == "timm":
            model: nn.Module = imported_timm().create_model(architecture.name, pretrained=False)
            return model
        return _build_of_torchvision(architecture.name)
    except Exception as error:
        raise NotHere(
            f"it cannot be built: {type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"
        ) from error


def _of_timm() -> list[Architecture]:
    timm = imported_timm()
    return [
        Architecture("timm", family, name) for family in timm.list_modules() for name in timm.list_models(module=family)
    ]


def _of_torchvision() -> list[Architecture]:
    models = _torchvision().models
    names = [name for name in models.list_models() if not name.startswith("quantized_")]
    return [
        Architecture("torchvision", models.get_model_builder(name).__module__.removeprefix("torchvision.models."), name)
        for name in names
    ]


def _of_keras() -> list[Architecture]:
    import keras

    families = [
        name for name in dir(keras.applications) if hasattr(getattr(keras.applications, name), "preprocess_input")
    ]
    return [
        Architecture("keras", family, name)
        for family in families
        for name in dir(getattr(keras.applications, family))
        if name[0].isupper()
    ]


def _build_of_torchvision(name: str) -> nn.Module:
    models = _torchvision().models
    settings: dict[str, Any] = {"weights": None}
    if "detection" in models.get_model_builder(name).__module__:
        model: Any = models.get_model(name, **settings, weights_backbone=None)
        backbone: nn.Module = model.backbone  # the rest needs torchvision's compiled operators
        return backbone
    if "segmentation" in models.get_model_builder(name).__module__:
        settings["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        settings["init_weights"] = True
    found: nn.Module = models.get_model(name, **settings)
    return found


def imported_timm() -> Any:
    """The package, with or without torchvision's compiled operators."""
    _torchvision()  # which it imports
    return importlib.import_module("timm")


_operators: list[Any] = []


def _torchvision() -> Any:
    """Torchvision; where its compiled operators are for another PyTorch, they are declared without code."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "does not exist" not in str(error) or _operators:
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.append(library)  # it takes them away when it goes
    return importlib.import_module("torchvision")
