"""``fuse`` through optional arguments, guarded questions, and additions behind the module around a batch norm."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.fusion.fuse import fuse


class OptionalBlock(nn.Module):
    """The block of timm's DLA: a shortcut that may be absent, and a list that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, shortcut: Tensor | None = None, children: list[Tensor] | None = None) -> Any:  # noqa: ARG002  # as there
        if shortcut is None:
            shortcut = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)


class AddingOrNot(nn.Module):
    """The addition itself is optional."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(3), nn.LeakyReLU(0.3)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Any:
        y = self.norm(x)
        if skip is not None:
            y = y + skip
        return self.act(y)


class Required(nn.Module):
    """An argument that everybody has to give, and that may be None."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor, scale: Tensor | None) -> Any:
        y = F.silu(self.norm(x))
        return y if scale is None else y * scale


class ConvNorm(nn.Module):
    """A block as timm writes it: it asks what a local name is, which an attribute decides."""

    def __init__(self, aa: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.bn, self.aa = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), aa

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        x = self.bn(x)
        aa = getattr(self, "aa", None)
        if aa is not None:
            x = self.aa(x)  # type: ignore[misc]  # it is a module then
        return x


class ConvNormInOrder(nn.Sequential):
    """A block as torchvision writes it: a class of its own with the forward of a sequence."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), *([] if last is None else [last]))


class Block(nn.Module):
    """A residual block around modules that end in a batch norm."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.drop, self.act = body, shortcut, nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Any:
        y = self.body(x)
        y = self.drop(y) + (x if self.shortcut is None else self.shortcut(x))
        return self.act(y)


class Asking(nn.Module):
    """A block of timm's HRNet: of a child, and of each in a list, it asks what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.ways = nn.ModuleList([nn.Identity(), nn.Conv2d(3, 3, 1)])

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm(x))
        if isinstance(self.layer, nn.Identity):
            return x
        found = [way(x) if not isinstance(way, nn.Identity) else x for i, way in enumerate(self.ways)]
        return self.layer(found[0] + found[1]) if hasattr(self, "layer") else x


class Broadcast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = ConvNorm()

    def forward(self, x: Tensor) -> Any:
        return F.gelu(self.body(x) + x.mean((2, 3), keepdim=True))


class OfItsSize(nn.Module):
    """Asks ``math`` of a size that a trace does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        return F.relu(self.norm(x)) / math.sqrt(x.shape[-1])


