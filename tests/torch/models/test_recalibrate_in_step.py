"""All batches through the model in step: the statistics of layer by layer bit for bit, or layer by layer itself."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.estimators import Window
from normwise.recalibration import in_step
from normwise.side_by_side import NAME
from normwise.torch.models.ranks import Ranks
from normwise.torch.models.recalibration import tensors
from normwise.torch.models.recalibration.adapt import adapt
from normwise.torch.models.recalibration.recalibrate import recalibrate
from normwise.torch.models.recalibration.torch_model import TorchModel
from normwise.torch.models.recalibration.torch_stepping import TorchStepping


class Block(nn.Module):
    """Residual, with operations in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        y += x
        found: Tensor = self.relu(y)
        return found


class Dense(nn.Module):
    """Each layer gets what all before it gave."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nt.BatchNorm2d(channels * (1 + k), activation="relu") for k in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(channels * (1 + k), channels, 3, padding=1) for k in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat((x, conv(norm(x))), 1)
        return x


class Masked(nn.Module):
    """Hands a mask of its own to its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nt.BatchNorm2d(2), nt.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        mask = x[:, :1] > -1
        y: Tensor = self.two(self.one(x, mask=mask).sigmoid(), mask=mask)
        return y


class Ways(nn.Module):
    """Batches with a large mean pass one layer by, and those with a very large one end in another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two, self.last = (nn.BatchNorm2d(2) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean()
        x = self.first(x).tanh()
        y: Tensor = self.two(x) if mean > 1.5 else self.last(x if mean > 0.5 else self.one(x))
        return y


def start() -> list[nn.Module]:
    return [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: nn.Sequential(*start(), Block(4), Block(4), nn.Flatten(), nn.Linear(36, 3), nn.BatchNorm1d(3)),
    "dense": lambda: nn.Sequential(*start(), Dense(4), nn.BatchNorm2d(16)),
    "masks": Masked,
    "ways": Ways,
    "whitening": lambda: nn.Sequential(
        *start(), nt.IterativeNorm2d(4, group_size=2), nn.Conv2d(4, 4, 1), nt.DecorrelatedBatchNorm2d(4, group_size=2)
    ),
    "synchronized": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(*start(), Block(4))),
    "one value per channel": lambda: nn.Sequential(*start(), nn.Flatten(), nn.Linear(36, 3), nn.BatchNorm1d(3)),
}
ESTIMATORS: list[Any] = ["pooled", "cumulative", "ema", "debiased_ema", Window(start=1, stop=3)]


def network(name: str) -> Any:
    torch.manual_seed(0)
    return NETWORKS[name]()


def images() -> list[Tensor]:
    """Images of several sizes, the last batch of one sample; the means tell them apart."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(n, 2, 5, 5, generator=draw) * (1 + k) + k for k, n in enumerate((6, 6, 3, 1))]


def both(model: nn.Module, batches: Any, **settings: Any) -> tuple[Any, Any]:
    """The reports, of which the first is that of in step; the statistics are the same, bit for bit."""
    twin = copy.deepcopy(model)
    torch.manual_seed(7)
    report = recalibrate(model, batches, **settings)
    torch.manual_seed(7)
    layer_by_layer = recalibrate(twin, batches, **{**settings, "memory": 0})
    assert not [thread for thread in threading.enumerate() if thread.name == NAME]
    assert (layer_by_layer.in_step, layer_by_layer.why_not_in_step) == (False, "")
    for name, value in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert report.recalibrated == layer_by_layer.recalibrated
    assert (report.skipped, report.not_reached) == (layer_by_layer.skipped, layer_by_layer.not_reached)
    assert (report.batches, report.samples) == (layer_by_layer.batches, layer_by_layer.samples)
    return report, layer_by_layer


