"""The activation that a call is: a module, a function or a method, with settings that the layers can compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.nn import functional as F

from normwise.kernels.activation_numbers import WITH_SETTING, parted
from normwise.torch.models.fusion.questions import hidden_path, settings_read
from normwise.torch.models.fusion.settings import Settings, setting_now
from normwise.torch.models.fusion.sources import CannotFollow
from normwise.torch.models.fusion.tracing import followed

MODULES: dict[type[nn.Module], str] = {
    nn.CELU: "celu",
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
    nn.Hardtanh: "hardtanh",
    nn.LeakyReLU: "leaky_relu",
    nn.Mish: "mish",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
}
FUNCTIONS: dict[Any, str] = {
    F.celu: "celu",
    F.celu_: "celu",
    F.elu: "elu",
    F.elu_: "elu",
    F.gelu: "gelu",
    F.hardsigmoid: "hardsigmoid",
    F.hardswish: "hardswish",
    F.hardtanh: "hardtanh",
    F.hardtanh_: "hardtanh",
    F.leaky_relu: "leaky_relu",
    F.leaky_relu_: "leaky_relu",
    F.mish: "mish",
    F.relu: "relu",
    F.relu_: "relu",
    F.relu6: "relu6",
    F.sigmoid: "sigmoid",
    F.silu: "silu",
    F.tanh: "tanh",
    torch.celu: "celu",
    torch.celu_: "celu",
    torch.relu: "relu",
    torch.relu_: "relu",
    torch.sigmoid: "sigmoid",
    torch.sigmoid_: "sigmoid",
    torch.tanh: "tanh",
    torch.tanh_: "tanh",
}
METHODS = {f"{name}{ending}": name for name in ("relu", "sigmoid", "tanh") for ending in ("", "_")}

# The settings of an activation, in the order in which the functions take them, and their defaults.
SETTINGS: dict[str, dict[str, object]] = {
    "celu": {"alpha": 1.0},
    "elu": {"alpha": 1.0},
    "gelu": {"approximate": "none"},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "leaky_relu": {"negative_slope": 0.01},
}


def named(kind: str, given: dict[str, Any]) -> str | None:
    """The name that the layers have for an activation with these settings, or None.

    Example:
        >>> named("leaky_relu", {"negative_slope": 0.2}), named("gelu", {"approximate": "tanh"}), named("elu", {})
        ('leaky_relu:0.2', 'gelu_tanh', 'elu')
    """
    settings = {**SETTINGS.get(kind, {}), **given}
    if kind == "celu":  # with another alpha it is no ELU
        return "elu" if settings == {"alpha": 1.0} else None
    if kind in WITH_SETTING and [*settings.values()] == [0]:
        return "relu"
    if kind == "hardtanh":
        return "relu6" if settings == {"min_val": 0.0, "max_val": 6.0} else None
    if settings == SETTINGS.get(kind, {}):
        return kind
    if kind == "gelu":
        return "gelu_tanh" if settings == {"approximate": "tanh"} else None
    values = [*settings.values()]
    if kind not in WITH_SETTING or len(values) != 1 or not isinstance(values[0], int | float):
        return None
    name = f"{kind}:{float(values[0])!r}"
    try:
        parted(name)
    except ValueError:  # no finite number
        return None
    return name


def activation_of(module: nn.Module) -> str | None:
    """The name of the activation that this module is, or None.

    A module of a class that is not PyTorch's is one where a trace of its forward is one call of an activation.

    Example:
        >>> activation_of(nn.ReLU(inplace=True)), activation_of(nn.LeakyReLU(0.2)), activation_of(nn.Softplus())
        ('relu', 'leaky_relu:0.2', None)
    """
    if "forward" in module.__dict__:
        return None
    kind = MODULES.get(type(module))
    if kind is not None:
        return named(kind, {setting: getattr(module, setting) for setting in SETTINGS.get(kind, {})})
    if type(module).__module__.startswith("torch.") or module._modules or module._parameters or module._buffers:
        return None
    try:
        graphs = followed(module)
    except CannotFollow:
        return None
    found = {_alone(graph.output_node()) for graph in graphs}
    name = found.pop() if len(found) == 1 else None
    return None if name is None or hidden_path(module) is not None else name


def settings_of(owner: nn.Module, name: str) -> Settings:
    """The settings that an activation inside of a module has now, each under its name in that module.

    Example:
        >>> settings_of(nn.Sequential(nn.LeakyReLU(0.2)), "0")
        (('0.negative_slope', 0.2),)
    """
    activation = owner.get_submodule(name)
    kind = MODULES.get(type(activation))
    names = SETTINGS.get(kind, {}) if kind is not None else dict(settings_read(activation))
    return tuple((f"{name}.{each}", setting_now(activation, each)) for each in names)


NOTHING = "no activation that normwise's layers do"
LEARNED = "an activation with a learned slope, which normwise's layers do not take"
RANDOM = "an activation that draws its slope, which normwise's layers do not do"
OTHER_SETTINGS = "an activation that normwise's layers do with other settings only"


def why_no_activation(what: object) -> str:
    """A description, for a sentence, of a module or function that ``activation_of`` has no name for.

    Example:
        >>> why_no_activation(nn.PReLU())
        "an activation with a learned slope, which normwise's layers do not take"
        >>> why_no_activation(nn.Hardtanh()), why_no_activation(torch.sin)
        ("an activation that normwise's layers do with other settings only", "no activation that normwise's layers do")
    """
    if isinstance(what, nn.PReLU) or what in (F.prelu, torch.prelu):
        return LEARNED
    if isinstance(what, nn.RReLU) or what in (F.rrelu, F.rrelu_, torch.rrelu):
        return RANDOM
    known = type(what) in MODULES if isinstance(what, nn.Module) else what in FUNCTIONS
    return OTHER_SETTINGS if known else NOTHING


def module_of(activation: str) -> nn.Module:
    """PyTorch's module for an activation of the layers.

    Example:
        >>> module_of("relu"), module_of("leaky_relu:0.2"), module_of("gelu_tanh")
        (ReLU(), LeakyReLU(negative_slope=0.2), GELU(approximate='tanh'))
    """
    kind, setting = parted(activation)
    if kind == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    made: Any = next(module for module, name in MODULES.items() if name == kind)
    module: nn.Module = made() if setting is None else made(setting)
    return module


def _alone(output: Node) -> str | None:
    """The activation that is all that a graph does."""
    nodes = [*output.graph.nodes]
    if len(nodes) != 3 or nodes[0].op != "placeholder" or output.args != (nodes[1],):
        return None
    return activation_at(nodes[1], {}) if nodes[1].args[:1] == (nodes[0],) else None


def activation_at(node: Node, modules: dict[str, nn.Module]) -> str | None:
    """The activation that this node is, or None."""
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return None if module is None or len(node.args) != 1 or node.kwargs else activation_of(module)
    names: dict[Any, str] = {"call_function": FUNCTIONS, "call_method": METHODS}.get(node.op, {})
    name = names.get(node.target)
    if name is None or not node.args:
        return None
    ours = SETTINGS.get(name, {})
    order = [*ours, "inplace"]
    if len(node.args) - 1 > len(order):
        return None
    given = {**dict(zip(order, node.args[1:], strict=False)), **node.kwargs}
    inplace = given.pop("inplace", False)
    return named(name, given) if isinstance(inplace, bool) and given.keys() <= ours.keys() else None
