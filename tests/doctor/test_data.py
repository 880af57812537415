"""Faults of the data and of the model's construction, each with a healthy twin."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
from tests.doctor.digits import (
    LEARNED,
    Batches,
    convolutional,
    dense,
    examined,
    held_out,
    images,
    residual,
    serious,
    train,
    trained,
)


def sorted_batches(first: int, last: int) -> Batches:
    """Batches in the order of the labels."""
    x, y = (each[first:last] for each in images())
    order = torch.argsort(y, stable=True)
    return [(x[index], y[index]) for index in order.split(32)]


def test_statistics_of_sorted_batches_are_found() -> None:
    model = trained("dense").train()
    with torch.no_grad():
        for x, _ in sorted_batches(0, LEARNED):
            model(x)
    found = examined(model, sorted_batches(LEARNED, 1797))
    assert [check for check, _ in serious(found)] == ["sorted_batches"]
    cost = found.findings[0].cost
    assert cost is not None
    assert cost.remedied > cost.now


def test_evaluating_a_healthy_model_in_sorted_batches_is_a_note() -> None:
    found = examined(trained(), sorted_batches(LEARNED, 1797))
    assert serious(found) == []
    assert "sorted_batches" in [each.check for each in found.findings]


def two_domains(first: int, last: int, size: int = 32) -> Batches:
    """Batches of images, and of the same in negative and faint, in turns."""
    x, y = (each[first:last] for each in images())
    parts = torch.arange(len(x)).split(size)
    return [(0.6 - 0.4 * x[i] if number % 2 else x[i], y[i]) for number, i in enumerate(parts)]


def test_two_domains_under_one_set_of_statistics_are_found() -> None:
    torch.manual_seed(0)
    model = train(convolutional(), batches=two_domains(0, LEARNED), epochs=3)
    assert [check for check, _ in serious(examined(model, two_domains(LEARNED, 1797)))] == ["mixed_domains"]


class Untracked(nn.Module):
    """A model whose second norm uses batch statistics at inference."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.front, self.norm, self.rest = model[:5], nn.BatchNorm2d(32, track_running_stats=False), model[6:]

    def forward(self, x: Tensor) -> Tensor:
        """The model's output, with batch statistics in the second norm."""
        found: Tensor = self.rest(self.norm(self.front(x)))
        return found


def test_an_output_that_depends_on_the_batch_is_found_in_its_layer() -> None:
    torch.manual_seed(0)
    model = train(Untracked(convolutional()), epochs=2)
    assert serious(examined(model)) == [("batch_dependent_output", ("norm",))]


def padded(longest: bool = False) -> Batches:
    """Images as sequences of columns, of which the last ones are missing here and there."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for x, y in held_out(32):
        x = x.reshape(-1, 8, 8).repeat(1, 1, 4) + 0.1 * torch.rand(len(x), 8, 32, generator=generator)
        for row, length in zip(x, torch.randint(6, 33, (len(x),), generator=generator), strict=True):
            row[:, 32 if longest else int(length) :] = 0
        found.append((x, y))
    return found


def sequences() -> nn.Sequential:
    """A norm on the data and one behind a convolution."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm1d(8), nn.Conv1d(8, 16, 3, padding=1, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
def test_padding_in_the_statistics_is_found_and_whole_sequences_are_healthy(whole: bool) -> None:
    batches = padded(longest=whole)
    model = train(sequences(), batches=batches, epochs=8)
    found = [check for check, _ in serious(examined(model, batches))]
    assert found == ([] if whole else ["padding_in_statistics"])


