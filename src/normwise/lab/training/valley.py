"""The valley of a linear regression with two weights: its shape, and gradient descent through it, known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normwise.lab.intervals import Numbers

END = 0.01
"""Of the loss above the minimum, what is left when the minimum counts as reached."""
RATES = 200
"""How many rates are tried."""


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
        """Of these features and this target."""
        hessian = x.T @ x / len(x)
        return cls(hessian, np.asarray(np.linalg.solve(hessian, x.T @ y / len(x)), float))

    @property
    def condition(self) -> float:
        """The largest eigenvalue of the Hessian by the smallest."""
        low, high = np.linalg.eigvalsh(self.hessian)
        return float(high / low)

    def above(self, w: Numbers) -> float:
        """What the loss is above its minimum."""
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
