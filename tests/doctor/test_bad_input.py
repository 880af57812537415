"""Input that ``examine`` cannot work with: one sentence, its own error chained, and nothing is changed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import normwise
from normwise.doctor.check import names
from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.finding import Skipped
from normwise.errors import CallFailed, NormwiseError
from normwise.testing import assert_healthy

TAKES = (
    "give the model tensors of the shape and dtype that it needs (its weights are float32): change the batches, or "
    "pass forward_fn to normwise.examine, a function of the model and a batch."
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        for _ in range(60):
            model(torch.randn(64, 8))
    return model.eval()


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 8, generator=generator) for _ in range(4)]


def pairs() -> list[tuple[Tensor, Tensor]]:
    return [(x, (x[:, 0] > 0).long()) for x in data()]


def everything(model: nn.Module) -> Any:
    """Every byte, mode and hook, and the random state."""
    modules = [
        (module.training, {**module._forward_hooks}, {**module._forward_pre_hooks}) for module in model.modules()
    ]
    state = [(name, tensor.numpy().tobytes()) for name, tensor in model.state_dict().items() if not tensor.is_meta]
    grads = [(each.requires_grad, each.grad) for each in model.parameters()]
    return pickle.dumps((modules, state, grads, torch.get_rng_state().numpy().tobytes()))


def refused(model: nn.Module, batches: Any, **given: Any) -> NormwiseError:
    """The error of examining it, after which it is as before."""
    before = everything(model)
    with pytest.raises(NormwiseError) as caught:
        normwise.examine(model, batches, **given)
    assert everything(model) == before
    assert "\n" not in str(caught.value)
    return caught.value


def ran(model: nn.Module, batches: Any, **given: Any) -> Diagnosis:
    """The diagnosis of it, after which it is as before."""
    before = everything(model)
    diagnosis = normwise.examine(model, batches, **given)
    assert everything(model) == before
    return diagnosis


@pytest.mark.parametrize(
    ("made", "batches", "what", "said"),
    [
        (
            net, [torch.ones(64, 5)], "batch 1, a float32 tensor of shape (64, 5)",
            "RuntimeError in layer '0' (Linear): mat1 and mat2 shapes cannot be multiplied (64x5 and 8x16)",
        ),
        (
            net, [torch.ones(64, 8), torch.ones(9, 5)], "batch 2, a float32 tensor of shape (9, 5)",
            "RuntimeError in layer '0' (Linear): mat1 and mat2 shapes cannot be multiplied (9x5 and 8x16)",
        ),
        (
            net, [(torch.ones(4, 5), torch.zeros(4, dtype=torch.int64))],
            "batch 1, a tuple (a float32 tensor of shape (4, 5), an int64 tensor of shape (4,))",
            "RuntimeError in layer '0' (Linear): mat1 and mat2 shapes cannot be multiplied (4x5 and 8x16); "
            "Sequential was called with (Tensor)",
        ),
        (
            convolutional, [torch.ones(4, 8, 8, 3)], "batch 1, a float32 tensor of shape (4, 8, 8, 3)",
            "RuntimeError in layer '0' (Conv2d): Given groups=1, weight of size [4, 3, 3, 3], expected input[4, 8, 8, "
            "3] "
            "to have 3 channels, but got 8 channels instead",
        ),
        (
            net, [torch.ones(64, 8, dtype=torch.int64)], "batch 1, an int64 tensor of shape (64, 8)",
            "RuntimeError in layer '0' (Linear): expected m1 and m2 to have the same dtype, but got: long int != float",
        ),
        (
            convolutional, [torch.ones(2, 3, 8, 8, dtype=torch.uint8)], "batch 1, a uint8 tensor of shape (2, 3, 8, 8)",
            "RuntimeError in layer '0' (Conv2d): Input type (unsigned char) and bias type (float) should be the same",
        ),
        (
            net, [{"x": torch.ones(4, 8)}], "batch 1, a dict ('x': a float32 tensor of shape (4, 8))",
            "TypeError in layer '0' (Linear): linear(): argument 'input' (position 1) must be Tensor, not dict; "
            "Sequential was called with (dict)",
        ),
    ],
    ids=["width", "second", "labelled", "channels last", "integers", "pixels", "dict"],
)  # fmt: skip
def test_a_batch_that_the_model_does_not_take(made: Callable[[], Any], batches: Any, what: str, said: str) -> None:
    error = refused(made(), batches)
    assert str(error) == f"examine could not run the model on {what}: {said}; {TAKES}"
    assert isinstance(error, CallFailed)
    assert type(error.__cause__).__name__ == said.partition(" ")[0]


def test_a_forward_fn_that_fails() -> None:
    error = refused(net(), data(), forward_fn=lambda model, batch: model(batch["x"]))
    assert "a float32 tensor of shape (64, 8): TypeError in line " in str(error)
    assert f"of test_bad_input.py: new(): invalid data type 'str'; {TAKES}" in str(error)


class Broken(Dataset[Tensor]):
    """Its sample 70 cannot be read."""

    def __len__(self) -> int:
        return 128

    def __getitem__(self, index: int) -> Tensor:
        if index == 70:
            raise KeyError("no sample 70")
        return torch.ones(8)


def raising() -> Iterator[Tensor]:
    yield torch.ones(4, 8)
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (raising, "OSError in line {} of test_bad_input.py: the disk is gone"),
        (lambda: DataLoader(Broken(), batch_size=64), "KeyError in line {} of test_bad_input.py: 'no sample 70'"),
    ],
)
def test_batches_that_raise(batches: Callable[[], Any], said: str) -> None:
    error = refused(net(), batches())
    before, after = said.split("{}")
    assert str(error).startswith(f"examine could not read batch 2: {before}")
    assert str(error).endswith(f"{after}; pass data of which every batch can be read.")
    assert error.__cause__ is not None


def test_a_loader_whose_worker_raises() -> None:
    error = refused(net(), DataLoader(Broken(), batch_size=64, num_workers=1))
    assert str(error).startswith("examine could not read batch 2: KeyError")
    assert str(error).endswith("KeyError: 'no sample 70'; pass data of which every batch can be read.")


@pytest.mark.parametrize("batches", [[], iter([]), DataLoader([], batch_size=4)], ids=["list", "iterator", "loader"])  # type: ignore[arg-type]  # an empty list is a data set
def test_no_batches(batches: Any) -> None:
    assert str(refused(net(), batches)) == (
        "examine received no batches, so there is nothing to measure: pass data; an iterator that was gone through "
        "before is empty."
    )


def test_a_batch_without_samples() -> None:
    assert str(refused(net(), [*data(), torch.ones(0, 8)])) == (
        "examine received a batch without samples (batch 5, a float32 tensor of shape (0, 8)): leave it out."
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_batch_of_values_that_are_not_finite(value: float) -> None:
    batches = data()
    batches[2][5, 1] = value
    assert str(refused(net(), batches)) == (
        "examine received NaN or infinite values in batch 3, a float32 tensor of shape (64, 8), which come into layer "
        "'1': "
        "leave such samples out, or replace the values."
    )


def test_statistics_that_are_not_finite_are_found_with_such_a_batch_too() -> None:
    model, batches = net(), data()
    model[1].running_mean[0] = torch.nan  # type: ignore[operator]  # a batch norm
    batches[0][5, 1] = torch.nan
    diagnosis = ran(model, batches)
    assert "non_finite_statistics" in [each.check for each in diagnosis.findings]


def test_weights_that_are_not_finite() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[3, 3] = torch.nan  # type: ignore[operator]  # a linear layer
    assert str(refused(model, data())) == (
        "examine needs a model whose weights are finite, received one with NaN or infinite values in '0.weight': load "
        "weights of before that."
    )


def test_a_model_without_values() -> None:
    assert str(refused(net().to("meta"), data())) == (
        "examine needs a model with values, and '0.weight' is on the meta device: load its weights first."
    )


def test_a_model_without_normalization_says_so_and_what_else_can_be_looked_at() -> None:
    diagnosis = ran(nn.Linear(8, 2), data())
    assert diagnosis.healthy
    assert diagnosis.verdict() == "nothing to examine: the model has no batch norm that runs as a layer (256 samples)"
    reasons = {each.check: each.reason for each in diagnosis.skipped}
    assert reasons["gradients_lost_in_depth"] == "no loss was given"
    assert reasons["differing_derived_model"] == "no source_model was given"
    with_loss = ran(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), pairs(), loss=cross_entropy)
    assert with_loss.verdict() == "healthy: nothing found (no batch norm that runs as a layer, 256 samples)"
    other = ran(nn.Linear(8, 2), data(), source_model=net())
    assert other.verdict() == "1 error (no batch norm that runs as a layer, 256 samples)"


def test_a_model_of_which_nothing_was_checked_is_not_called_healthy() -> None:
    facts, skipped = ran(net(), data()).facts, tuple(Skipped(name, "no loss was given") for name in names())
    found = Diagnosis((), skipped, tuple(names()), facts)
    assert not found.healthy
    assert Diagnosis((), skipped[1:], tuple(names()), facts).healthy
    assert found.verdict() == "nothing checked: every check was skipped (1 normalization layer, 256 samples)"
    with pytest.raises(AssertionError, match="nothing checked"):
        assert_healthy(net(), data(), only=["gradients_lost_in_depth"])


@pytest.mark.parametrize(
    "wrap", [partial(torch.compile, backend="aot_eager"), torch.optim.swa_utils.AveragedModel, nn.DataParallel, "ddp"]
)
def test_what_is_around_a_model_is_looked_through(wrap: Any) -> None:
    model = net()
    model[1].running_mean += 3  # type: ignore[operator, assignment]  # a batch norm
    if wrap == "ddp":
        distributed.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
        wrap = nn.parallel.DistributedDataParallel
    try:
        diagnosis = ran(wrap(model), data())
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    finding = next(each for each in diagnosis.findings if each.severity == "error")
    assert finding.layers == ("1",)


def test_a_generator_gives_what_a_list_gives() -> None:
    assert ran(net(), iter(data())).to_json() == ran(net(), data()).to_json()


def test_batches_that_are_mappings_enter_by_their_names() -> None:
    batches = [{"input": x, "labels": y} for x, y in pairs()]
    facts = ran(net(), batches, metric=lambda _, targets: len(targets)).facts
    assert facts.stored is not None
    assert facts.stored.metric == 64


class WholeBatches(nn.Module):
    """A model that takes batches of one size only, and fails as no framework's layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: Tensor) -> Tensor:
        """The model's output for a batch of 64 samples; an error for any other number."""
        if len(x) != 64:
            raise RuntimeError(f"needs 64 samples, not {len(x)}")
        found: Tensor = self.inner(x)
        return found


def test_a_model_that_takes_whole_batches_only_is_examined_all_the_same() -> None:
    diagnosis = ran(WholeBatches().eval(), data())
    assert diagnosis.healthy
    assert diagnosis.facts.missing["company"].startswith(
        "the model does not take a part of a batch (RuntimeError in line"
    )


def test_arrays_of_numpy_are_named_as_such() -> None:
    arrays = [(x.numpy(), y.numpy()) for x, y in pairs()]
    error = str(refused(net(), arrays))
    assert error.startswith(
        "examine could not run the model on batch 1, a tuple (a float32 array of shape (64, 8), an int64 array of "
        "shape (64,)): TypeError in layer '0' (Linear): "
    )
    assert error.endswith("; Sequential was called with (ndarray); give tensors, for example torch.from_numpy(array).")


def test_infinity_is_one_sentence_without_a_warning() -> None:
    x = torch.randn(8, 3, 8, 8)
    x[2, 1, 3, 3] = torch.inf
    assert "NaN or infinite values in batch 1" in str(refused(convolutional(), [x]))  # warnings are errors