class Places(nn.Module):
    """Rows of an image as places, or as features, in front of a norm over axis 1."""

    def __init__(self, turn: bool) -> None:
        super().__init__()
        self.turn, self.into, self.norm = turn, nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.hidden, self.out = nn.Linear(8, 16), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The classes of images, with the rows turned in front of the norm or not."""
        x = self.into(x.reshape(-1, 8, 8))
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if self.turn else self.norm(x)
        found: Tensor = self.out(self.hidden(x.relu()).relu().flatten(1))
        return found


@pytest.mark.parametrize("turn", [False, True])
def test_a_wrong_axis_is_found_although_all_sizes_are_equal(turn: bool) -> None:
    torch.manual_seed(0)
    found = serious(examined(train(Places(turn))))
    assert found == ([] if turn else [("wrong_axis", ("norm",))])


def test_dead_and_exploding_channels_are_found() -> None:
    model = trained()
    with torch.no_grad():
        model[4].weight[:12] = 0
        model[5].running_mean[:12] = 0
        model[5].running_var[:12] = 0
    assert ("dead_channels", ("5",)) in serious(examined(model))
    model = trained()
    with torch.no_grad():
        model[5].weight[3] = 1e5
    assert ("exploding_channels", ("5",)) in serious(examined(model))


def test_means_that_dwarf_the_spread_are_found() -> None:
    torch.manual_seed(0)
    shifted = [(x[:, 18:46] + 2000 + 1e-3 * torch.randn(len(x), 28), y) for x, y in held_out()]
    model = train(nn.Sequential(nn.BatchNorm1d(28), nn.Linear(28, 10)), batches=shifted, epochs=10)
    assert serious(examined(model, shifted)) == [("cancelling_variance", ("0",))]


def dropout_in_front(p: float) -> nn.Sequential:
    """A dropout right in front of the second norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 64, bias=False),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Dropout(p),
        nn.BatchNorm1d(64),
        nn.Linear(64, 10),
    )


def test_dropout_in_front_of_a_norm_is_found_and_behind_the_last_one_is_healthy() -> None:
    assert serious(examined(train(dropout_in_front(0.5)))) == [("dropout_before_normalization", ("4",))]
    torch.manual_seed(0)
    assert serious(examined(train(convolutional(0.5)))) == []


def test_a_bias_in_front_of_a_norm_is_a_note() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)
    )
    found = examined(train(model))
    assert [(each.check, each.layers) for each in found.findings] == [("bias_before_normalization", ("1",))]


def test_a_wrong_fold_is_found_and_a_right_one_is_healthy() -> None:
    source = trained().eval()
    right: Any = nn.Sequential(*copy.deepcopy(source))
    right[1] = nn.utils.fusion.fuse_conv_bn_eval(right[1], right[2])
    right[2] = nn.Identity()
    assert serious(examined(right, source_model=source)) == []
    wrong = copy.deepcopy(right)
    wrong[1].bias.data.zero_()
    assert serious(examined(wrong, source_model=source)) == [("differing_derived_model", ())]


def test_statistics_that_fit_these_data_better_are_no_fault_of_a_derived_model_and_another_fault_is() -> None:
    source = trained().eval()
    brighter = [(3 * x + 1, y) for x, y in held_out()]
    recalibrated = copy.deepcopy(source)
    normwise.recalibrate(recalibrated, [x for x, _ in brighter])
    assert serious(examined(recalibrated, brighter, source_model=source)) == []
    assert serious(examined(recalibrated, source_model=source))[0][0] == "statistics_of_other_weights"
    recalibrated[3] = nn.Identity()  # a converter forgot the activation
    normwise.recalibrate(recalibrated, [x for x, _ in brighter])
    assert serious(examined(recalibrated, brighter, source_model=source)) == [("differing_derived_model", ())]


def test_gradients_that_vanish_over_depth_are_found_and_norms_cure_them() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Linear(64, 32), *[nn.Sequential(nn.Sigmoid(), nn.Linear(32, 32)) for _ in range(12)])
    assert serious(examined(deep)) == [("gradients_lost_in_depth", ("1.1",))]
    shallow = nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10))
    assert serious(examined(shallow)) == []


def test_a_model_that_normwise_fused_is_healthy() -> None:
    torch.manual_seed(0)
    model = train(residual(), epochs=6)
    normwise.fuse(model)
    assert serious(examined(model)) == []
    assert serious(examined(train(dense(0.2)))) == []
