"""One training of the user's own model: split by the seed, one normalizer, one rate, one size of batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from normwise.errors import NormwiseError
from normwise.lab.compare_layers import replace

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Arm:
    """What is compared."""

    normalizer: str
    rate: float
    batch: int

    def words(self) -> str:
        """The arm in words."""
        return f"{self.normalizer} at rate {self.rate:g}, batches of {self.batch}"


@dataclass(frozen=True)
class Data:
    """Inputs with targets: whole numbers are classes, others are values to come near to."""

    inputs: torch.Tensor
    targets: torch.Tensor

    @property
    def classes(self) -> bool:
        """Whether the targets are classes."""
        return not self.targets.is_floating_point()

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy for classes, mean square for values."""
        return cross_entropy(outputs, targets) if self.classes else mse_loss(outputs, targets)

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        """The higher the better: accuracy in %, or minus the mean square; NaN where an output is not finite."""
        if not torch.isfinite(outputs).all():
            return math.nan
        if self.classes:
            return 100 * float((outputs.argmax(dim=1) == targets).double().mean())
        return -float(mse_loss(outputs, targets))

    def split(self, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows for training (60 %), validation (20 %) and the test (20 %).

        The test rows are the same for every seed, so that none of them has chosen anything; the others are shuffled.
        """
        order = torch.randperm(len(self.targets), generator=torch.Generator().manual_seed(0))
        rest = order[: round(0.8 * len(order))]
        rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
        first = round(0.75 * len(rest))
        return rest[:first], rest[first:], order[len(rest) :]


def score(make: Make, data: Data, arm: Arm, steps: int, seed: int) -> tuple[float, float]:
    """Train from scratch; the scores on validation and test rows, NaN where the loss did not stay finite.

    Initial weights, split and order of the rows depend on the seed alone, so that arms pair up.

    Raises:
        NormwiseError: the model cannot take the data, or a layer cannot normalize what reaches it.
    """
    torch.manual_seed(seed)
    model = replace(make(), arm.normalizer, arm.batch)
    train, validation, test = data.split(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=arm.rate, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.int64)
    model.train()
    try:
        for _ in range(steps):
            if len(rows) < arm.batch:  # a new pass, without the ragged rest of the one before
                rows = train[torch.randperm(len(train), generator=generator)]
            now, rows = rows[: arm.batch], rows[arm.batch :]
            loss = data.loss(model(data.inputs[now]), data.targets[now])
            if not math.isfinite(loss.item()):
                return math.nan, math.nan
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            scores = [data.score(model(data.inputs[part]), data.targets[part]) for part in (validation, test)]
    except (RuntimeError, ValueError, IndexError) as error:
        words = " ".join(str(error).split())
        raise NormwiseError(f"MODEL cannot be trained with {arm.words()}: {type(error).__name__}: {words}") from error
    return scores[0], scores[1]
