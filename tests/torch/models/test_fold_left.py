"""``fold``: what it leaves, in whole sentences, and that an error leaves everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import normwise.torch as nt
from normwise.errors import NormwiseError, UnknownName, UnsuitableModel
from normwise.torch.models.conversion.fold import fold
from tests.torch.models.layers_to_freeze import values

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")


def chain(*between: nn.Module, norm: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *between, norm or nn.BatchNorm2d(4))


class Block(nn.Module):
    """A convolution and a batch norm in a forward of one's choice."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **children: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.later = nn.Conv2d(3, 3, 1)
        self.does = forward
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self, x)


def moved() -> Any:
    norm: Any = nn.BatchNorm2d(3)
    norm.running_mean.fill_(1)
    return norm


def shared() -> nn.Module:
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    return nn.Sequential(conv, norm, conv, norm)


def tied() -> Any:
    model: Any = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1))
    model[3].weight = model[0].weight
    return model


def in_one_memory(first: int) -> Any:
    """Two weights that are views of one tensor."""
    model: Any = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1))
    memory = torch.randn(9, 3, 1, 1)
    model[0].weight, model[3].weight = nn.Parameter(memory[:3]), nn.Parameter(memory[first : first + 3])
    return model


def expanded() -> Any:
    model: Any = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[0].weight = nn.Parameter(torch.randn(1, 3, 1, 1).expand(3, 3, 1, 1))
    return model


def hooked(place: int) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[place].register_forward_hook(lambda *_: None)
    return model


def replaced() -> Any:
    model = chain()
    norm: Any = model.get_submodule("1")
    norm.forward = torch.relu
    return model


def parametrized(module: nn.Module) -> Any:
    return parametrizations.weight_norm(module)


class Odd(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class OddConv(nn.Conv2d):
    pass


def steep() -> Any:
    model: Any = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).half()
    model[1].running_var.fill_(1e-12)
    model[1].weight.data.fill_(6e4)
    return model


