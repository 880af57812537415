"""The architectures of timm, torchvision and keras.applications, by name and family, built without weights."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
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
    """The source of an architecture, the family that it belongs to, and its name there."""

    source: str
    family: str
    name: str

    @property
    def key(self) -> str:
        """The name of the architecture in the results."""
        return f"{self.source}/{self.name}"


def missing(sources: Iterable[str]) -> list[str]:
    """One sentence for each package that is not installed."""
    return [
        f"{source} is not installed, so its architectures are left out: pip install {source}."
        for source in sources
        if importlib.util.find_spec(source) is None
    ]


def listed(sources: Iterable[str], backends: Iterable[str] = ("torch",)) -> list[Architecture]:
    """All architectures of the packages that are here; whether they have batch norms shows when they are built."""
    found: list[Architecture] = []
    for source in sources:
        if importlib.util.find_spec(source) is None:
            continue
        if source == "keras":
            for backend in backends:
                found += [Architecture(f"keras-{backend}", each.family, each.name) for each in _of_keras()]
        else:
            found += {"timm": _of_timm, "torchvision": _of_torchvision}[source]()
    return found


def in_turn(
    architectures: Iterable[Architecture], surveyed: Mapping[str, Mapping[str, Any]], *, family: bool
) -> list[list[Architecture]]:
    """The order in which to try them: the smallest of each family first, then the second of each.

    Args:
        architectures: all that are asked for; those that the survey leaves out are dropped.
        surveyed: of each, by key, how many parameters it has, or why it is ``absent``.
        family: whether one of each family is enough.

    Returns:
        groups of which one architecture is to be tried, the next one of the group where it cannot be.
    """
    families: dict[tuple[str, str], list[Architecture]] = {}
    for each in architectures:
        if "absent" not in surveyed.get(each.key, {}):
            families.setdefault((each.source, each.family), []).append(each)

    def largeness(each: Architecture) -> tuple[int, ...]:
        known = surveyed.get(each.key)
        return (known["parameters"],) if known else _largeness(each)

    ordered = [sorted(members, key=largeness) for members in families.values()]
    if family:
        return ordered
    ranks = range(max(map(len, ordered), default=0))
    return [[members[rank]] for rank in ranks for members in ordered if rank < len(members)]


def survey(task: dict[str, Any]) -> dict[str, Any]:
    """The numbers of batch norms and parameters that architectures have, or why they are ``absent``.

    Args:
        task: ``source``, ``family``, ``names``, and ``parameters``, the bound in millions.
    """
    return {
        name: surveyed(Architecture(task["source"], task["family"], name), task["parameters"]) for name in task["names"]
    }


def surveyed(architecture: Architecture, bound: float) -> dict[str, Any]:
    """The same of one, whose parameters may be so many millions."""
    try:
        with torch.device("meta"):
            model = build(architecture)
    except NotHere:
        try:
            model = build(architecture)  # some ask a tensor for its values while they are built
        except NotHere as why:
            return {"absent": str(why)}
    norms = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    parameters = sum(each.numel() for each in model.parameters())
    found: dict[str, Any] = {"norms": norms, "parameters": parameters}
    if not norms:
        return {**found, "absent": "it has no batch norm"}
    if parameters > 1e6 * bound:
        return {**found, "absent": f"it has more than {bound} million parameters"}
    return found


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
