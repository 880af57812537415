"""What happens when the gradient takes the mean and the variance of the batch for constants?

Question:
    Does training blow up when the statistics do not take part in back-propagation?

Claim:
    "The model blows up when the normalization parameters are computed outside the gradient descent step": the step
    then tries to change the bias b, normalization undoes it, the loss stays the same and "b will grow indefinitely";
    worse if the scale is normalized too (Ioffe & Szegedy 2015, section 2).

What would refute it:
    Biases and weights stay as small as with the whole gradient.

Settings:
    Three hidden layers of 64 ReLU units with batch normalization on scikit-learn's digits, batches of 60, 600 steps of
    gradient descent at rate 0.1, float64. The layers have a bias in front of the normalization. "Whole": gradients pass
    through mean and variance; "mean held" and "both held": these are constants for the gradient, and recomputed at
    every step. Sizes are norms over all hidden layers; growth is the size after all steps over that after half of them.

Verdict:
    The bias does not move under the whole gradient: exact up to 1e-12. "Grows on" is reproduced when the growth of the
    bias is at least 1.2 with an interval above 1; "the weights blow up" when with both held the weights end at least
    twice as large as under the whole gradient; "costs accuracy" from one point on.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from normwise.lab.data import Digits, Split, digits
from normwise.lab.models import Dense, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.statistics import band, cell, difference, largest, mean, ratio
from normwise.lab.training import accuracy, looks, train
from normwise.lab.verdict import AtLeast, Exact, judge
from normwise.torch import BatchNorm1d

SAYS = "Ioffe & Szegedy 2015, section 2"
TOPIC = "what the layer is"
STILL = 1e-12
GROWTH = 1.2
LARGER = 2.0
COST = 1.0
ARMS = {"whole": "whole gradient", "mean": "mean held", "both": "mean and variance held"}


@dataclass(frozen=True)
class Settings:
    """The network and its training."""

    rate: float = 0.1
    steps: int = 600
    depth: int = 3
    width: int = 64
    batch: int = 60


FULL = Settings(steps=5000)


@dataclass(frozen=True)
class Trial:
    """One training; ``held`` says what is a constant for the gradient."""

    held: str
    seed: int


class HeldBatchNorm(nn.Module):
    """Batch normalization whose gradient takes the mean, or mean and variance, for constants.

    Args:
        features: units of the layer.
        held: "mean" or "both".
    """

    def __init__(self, features: int, held: str) -> None:
        super().__init__()
        self.held = held
        self.layer = BatchNorm1d(features, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, features) in and out; the same numbers as batch normalization, with another gradient."""
        if self.training:
            with torch.no_grad():
                self.layer(x)  # for its running statistics
            mean, var = x.mean(dim=0).detach(), x.var(dim=0, correction=0)
            var = var.detach() if self.held == "both" else var
            return (x - mean) / (var + self.layer.eps).sqrt() * self.layer.weight + self.layer.bias
        out: Tensor = self.layer(x)
        return out


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:  # noqa: ARG001  # every experiment has the same
    """Every arm with every seed."""
    return [Trial(held, seed) for held in ARMS for seed in seeds]


