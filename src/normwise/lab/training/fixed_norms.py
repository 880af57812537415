"""Gradient descent that keeps the norms of the hidden weights, which no normalization behind them notices."""

from __future__ import annotations

from itertools import islice

import torch
from torch.nn.functional import cross_entropy

from normwise.lab.data.splits import Split, batches
from normwise.lab.networks.dense import Dense
from normwise.torch import BatchNorm1d

RATE = 0.1
DECAY = 0.1


def difference_to_another_rate(
    data: Split, *, depth: int, width: int, steps: int, batch: int, seed: int, hidden_rate: float | None = None
) -> float:
    """Largest difference of logits between L2 at a rate and no L2 at the rate that stands for it, at fixed norms.

    Args:
        data: what to train on, and what the logits are of.
        depth: hidden layers of the network.
        width: units in each.
        steps: how many steps.
        batch: images per step.
        seed: of the initial weights and of the order of the images.
        hidden_rate: the rate in place of L2; None: the one that stands for it.
    """
    instead = RATE / (1 - RATE * DECAY) if hidden_rate is None else hidden_rate
    logits = []
    for penalty, each in ((DECAY, RATE), (0.0, instead)):
        model = Dense(
            depth=depth,
            width=width,
            norm=lambda features: BatchNorm1d(features, eps=1e-30, dtype=torch.float64),
            seed=seed,
            dtype=torch.float64,
        )
        train_at_fixed_norms(model, data, steps=steps, batch=batch, seed=seed, hidden_rate=each, decay=penalty)
        with torch.no_grad():
            logits.append(model(data.images.double()))
    return float((logits[0] - logits[1]).abs().max())


def train_at_fixed_norms(
    model: Dense, data: Split, *, steps: int, batch: int, seed: int, hidden_rate: float, decay: float
) -> None:
    """Train at one rate for the hidden weights, which are scaled back after each step, and ``RATE`` for all else.

    Args:
        model: is changed in place.
        data: what to train on.
        steps: how many steps.
        batch: images per step.
        seed: of the order of the images.
        hidden_rate: the rate of the hidden weights.
        decay: the L2 weight of the hidden weights.
    """
    named = dict(model.named_parameters())
    hidden = [name for name in named if name.startswith("linear.") and name.endswith("weight")]
    norms = {name: named[name].detach().norm() for name in hidden}
    model.train()
    for images, labels in islice(batches(data, batch, seed), steps):
        loss = cross_entropy(model(images.double()), labels)
        gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        with torch.no_grad():
            for name, parameter in named.items():
                if name in hidden:
                    parameter.sub_(hidden_rate * (gradients[name] + decay * parameter))
                    parameter.mul_(norms[name] / parameter.norm())
                else:
                    parameter.sub_(RATE * gradients[name])
