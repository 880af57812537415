"""Faults of the data: domains, padding, drift, offsets."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.doctor.case import Harm, Patient, fault, loss_harm
from benchmarks.doctor.digits import LEARNED, Batches, held_out, images, to_learn
from benchmarks.doctor.models import build
from benchmarks.doctor.training import train, trained


def two_domains(batches: Batches, seed: int) -> Batches:
    """Every second batch is of images in negative, or of faint ones, by the seed."""
    times, plus = ((-0.4, 0.6), (-1.0, 1.0), (0.15, 0.8))[seed % 3]
    return [(times * x + plus if number % 2 else x, y) for number, (x, y) in enumerate(batches)]


@fault("mixed_domains")
def two_domains_in_turns(kind: str, seed: int) -> Patient:
    """Batches of images and of changed ones in turns, under one set of statistics."""
    model = train(build(kind, seed), seed, epoch=lambda number: two_domains(to_learn(number), seed))
    data, twin = two_domains(held_out(), seed), trained(kind, seed)
    return Patient(model, twin, loss_harm(model, twin, data, held_out()), (), data)


@fault("drifted_data")
def darker_images(kind: str, seed: int) -> Patient:
    """The images have another brightness and contrast than those of the training; the source is given."""
    model, twin = trained(kind, seed), trained(kind, seed)
    data = [(0.4 * x + 0.5, y) for x, y in held_out()]
    return Patient(model, twin, loss_harm(model, twin, data, held_out()), (), data, {"source_model": twin})


def padded(first: int, last: int, seed: int, *, whole: bool) -> Batches:
    """Images as sequences of 32 columns, noisy, of which the last ones are missing here and there."""
    x, y = (each[first:last] for each in images())
    generator = torch.Generator().manual_seed(seed + first)
    x = x.reshape(-1, 8, 8).repeat(1, 1, 4) + 0.1 * torch.rand(len(x), 8, 32, generator=generator)
    lengths = torch.randint(6, 33, (len(x),), generator=generator)
    if not whole:
        x = x * (torch.arange(32) < lengths[:, None])[:, None]
    return list(zip(x.split(32), y.split(32), strict=True))


def sequences(seed: int) -> nn.Module:
    """A network for sequences of 8 features; one norm on the data, one behind a convolution."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.BatchNorm1d(8), nn.Conv1d(8, 16, 3 + 2 * (seed % 2), padding=1 + seed % 2, bias=False), nn.BatchNorm1d(16),
        nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


@fault("padding_in_statistics", "one-dimensional")
def sequences_padded_to_the_longest(kind: str, seed: int) -> Patient:
    """Sequences of 6 to 32 places, with zeros at the end, in training and after."""
    del kind
    model, twin = (
        train(sequences(seed), seed, epoch=lambda _, whole=whole: padded(0, LEARNED, seed, whole=whole))  # type: ignore[misc]  # a default binds it
        for whole in (False, True)
    )
    data = padded(LEARNED, 1797, seed, whole=False)
    other = padded(LEARNED, 1797, seed, whole=True)
    return Patient(model, twin, loss_harm(model, twin, data, other), ("0",), data)


@fault("cancelling_variance", "dense")
def a_large_offset(kind: str, seed: int) -> Patient:
    """The features come with an offset of 3000 to 6000, and the first layer is a norm."""
    del kind
    offset = 3000.0 + 1000 * (seed % 4)

    def moved(batches: Batches, by: float) -> Batches:
        return [(x[:, 18:46] + by + 0.01 * torch.rand(len(x), 28), y) for x, y in batches]

    models = []
    for by in (offset, 0.0):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.BatchNorm1d(28), nn.Linear(28, 10))
        models.append(train(model, seed, epoch=lambda number, by=by: moved(to_learn(number), by)))  # type: ignore[misc]  # as above
    data = moved(held_out(), offset)
    x = torch.cat([part for part, _ in data])
    right = x.double().var(0, unbiased=False)
    quick = x.square().mean(0) - x.mean(0).square()
    wrong = float(((quick - right).abs() / right).median())
    harm = Harm(wrong, "relative error of a one-pass variance in float32, median channel", wrong > 0.01)
    return Patient(models[0], models[1], harm, ("0",), data)
