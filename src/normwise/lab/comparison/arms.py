"""The arms of a comparison, and one training of an arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from normwise.errors import NormwiseError, UnknownName

NORMALIZERS = ("none", "batch", "ghost", "renorm", "group", "layer", "instance")
WITH_STATISTICS = ("batch", "ghost", "renorm")
"""Those that normalize by stored statistics in inference."""
OWN = "batch"
AS_BUILT = "as built"
GROUP = 8
"""Channels per group of group norm, at least, where they can be divided so."""


@dataclass(frozen=True)
class Arm:
    """One setting to compare: a normalizer, its place, a learning rate and a size of batches.

    Args:
        normalizer: a name in ``NORMALIZERS``.
        where: ``"as built"``, or ``"before"`` or ``"after"`` the activation.
        rate: of learning.
        batch: rows per batch.
    """

    normalizer: str
    where: str
    rate: float
    batch: int

    @property
    def own(self) -> bool:
        """True if this is the model as it was built."""
        return self.normalizer == OWN and self.where == AS_BUILT

    def words(self) -> str:
        """The arm in words."""
        where = "" if self.where == AS_BUILT else f" {self.where} the activation"
        return f"{self.normalizer}{where} at rate {self.rate:g}, batches of {self.batch}"


@dataclass(frozen=True)
class Trial:
    """One training from scratch.

    Args:
        arm: of what.
        steps: of gradient descent.
        seed: of initial weights, split and order of the rows.
        final: whether it is examined on the test rows, with every inference statistics.
    """

    arm: Arm
    steps: int
    seed: int
    final: bool = False


def arms(normalizers: Sequence[str], where: Sequence[str], rates: Sequence[float], batches: Sequence[int]) -> list[Arm]:
    """Every combination, the model as it was built among them.

    Raises:
        UnknownName: a normalizer that there is not.
        NormwiseError: nothing to compare with, or a rate or a size of batches that cannot be.
    """
    for name in normalizers:
        if name not in NORMALIZERS:
            raise UnknownName("normalizer", name, NORMALIZERS)
    for rate in rates:
        if not 0 < rate < float("inf"):
            raise NormwiseError(f"a learning rate must be above 0 and finite, received {rate:g}: pass for example 0.1.")
    for size in batches:
        if size < 2:
            raise NormwiseError(f"a batch must have 2 rows or more, received {size}: pass for example 32.")
    found = [Arm(*each) for each in product(normalizers, where, rates, batches)]
    # without a normalization there is nothing to move
    found = [arm for arm in dict.fromkeys(found) if arm.normalizer != "none" or arm.where == AS_BUILT]
    if OWN not in normalizers or all(arm.own for arm in found):
        raise NormwiseError(
            "the normalizers must be 'batch' and at least one other to compare it with, received "
            f"{', '.join(normalizers)}: name for example batch,group."
        )
    return found


def groups(channels: int) -> int:
    """The largest number of groups of at least ``GROUP`` channels, at most 32; 1 where there is no such number.

    Example:
        >>> groups(64), groups(12), groups(7)
        (8, 1, 1)
    """
    return max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= GROUP))