def network(held: str, settings: Settings, seed: int) -> Dense:
    """The same initial network for every arm, with biases in front of the normalization."""
    model = Dense(
        depth=settings.depth,
        width=settings.width,
        activation="relu",
        batch_norm=False,
        std=he,
        seed=seed,
        dtype=torch.float64,
    )
    model.normalize = nn.ModuleList(
        BatchNorm1d(settings.width, dtype=torch.float64) if held == "whole" else HeldBatchNorm(settings.width, held)
        for _ in range(settings.depth)
    )
    return model


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, and look at the sizes of weights and biases on the way."""
    data = _in_float64(digits(trial.seed))
    model = network(trial.held, settings, trial.seed)
    at = looks(settings.steps)
    weights, biases = [], []

    def look(step: int) -> None:  # noqa: ARG001  # the steps are known
        layers = [layer for layer in model.linear if isinstance(layer, nn.Linear)]
        weights.append(float(torch.stack([layer.weight.norm() for layer in layers]).norm()))
        biases.append(float(torch.stack([layer.bias.norm() for layer in layers]).norm()))

    train(
        model,
        data.train,
        rate=settings.rate,
        steps=settings.steps,
        batch=settings.batch,
        seed=trial.seed,
        look=look,
        look_at=frozenset(at),
    )
    missing = len(at) - len(weights)  # after it diverged
    return {
        "weights": weights + [float("inf")] * missing,
        "biases": biases + [float("inf")] * missing,
        "validation": accuracy(model, data.validation),
        "test": accuracy(model, data.test),
    }


def _in_float64(data: Digits) -> Digits:
    def double(split: Split) -> Split:
        return replace(split, images=split.images.double())

    return Digits(double(data.train), double(data.validation), double(data.test))


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge how weights and biases grow."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            "With the mean recomputed at every step the numbers of the forward pass are right all the time; only the "
            "gradient is wrong. Holding the statistics fixed over many steps is another thing, and what freezing does.",
            "One rate for all arms, since the statement is about what a given step does.",
        ),
    )


def _half(settings: Settings) -> int:
    return min(i for i, step in enumerate(looks(settings.steps)) if step >= settings.steps / 2)


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    whole, held, both = (outcomes.where(held=arm) for arm in ARMS)
    half = _half(settings)
    found = [
        judge(
            "Under the whole gradient a bias in front of batch normalization never moves.",
            largest(whole.array("biases").max(axis=1), "norm of all biases"),
            Exact(STILL),
            says="the bias is redundant: section 3.2",
        )
    ]
    for arm, words in ((held, "the mean"), (both, "mean and variance")):
        biases = arm.array("biases")
        text = f"With {words} held, the bias grows on and on (its size at the end over that at half of the steps)."
        found.append(judge(text, ratio(biases[:, -1], biases[:, half]), AtLeast(GROWTH, nothing=1.0)))
    text = "With mean and variance held, the weights end at least twice as large as under the whole gradient."
    sizes = ratio(both.array("weights")[:, -1], whole.array("weights")[:, -1])
    found.append(judge(text, sizes, AtLeast(LARGER, nothing=1.0), "the model blows up"))
    for arm, words in ((held, "the mean"), (both, "mean and variance")):
        text = f"With {words} held, the network is less accurate than under the whole gradient."
        cost = difference(100 * whole.array("test"), 100 * arm.array("test"), "points")
        found.append(judge(text, cost, AtLeast(COST)))
    return found


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    half, rows = _half(settings), []
    for held, words in ARMS.items():
        arm = outcomes.where(held=held)
        biases, weights = arm.array("biases"), arm.array("weights")
        sizes = (biases[:, half], biases[:, -1], weights[:, half], weights[:, -1])
        test = cell(mean(100 * arm.array("test"), "%"), 1)
        rows.append((words, *(cell(mean(size, "norm"), 2) for size in sizes), test))
    caption = (
        f"Norms of all hidden layers' biases and weights after {looks(settings.steps)[half]} and {settings.steps} "
        f"steps, and the test accuracy in %. Mean [95 % interval] over {len(outcomes.where(held='whole'))} seeds"
    )
    columns = ("gradient", "biases, half", "biases, end", "weights, half", "weights, end", "test")
    return Table(caption, columns, tuple(rows))


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    at = tuple(float(step) for step in looks(settings.steps))
    panels = []
    for name, words in (("biases", "biases"), ("weights", "weights")):
        lines = (
            Series(ARMS[held], at, *(tuple(line) for line in band(outcomes.where(held=held).array(name))))
            for held in ARMS
        )
        panels.append(Panel(words, tuple(lines)))
    return Figure(
        name="sizes_by_step",
        title="Size of the biases and the weights of the hidden layers",
        caption="Norms over all hidden layers. Line: mean over seeds; band: smallest to largest.",
        x_label="steps",
        y_label="norm",
        panels=tuple(panels),
    )
