"""Dense networks of ReLU units that are the same function in inference: batch norm folded away, or put in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normwise.lab.networks.dense import Dense, he
from normwise.torch import BatchNorm1d


def folded(model: Dense) -> Dense:
    """The same function without normalization, by line 11 of algorithm 2; computed in float64."""
    plain = _like(model, batch_norm=False)
    with torch.no_grad():
        for ours, theirs, layer in zip(plain.linear, model.linear, model.normalize, strict=True):
            assert isinstance(ours, nn.Linear)  # nn.ModuleList does not know what it holds
            assert isinstance(theirs, nn.Linear)
            assert isinstance(layer, BatchNorm1d)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            factor = layer.weight.double() / (layer.running_var.double() + layer.eps).sqrt()
            ours.weight.copy_(theirs.weight.double() * factor[:, None])
            ours.bias.copy_(layer.bias.double() - layer.running_mean.double() * factor)
        plain.readout.weight.copy_(model.readout.weight)
        plain.readout.bias.copy_(model.readout.bias)
    return plain.eval()


@torch.no_grad()
def with_identities(plain: Dense, images: Tensor) -> Dense:
    """The same function with batch normalization in inference mode; its statistics are those of ``images``."""
    found = _like(plain, batch_norm=True)
    found.readout.load_state_dict(plain.readout.state_dict())
    x = images
    for ours, theirs, layer in zip(found.linear, plain.linear, found.normalize, strict=True):
        assert isinstance(ours, nn.Linear)  # nn.ModuleList does not know what it holds
        assert isinstance(theirs, nn.Linear)
        assert isinstance(layer, BatchNorm1d)
        ours.weight.copy_(theirs.weight)  # it has no bias: the shift has that part
        z = ours(x)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(z.mean(dim=0))
        layer.running_var.copy_(z.var(dim=0))
        layer.weight.copy_((layer.running_var + layer.eps).sqrt())
        layer.bias.copy_(layer.running_mean + theirs.bias)
        x = torch.relu(theirs(x))
    return found.eval()


def identity_for(inputs: Tensor, *, eps_inside: bool) -> nn.Module:
    """A layer in training mode whose scale and shift undo the statistics of ``inputs``."""
    layer = BatchNorm1d(inputs.shape[1], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_((inputs.var(dim=0, correction=0) + (layer.eps if eps_inside else 0.0)).sqrt())
        layer.bias.copy_(inputs.mean(dim=0))
    return layer


def deviation(layer: nn.Module, inputs: Tensor) -> float:
    """Root mean square of what a layer changes, in standard deviations of its input."""
    with torch.no_grad():
        return float((layer(inputs) - inputs).square().mean().sqrt() / inputs.std(dim=0).mean())


def _like(model: Dense, *, batch_norm: bool) -> Dense:
    """An untrained network of the same shape, in float64."""
    depth, width = len(model.linear), model.readout.in_features
    return Dense(
        depth=depth, width=width, activation="relu", batch_norm=batch_norm, std=he, seed=0, dtype=torch.float64
    )
