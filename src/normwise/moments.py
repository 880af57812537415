"""Mean, variance and count of a set of values, and how two of them become one.

Only operators are used, so the fields may be NumPy arrays or any framework's tensors; no framework is imported.
"""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any  # a number, a NumPy array or a framework's tensor


def where(condition: Array, yes: Array, no: Array) -> Array:
    """``yes`` where ``condition`` holds, else ``no``, for numbers, arrays and tensors alike.

    Example:
        >>> where(True, 1.0, 2.0)
        1.0
    """
    if isinstance(condition, bool | np.bool_) or not hasattr(condition, "ndim"):  # a recorder's number is no bool
        return yes if condition else no
    if isinstance(condition, np.ndarray):
        return np.where(condition, yes, no)
    return yes.where(condition, no) if hasattr(yes, "where") else no.where(~condition, yes)  # a framework's tensors


def isfinite(values: Array) -> Array:
    """True where values are neither NaN nor infinite, for numbers, arrays and tensors alike.

    Example:
        >>> isfinite(np.array([1.0, np.nan, -np.inf]))
        array([ True, False, False])
    """
    return abs(values) < math.inf  # without a NumPy warning, which a difference of infinities brings


def bessel(count: Array) -> Array:
    """Bessel's correction n / (n - 1), which makes a variance unbiased; of two values or more.

    Example:
        >>> bessel(4)
        1.3333333333333333
    """
    return count / (count - 1)


@dataclass(frozen=True, eq=False)
class Moments:
    r"""The mean, the biased variance and the count of the values of each channel.

    .. math:: \mu = \frac{\sum_i w_i x_i}{n}, \quad v = \frac{\sum_i w_i (x_i - \mu)^2}{n}, \quad n = \sum_i w_i

    Args:
        mean: shape (C,), in the unit of the values.
        var: shape (C,), divided by ``count``, in the unit of the values squared.
        count: how many values (or the sum of their weights) stand behind it: a number, or one per channel. Nothing
            seen yet is ``mean`` 0, ``var`` 0, ``count`` 0.

    Example:
        >>> from normwise.moments import Moments
        >>> a, b = Moments(1.0, 0.0, 2), Moments(4.0, 0.0, 1)
        >>> a.merge(b)
        Moments(mean=2.0, var=2.0, count=3)
    """

    mean: Array
    var: Array
    count: Array

    def merge(self, other: Moments) -> Moments:
        r"""The moments of both sets of values together, exact for any counts, an empty side included.

        .. math:: n = n_a + n_b, \quad \delta = \mu_b - \mu_a, \quad \mu = \mu_a + \delta \tfrac{n_b}{n}, \quad
            v = \tfrac{n_a v_a + n_b v_b}{n} + \delta^2 \tfrac{n_a n_b}{n^2}

        References:
            Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
        """
        count = self.count + other.count
        safe = count + (count == 0)  # 0 becomes 1: two empty sets stay mean 0, var 0 without a division by zero
        new, old = other.count / safe, self.count / safe
        delta = other.mean - self.mean
        var = self.var * old + other.var * new + delta * delta * (old * new)
        return Moments(self.mean + delta * new, var, count)

    def merged(self) -> Moments:
        r"""The moments of several sets of values together, of which the fields hold one per row.

        .. math:: n = \sum_k n_k, \quad \mu = \sum_k \tfrac{n_k}{n} \mu_k, \quad
            v = \sum_k \tfrac{n_k}{n} \big(v_k + (\mu_k - \mu)^2\big)

        The same as ``merge`` one after the other: the variance is the total one, within the sets and between them.

        Returns:
            ``mean`` and ``var`` without their first axis; ``count`` the sum over it, or so many times the number that
            all sets share.

        Example:
            >>> import numpy as np
            >>> from normwise.moments import Moments
            >>> Moments(np.array([[1.0], [4.0]]), np.array([[0.0], [0.0]]), np.array([[2], [1]])).merged()
            Moments(mean=array([2.]), var=array([2.]), count=array([3]))
        """
        if getattr(self.count, "ndim", 0):
            count = self.count.sum(0)
            share = self.count / (count + (count == 0))
        else:
            sets = self.mean.shape[0]
            count, share = self.count * sets, 1 / sets
        mean = (self.mean * share).sum(0)
        apart = self.mean - mean
        return Moments(mean, ((self.var + apart * apart) * share).sum(0), count)

    def unbiased_var(self) -> Array:
        r"""The unbiased estimate of the variance of the population that the values were drawn from.

        .. math:: \hat\sigma^2 = \frac{n}{n - 1} v

        Returns:
            shape (C,); NaN where fewer than two values were seen, because one value says nothing about spread.

        References:
            Ioffe and Szegedy 2015, algorithm 2.

        Example:
            >>> from normwise.moments import Moments
            >>> Moments(0.0, 2.0, 4).unbiased_var()
            2.6666666666666665
        """
        known = self.count > 1
        return where(known, self.var * bessel(where(known, self.count, 2)), self.var * float("nan"))

    @classmethod
    def from_unbiased_var(cls, mean: Array, unbiased_var: Array, count: Array) -> Moments:
        r"""Moments from an unbiased variance, the inverse of ``unbiased_var``.

        .. math:: v = \frac{n - 1}{n} \hat\sigma^2

        Example:
            >>> from normwise.moments import Moments
            >>> Moments.from_unbiased_var(0.0, 2.6666666666666665, 4).var
            2.0
        """
        safe = count + (count == 0)
        return cls(mean, unbiased_var * ((safe - 1) / safe), count)

    def population_var(self) -> Array:
        """The old name of ``unbiased_var``, which goes with 0.2."""
        _warn("population_var", "unbiased_var")
        return self.unbiased_var()

    @classmethod
    def from_population_var(cls, mean: Array, population_var: Array, count: Array) -> Moments:
        """The old name of ``from_unbiased_var``, which goes with 0.2."""
        _warn("from_population_var", "from_unbiased_var")
        return cls.from_unbiased_var(mean, population_var, count)


def _warn(old: str, new: str) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return  # a compiled graph has no place for warnings
    warnings.warn(
        f"Moments.{old} is called Moments.{new} now and has its old name until 0.2: call it by the new one.",
        DeprecationWarning,
        stacklevel=3,
    )


def biased(unbiased_var: Array, count: Array) -> Array:
    r"""The variance divided by n from the one divided by n - 1: PyTorch's running variance as Keras would store it.

    .. math:: v = \frac{n - 1}{n} \hat\sigma^2

    PyTorch stores the unbiased variance of each batch, Keras the biased one; both divide a batch by the biased one. An
    average of variances of batches of one size converts like a single one.

    Args:
        unbiased_var: :math:`\hat\sigma^2`, any shape.
        count: n, the values per channel of one batch: batch size times spatial size, in all synchronized processes.

    Example:
        >>> biased(2.0, 4)
        1.5
    """
    return Moments.from_unbiased_var(0.0, unbiased_var, count).var


def unbiased(var: Array, count: Array) -> Array:
    r"""The variance divided by n - 1 from the one divided by n: Keras's moving variance as PyTorch would store it.

    .. math:: \hat\sigma^2 = \frac{n}{n - 1} v

    Args:
        var: :math:`v`, any shape.
        count: n, the values per channel of one batch, more than 1; the result is NaN for one value.

    Example:
        >>> unbiased(1.5, 4)
        2.0
    """
    return Moments(0.0, var, count).unbiased_var()
