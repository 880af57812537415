"""Forecasts of the next price from a window of prices: a small network that is normalized, and its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normwise.lab.intervals import Numbers
from normwise.lab.networks.dense import draw, glorot
from normwise.torch import BatchNorm1d
from normwise.torch.models.recalibration.adapting import adapting


class Forecast(nn.Module):
    """The next price from a window: normalize, a hidden layer, and back to the units of the window.

    Args:
        window: how many prices.
        width: hidden units.
        seed: of the initial weights.
        own: every window is normalized by its own mean and variance, and not by the layer's.
    """

    def __init__(self, window: int, width: int, seed: int, *, own: bool = False) -> None:
        super().__init__()
        self.own, self.place = own, 0
        self.normalize = BatchNorm1d(1, affine=False, momentum=1.0)  # all windows in one batch: nothing to average
        self.hidden, self.readout = nn.Linear(window, width), nn.Linear(width, 1)
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.hidden, self.readout):
            draw(layer, glorot(layer.in_features), generator)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The prediction from shape (n, window) in normalized units, and the location and scale to put back."""
        if self.own:
            location, var = windows.mean(dim=1), windows.var(dim=1, correction=0)
            scale = (var + 1e-6 * location.square()).sqrt()  # a window of equal prices must not divide by 0
            x = (windows - location[:, None]) / scale[:, None]
        else:
            x = self.normalize(windows[:, None])[:, 0]
            assert self.normalize.running_mean is not None
            assert self.normalize.running_var is not None
            location = self.normalize.running_mean
            scale = (self.normalize.running_var + self.normalize.eps).sqrt()
        return self.readout(torch.tanh(self.hidden(x)))[:, 0], location, scale


def windows_of(prices: Numbers, size: int) -> tuple[Numbers, Numbers]:
    """Every window of so many prices, shape (n, size), and the price behind it, shape (n,)."""
    windows = np.lib.stride_tricks.sliding_window_view(prices[:-1], size)
    return np.asarray(windows), prices[size:]


def next_price(model: Forecast, window: Tensor) -> float:
    """The next price, and nothing else: a month at a time, as it would be done."""
    with torch.no_grad():
        out, location, scale = model(window[None])
    return float(out * scale + location)


def best_of_rates(
    windows: Tensor, target: Tensor, *, rates: Sequence[float], steps: int, width: int, seed: int, own: bool
) -> Forecast:
    """The network that is best on the last fifth of the windows among those of all rates; in inference mode.

    Its ``place`` says which of the rates it was.
    """
    first = round(0.8 * len(windows))
    found = []
    for rate in rates:
        model = Forecast(windows.shape[1], width, seed, own=own)
        _train(model, windows[:first], target[:first], rate, steps)
        with torch.no_grad():
            out, location, scale = model(windows[first:])
            error = float(((out * scale + location - target[first:]) / scale).square().mean())
        found.append(error if np.isfinite(error) else np.inf)
    model = Forecast(windows.shape[1], width, seed, own=own)
    model.place = int(np.argmin(found))
    _train(model, windows, target, rates[model.place], steps)
    return model


def scores(predicted: Numbers, actual: Numbers, last: Numbers, years: int) -> dict[str, Any]:
    """The scores of predictions of prices.

    Args:
        predicted: shape (months,).
        actual: what the prices were.
        last: the prices before, which are what is predicted without skill.
        years: how many to look at one by one, from the first month on.

    Returns:
        ``error``, the median in shares of the price; ``skill``, 1 minus the squared error over that of ``last``;
        ``direction``, the share of right directions minus that of always saying up; ``at``, the error of each year.
    """
    error, naive, relative = (predicted - actual) / last, (last - actual) / last, np.abs(predicted - actual) / actual
    right = np.mean((predicted > last) == (actual > last)) - np.mean(actual > last)
    return {
        "error": float(np.median(relative)),
        "skill": float(1 - np.mean(error**2) / np.mean(naive**2)),
        "direction": float(right),
        "at": [float(np.median(relative[12 * year : 12 * (year + 1)])) for year in range(years)],
    }


def walk(
    windows: Numbers,
    target: Numbers,
    *,
    training: int,
    priors: Mapping[str, float],
    memory: float,
    rates: Sequence[float],
    steps: int,
    width: int,
    seed: int,
) -> dict[str, Numbers]:
    """Predictions for the months behind the training, a month at a time, in several ways.

    Args:
        windows: of prices, shape (n, window).
        target: the price behind each, shape (n,).
        training: how many of them are trained on.
        priors: for ways whose statistics follow, by the way's name.
        memory: of these, in months.
        rates: to choose from.
        steps: of the training.
        width: hidden units.
        seed: of the initial weights.

    Returns:
        By way, of shape (n - training,): ``last``, the last price repeated; ``fixed``, by the statistics of training; a
        way for each prior; ``window``, by those of each window; ``ratios``, by ratios of prices. And ``places``, which
        of the rates was picked for prices, for windows and for ratios.
    """
    best = partial(best_of_rates, rates=rates, steps=steps, width=width, seed=seed)
    price = torch.from_numpy(windows.copy()).float()
    goal = torch.from_numpy(target.copy()).float()
    found = {"last": windows[training:, -1]}
    plain = best(price[:training], goal[:training], own=False)
    found["fixed"] = np.array([next_price(plain, window) for window in price[training:]])
    for way, prior in priors.items():
        with adapting(plain, prior=prior, memory=memory):
            found[way] = np.array([next_price(plain, window) for window in price[training:]])
    own = best(price[:training], goal[:training], own=True)
    found["window"] = np.array([next_price(own, window) for window in price[training:]])
    steps_of = torch.from_numpy(np.diff(np.log(np.column_stack([windows, target])), axis=1)).float()
    # as many ratios as a window of prices holds, and the one behind them
    ratios = best(steps_of[:training, :-1], steps_of[:training, -1], own=False)
    change = np.array([next_price(ratios, window) for window in steps_of[training:, :-1]])
    found["ratios"] = windows[training:, -1] * np.exp(change)
    found["places"] = np.array([model.place for model in (plain, own, ratios)])
    return found


def _train(model: Forecast, windows: Tensor, target: Tensor, rate: float, steps: int) -> None:
    model.train()
    parameters = list(model.parameters())
    for _ in range(steps):
        out, location, scale = model(windows)
        loss = (out - (target - location) / scale).square().mean()
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            with torch.no_grad():
                parameter.sub_(gradient, alpha=rate)
    model.eval()