@pytest.mark.parametrize("settings", [{}, {"memory": 0}])
def test_the_order_of_the_batches_says_nothing_of_that_of_the_layers(settings: Any) -> None:
    """The first batch need not reach all layers, of which those that it skips may come before those that it reaches."""
    found = []
    for places in itertools.permutations(range(4)):
        model, batches = network("ways").double(), [batch.double() for batch in images()]
        recalibrate(model, [batches[place] for place in places], **settings)
        found.append(torch.cat([value.flatten() for name, value in model.state_dict().items() if "running" in name]))
    for each in found:
        torch.testing.assert_close(each, found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_statistics_are_those_of_layer_by_layer_bit_for_bit(name: str) -> None:
    report, layer_by_layer = both(network(name), images())
    assert (report.in_step, report.passes, report.why_not_in_step) == (True, 1, "")
    assert layer_by_layer.passes == len(report.recalibrated)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("name", ["dense", "ways", "whitening"])
def test_with_any_estimator(name: str, estimator: Any) -> None:
    report, _ = both(network(name), images(), estimator=estimator)
    assert report.in_step


@pytest.mark.parametrize("prior", [0.0, 4.0, 64.0])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "whitening"])
def test_adapt_too(name: str, prior: float) -> None:
    one, other = network(name), network(name)
    report = adapt(one, images(), prior=prior)
    assert str(report) == str(adapt(other, images(), prior=prior, memory=0))
    for key, value in other.state_dict().items():
        assert torch.equal(one.state_dict()[key], value), key


def test_layers_with_domains_are_those_of_the_domain_that_was_chosen() -> None:
    model: Any = nt.convert_to_domains(network("residual"), ["day", "night"], default="day")[0]
    twin = copy.deepcopy(model)
    adapt(model, images(), domain="night", prior=0)
    adapt(twin, images(), domain="night", prior=0, memory=0)
    for key, value in twin.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert not torch.equal(model[1].of("night").running_mean, model[1].of("day").running_mean)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(bad: float) -> None:
    batches = images()
    batches[1][2, 1] = bad
    report, _ = both(network("dense"), batches)
    assert report.in_step
    nowhere = [torch.full_like(x, bad) for x in images()]
    report, _ = both(network("dense"), nowhere)
    assert (report.in_step, len(report.skipped)) == (True, 5)


def test_what_was_said_of_this_thread_holds_in_the_others() -> None:
    seen = set[Any]()

    class Look(nn.Module):
        """Sees what the forward runs in."""

        def forward(self, x: Tensor) -> Tensor:
            seen.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()))
            return x

    model = nn.Sequential(*start(), Look(), Block(4))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        report, _ = both(model, images())
    assert report.in_step
    assert seen == {(False, True, True)}


def test_a_loader_that_shuffles_is_gone_through_once_more_where_it_may_stop_early() -> None:
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.randn(2000, 2, 5, 5) + 1), batch_size=50, shuffle=True)
    report, layer_by_layer = both(network("residual"), loader, tolerance=0.05)
    assert (report.in_step, report.passes, report.stopped_early) == (True, 2, True)
    assert report.standard_error == layer_by_layer.standard_error
    assert report.batches < 40
    report, _ = both(network("residual"), loader, tolerance=0, at_most=5)
    assert (report.in_step, report.passes, report.batches) == (True, 1, 5)


def test_a_generator_serves_once() -> None:
    one, other = network("dense"), network("dense")
    assert recalibrate(one, (x for x in images())).in_step
    recalibrate(other, images(), memory=0)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


class Shared(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.after = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.norm(x) + self.norm(x.flip(0) + 3))
        return y


class SharedBySome(Shared):
    """A layer that is called twice by some batches only, and by the last of them."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.norm(x))
        return self.norm(y) if len(x) == 1 else y


class OtherOrder(Shared):
    """Some batches come to the layers in another order."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.after(x)) if len(x) < 4 else self.after(self.norm(x))
        return y


class Passing(Shared):
    """Hands something on in an attribute, as if there were only one forward at a time."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        x = self.norm(x).relu()
        y: Tensor = self.after(x + self.kept.mean())
        return y


class Random(Shared):
    """Draws random numbers, of whichever kind."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(F.dropout(self.norm(x), 0.5, training=True))
        return y


class Threads(Shared):
    """Calls a layer in a thread of its own."""

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        thread = threading.Thread(target=lambda: found.append(self.norm(x)))
        thread.start()
        thread.join()
        y: Tensor = self.after(found[0].detach())
        return y


class Locked(Shared):
    """Lets one forward in at a time."""

    LOCK = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.LOCK:
            y: Tensor = self.after(self.norm(x).relu())
        return y