NO_FRONT = "no convolution, linear layer or batch norm is in front of it, but "
LEFT: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "activation between": (lambda: chain(nn.ReLU()), "2", f"{NO_FRONT}a ReLU, and nothing is behind it"),
    "alone": (lambda: nn.BatchNorm2d(3), "", f"{NO_FRONT}nothing, and nothing is behind it"),
    "first": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ELU()),
        "0",
        f"{NO_FRONT}the input of the model (Sequential), and what is behind it is an ELU",
    ),
    "an activation of its own, before a convolution": (
        lambda: nn.Sequential(nt.BatchNorm2d(3, activation="relu"), nn.Conv2d(3, 3, 1)),
        "0",
        f"{NO_FRONT}the input of the model (Sequential)",
    ),
    "padding": (
        lambda: nn.Sequential(nn.ReLU(), moved(), nn.Conv2d(3, 3, 3, padding=1)),
        "1",
        f"{NO_FRONT}a ReLU, and 2 behind it cannot take it: it pads with zeros, which the shift would move too",
    ),
    "transposed behind": (
        lambda: nn.Sequential(nn.ReLU(), moved(), nn.ConvTranspose2d(3, 3, 2)),
        "1",
        f"{NO_FRONT}a ReLU, and 2 behind it cannot take it: it is transposed, and at its borders the shift would count "
        "less",
    ),
    "shared": (shared, "1", "it is shared: it is in the model as 1 and as 3"),
    "shared in front": (
        lambda: Block(lambda m, x: m.norm(m.conv(x)) + m.conv(x)),
        "norm",
        "conv in front of it cannot take it: it is called more than once",
    ),
    "called twice": (lambda: Block(lambda m, x: m.norm(m.norm(m.conv(x)))), "norm", "it is called more than once"),
    "used twice": (
        lambda: Block(lambda m, x: m.norm(y := m.conv(x)) + y),
        "norm",
        "the output of a Conv2d in front of it is used in more than one place, and what is behind it is the function "
        "add",
    ),
    "both used twice": (
        lambda: Block(lambda m, x: F.relu(y := m.norm(F.relu(m.conv(x)))) + m.later(y)),
        "norm",
        f"{NO_FRONT}the function relu, and its own output is used in more than one place",
    ),
    "function between": (
        lambda: Block(lambda m, x: m.norm(F.relu(m.conv(x))) * 2),
        "norm",
        f"{NO_FRONT}the function relu, and what is behind it is the function mul",
    ),
    "weight used": (
        lambda: Block(lambda m, x: m.norm(m.conv(x)) + m.conv.weight.sum()),
        "norm",
        "conv in front of it cannot take it: the forward around it uses a tensor of its by itself",
    ),
    "depends on the data": (
        lambda: Block(lambda m, x: m.norm(m.conv(x)) if x.sum() > 0 else m.conv(x)),
        "norm",
        "the model (Block) cannot be followed: its forward depends on the data",
    ),
    "not called": (lambda: Block(lambda m, x: m.conv(x)), "norm", "no forward calls it"),
    "tied": (
        tied,
        "1",
        "0 in front of it cannot take it: it shares a tensor with 3",
    ),
    "the same memory": (
        lambda: in_one_memory(2),
        "1",
        "0 in front of it cannot take it: it shares a tensor with 3",
    ),
    "expanded": (
        expanded,
        "1",
        "0 in front of it cannot take it: one of its tensors has no memory of its own for each element",
    ),
    "hooks": (lambda: hooked(1), "1", "it has hooks"),
    "hooks in front": (
        lambda: hooked(0),
        "1",
        "0 in front of it cannot take it: it has hooks",
    ),
    "a replaced forward": (replaced, "1", "its forward was replaced on the instance"),
    "parametrized": (
        lambda: nn.Sequential(parametrized(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)),
        "1",
        "0 in front of it cannot take it: a parametrization makes its parameters: remove that before",
    ),
    "a class of its own": (
        lambda: chain(norm=Odd(4)),
        "1",
        "it is an Odd, which may do something else than a batch norm does",
    ),
    "a convolution of its own class": (
        lambda: nn.Sequential(OddConv(3, 3, 1), nn.BatchNorm2d(3)),
        "1",
        "0 in front of it cannot take it: it is an OddConv, which may do something else than what it is derived from",
    ),
    "untracked": (
        lambda: chain(norm=nn.BatchNorm2d(4, track_running_stats=False)),
        "1",
        "it keeps no running statistics and uses batch statistics in eval mode too",
    ),
    "lazy": (lambda: chain(norm=nn.LazyBatchNorm2d()), "1", "it has not seen an input yet"),
    "whitening": (
        lambda: chain(norm=nt.IterativeNorm2d(4)),
        "1",
        "it whitens groups of channels, which is not what a batch norm does in inference",
    ),
    "domains": (
        lambda: chain(norm=nt.PerDomain(nn.BatchNorm2d(4), ["day"])),
        "1.domain_day",
        "it is of a PerDomain layer: leave it one domain by normwise.torch.convert_from_domains before",
    ),
    "meta": (lambda: chain().to("meta"), "1", "its tensors are on the meta device, without values"),
    "averaged": (
        lambda: torch.optim.swa_utils.AveragedModel(chain()),
        "module.1",
        "AveragedModel takes its buffers from another model, in order: do this to both before",
    ),
    "linear before several axes": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(4)),
        "1",
        "0 in front of it cannot take it: it works on the last axis and the batch norm on the second of several",
    ),
    "too large": (
        steep,
        "1",
        "0 cannot take it: its new parameters would not be finite in float16",
    ),
    "batch norm with an activation": (
        lambda: nn.Sequential(nn.ReLU(), nt.BatchNorm2d(3, activation="relu"), nn.BatchNorm2d(3)),
        "2",
        "1 in front of it cannot take it: it has an activation or an addition behind it",
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_is_left_and_why(what: str) -> None:
    make, name, reason = LEFT[what]
    model = make().eval()
    kinds = [type(each) for each in model.modules()]
    report = fold(model, layers=[name])
    assert report.folded == {}
    assert report.skipped[name] == reason
    assert [type(each) for each in model.modules()] == kinds


def test_training_mode_and_layers_not_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    assert fold(model).skipped == dict.fromkeys("13", "it is in training mode: call eval() on the model before")
    assert fold(model.eval(), layers=["3"]).skipped == {"1": "it was not asked for"}


def test_data_show_what_a_linear_layer_works_on() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    assert fold(model, [torch.randn(2, 4, 4)]).skipped == {
        "1": "0 in front of it cannot take it: it works on the last axis and the batch norm on the second of several"
    }
    assert [*fold(model, [torch.randn(8, 4)]).folded] == ["1"]


class Hidden(Block):
    """A path that a trace does not take."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z: Tensor = self.norm(y)
        return z + y if isinstance(x, nn.Parameter) else z


def test_a_path_that_a_trace_does_not_see() -> None:
    model = Hidden(lambda _, x: x).eval()
    assert fold(model).skipped == {
        "norm": "conv in front of it cannot take it: the forward of the model (Hidden) calls `isinstance`, which a "
        "trace answers once"
    }


def test_code_is_not_reached() -> None:
    model = nn.Sequential(torch.jit.script(nn.BatchNorm1d(2).eval()))
    report = fold(model)
    assert report.not_reached == {"0": "it is in a ScriptModule, whose layers do not run in Python"}
    assert str(report).splitlines()[0] == "0 of 1 batch norms folded, 1 not reached"


def model_to_fold() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nt.BatchNorm2d(4, activation="relu"), nn.Conv2d(4, 4, 1)
    ).eval()


class Broken:
    """A batch that breaks the second forward with it."""

    calls = 0

    def __call__(self, model: nn.Module, batch: Tensor) -> Any:
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("broken")
        return model(batch)


def test_an_error_in_the_middle_leaves_every_byte() -> None:
    model = model_to_fold()
    before, parts = values(model), [dict(vars(each)) for each in model.modules()]
    children = [dict(each._modules) for each in model.modules()]
    with pytest.raises(RuntimeError, match=r"^broken$"):
        fold(model, [torch.randn(2, 3, 5, 5)], forward_fn=Broken())
    now = values(model)
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], before[name]) for name in now)
    assert [dict(each._modules) for each in model.modules()] == children
    assert [dict(vars(each)) for each in model.modules()] == parts


def test_comparing_leaves_modes_and_the_random_state() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.BatchNorm2d(4))
    model[1].eval()
    state, before = torch.get_rng_state(), values(model[3])
    report = fold(model, [torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))])
    assert [*report.folded] == ["1"]
    assert [each.training for each in model] == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(values(model[3])[name], value) for name, value in before.items())


def test_wrong_arguments() -> None:
    model = model_to_fold()
    cases: list[tuple[type[Exception], Callable[[], Any], str]] = [
        (UnknownName, lambda: fold(model, layers=["bn"]), "unknown batch norm 'bn'; known: 1."),
        (TypeError, lambda: fold(model, layers="1"), "layers must be a list of names, received '1': pass ['1']."),
        (
            NormwiseError,
            lambda: fold(model, at_most=3),
            "fold was told how to use batches, and received none: pass batches too.",
        ),
        (
            NormwiseError,
            lambda: fold(model, []),
            "fold received batches with no batch in them: pass at least one, or leave batches out.",
        ),
        (
            TypeError,
            lambda: fold(model, torch.ones(2, 3, 5, 5)),
            "fold needs an iterable of batches, received Tensor: pass a data loader, or a list with one batch in it.",
        ),
        (
            UnsuitableModel,
            lambda: fold(torch.jit.script(nn.Linear(2, 2))),
            "fold needs a model whose layers run in Python, received a ScriptModule (a Linear, compiled by torch.jit): "
            "pass the model that it was made of, and trace or script it again afterwards.",
        ),
    ]
    for kind, wrong, message in cases:
        with pytest.raises(kind) as error:
            wrong()
        assert str(error.value) == message


def test_parts_of_one_memory_that_lie_apart_are_folded() -> None:
    model = in_one_memory(3).eval()
    x = torch.randn(2, 3, 4, 4)
    before = model(x)
    assert list(fold(model).folded) == ["1"]
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_what_is_assumed_without_data_is_said() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()

    assert "; assumed, for no data were given: its inputs are (N, C)" in str(fold(make()))
    assert "assumed" not in str(fold(make(), [torch.randn(2, 3)]))
    assert list(fold(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval(), [torch.randn(2, 4, 4)]).folded) == []
