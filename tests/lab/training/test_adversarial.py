"""Generator and discriminator, the game of the two, and what spectral normalization makes exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normwise.lab.data.splits import digits
from normwise.lab.training.adversarial import (
    Discriminator,
    Generator,
    converged,
    largest_slope,
    linear_layers,
    play,
    shuffled,
    signed,
    singular_values,
)
from normwise.torch import BatchNorm1d


def pair(*, spectral: bool = False, seed: int = 0) -> tuple[Generator, Discriminator]:
    generator = Generator(noise=8, width=16, depth=2, norm=BatchNorm1d, seed=seed)
    return generator, Discriminator(width=16, depth=2, spectral=spectral, seed=seed + 1)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_images_have_pixels_between_0_and_1_and_scores_one_number() -> None:
    generator, discriminator = pair()
    made = generator(torch.randn(5, 8))
    assert made.shape == (5, 64)
    assert 0 <= made.min() <= made.max() <= 1
    assert discriminator(signed(made)).shape == (5, 1)


def test_arms_begin_with_the_same_weights_and_only_the_first_hidden_layer_is_left_unnormalized() -> None:
    normalized, plain = (Discriminator(width=16, depth=3, norm=norm, seed=1) for norm in (BatchNorm1d, None))
    for ours, theirs in zip(linear_layers(normalized), linear_layers(plain), strict=True):
        assert torch.equal(ours.weight, theirs.weight)
    kinds = [type(layer) for layer in normalized]
    assert kinds == [nn.Linear, nn.LeakyReLU, *[nn.Linear, BatchNorm1d, nn.LeakyReLU] * 2, nn.Linear]


def test_spectral_norm_begins_alike_for_a_seed_and_near_the_weights_over_their_largest_singular_value() -> None:
    first, second = (Discriminator(width=16, depth=2, spectral=True, seed=3) for _ in range(2))
    assert singular_values(first) == singular_values(second)
    plain = Discriminator(width=16, depth=2, seed=3)
    for ours, theirs in zip(linear_layers(first), linear_layers(plain), strict=True):
        direction = theirs.weight / torch.linalg.matrix_norm(theirs.weight, 2)
        torch.testing.assert_close(ours.weight, direction, rtol=0, atol=0.05)  # after 15 power iterations


def test_after_many_power_iterations_every_matrix_has_the_largest_singular_value_1() -> None:
    generator, discriminator = pair(spectral=True)
    play(generator, discriminator, digits(0).train, rate=0.05, momentum=0.5, steps=20, batch=30, mixed=True, seed=0)
    kept = weights(discriminator)
    exact = converged(discriminator, 1000)
    assert singular_values(exact) == pytest.approx([1.0] * 3, abs=1e-3)
    assert torch.equal(weights(discriminator), kept)
    images = digits(0).test.images.double()
    assert 0 < largest_slope(exact, images) <= 1 + 1e-3
    without = Discriminator(width=16, depth=2, seed=1)
    assert max(singular_values(without)) > 1.5  # what it would be


def test_the_largest_slope_is_that_of_the_score_by_the_pixels_it_takes() -> None:
    network = Discriminator(width=4, depth=1, seed=0)
    with torch.no_grad():
        for layer in linear_layers(network):
            layer.weight.zero_()
            layer.bias.zero_()
        first, readout = linear_layers(network)
        first.weight[0, 0] = 3.0
        first.weight[0, 1] = 4.0
        readout.weight[0, 0] = 2.0
    bright, dark = torch.ones(1, 64), torch.zeros(1, 64)
    assert largest_slope(network, bright) == pytest.approx(10.0)
    assert largest_slope(network, dark) == pytest.approx(1.0)  # below 0 the activation's slope is a tenth
    assert largest_slope(network, torch.cat((bright, dark))) == pytest.approx(10.0)


@pytest.mark.parametrize("mixed", [True, False])
def test_a_game_moves_both_and_comes_out_the_same_again(*, mixed: bool) -> None:
    ends = []
    for _ in range(2):
        generator, discriminator = pair()
        start = weights(generator), weights(discriminator)
        seen: list[int] = []
        play(
            generator,
            discriminator,
            digits(0).train,
            rate=0.01,
            momentum=0.5,
            steps=5,
            batch=20,
            mixed=mixed,
            seed=0,
            look=lambda step, seen=seen, of=generator: seen.append(-1 if of.training else step),  # type: ignore[misc]
            look_at=frozenset({2, 5}),
        )
        assert seen == [2, 5]
        assert generator.training
        ends.append((weights(generator), weights(discriminator)))
        assert not any(torch.equal(*each) for each in zip(start, ends[-1], strict=True))
    assert all(torch.equal(*each) for each in zip(*ends, strict=True))


def test_one_batch_of_both_or_one_of_each_makes_a_difference_only_by_batch_norm() -> None:
    noise = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    for norm, same in ((None, True), (BatchNorm1d, False)):
        ends = []
        for mixed in (True, False):
            generator, _ = pair()
            discriminator = Discriminator(width=16, depth=2, norm=norm, seed=1)
            play(
                generator,
                discriminator,
                digits(0).train,
                rate=0.01,
                momentum=0.5,
                steps=3,
                batch=20,
                mixed=mixed,
                seed=0,
            )
            with torch.no_grad():
                ends.append(generator(noise))
        together, apart = ends
        assert torch.allclose(together, apart, rtol=0, atol=1e-3) is same


def test_shuffled_images_keep_the_values_of_each_pixel() -> None:
    images = digits(0).test.images
    found = shuffled(images, 0)
    assert not torch.equal(found, images)
    assert torch.equal(found.sort(dim=0).values, images.sort(dim=0).values)