class ThisThread(Shared):
    """Knows the thread that made it, and works in no other."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = threading.get_ident()

    def forward(self, x: Tensor) -> Tensor:
        if threading.get_ident() != self.mine:
            raise RuntimeError("not here")
        y: Tensor = self.after(self.norm(x).relu())
        return y


WHY_NOT: dict[type[nn.Module], tuple[str, int]] = {
    Shared: ("a batch comes to a layer more than once", 2),
    SharedBySome: ("batches come to the layers in different orders, or more than once", 3),
    OtherOrder: ("batches come to the layers in different orders, or more than once", 3),
    Passing: ("forwards change what others need", 3),
    Random: ("a forward draws random numbers", 2),
    Threads: ("a forward has threads of its own", 2),
    Locked: ("a forward waited for another one, which takes a minute to be noticed (memory=0 saves it)", 3),
    ThisThread: ("a forward failed with RuntimeError", 3),
}


@pytest.mark.parametrize("kind", WHY_NOT, ids=lambda kind: kind.__name__)
def test_what_cannot_go_in_step_goes_layer_by_layer(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_step, "PATIENCE", (0.5, 1.0))
    report, layer_by_layer = both(kind(), images())
    assert (report.in_step, report.why_not_in_step, report.passes) == (False, *WHY_NOT[kind])
    assert layer_by_layer.passes == 2


def test_a_mode_of_this_thread_is_not_left_behind() -> None:
    with FlopCounterMode(display=False):
        report = recalibrate(network("residual"), images())
    assert (report.in_step, report.why_not_in_step) == (False, "a mode of this thread listens to every operation")
    with torch.device("cpu"):
        assert recalibrate(network("residual"), images()).in_step


class Refilling:
    """Gives the same tensor with other values every time."""

    def __iter__(self) -> Iterator[Tensor]:
        held = torch.empty(6, 2, 5, 5)
        for x in images()[:2]:
            yield held.copy_(x)


def test_a_loader_that_fills_one_tensor_again_and_again() -> None:
    report, _ = both(network("residual"), Refilling())
    assert (report.in_step, report.why_not_in_step) == (False, "batches share their memory")


def test_too_much_memory_or_too_many_batches() -> None:
    report, _ = both(network("residual"), images(), memory=1000)
    assert (report.in_step, report.passes) == (False, 6)
    assert report.why_not_in_step.startswith("4 batches need 0.0 MB at a time, and memory allows 0.0 MB")
    report, _ = both(network("residual"), images() * 100, at_most=300)
    assert report.why_not_in_step == f"there are more batches than the {tensors.MOST} that may go in step"
    assert both(network("residual"), images(), memory=1)[0].in_step
    assert both(network("residual"), images(), memory=float("inf"))[0].in_step


def test_the_bytes_that_a_forward_holds_where_it_waits_are_known() -> None:
    class Holding(nn.Module):
        """Keeps two results of 100 times its input, of which a view is a third, and drops a fourth."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            held = [x.repeat(100, 1), x.repeat(100, 1) * 2]
            held.append(held[0].t())
            y: Tensor = self.norm(x.repeat(100, 1)[:3].clone()) + held[2].mean()
            return y

    model = Holding().eval()
    x, found = torch.randn(8, 2), list[int]()
    stepping = TorchStepping(model, TorchModel(model, None, Ranks(True, called="recalibrate")), None)
    with stepping.held(x) as held:
        model.norm.register_forward_pre_hook(lambda *_: found.append(held()))
        model(x)
    assert found == [2 * 100 * 8 * 2 * 4 + 3 * 2 * 4]


@pytest.mark.parametrize("memory", [-1, float("nan"), "2 GB", True])
def test_what_is_no_amount_of_memory_is_refused(memory: Any) -> None:
    for operation in (recalibrate, adapt):
        called: Any = operation
        with pytest.raises(NormwiseError) as refused:
            called(network("residual"), images(), memory=memory)
        assert str(refused.value) == (
            f"{called.__name__} needs as memory a number of bytes, or a share of the free memory between 0 and 1, "
            f"received {memory!r}: pass for example 2e9 or 0.5, 0 to go layer by layer, or leave it out."
        )
