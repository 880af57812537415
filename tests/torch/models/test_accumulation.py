"""Gradients of a batch that comes in parts: those of the whole batch, through every batch norm, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normwise.torch as nt
from normwise.torch.models.accumulation.accumulate import accumulate_gradients, forward_together

Part = tuple[Tensor, Tensor]


class Plain(nn.Module):
    """Two convolutions with a shortcut, as torchvision's ResNet has them, changing tensors in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        z: Tensor = self.relu(y)
        return z


class Fused(nn.Module):
    """The same with layers of normwise."""

    def __init__(self, channels: int, layer: Callable[..., Any] = nt.BatchNorm2d, **settings: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = (layer(channels, activation=f, **settings) for f in ("relu", "silu"))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x))), x)
        return y


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "torch": lambda: Plain(6),
    "ours": lambda: Fused(6),
    "ours, pooled": lambda: Fused(6, estimator="pooled"),
    "ours, momentum=None": lambda: Fused(6, momentum=None),
    "ours, ghost": lambda: Fused(6, nt.GhostBatchNorm2d, virtual_batch_size=8),
    "ours, renormalized": lambda: Fused(6, nt.BatchRenorm2d),
}
SPLITS = {"even": [8] * 4, "uneven": [8, 3, 13, 8], "single samples": [1] * 32, "one": [32]}


def network(name: str = "ours", blocks: int = 4) -> Any:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 6, 3), *(BLOCKS[name]() for _ in range(blocks))]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).double()


def data(samples: int = 32) -> Part:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 3, 10, 10, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (samples,), generator=generator)


def parts_of(batch: Part, sizes: list[int]) -> list[Part]:
    return list(zip(*(tensor.split(sizes) for tensor in batch), strict=True))


