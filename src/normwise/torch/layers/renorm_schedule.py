"""The schedule of batch renormalization: how far it may correct a batch, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class RenormSchedule:
    r"""The bounds of batch renormalization's correction, by how many batches the statistics have seen.

    .. math:: r_{max}(k) = 1 + (r - 1) \Big[\frac{k - w}{k_r - w}\Big]_0^1, \quad
        d_{max}(k) = d \Big[\frac{k - w}{k_d - w}\Big]_0^1

    Up to ``warm_up`` batches it is plain batch normalization. The defaults are the paper's.

    Args:
        warm_up: w, batches without any correction.
        r_max: r, the bound of the scale's correction at the end, 1 or more; it is between 1/r and r.
        r_full: :math:`k_r`, the batch at which it is reached.
        d_max: d, the bound of the shift's correction at the end, in standard deviations, 0 or more.
        d_full: :math:`k_d`, the batch at which it is reached.

    Raises:
        ValueError: an r_max below 1, a d_max below 0, or a number of batches that is below 0 or before the warm-up.

    References:
        Ioffe 2017, section 4.1.

    Example:
        >>> import torch
        >>> from normwise.torch import RenormSchedule
        >>> bounds = RenormSchedule().bounds(torch.tensor(22500))
        >>> bounds.r_max.item(), bounds.d_max.item()
        (2.0, 4.375)
    """

    warm_up: int = 5000
    r_max: float = 3.0
    r_full: int = 40000
    d_max: float = 5.0
    d_full: int = 25000

    def __post_init__(self) -> None:
        if not self.r_max >= 1:
            raise ValueError(f"r_max must be 1 or more, received {self.r_max}: 1 is no correction of the scale.")
        if not self.d_max >= 0:
            raise ValueError(f"d_max must be 0 or more, received {self.d_max}: 0 is no correction of the shift.")
        if not 0 <= self.warm_up <= min(self.r_full, self.d_full):
            raise ValueError(
                f"warm_up must be 0 or more and at most r_full and d_full, received warm_up={self.warm_up}, "
                f"r_full={self.r_full}, d_full={self.d_full}: they count batches from the start."
            )

    def bounds(self, seen: Tensor) -> Bounds:
        """The bounds for the next batch.

        Args:
            seen: batches before it, shape ().

        Returns:
            shape () each, in float64 where the device has it.
        """
        wide = torch.float32 if seen.device.type == "mps" else torch.float64

        def risen(full: int) -> Tensor:
            # A schedule without a rise is a step: as soon as the warm-up is over.
            behind = seen.to(wide) - self.warm_up
            share = behind / (full - self.warm_up) if full > self.warm_up else (behind >= 0).to(wide)
            return share.clamp(0, 1)

        r_max, d_max = 1 + (self.r_max - 1) * risen(self.r_full), self.d_max * risen(self.d_full)
        return Bounds(r_max, d_max)


class Bounds(NamedTuple):
    """The ranges of r and d: from 1/r_max to r_max, and from -d_max to d_max."""

    r_max: Tensor
    d_max: Tensor
