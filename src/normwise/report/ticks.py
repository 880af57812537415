"""Ticks of an axis: few, round, and written without mathematics markup, so that the page's own font draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from normwise.lab.results import Scale
from normwise.report.wording import number, power_of_ten

_MOST = 7


def positions(low: float, high: float, scale: Scale) -> list[float]:
    """Round numbers between the ends of an axis.

    Args:
        low: lower end of the axis.
        high: upper end.
        scale: of the axis; on a logarithmic one they are powers of ten, with 2 and 5 or 3 between where there is room.

    Example:
        >>> positions(0.02, 40.0, "log"), positions(0.0, 9.0, "linear")
        ([0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0], [0.0, 2.0, 4.0, 6.0, 8.0])
    """
    if scale == "log":
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        choices = [
            [float(f"{n}e{e}") for e in range(first, last + 1) for n in leads if low <= float(f"{n}e{e}") <= high]
            for leads in ((1, 2, 5), (1, 3), (1,))
        ]
        fitting = [choice for choice in choices if 3 <= len(choice) <= _MOST]
        if fitting:
            return fitting[0]
        every = math.ceil(len(choices[-1]) / _MOST)
        if every > 1:
            return [tick for tick in choices[-1] if round(math.log10(tick)) % every == 0]
    rough = (high - low) / 5
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(n * base for n in (1, 2, 2.5, 5, 10) if n * base >= rough * 0.999)
    return [float(f"{n * step:.9g}") for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def written(at: Sequence[float], scale: Scale) -> list[str]:
    """The numbers of an axis: all with the same decimals, or powers of ten where they would be long.

    Example:
        >>> written([0.0, 0.25, 0.5], "linear"), written([0.01, 1.0], "log"), written([1e-9, 1e-6], "log")
        (['0.00', '0.25', '0.50'], ['0.01', '1'], ['10⁻⁹', '10⁻⁶'])
    """
    if scale == "log":
        if min(at, default=1.0) < 5e-4 or max(at, default=1.0) > 5e4:
            return [_scientific(tick) for tick in at]
        return [f"{tick:.6g}" for tick in at]
    decimals = max((len(f"{tick:.9f}".rstrip("0").partition(".")[2]) for tick in at), default=0)
    return [number(tick, decimals) for tick in at]


def _scientific(tick: float) -> str:
    mantissa, exponent = f"{tick:.0e}".split("e")
    return (f"{mantissa}×" if mantissa != "1" else "") + power_of_ten(int(exponent))
