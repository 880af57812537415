"""The valley of a linear regression with two weights: its shape, and gradient descent through it, known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normwise.lab.intervals import Numbers
from normwise.torch import BatchNorm1d

END = 0.01
"""The share of the loss above the minimum that is left when the minimum counts as reached."""
RATES = 200
"""The number of rates that are tried."""


@dataclass(frozen=True)
class Valley:
    """The loss mean((x w - y)^2) / 2, which is quadratic in w.

    Args:
        hessian: shape (2, 2).
        minimum: the w at which it is least, shape (2,).
    """

    hessian: Numbers
    minimum: Numbers

    @classmethod
    def of(cls, x: Numbers, y: Numbers) -> Valley:
        """The valley of these features and this target."""
        hessian = x.T @ x / len(x)
        return cls(hessian, np.asarray(np.linalg.solve(hessian, x.T @ y / len(x)), float))

    @property
    def condition(self) -> float:
        """The largest eigenvalue of the Hessian by the smallest."""
        low, high = np.linalg.eigvalsh(self.hessian)
        return float(high / low)

    def above(self, w: Numbers) -> float:
        """The height of the loss above its minimum."""
        return float((w - self.minimum) @ self.hessian @ (w - self.minimum) / 2)

    def path(self, rate: float, steps: int) -> Numbers:
        """Gradient descent from 0: shape (steps + 1, 2)."""
        w, found = np.zeros(2), [np.zeros(2)]
        for _ in range(steps):
            w = w - rate * self.hessian @ (w - self.minimum)
            found.append(w)
        return np.array(found)

    def steps(self, rate: float) -> int:
        """Steps until the loss above the minimum is ``END`` of what it was at w = 0.

        Along each eigenvector the distance is multiplied by 1 - rate * eigenvalue in every step, so that the loss after
        any number of steps is known without taking them; it falls with every step, and the first is found by halving.
        """
        eigenvalues, vectors = np.linalg.eigh(self.hessian)
        parts = eigenvalues * (vectors.T @ self.minimum) ** 2 / 2
        factors = (1 - rate * eigenvalues) ** 2

        def left(count: int) -> float:
            return float(parts @ factors**count / parts.sum())

        low, high = 0, 1
        while left(high) > END:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if left(middle) <= END else (middle, high)
        return high

    def best(self) -> tuple[float, int]:
        """The rate that needs the fewest steps, and how many."""
        largest_rate = 2 / float(np.linalg.eigvalsh(self.hessian)[-1])
        rates = largest_rate * np.arange(1, RATES) / RATES
        counts = [self.steps(float(rate)) for rate in rates]
        at = int(np.argmin(counts))
        return float(rates[at]), counts[at]

    def degrees(self) -> float:
        """The angle between the first step and the way to the minimum."""
        downhill = self.hessian @ self.minimum
        cosine = downhill @ self.minimum / np.linalg.norm(downhill) / np.linalg.norm(self.minimum)
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    def found(self, shown: int) -> dict[str, Any]:
        """All properties of the valley in numbers and lists; ``path`` is so many steps of descent at the best rate."""
        rate, steps = self.best()
        return {
            "condition": self.condition,
            "steps": steps,
            "rate": rate,
            "degrees": self.degrees(),
            "path": self.path(rate, shown).tolist(),
            "hessian": self.hessian.tolist(),
            "minimum": self.minimum.tolist(),
        }

    def contour(self, level: float, far: float) -> tuple[Numbers, list[float | None]]:
        """The contour where the loss is ``level`` times that at w = 0: points around the minimum in units of ``far``.

        Returns:
            The first and the second coordinate; the second is None where the point lies outside of 1.5.
        """
        eigenvalues, vectors = np.linalg.eigh(self.hessian)
        size = np.sqrt(2 * level * self.above(np.zeros(2)) / eigenvalues) / far
        # More points where the long axis leaves the picture quickly: equal steps of its sine.
        turn = np.linspace(0, 2 * np.pi, 721)
        if size[0] > 2:
            edge = np.arcsin(min(1.0, 1.6 / size[0]))
            turn = np.concatenate([np.linspace(np.pi / 2 - edge, np.pi / 2 + edge, 61), [np.nan]])
            turn = np.concatenate([turn, turn + np.pi])
        points = vectors @ (size[:, None] * np.stack([np.cos(turn), np.sin(turn)]))
        inside = np.abs(points).max(axis=0) <= 1.5  # NaN is not inside
        kept = [float(y) if fits else None for y, fits in zip(points[1], inside, strict=True)]
        return np.asarray(np.nan_to_num(points[0])), kept


def path_of_layer(x: Numbers, y: Numbers, rate: float, steps: int) -> Numbers:
    """Gradient descent from 0 on two weights behind a batch-norm layer that gets the features as they are."""
    layer = BatchNorm1d(2, eps=1e-30, affine=False, dtype=torch.float64)  # torch refuses 0
    inputs, target = torch.from_numpy(x), torch.from_numpy(y)
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    found = [w.detach().clone()]
    for _ in range(steps):
        loss = (layer(inputs) @ w - target).square().mean() / 2
        (gradient,) = torch.autograd.grad(loss, w)
        with torch.no_grad():
            w -= rate * gradient
        found.append(w.detach().clone())
    return torch.stack(found).numpy()
