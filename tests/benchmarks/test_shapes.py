"""The shapes that are measured are those of the networks that they are said to come from."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from benchmarks.cases import DTYPES, LAYOUTS, OPERATIONS, PASSES, Case, cases
from benchmarks.networks import resnet
from benchmarks.shapes import ALL, FEATURES, QUICK, RESNET50_LAYERS, TINY, VOLUMES
from benchmarks.traffic import bandwidth, copy_bandwidth, least_bytes


def test_resnet_50_has_these_layers_and_no_others() -> None:
    found: Counter[tuple[int, int]] = Counter()

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found[inputs[0].shape[1], inputs[0].shape[2]] += 1

    with torch.device("meta"):
        model = resnet()
        layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for layer in layers:
            layer.register_forward_pre_hook(note)
        model(torch.empty(2, 3, 224, 224))
    assert found == Counter({shape.size[1:3]: shape.count for shape in RESNET50_LAYERS})
    assert len(layers) == sum(shape.count for shape in RESNET50_LAYERS) == 53


def test_an_addition_follows_the_last_layer_of_every_block() -> None:
    assert sum(shape.adding for shape in RESNET50_LAYERS) == 3 + 4 + 6 + 3
    assert all(shape.adding <= shape.count for shape in RESNET50_LAYERS)


def test_no_two_shapes_have_one_name() -> None:
    assert len({shape.name for shape in ALL}) == len(ALL) == 12 + 4 + 3 + 1
    assert {*RESNET50_LAYERS, *VOLUMES, *FEATURES, *TINY} == set(ALL)
    assert set(QUICK) < set(ALL)
    assert len(QUICK) == 5


def test_every_combination_is_measured_once_and_an_addition_only_where_there_is_one() -> None:
    found = list(
        cases(ALL, dtypes=list(DTYPES), layouts=LAYOUTS, operations=OPERATIONS, phases=PASSES, memories=("fresh",))
    )
    assert len({case.name for case in found}) == len(found)
    assert {case.shape.name for case in found if case.adds and case.shape in RESNET50_LAYERS} == {
        "256@56", "512@28", "1024@14", "2048@7",
    }  # fmt: skip
    assert {case.layout for case in found if case.shape in FEATURES} == {"last"}


def test_the_least_traffic_is_that_of_one_read() -> None:
    shape = TINY[0]
    size = 4 * 8 * 100 * 4

    def least(operation: str, phase: str) -> float:
        return least_bytes(Case(shape, "float32", "first", operation, phase, "fresh")) / size

    assert [least("bn+relu", phase) for phase in PASSES] == [2, 5, 2]
    assert [least("bn+add+relu", phase) for phase in PASSES] == [3 + 1 / 32, 7 + 2 / 32, 3]
    case = Case(shape, "float32", "first", "bn", "forward", "fresh")
    assert bandwidth(case, 1.0) == copy_bandwidth(case, 1.0) == 2 * size / 1e6