def image() -> Tensor:
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def assert_same(ours: nn.Module, theirs: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Outputs, gradients, running statistics and keys, in training and in inference."""
    for training in (True, False):
        found = []
        for model in (ours.train(training), theirs.train(training)):
            model.zero_grad()
            x = image().requires_grad_()
            y = model(x, *args, **kwargs)
            (y * torch.linspace(-1, 2, y.numel()).view_as(y)).sum().backward()
            grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            found.append((y.detach(), x.grad, grads, model.state_dict()))
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def copies(model: nn.Module) -> list[nn.Module]:
    return [model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]


NOTHING: tuple[Any, Any] = ((), {})
CALLS: dict[str, tuple[Callable[[], nn.Module], dict[str, str], list[tuple[Any, Any]]]] = {
    "shortcut": (
        OptionalBlock,
        {"bn1": "relu", "bn2": "add, relu"},
        [
            NOTHING,
            ((image() + 1,), {}),
            ((None, [image()]), {}),
            ((), {"shortcut": image() - 1}),
            ((), {"children": [], "shortcut": None}),
        ],
    ),
    "optional addition": (AddingOrNot, {"norm": "add, leaky_relu:0.3"}, [NOTHING, ((image(),), {}), ((None,), {})]),
    "required": (Required, {"norm": "silu"}, [((None,), {}), ((), {"scale": torch.full((1,), 3.0)})]),
    "getattr": (lambda: nn.Sequential(ConvNorm(), nn.Hardswish()), {"0.bn": "hardswish"}, [NOTHING]),
    "questions": (Asking, {"norm": "relu"}, [NOTHING]),
    "module": (lambda: Block(ConvNorm()), {"body.bn": "add, relu"}, [NOTHING]),
    "moved": (lambda: Block(ConvNorm(), ConvNormInOrder()), {"body.bn": "add, relu"}, [NOTHING]),
    "sequence": (lambda: Block(ConvNormInOrder(nn.Identity())), {"body.1": "add, relu"}, [NOTHING]),
    "two deep": (
        lambda: nn.Sequential(
            Block(nn.Sequential(ConvNormInOrder(nn.ELU()), nn.Sequential(nn.Sequential(ConvNorm()))))
        ),
        {"0.body.0.1": "elu", "0.body.1.0.0.bn": "add, relu"},
        [NOTHING],
    ),
    "broadcast": (Broadcast, {"body.bn": "add, gelu"}, [NOTHING]),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_way_of_calling_gives_the_same(name: str) -> None:
    make, fused, calls = CALLS[name]
    torch.manual_seed(1)
    theirs = make()
    ours = copy.deepcopy(theirs)
    assert fuse(ours).fused == fused
    for args, kwargs in calls:
        for each in copies(copy.deepcopy(ours)):
            assert_same(each, copy.deepcopy(theirs), *args, **kwargs)


@pytest.mark.parametrize("name", CALLS)
def test_the_way_back_to_torch(name: str) -> None:
    make, _, calls = CALLS[name]
    theirs = make()
    ours = copy.deepcopy(theirs)
    fuse(ours)
    swap(ours, to="torch")
    assert not [part for part in ours.modules() if hasattr(part, "activation")]
    for args, kwargs in calls:
        assert_same(copy.deepcopy(ours), copy.deepcopy(theirs), *args, **kwargs)


def test_forwards_written_for_each_other_go_back_together() -> None:
    theirs = nn.Sequential(Block(nn.Sequential(ConvNormInOrder(nn.ELU()), ConvNorm())))
    ours = copy.deepcopy(theirs)
    fuse(ours)
    kinds = [type(part) for part in ours.modules()]
    report = swap(ours, to="torch", layers=["0.body.0.1"])
    assert [*report.swapped] == ["0.body.0.1"]
    assert [type(part) for part in ours.modules()][:3] == kinds[:3]
    assert_same(ours, theirs)


def test_a_function_behind_the_module_around_is_not_done_twice_after_the_way_back() -> None:
    class Silu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = ConvNorm()

        def forward(self, x: Tensor) -> Any:
            return F.silu(self.body(x))

    theirs = Silu()
    ours = copy.deepcopy(theirs)
    assert fuse(ours).fused == {"body.bn": "silu"}
    swap(ours, to="torch")
    assert_same(ours, theirs)


def test_a_pre_hook_that_gives_another_input_does_not_lose_the_residual() -> None:
    theirs = Block(ConvNorm())
    ours = copy.deepcopy(theirs)
    fuse(ours)
    for model in (ours, theirs):
        model.body.register_forward_pre_hook(lambda _, args: args[0] * 2)
    assert_same(ours, theirs)


GUARDED: list[tuple[Callable[[], nn.Module], Callable[[Any], None], str]] = [
    (
        lambda: nn.Sequential(ConvNorm(), nn.ReLU()),
        lambda model: setattr(model[0], "aa", nn.AvgPool2d(1)),
        "aa of this ConvNorm was None when the model was fused, received "
        "AvgPool2d(kernel_size=1, stride=1, padding=0): set it before `fuse`, which wrote the forward for that value.",
    ),
    (
        Asking,
        lambda model: setattr(model, "layer", nn.Identity()),
        "layer of this Asking was none of Identity when the model was fused, and is not now: "
        "set it before `fuse`, which wrote the forward for that value.",
    ),
    (
        Asking,
        lambda model: model.ways.__setitem__(0, nn.ReLU()),
        "ways.0 of this Asking was one of Identity when the model was fused, and is not now: "
        "set it before `fuse`, which wrote the forward for that value.",
    ),
    (
        lambda: Block(ConvNormInOrder()),
        lambda model: model.body.append(nn.Tanh()),
        "'1' was the last module of this ConvNormInOrder that does anything when the model was fused, and is not now: "
        "change the sequence before `fuse`, which moved an addition into that module.",
    ),
]


@pytest.mark.parametrize(("make", "change", "message"), GUARDED)
def test_what_was_asked_is_asked_again(
    make: Callable[[], nn.Module], change: Callable[[Any], None], message: str
) -> None:
    model = make()
    fuse(model)
    model(image())
    change(model)
    with pytest.raises(RuntimeError) as refused:
        model(image())
    assert str(refused.value) == message


def test_a_child_that_was_asked_about_may_be_replaced_by_one_of_which_the_same_is_true() -> None:
    model = Asking()
    fuse(model)
    model.layer = nn.Conv2d(3, 7, 1)
    assert model(image()).shape[1] == 7


class Dropping(ConvNorm):
    def forward(self, x: Tensor) -> Any:
        return self.bn(F.dropout(self.conv(x), 0.5, self.training))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, residual: Tensor) -> Any:
        return self.bn(residual)


LEFT: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "draws": (
        lambda: Block(Dropping(), nn.Dropout()),
        "body.bn",
        "body, which would run later, may draw random numbers",
    ),
    "in place": (
        lambda: Block(nn.Sequential(nn.ReLU(inplace=True), ConvNorm()), nn.Conv2d(3, 3, 1)),
        "body.1.bn",
        "body, which would run later, may change its input in place",
    ),
    "its own residual": (
        lambda: Block(Named()),
        "body.bn",
        "the forward of body has an argument residual of its own",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_may_not_run_later_or_takes_no_residual_says_so(name: str) -> None:
    make, layer, why = LEFT[name]
    theirs = make()
    ours = copy.deepcopy(theirs)
    report = fuse(ours)
    assert report.swapped[layer] == (
        f"its output is that of {layer.rpartition('.')[0]}, and there an addition in the forward of the model (Block) "
        f"comes before the activation, and {why}"
    )
    for training in (True, False):
        torch.manual_seed(0)
        y = ours.train(training)(image())
        torch.manual_seed(0)
        torch.testing.assert_close(y, theirs.train(training)(image()))


def test_of_two_modules_that_are_added_one_does_the_addition() -> None:
    report = fuse(Block(ConvNorm(), ConvNorm()))
    assert report.fused == {"body.bn": "add, relu"}
    assert report.swapped == {
        "shortcut.bn": "its output is that of shortcut, and there another batch norm does the addition behind it"
    }


def test_a_question_about_something_else_is_left() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
            y = F.relu(self.norm(x))
            for _ in range(2):
                if mask is None:
                    mask = y
            return y if x.grad is None else torch.add(y, mask)  # type: ignore[arg-type]  # never None

    report = fuse(Strange())
    assert report.left["norm"].startswith("the model (Strange) cannot be rewritten: its forward asks what `")
    assert report.fused == {}


def test_a_forward_that_asks_math_of_a_size_is_followed() -> None:
    model = OfItsSize()
    twin = copy.deepcopy(model)
    assert fuse(model).fused == {"norm": "relu"}
    assert_same(model, twin)
    smaller = image()[..., :3]
    torch.testing.assert_close(model.eval()(smaller), twin.eval()(smaller))
