"""Networks of timm, torchvision and keras.applications after a short training on digits.

One sentence says so where timm and torchvision are not installed.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from benchmarks.doctor import keras_zoo
from benchmarks.doctor.case import behind
from benchmarks.doctor.digits import Batches, held_out, to_learn
from benchmarks.doctor.healthy import Healthy
from benchmarks.doctor.training import once

SIDE = 32
KERAS = "keras.applications"
NETWORKS = (
    ("torchvision", "shufflenet_v2_x0_5"),
    ("torchvision", "resnet18"),
    ("torchvision", "squeezenet1_1"),
    ("timm", "test_resnet"),
    ("timm", "test_efficientnet"),
    ("timm", "test_byobnet"),
    ("timm", "lcnet_035"),
    ("timm", "mobilenetv3_small_050"),
    ("timm", "tinynet_e"),
    ("timm", "ghostnet_050"),
    ("timm", "repghostnet_050"),
    ("timm", "resnet10t"),
    ("timm", "mobilenetv2_035"),
    ("timm", "test_convnext"),
    ("timm", "test_mambaout"),
    ("timm", "test_nfnet"),
    ("timm", "test_efficientnet_gn"),
    ("timm", "test_efficientnet_ln"),
    ("timm", "test_vit"),
    ("timm", "mobilenetv3_large_075"),
    ("timm", "mobilenetv4_conv_small_035"),
    ("timm", "mobilenetv4_conv_small_050"),
    ("timm", "lcnet_050"),
    ("timm", "semnasnet_050"),
    ("timm", "mnasnet_small"),
    ("timm", "mobilenetv1_100"),
    ("timm", "regnetx_002"),
    ("timm", "regnety_002"),
    ("timm", "resnet14t"),
    ("timm", "hardcorenas_a"),
    ("timm", "efficientvit_m0"),
    ("timm", "fbnetc_100"),
    ("timm", "resnet18"),
    ("torchvision", "mnasnet0_5"),
    ("torchvision", "mobilenet_v3_small"),
    ("torchvision", "mobilenet_v2"),
    ("torchvision", "shufflenet_v2_x1_0"),
    ("torchvision", "regnet_y_400mf"),
    ("torchvision", "efficientnet_b0"),
)


class NoNetworks(Exception):
    """Neither timm nor torchvision can be imported."""


@cache
def _rooms() -> dict[str, Any]:
    """The packages that are there.

    PyPI's torchvision imports beside PyTorch's CPU build only where its operators are declared before.
    """
    if find_spec("torchvision") is None:
        raise NoNetworks("The networks of timm and torchvision were left out: torchvision is not installed.")
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
    found = {"torchvision": import_module("torchvision.models")}
    if find_spec("timm") is not None:
        found["timm"] = import_module("timm")
    return found


_kept: list[Any] = []


def larger(batches: Batches) -> Batches:
    """Images of three channels and a side that these networks take."""
    return [(_larger(x), y) for x, y in batches]


def _larger(x: Tensor) -> Tensor:
    return interpolate(x.reshape(-1, 1, 8, 8), size=(SIDE, SIDE), mode="bilinear").repeat(1, 3, 1, 1) * 2 - 1


def network(room: str, name: str) -> nn.Module:
    """Trained with AdamW for three epochs, the rate falling to 0 step by step."""
    rooms = _rooms()
    torch.manual_seed(0)
    create = rooms[room].create_model if room == "timm" else rooms[room].get_model
    model: nn.Module = create(name, num_classes=10)
    return once(f"{room}-{name}-by-steps", model, _train)


def _train(model: nn.Module) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    epochs = 3
    steps = [batch for epoch in range(epochs) for batch in to_learn(epoch)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(steps))
    model.train()
    for x, y in steps:
        optimizer.zero_grad()
        cross_entropy(model(_larger(x)), y).backward()
        optimizer.step()
        schedule.step()


def why_unhealthy(case: Healthy) -> str:
    """Why the network is not healthy after so short a training, or ""; some have a momentum for far longer ones."""
    return behind(case.model, case.batches, larger(to_learn(0)))


def names() -> list[tuple[str, str]]:
    """The networks that are there: package and name.

    Raises:
        NoNetworks: neither of the packages can be imported.
    """
    rooms = _rooms()
    return [
        *((room, name) for room, name in NETWORKS if room in rooms),
        *((KERAS, name) for name in keras_zoo.NETWORKS),
    ]


def healthy(room: str, name: str) -> Healthy:
    """A network and the held-out images."""
    return Healthy(network(room, name), larger(held_out()))
