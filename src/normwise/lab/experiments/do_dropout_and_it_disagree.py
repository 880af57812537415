"""Does dropout make the running variance of batch normalization wrong, and is that what costs accuracy?

Question:
    How far from the running variance is the variance that a layer really meets in inference, when units were left out
    in training; and does accuracy come back when the statistics are estimated anew without dropout?

Claim:
    Dropout in front of batch normalization shifts the variance: in training it is larger by 1 / (1 - p) of what
    inference meets, layer by layer more, so that the two "disharmonize": DenseNet on CIFAR-100 reached 77.42 % without
    dropout and 68.55 % with dropout of .5 in front of every normalization. Dropout behind the last normalization does
    not do this (Li et al. 2019).

What would refute it:
    The ratio of the variances does not grow with dropout, or accuracy does not rise when the statistics are estimated
    anew.

Settings:
    Four hidden layers of 100 ReLU units with batch normalization in front of each activation and dropout behind each,
    or behind the last only; scikit-learn's digits, batches of 60, 800 steps of gradient descent at rates 0.05 and 0.2,
    the better of which is picked on validation images. The shift of a layer is max(v/r, r/v) for the variance v of its
    input over the training images in inference and its running variance r, the median over the units. Anew means the
    variances and means over all training images in inference mode, from the first layer to the last.

Verdict:
    "Grows" is reproduced when the shift of the last layer with dropout of .5 is at least 1.2 times that without it, and
    the last layer's at least 1.1 times the second's. "Gets accuracy back" is reproduced at half a point or more, and
    "harmless behind the last" when the interval of the difference to no dropout is within 1 point.

References:
    - X. Li, S. Chen, X. Hu and J. Yang, Understanding the Disharmony between Dropout and Batch Normalization by
      Variance Shift, 2019, arXiv:1801.05134.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normwise.lab.data import Split, digits
from normwise.lab.models import he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack import Stack, batch_norm
from normwise.lab.stack_training import accuracies, both, train_stack
from normwise.lab.statistics import Numbers, band, cell, difference, mean, ratio
from normwise.lab.verdict import AtLeast, Within, judge
from normwise.torch import BatchNorm1d

SAYS = "Li et al. 2019"
TOPIC = "regularization"
TAKES_DATA = True
GROWS = 1.2
DEEPER = 1.1
GAIN = 0.5
SAME = 1.0
PLACES = {False: "behind every layer", True: "behind the last only"}


@dataclass(frozen=True)
class Settings:
    """Dropouts and rates."""

    dropouts: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5)
    rates: tuple[float, ...] = (0.05, 0.2)
    steps: int = 800
    depth: int = 4
    width: int = 100
    batch: int = 60


FULL = Settings(rates=(0.02, 0.05, 0.1, 0.2, 0.5), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All dropouts and rates, side by side."""

    last_only: bool
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:  # noqa: ARG001  # every experiment has the same
    """Both places of dropout with every seed."""
    return [Trial(last_only, seed) for last_only in PLACES for seed in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, compare variances layer by layer, and test before and after new statistics; lists (dropouts, rates)."""
    data = digits(trial.seed)
    pairs = [(dropout, rate) for dropout in settings.dropouts for rate in settings.rates]
    stack = Stack(
        len(pairs),
        depth=settings.depth,
        width=settings.width,
        activation="relu",
        normalize=batch_norm,
        std=he,
        seed=trial.seed,
        dropout=[dropout for dropout, _ in pairs],
        dropout_last_only=trial.last_only,
    )
    rates = [rate for _, rate in pairs]
    train_stack(stack, data.train, rates=rates, steps=settings.steps, batch=settings.batch, seed=trial.seed)
    found: dict[str, Any] = dict(both(stack, data))
    found["shift"] = shifts(stack, data.train)
    estimate_anew(stack, data.train)
    found["anew"] = accuracies(stack, data.test)
    shape = (len(settings.dropouts), len(settings.rates))
    return {name: np.reshape(values, (*shape, *np.shape(values)[1:])).tolist() for name, values in found.items()}


def shifts(stack: Stack, data: Split) -> list[list[float]]:
    """max(v/r, r/v) of real over running variance in inference, mean over units: shape (members, layers)."""
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, _: seen.append(args[0][0].var(dim=1) / module.running_var))
        for layer in stack.normalize
    ]
    stack.eval()
    with torch.no_grad():
        stack(data.images)
    for hook in hooks:
        hook.remove()
    quotients = [quotient.view(stack.members, -1) for quotient in seen]
    # a unit that is dead or nearly so has no variance to compare
    shift = [torch.maximum(quotient, 1 / quotient).nanmedian(dim=1).values for quotient in quotients]
    found: list[list[float]] = torch.stack(shift, dim=1).tolist()
    return found


def estimate_anew(stack: Stack, data: Split) -> None:
    """Give every layer the statistics of the training images in inference mode; each layer sees the mended ones."""
    stack.eval()
    for layer in stack.normalize:

        def mend(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            assert isinstance(module, BatchNorm1d)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(args[0][0].mean(dim=1))
            module.running_var.copy_(args[0][0].var(dim=1))

        hook = layer.register_forward_pre_hook(mend)
        with torch.no_grad():
            stack(data.images)
        hook.remove()


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the shift of the variance and what new statistics give."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_shift(settings, outcomes), _accuracy(settings, outcomes)),
        caveats=(
            "The shift is the median over the units of a layer, since units that hardly ever fire have quotients "
            "without meaning; the paper averages.",
            "A running variance also lags behind the weights and has the noise of batches, so that the shift is a "
            "little above 1 without any dropout; that is what the others are compared with.",
            "In the first layer nothing is left out in front of the normalization, so that only the noise shows there.",
        ),
    )


def _best(arm: Outcomes, dropout: int, name: str) -> Numbers:
    """What the rate that is best on validation images measured with a dropout: shape (seeds, ...)."""
    rate = int(arm.array("validation")[:, dropout].mean(axis=0).argmax())
    found: Numbers = arm.array(name)[:, dropout, rate]
    return found


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    every, last = (outcomes.where(last_only=place) for place in PLACES)
    top = len(settings.dropouts) - 1
    words = f"dropout of {settings.dropouts[top]:g}"
    shift = {i: _best(every, i, "shift") for i in (0, top)}
    test = {i: 100 * _best(every, i, "test") for i in (0, top)}
    return [
        judge(
            f"With {words} behind every layer, the variance of the last layer is shifted more than without dropout.",
            ratio(shift[top][:, -1], shift[0][:, -1]),
            AtLeast(GROWS, nothing=1.0),
        ),
        judge(
            f"With {words} behind every layer, the shift grows with depth, from the second layer to the last.",
            ratio(shift[top][:, -1], shift[top][:, 1]),
            AtLeast(DEEPER, nothing=1.0),
        ),
        judge(
            f"{words.capitalize()} behind every layer costs accuracy.",
            difference(test[0], test[top], "points"),
            AtLeast(GAIN),
            "8.9 points, 77.42 % to 68.55 %, DenseNet on CIFAR-100",
        ),
        judge(
            f"With {words} behind every layer, statistics estimated anew without dropout get accuracy back.",
            difference(100 * _best(every, top, "anew"), test[top], "points"),
            AtLeast(GAIN),
        ),
        judge(
            f"{words.capitalize()} behind the last layer only does no harm.",
            difference(100 * _best(last, top, "test"), 100 * _best(last, 0, "test"), "points"),
            Within(-SAME, 100.0),
        ),
    ]


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for place, words in PLACES.items():
        arm = outcomes.where(last_only=place)
        for i, dropout in enumerate(settings.dropouts):
            shift = _best(arm, i, "shift")
            cells = (
                cell(mean(100 * _best(arm, i, "test"), "%"), 1),
                cell(mean(100 * _best(arm, i, "anew"), "%"), 1),
                *(cell(mean(shift[:, layer], "ratio"), 2) for layer in range(settings.depth)),
            )
            rows.append((words, f"{dropout:g}", *cells))
    n = len(outcomes.where(last_only=False))
    caption = (
        "Test accuracy in % with the running statistics and with statistics estimated anew without dropout, and the "
        f"shift of the variance in each layer. Mean [95 % interval] over {n} seeds"
    )
    layers = tuple(f"shift, layer {layer + 1}" for layer in range(settings.depth))
    return Table(caption, ("dropout", "share", "running", "anew", *layers), tuple(rows))


def _shift(settings: Settings, outcomes: Outcomes) -> Figure:
    layers = tuple(float(layer + 1) for layer in range(settings.depth))
    panels = []
    for place, words in PLACES.items():
        arm = outcomes.where(last_only=place)
        lines = (
            Series(f"dropout {dropout:g}", layers, *(tuple(line) for line in band(_best(arm, i, "shift"))))
            for i, dropout in enumerate(settings.dropouts)
        )
        panels.append(Panel(f"dropout {words}", tuple(lines)))
    return Figure(
        name="shift_by_layer",
        title="How far the running variance is from the real one in inference",
        caption="1 means that they agree. Line: mean over seeds; band: smallest to largest.",
        x_label="layer",
        y_label="shift of the variance, max(v/r, r/v)",
        panels=tuple(panels),
    )


def _accuracy(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for place, words in PLACES.items():
        arm = outcomes.where(last_only=place)
        lines = []
        for name, label in (("test", "running statistics"), ("anew", "statistics anew")):
            values = np.stack([_best(arm, i, name) for i in range(len(settings.dropouts))], axis=1)
            lines.append(Series(label, settings.dropouts, *(tuple(line) for line in band(values))))
        panels.append(Panel(f"dropout {words}", tuple(lines)))
    return Figure(
        name="accuracy_by_dropout",
        title="Test accuracy by dropout, with running statistics and with new ones",
        caption="Line: mean over seeds; band: smallest to largest.",
        x_label="dropout",
        y_label="test accuracy",
        panels=tuple(panels),
    )
