"""Group, layer and instance norm: as torch.nn's where it is right, and as the formulas everywhere."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.errors import UnknownName
from normwise.kernels import choose, reference_group
from normwise.kernels.choose import built
from normwise.kernels.reference_activations import ACTIVATIONS
from tests.cases import KINKS, LAYOUTS, array


class Kind(NamedTuple):
    """A layer with the shape of its input, and what the reference has to know of it."""

    name: str
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    view: tuple[int, ...]  # the input as the reference sees it
    over: tuple[int, ...]
    parameters: tuple[int, ...]  # the shape of scale and shift in that view


KINDS = {
    "group norm of features": Kind("GroupNorm", (2, 6), (4, 6), (4, 2, 3), (2,), (1, 2, 3)),
    "group norm of sequences": Kind("GroupNorm", (2, 4), (3, 4, 5), (3, 2, 2, 5), (2, 3), (1, 2, 2, 1)),
    "group norm of images": Kind("GroupNorm", (2, 6), (2, 6, 3, 5), (2, 2, 3, 3, 5), (2, 3, 4), (1, 2, 3, 1, 1)),
    "group norm of volumes": Kind(
        "GroupNorm", (1, 4), (2, 4, 2, 3, 2), (2, 1, 4, 2, 3, 2), (2, 3, 4, 5), (1, 1, 4, 1, 1, 1)
    ),
    "layer norm of features": Kind("LayerNorm", (7,), (4, 7), (4, 7), (1,), (7,)),
    "layer norm of sequences": Kind("LayerNorm", (5,), (2, 3, 5), (2, 3, 5), (2,), (5,)),
    "layer norm of images": Kind("LayerNorm", ([4, 3, 5],), (2, 4, 3, 5), (2, 4, 3, 5), (1, 2, 3), (4, 3, 5)),
    "layer norm of rows": Kind("LayerNorm", ([2, 5],), (2, 3, 2, 2, 5), (2, 3, 2, 2, 5), (3, 4), (2, 5)),
    "instance norm of sequences": Kind("InstanceNorm1d", (4,), (3, 4, 5), (3, 4, 5), (2,), (1, 4, 1)),
    "instance norm of images": Kind("InstanceNorm2d", (4,), (2, 4, 3, 5), (2, 4, 3, 5), (2, 3), (1, 4, 1, 1)),
    "instance norm of volumes": Kind(
        "InstanceNorm3d", (3,), (2, 3, 2, 3, 2), (2, 3, 2, 3, 2), (2, 3, 4), (1, 3, 1, 1, 1)
    ),
}
F64 = torch.float64


def made(kind: Kind, dtype: torch.dtype = F64, module: Any = nt, **settings: Any) -> Any:
    """A layer whose parameters are not the initial ones."""
    affine = {"affine": True} if kind.name.startswith("Instance") else {}
    layer = getattr(module, kind.name)(*kind.arguments, **affine, dtype=dtype, **settings)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(1 + 0.5 * torch.randn(parameter.shape, generator=draw))
    return layer


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def positions(kind: Kind, seed: int = 7) -> Tensor:
    """A mask with all axes, of which each set keeps two values at least, and one position or element is False."""
    axis = -1 if kind.name == "LayerNorm" else 1
    shape = [1 if i == axis % len(kind.shape) else size for i, size in enumerate(kind.shape)]
    if kind.name == "LayerNorm" and len(kind.arguments) and kind.arguments[0] == kind.shape[-1]:
        shape = list(kind.shape)  # elements, or nothing would enter the moments that is not whole
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.7
    mask.view(len(mask), -1)[:, :2] = True
    mask[..., :2] = True
    return mask


def assert_follows_the_reference(
    layer: Any, kind: Kind, x: Tensor, *, activation: str | None, residual: Tensor | None, mask: Tensor | None
) -> None:
    inputs = [tensor.detach().requires_grad_() for tensor in (x, residual) if tensor is not None]
    wide = None if mask is None else mask.expand(x.shape)
    y = layer(*inputs, mask=mask)
    assert y.stride() == layer(x).stride()
    dy = normal(kind.shape, 3)

    def seen(tensor: Tensor | None) -> Any:
        return None if tensor is None else array(tensor).reshape(kind.view)

    scale, shift = (array(parameter).reshape(kind.parameters) for parameter in (layer.weight, layer.bias))
    law = (seen(x), kind.over, scale, shift, layer.eps)
    more = {"residual": seen(residual), "mask": None if wide is None else wide.numpy().reshape(kind.view)}
    z = reference_group.forward(*law, **more)
    near = np.min([np.abs(z - kink) for kink in KINKS], axis=0) < 1e-6
    dy = dy.masked_fill(torch.from_numpy(near.reshape(kind.shape)), 0)
    gradients = torch.autograd.grad(y, [*inputs, layer.weight, layer.bias], dy)
    right = reference_group.forward(*law, activation=activation, **more)
    np.testing.assert_allclose(array(y).reshape(kind.view), right, rtol=1e-9, atol=1e-10)
    wanted = reference_group.backward(seen(dy), *law, activation=activation, **more)
    expected = [wanted.x, *([wanted.residual] if residual is not None else []), wanted.scale, wanted.shift]
    for mine, theirs in zip(gradients, expected, strict=True):
        assert theirs is not None
        np.testing.assert_allclose(array(mine).ravel(), theirs.ravel(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kernel", ["", "two_pass", *(["cpu"] if built() else [])])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", KINDS)
def test_outputs_and_gradients_by_every_kernel(
    name: str, layout: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_ASKED", kernel)
    kind = KINDS[name]
    x, residual = (LAYOUTS[layout](2 * normal(kind.shape, seed) + 1) for seed in (0, 2))
    layer = made(kind, activation="silu")
    assert_follows_the_reference(layer, kind, x, activation="silu", residual=residual, mask=None)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("name", KINDS)
def test_activation_residual_and_mask(name: str, activation: str | None, masked: bool, added: bool) -> None:
    kind = KINDS[name]
    layer = made(kind, activation=activation)
    residual = normal(kind.shape, 2) if added else None
    mask = positions(kind) if masked else None
    assert_follows_the_reference(
        layer, kind, normal(kind.shape, 0), activation=activation, residual=residual, mask=mask
    )


@pytest.mark.parametrize("name", KINDS)
def test_what_is_masked_does_not_matter_and_gets_no_gradient(name: str) -> None:
    kind = KINDS[name]
    layer, mask = made(kind, activation="tanh"), positions(kind)
    x = normal(kind.shape, 0)
    wide = mask.expand(x.shape)
    spoilt = x.masked_fill(~wide, float("nan")).requires_grad_()
    y = layer(spoilt, spoilt.detach(), mask=mask)
    assert bool(y.isfinite().all())
    assert float(y.detach().masked_select(~wide).abs().sum()) == 0
    (dx,) = torch.autograd.grad(y.square().sum(), spoilt)
    assert bool(dx.isfinite().all())
    assert float(dx.masked_select(~wide).abs().sum()) == 0


@pytest.mark.parametrize("name", KINDS)
def test_a_mask_without_the_axis_of_the_channels_and_one_of_nothing(name: str) -> None:
    kind = KINDS[name]
    layer, x = made(kind), normal(kind.shape, 0)
    shape = kind.shape[:-1] if kind.name == "LayerNorm" else (kind.shape[0], *kind.shape[2:])
    mask = torch.ones(shape, dtype=torch.bool)
    torch.testing.assert_close(layer(x, mask=mask), layer(x))
    mask[0] = False
    y = layer(x, mask=mask)
    assert float(y[0].detach().abs().sum()) == 0
    torch.testing.assert_close(y[1:], layer(x)[1:])


@pytest.mark.parametrize("kernel", ["", "two_pass"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_first_and_second_derivatives(name: str, masked: bool, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", kernel)
    kind = KINDS[name]
    layer = made(kind, activation="tanh")
    mask = positions(kind) if masked else None
    inputs = [normal(kind.shape, seed).requires_grad_() for seed in (0, 2)]
    assert torch.autograd.gradcheck(lambda x, r: layer(x, r, mask=mask), inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, r: layer(x, r, mask=mask), inputs, fast_mode=True)


def third(layer: Any, x: Tensor) -> Tensor:
    """A third derivative."""
    x = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    return torch.autograd.grad(second.square().sum(), x)[0]


@pytest.mark.parametrize("name", KINDS)
def test_the_third_derivative_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS[name]
    layer, x = made(kind), normal(kind.shape, 0)
    found = third(layer, x)
    monkeypatch.setattr(choose, "_ASKED", "two_pass")
    right = third(layer, x)
    torch.testing.assert_close(found, right, rtol=1e-7, atol=1e-7 * float(right.abs().max()))


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.name != "GroupNorm"])
def test_torchs_third_derivative_is_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Should this fail one day, PyTorch has mended its formula: ``any_order_layer`` can go.
    kind = KINDS[name]
    x = normal(kind.shape, 0)
    monkeypatch.setattr(choose, "_ASKED", "two_pass")
    right = third(made(kind), x)
    assert float((third(made(kind, module=nn), x) - right).abs().max()) > 0.05 * float(right.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("name", KINDS)
def test_lower_precision(name: str, layout: str, dtype: torch.dtype) -> None:
    kind = KINDS[name]
    x, residual = (LAYOUTS[layout](normal(kind.shape, seed).to(dtype)) for seed in (0, 2))
    layer = made(kind, dtype, activation="gelu")
    scale, shift = (array(parameter).reshape(kind.parameters) for parameter in (layer.weight, layer.bias))
    for mask in (None, positions(kind)):
        y = layer(x, residual, mask=mask)
        assert y.dtype is dtype
        right = reference_group.forward(
            array(x).reshape(kind.view),
            kind.over,
            scale,
            shift,
            layer.eps,
            activation="gelu",
            residual=array(residual).reshape(kind.view),
            mask=None if mask is None else mask.expand(x.shape).numpy().reshape(kind.view),
        )
        # three roundings of numbers of up to that size: the normalized value, the sum, the activation
        size = max(4.0, np.abs(right).max())
        np.testing.assert_allclose(
            array(y).reshape(kind.view), right, rtol=0, atol=4 * float(torch.finfo(dtype).eps) * size
        )


@pytest.mark.parametrize("name", KINDS)
def test_compiled_as_one_graph(name: str) -> None:
    kind = KINDS[name]
    layer = made(kind, torch.float32, activation="relu")
    x, residual = (normal(kind.shape, seed).float() for seed in (0, 2))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    for call, leaf in zip((layer, compiled), leaves, strict=True):
        call(leaf, residual).square().sum().backward()
        call(leaf, residual, mask=positions(kind)).square().sum().backward()
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", KINDS)
def test_functions_are_transformed(name: str) -> None:
    kind = KINDS[name]
    layer, xs = made(kind, activation="silu"), torch.stack([normal(kind.shape, seed) for seed in range(3)])
    torch.testing.assert_close(torch.func.vmap(layer)(xs), torch.stack([layer(x) for x in xs]))
    jacobian = torch.func.jacrev(lambda x: layer(x).sum(0))(xs[0])
    right = torch.autograd.functional.jacobian(lambda x: layer(x).sum(0), xs[0])
    torch.testing.assert_close(jacobian, right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_under_autocast_the_dtype_is_torchs(name: str, dtype: torch.dtype) -> None:
    kind = KINDS[name]
    x = normal(kind.shape, 0).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y, right = (made(kind, torch.float32, module=module)(x) for module in (nt, nn))
    assert y.dtype is right.dtype
    torch.testing.assert_close(y, right)


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_batch_and_the_meta_device(name: str) -> None:
    kind = KINDS[name]
    layer = made(kind, torch.float32, activation="relu")
    empty = torch.zeros(0, *kind.shape[1:])
    assert layer(empty, empty).shape == empty.shape
    assert layer(empty, mask=torch.ones(0, *[1] * (len(kind.shape) - 1), dtype=torch.bool)).shape == empty.shape
    meta = layer.to("meta")
    assert meta(torch.zeros(kind.shape, device="meta")).shape == kind.shape


@pytest.mark.parametrize("name", KINDS)
def test_copies_pickles_and_checkpoints(name: str) -> None:
    kind = KINDS[name]
    layer = made(kind, activation="relu")
    x = normal(kind.shape, 0)
    right = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), right)
        assert repr(twin) == repr(layer)
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    saved.seek(0)
    theirs = made(kind, module=nn)
    theirs.load_state_dict(torch.load(saved, weights_only=True))
    torch.testing.assert_close(theirs(x).relu(), right)
    fresh = getattr(nt, kind.name)(*kind.arguments, dtype=F64, **({"affine": True} if "Inst" in kind.name else {}))
    fresh.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(fresh(x).relu(), right)


LAZY = ["LazyInstanceNorm1d", "LazyInstanceNorm2d", "LazyInstanceNorm3d"]


@pytest.mark.parametrize("name", [*dict.fromkeys(kind.name for kind in KINDS.values()), *LAZY])
def test_the_signature_is_torchs_and_one_keyword(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (nt, nn))
    assert [key for key in ours if key not in theirs] == ["activation"]
    assert ours["activation"].kind is inspect.Parameter.KEYWORD_ONLY
    for key, parameter in theirs.items():
        assert (ours[key].kind, ours[key].default) == (parameter.kind, parameter.default), key
    assert issubclass(getattr(nt, name), getattr(nn, name))


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"eps": 1e-3}])
@pytest.mark.parametrize("name", KINDS)
def test_it_is_torchs_layer_with_an_activation(name: str, settings: dict[str, Any]) -> None:
    kind = KINDS[name]
    ours, theirs = (getattr(module, kind.name)(*kind.arguments, **settings) for module in (nt, nn))
    assert repr(ours) == repr(theirs)
    assert {*vars(theirs)} <= {*vars(ours)}
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = normal(kind.shape, 0).float()
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours(x).stride() == theirs(x).stride()
    with_relu = getattr(nt, kind.name)(*kind.arguments, activation="relu", **settings)
    assert repr(with_relu).endswith(", activation=relu)")


@pytest.mark.parametrize("name", KINDS)
def test_wrong_arguments_are_refused_in_a_sentence(name: str) -> None:
    kind = KINDS[name]
    layer, x = made(kind), normal(kind.shape, 0)
    with pytest.raises(UnknownName) as error:
        getattr(nt, kind.name)(*kind.arguments, activation="rleu")
    assert "relu" in str(error.value)
    with pytest.raises(ValueError, match=r"^residual must have the shape of the input"):
        layer(x, x[:1])
    with pytest.raises(TypeError) as wrong:
        layer(x, mask=torch.ones(kind.shape))
    assert str(wrong.value) == (
        "mask must be a boolean tensor, received torch.float32: pass for example lengths > positions."
    )
    with pytest.raises(ValueError) as error_of_shape:  # noqa: PT011  # the whole message is compared below
        layer(x, mask=torch.ones(9, 9, dtype=torch.bool))
    without = kind.shape[:-1] if kind.name == "LayerNorm" else (kind.shape[0], *kind.shape[2:])
    axis = "its last axis" if kind.name == "LayerNorm" else "its channels"
    entry = "value" if kind.name == "LayerNorm" else "position and channel"
    assert str(error_of_shape.value) == (
        f"mask must broadcast to the input, {kind.shape}, or to it without {axis}, {without}, "
        f"received (9, 9): one entry per position, or one per {entry}."
    )