def loss_of(model: nn.Module, part: Part) -> Tensor:
    return F.cross_entropy(model(part[0]), part[1])


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def assert_same_step(model: nn.Module, whole: nn.Module, rtol: float = 1e-10) -> None:
    scale = float(gradient(whole).abs().max())
    torch.testing.assert_close(gradient(model), gradient(whole), rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(dict(model.named_buffers()), dict(whole.named_buffers()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_adding_up_torchs_gradients_is_not_the_whole_batch(micro_batches: int) -> None:
    model, whole = network("torch"), network("torch")
    batch = data()
    for part in parts_of(batch, [32 // micro_batches] * micro_batches):
        (loss_of(model, part) / micro_batches).backward()
    loss_of(whole, batch).backward()
    assert float(F.cosine_similarity(gradient(model), gradient(whole), dim=0)) < 0.99
    assert int(model[1].bn1.num_batches_tracked) == micro_batches


def test_sweeps_with_the_moments_of_all_parts_need_one_for_every_batch_norm() -> None:
    """Why two sweeps are not enough: the moments of a layer, taken where the one before normalized by its part."""
    x, labels = data()
    batch = x + torch.linspace(-1, 1, 32, dtype=torch.float64).view(-1, 1, 1, 1), labels  # parts differ, as sorted ones
    pooled, whole = input_means(parts_of(batch, [8] * 4)), input_means([batch])
    torch.testing.assert_close(pooled["bn1"], whole["bn1"], rtol=0, atol=1e-12)
    assert float((pooled["bn2"] - whole["bn2"]).abs().max()) > 1e-5  # rounding is at 1e-17


def input_means(parts: list[Part]) -> dict[str, Tensor]:
    """The input of both batch norms of a block, of parts of one size: the mean over all of them for every channel."""
    model = network("torch", blocks=1)
    found: dict[str, list[Tensor]] = {"bn1": [], "bn2": []}

    def look(name: str) -> Callable[..., None]:
        return lambda _, args: found[name].append(args[0].detach().mean((0, 2, 3)))

    for name in found:
        getattr(model[1], name).register_forward_pre_hook(look(name))
    for part in parts:
        model(part[0])
    return {name: torch.stack(means).mean(0) for name, means in found.items()}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", BLOCKS)
def test_ours_are_the_whole_batch(name: str, split: str) -> None:
    model, whole = network(name), network(name)
    batch = data()
    for _ in range(2):  # gradients add up, statistics go on
        found = accumulate_gradients(model, parts_of(batch, SPLITS[split]), loss_of)
        loss = loss_of(whole, batch)
        loss.backward()
        assert found.item() == pytest.approx(loss.item(), rel=1e-12)
        assert not found.requires_grad
    assert_same_step(model, whole)
    assert int(model[1].bn1.num_batches_tracked) == 2


def test_twenty_batch_norms_in_a_row() -> None:
    model, whole = network("ours", blocks=10), network("ours", blocks=10)
    batch = data()
    accumulate_gradients(model, parts_of(batch, [4] * 8), loss_of)
    loss_of(whole, batch).backward()
    assert_same_step(model, whole, rtol=1e-8)


@pytest.mark.parametrize("name", ["torch", "ours"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_and_channels_last(name: str, dtype: torch.dtype) -> None:
    model = network(name).float().to(memory_format=torch.channels_last)
    whole = copy.deepcopy(model)
    x, y = data()
    x = x.float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        accumulate_gradients(model, parts_of((x, y), [8] * 4), loss_of)
        loss_of(whole, (x, y)).backward()
    similar = F.cosine_similarity(gradient(model), gradient(whole), dim=0)
    assert float(similar) > (1 - 1e-6 if dtype is torch.float32 else 1 - 1e-3)
    assert model[1].bn1.running_mean.dtype is torch.float32


def test_autocast_holds_in_the_forwards_of_all_parts() -> None:
    seen: list[tuple[torch.dtype, bool]] = []
    model = network().float()
    model[1].bn1.register_forward_pre_hook(lambda _, args: seen.append((args[0].dtype, torch.is_grad_enabled())))
    x, _ = data()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        forward_together(model, x.float().split(8))
    assert seen == [(torch.bfloat16, False)] * 4


def test_layers_in_inference_mode_stay_as_they_are() -> None:
    model, whole = network(), network()
    for each in (model, whole):
        each[1].bn1.eval()
        each[2].bn2.requires_grad_(False)
    batch = data()
    accumulate_gradients(model, parts_of(batch, [8] * 4), loss_of)
    loss_of(whole, batch).backward()
    assert_same_step(model, whole)
    assert int(model[1].bn1.num_batches_tracked) == 0


@pytest.mark.parametrize("name", ["torch", "ours"])
def test_layers_that_keep_no_statistics_and_layers_that_are_called_twice(name: str) -> None:
    kind = nn.BatchNorm1d if name == "torch" else nt.BatchNorm1d
    torch.manual_seed(0)
    twice: Any = kind(4)
    model: Any = nn.Sequential(kind(4, track_running_stats=False), nn.Linear(4, 4), twice, nn.Tanh(), twice).double()
    whole = copy.deepcopy(model)
    x = torch.randn(16, 4, dtype=torch.float64)

    def loss_of(model: nn.Module, part: Tensor) -> Tensor:
        y: Tensor = model(part)
        return y.pow(4).mean()

    accumulate_gradients(model, x.split(5), loss_of)
    loss_of(whole, x).backward()
    assert_same_step(model, whole)


@pytest.mark.parametrize("name", ["torch", "ours"])
def test_images_of_several_sizes(name: str) -> None:
    """With 1 x 1 convolutions the images are bags of pixels, which are one batch for layers of (N, C)."""
    kind = nn.BatchNorm2d if name == "torch" else nt.BatchNorm2d
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 1), kind(4), nn.Tanh(), nn.Conv2d(4, 4, 1), kind(4)).double()
    images = [torch.randn(n, 3, h, w, dtype=torch.float64) for n, h, w in ((2, 5, 7), (1, 8, 3), (3, 4, 4))]
    if name == "ours":
        images[0] = images[0].contiguous(memory_format=torch.channels_last)
    pixels = torch.cat([image.permute(0, 2, 3, 1).reshape(-1, 3) for image in images])
    flat: Any = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.BatchNorm1d(4)
    ).double()
    flat.load_state_dict(
        {key: value.flatten(1) if value.dim() == 4 else value for key, value in model.state_dict().items()}
    )
    weights = [image.numel() / pixels.numel() for image in images]
    accumulate_gradients(model, images, lambda f, x: f(x).pow(4).mean(), weights=weights)
    flat(pixels).pow(4).mean().backward()
    torch.testing.assert_close(gradient(model), gradient(flat), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model[4].running_var, flat[4].running_var, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 4])
def test_masks_and_weights_of_samples(rows: int) -> None:
    class Masked(nn.Module):
        """Hands on what belongs to the samples."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.linear, self.second = nt.BatchNorm1d(3), nn.Conv1d(3, 3, 1), nt.BatchNorm1d(3)

        def forward(self, x: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
            y = self.linear(self.first(x, mask=mask))
            z: Tensor = self.second(input=y, sample_weight=weights)
            return z.pow(4).sum()

    torch.manual_seed(0)
    model = Masked().double()
    whole = copy.deepcopy(model)
    x, weights = torch.randn(12, 3, 6, dtype=torch.float64), torch.rand(12, dtype=torch.float64)
    mask = torch.rand(rows * 3 if rows > 1 else 1, 6) < 0.7
    masks = mask.split(4) if rows > 1 else [mask] * 3
    parts = list(zip(x.split(4), masks, weights.split(4), strict=True))
    accumulate_gradients(model, parts, lambda f, part: f(*part), weights=[1] * 3)
    whole(x, mask, weights).backward()
    assert_same_step(model, whole)


def test_a_loss_over_the_whole_batch() -> None:
    model, whole = network(), network()
    x, _ = data()

    def contrast(outputs: Tensor) -> Tensor:
        return F.cross_entropy(outputs @ outputs.T / 5, torch.arange(len(outputs)).roll(1))

    contrast(torch.cat(forward_together(model, x.split(8)))).backward()
    contrast(whole(x)).backward()
    assert_same_step(model, whole)


@pytest.mark.parametrize("name", ["torch", "ours"])
def test_offloaded_it_is_the_same(name: str) -> None:
    model, whole = network(name), network(name)
    batch = data()
    accumulate_gradients(model, parts_of(batch, [8] * 4), loss_of, offload=True)
    loss_of(whole, batch).backward()
    assert_same_step(model, whole)


def test_scaled_losses_and_sums() -> None:
    model, whole = network(), network()
    batch = data()
    accumulate_gradients(
        model,
        parts_of(batch, [8] * 4),
        lambda f, part: F.cross_entropy(f(part[0]), part[1], reduction="sum"),
        weights=[1] * 4,
        backward=lambda loss: (loss * 8).backward(),
    )
    (F.cross_entropy(whole(batch[0]), batch[1], reduction="sum") * 8).backward()
    assert_same_step(model, whole)


def test_other_layers_that_look_at_the_whole_batch() -> None:
    class Spread(nn.Module):
        """Minibatch standard deviation, as a GAN's discriminator has it, with a batch norm inside."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x) * x.std(0)
            return y

    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(4, 4), Spread(), nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
    whole = copy.deepcopy(model)
    x = torch.randn(12, 4, dtype=torch.float64)
    accumulate_gradients(model, x.split(4), lambda f, part: f(part).pow(4).mean(), batch_layers=(Spread,))
    whole(x).pow(4).mean().backward()
    assert_same_step(model, whole)
