"""The settings that trainings have in common, and training at every rate of a grid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from normwise.lab.data.splits import Digits, Split
from normwise.lab.design import plateau
from normwise.lab.networks.dense import Dense, he
from normwise.lab.networks.stack import Normalization, Stack, Together, batch_norm
from normwise.lab.training.descent import accuracy, looks, to_a_tenth, train
from normwise.lab.training.stacks import accuracies, both, train_stack

Module = TypeVar("Module", bound=nn.Module)
Measures = dict[str, Callable[[Any], Any]]
"""The functions that measure a trained network, by name."""


def on_both(data: Digits) -> Measures:
    """The accuracy on validation images, to choose by, and on test images, to report."""
    return {
        "validation": lambda model: accuracy(model, data.validation),
        "test": lambda model: accuracy(model, data.test),
    }


@dataclass(frozen=True)
class Rates:
    """Rates, of which each arm picks its own on validation images."""

    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Training(Rates):
    """The same, and steps."""

    steps: int = 600

    def at_every_rate(
        self,
        network: Callable[[], nn.Module],
        data: Split,
        seed: int,
        measures: Measures,
        *,
        batch: int,
        steps: int | None = None,
        schedule: Callable[[int], float] | None = None,
    ) -> dict[str, Any]:
        """Train a network at every rate, one after the other, and measure each.

        Args:
            network: makes it, as it is at the beginning.
            data: what to train on.
            seed: of the order of the images.
            measures: what to measure of a trained network, by name.
            batch: images per step.
            steps: None: those of the settings.
            schedule: what the rate is multiplied by at a step.

        Returns:
            For each name a list over the rates.
        """
        found: dict[str, Any] = {name: [] for name in measures}
        for rate in self.rates:
            model = network()
            train(model, data, rate=rate, steps=steps or self.steps, batch=batch, seed=seed, schedule=schedule)
            for name, measure in measures.items():
                found[name].append(measure(model))
        return found


@dataclass(frozen=True)
class Looks:
    """The looks at training, for settings that have ``steps``: each so many times as late as the one before.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Settings(Looks, Training):
        ...     steps: int = 20
        >>> Settings(growth=1.5).looks()
        [10, 15, 20]
    """

    growth: float = 1.1

    def looks(self) -> list[int]:
        """The steps after which training is looked at."""
        return looks(vars(self)["steps"], growth=self.growth)


@dataclass(frozen=True)
class OneNetwork:
    """A dense network, and its training at one rate."""

    depth: int = 3
    width: int = 64
    rate: float = 0.1
    steps: int = 300
    batch: int = 60

    def dense(
        self, seed: int, *, depth: int | None = None, batch_norm: bool = True, dtype: torch.dtype = torch.float32
    ) -> Dense:
        """The network of ReLU units as it is at the beginning.

        Args:
            seed: of the initial weights.
            depth: how many hidden layers; None: the setting of that name.
            batch_norm: whether it is normalized.
            dtype: of the parameters.
        """
        return Dense(depth=depth or self.depth, width=self.width, batch_norm=batch_norm, seed=seed, dtype=dtype)

    def train(
        self,
        model: Module,
        data: Split,
        seed: int,
        *,
        batch: int | None = None,
        look: Callable[[int], None] | None = None,
        look_at: Collection[int] = (),
    ) -> Module:
        """Train a network, and give it back.

        Args:
            model: is changed in place.
            data: what to train on.
            seed: of the order of the images.
            batch: None: that of the settings.
            look: called with the number of steps done.
            look_at: after which steps.
        """
        size = batch or self.batch
        train(model, data, rate=self.rate, steps=self.steps, batch=size, seed=seed, look=look, look_at=look_at)
        return model


@dataclass(frozen=True)
class Stacks(Rates):
    """Dense networks, of which those of all rates are trained side by side."""

    batch: int = 60
    width: int = 64

    def stack(
        self,
        seed: int,
        normalize: Normalization | bool | None,
        *,
        members: int | None = None,
        depth: int | None = None,
        activation: str = "relu",
        std: Callable[[int], float] = he,
        scales: Sequence[float] = (),
        dropout: Sequence[float] = (),
        dropout_last_only: bool = False,
        after: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Stack:
        """Networks that begin alike, one for each rate.

        Args:
            seed: of the initial weights.
            normalize: makes the normalization of a layer; True: batch norm; None or False: there is none.
            members: how many networks; None: one for each rate.
            depth: how many hidden layers; None: the setting of that name.
            activation: as for ``stack.Stack``, and so are the following.
            std: of the initial weights.
            scales: by what each network's hidden weights are multiplied.
            dropout: of each network.
            dropout_last_only: in the last hidden layer only.
            after: normalize behind the activation.
            dtype: of the parameters.
        """
        if isinstance(normalize, bool):
            normalize = batch_norm if normalize else None
        return Stack(
            members or len(self.rates),
            depth=depth or vars(self)["depth"],  # a setting of ``DenseTraining``, and of some others
            width=self.width,
            activation=activation,
            normalize=normalize,
            std=std,
            seed=seed,
            scales=scales,
            dropout=dropout,
            dropout_last_only=dropout_last_only,
            after=after,
            dtype=dtype,
        )

    def train(
        self,
        stack: Together,
        data: Split | Iterator[tuple[Tensor, Tensor]],
        seed: int,
        *,
        rates: Sequence[float] | None = None,
        steps: int | None = None,
        batch: int | None = None,
        decay: Sequence[float] = (),
        schedule: Callable[[int], Tensor | float] | None = None,
        look: Callable[[int], None] | None = None,
        look_at: Collection[int] = (),
    ) -> list[bool]:
        """Train every network of a stack at its rate, all on the same batches.

        Args:
            stack: is changed in place.
            data: what to train on, in batches drawn at random; or the batches themselves.
            seed: of the order of the images.
            rates: one per network; None: those of the settings.
            steps: None: the setting of that name.
            batch: None: that of the settings.
            decay: one L2 weight per network.
            schedule: what the rates are multiplied by at a step.
            look: called with the number of steps done.
            look_at: after which steps.

        Returns:
            For each network whether its last loss was finite.
        """
        return train_stack(
            stack,
            data,
            rates=self.rates if rates is None else rates,
            steps=steps or vars(self)["steps"],  # a setting of ``Training``
            batch=batch or self.batch,
            seed=seed,
            decay=decay,
            schedule=schedule,
            look=look,
            look_at=look_at,
        )

    def train_to_a_plateau(
        self, stack: Together, data: Digits, seed: int, *, steps: int | None = None, batch: int | None = None
    ) -> dict[str, list[float]]:
        """Train while the rates fall to a tenth, and measure what ``plateau.still_learns`` asks for.

        Args:
            stack: is changed in place.
            data: trained on in one part, measured on in the others.
            seed: of the order of the images.
            steps: None: the setting of that name.
            batch: None: that of the settings.

        Returns:
            Each network's accuracies: ``validation`` and ``test`` at the end, ``late`` on validation images after two
            thirds of the steps.
        """
        steps = steps or vars(self)["steps"]
        late: list[list[float]] = []
        self.train(
            stack,
            data.train,
            seed,
            steps=steps,
            batch=batch,
            schedule=to_a_tenth(steps),
            look=lambda _: late.append(accuracies(stack, data.validation)),
            look_at=(plateau.two_thirds(steps),),
        )
        return both(stack, data) | {"late": late[0]}


@dataclass(frozen=True)
class SideBySide(Stacks, Training):
    """The same, all for so many steps."""


@dataclass(frozen=True)
class DenseTraining(SideBySide):
    """The same, all networks of one depth."""

    depth: int = 5


def by_pair(found: Mapping[str, Any], outer: Sequence[Any], rates: Sequence[float]) -> dict[str, Any]:
    """Lists over pairs, of which the rate changes fastest, as lists of lists: shape (outer, rates, ...)."""
    shape = (len(outer), len(rates))
    return {name: np.reshape(values, (*shape, *np.shape(values)[1:])).tolist() for name, values in found.items()}
