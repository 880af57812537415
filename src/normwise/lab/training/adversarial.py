"""Generative adversarial networks of dense layers, and the game that trains them.

A generator makes images from noise; a discriminator tells them from real ones; each is trained against the other
(Goodfellow et al. 2014). The discriminator lowers mean(softplus(-D(real))) + mean(softplus(D(made))), the generator
mean(softplus(-D(made))), the form whose gradients do not vanish while the discriminator is the better one.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from normwise.lab.data.splits import Split, batches, pixels
from normwise.lab.networks.dense import Norm, draw, he

SLOPE = 0.1
"""The slope of the discriminator's activation below 0, which is 1 above: no activation makes a distance larger."""

ITERATIONS = 1000
"""The iterations after which the largest singular value is known to .001 however near the second one is."""


class Generator(nn.Sequential):
    """Maps noise of shape (n, noise) to images of shape (n, pixels) between 0 and 1.

    Args:
        noise: numbers that an image is made from.
        width: units of a hidden layer.
        depth: how many hidden layers.
        norm: normalizes every hidden layer before its ReLU; None: nothing does.
        seed: of the initial weights, which are the same with and without a normalization.
    """

    def __init__(self, *, noise: int, width: int, depth: int, norm: Norm | None, seed: int) -> None:
        numbers = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in pairwise([noise] + [width] * depth):
            layers.append(_linear(before, after, numbers, bias=norm is None))
            layers += [nn.ReLU()] if norm is None else [norm(after), nn.ReLU()]
        super().__init__(*layers, _linear(width, pixels(), numbers), nn.Sigmoid())
        self.noise = noise


class Discriminator(nn.Sequential):
    """Maps images of shape (n, pixels) to scores of shape (n, 1), high for real ones.

    It takes pixels between -1 and 1, as the published ones do; see ``signed``.

    Args:
        width: units of a hidden layer.
        depth: how many hidden layers.
        norm: normalizes every hidden layer but the first, as in DCGAN (Radford et al. 2016); None: nothing does.
        spectral: divide every weight matrix by its largest singular value, the readout's too.
        seed: of the initial weights, which are the same in all arms.
    """

    def __init__(self, *, width: int, depth: int, norm: Norm | None = None, spectral: bool = False, seed: int) -> None:
        numbers = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise([pixels()] + [width] * depth)):
            normalize = None if i == 0 else norm
            layers.append(_linear(before, after, numbers, bias=normalize is None))
            layers += [nn.LeakyReLU(SLOPE)] if normalize is None else [normalize(after), nn.LeakyReLU(SLOPE)]
        super().__init__(*layers, _linear(width, 1, numbers))
        if spectral:
            with torch.random.fork_rng(devices=[]):  # the first singular vectors come from PyTorch's own numbers
                torch.manual_seed(seed)
                for layer in linear_layers(self):
                    spectral_norm(layer)


def signed(images: Tensor) -> Tensor:
    """Pixels between 0 and 1 as pixels between -1 and 1."""
    return 2 * images - 1


def _linear(before: int, after: int, numbers: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """A layer without a bias is followed by a normalization, which has a shift."""
    layer = nn.Linear(before, after, bias=bias)
    draw(layer, he(before), numbers)
    return layer


def play(
    generator: Generator,
    discriminator: Discriminator,
    data: Split,
    *,
    rate: float,
    momentum: float,
    steps: int,
    batch: int,
    mixed: bool,
    seed: int,
    look: Callable[[int], None] | None = None,
    look_at: frozenset[int] = frozenset(),
) -> None:
    """Train a generator and a discriminator by turns, one step of Adam each.

    Args:
        generator: is changed in place.
        discriminator: is changed in place.
        data: the real images.
        rate: the learning rate of both.
        momentum: Adam's first number, the weight of the past in the mean of the gradients.
        steps: how many of each.
        batch: real images in a step, and as many made ones.
        mixed: real and made images go through the discriminator as one batch; otherwise one after the other.
        seed: of the noise and of the order of the images.
        look: called with the number of steps done, both networks in inference mode.
        look_at: after which steps.
    """
    numbers, source = torch.Generator().manual_seed(seed), batches(data, batch, seed)

    def adam(network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=rate, betas=(momentum, 0.999), fused=True)

    making, telling = adam(generator), adam(discriminator)
    weights = list(generator.parameters())
    for step in range(1, steps + 1):
        real = signed(next(source)[0])
        made = signed(generator(torch.randn(batch, generator.noise, generator=numbers)))
        on_real, on_made = _scores(discriminator, real, made.detach(), mixed=mixed)
        telling.zero_grad()
        (softplus(-on_real).mean() + softplus(on_made).mean()).backward()
        telling.step()
        on_made = _scores(discriminator, real, made, mixed=True)[1] if mixed else discriminator(made)
        making.zero_grad()
        softplus(-on_made).mean().backward(inputs=weights)
        making.step()
        if look is not None and step in look_at:
            generator.eval()
            discriminator.eval()
            look(step)
            generator.train()
            discriminator.train()


def _scores(discriminator: nn.Module, real: Tensor, made: Tensor, *, mixed: bool) -> tuple[Tensor, Tensor]:
    if mixed:
        on_real, on_made = discriminator(torch.cat((real, made))).chunk(2)
        return on_real, on_made
    return discriminator(real), discriminator(made)


def singular_values(network: nn.Module) -> list[float]:
    """The largest singular value of every weight matrix as the network uses it now, by a full decomposition."""
    network.eval()  # in training mode reading a normalized weight moves its singular vectors on
    with torch.no_grad():
        return [float(torch.linalg.svdvals(layer.weight.double())[0]) for layer in linear_layers(network)]


def largest_slope(network: Discriminator, images: Tensor) -> float:
    """The largest norm, over some images, of the score's gradient by the pixels as it takes them; in inference mode."""
    network.eval()
    at = signed(images.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(network(at).sum(), at)
    return float(gradient.norm(dim=1).max())


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    """The linear layers of a network, in its order."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


def converged(network: Discriminator, iterations: int) -> Discriminator:
    """A copy in double precision whose power iterations were run on, for a network that normalizes spectrally."""
    copy = deepcopy(network).double()
    copy.train()
    with torch.no_grad():
        for layer in linear_layers(copy):
            parametrizations = getattr(layer, "parametrizations")  # noqa: B009 - mypy takes the attribute for a tensor
            parametrizations.weight[0].n_power_iterations = iterations
            _ = layer.weight  # reading it is what runs them
    copy.eval()
    return copy


def of_discriminator(discriminator: Discriminator, images: Tensor) -> dict[str, float]:
    """The slopes of a discriminator at real and made images, and the distance of its singular values from 1."""
    found = {"slope": largest_slope(discriminator, images)}
    if any(is_parametrized(layer) for layer in discriminator):
        exact = converged(discriminator, ITERATIONS)
        found["sigma"] = max(abs(value - 1) for value in singular_values(discriminator))
        found["sigma_converged"] = max(abs(value - 1) for value in singular_values(exact))
        found["slope_above_1"] = max(0.0, largest_slope(exact, images.double()) - 1)
    return found


def shuffled(images: Tensor, seed: int) -> Tensor:
    """Images that keep the values of each pixel and nothing else: every pixel from an image of its own."""
    numbers = torch.Generator().manual_seed(seed)
    order = torch.rand(images.shape, generator=numbers).argsort(dim=0)
    return images.gather(0, order)
