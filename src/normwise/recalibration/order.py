"""The order in which the layers of a model are settled: after all that any batch passes before them."""

from __future__ import annotations

from collections.abc import Sequence

from normwise.recalibration.site import Site


class Calls:
    """The calls of one pass through the data, in which each site learns when and after which others it was called.

    A batch need not reach every layer: where the first one skips a layer that a later one passes, the place of the
    first call says nothing about who comes before whom. What each batch passed one after the other does.
    """

    def __init__(self) -> None:
        self._number = 0
        self._passed = dict[str, None]()  # in the order of the calls

    def begin_batch(self) -> None:
        """The next call is the first one of a batch."""
        self._passed = {}

    def add(self, site: Site) -> None:
        """Note a call; of several in one batch the first counts."""
        if site.name in self._passed:
            return
        if self._passed:
            site.after |= {next(reversed(self._passed))}
        self._passed[site.name] = None
        site.place = min(site.place, self._number)
        self._number += 1


def in_order(sites: Sequence[Site]) -> list[Site]:
    """The sites that were reached, each after all that come before it in any batch.

    Those that no batch puts in an order are taken by their first call. Where batches disagree, nothing comes before
    all others, and the first call decides.
    """
    by_name = {site.name: site for site in sites}
    left = sorted(by_name, key=lambda name: by_name[name].place)
    order: list[Site] = []
    while left:
        waiting = set(left)
        free = next((name for name in left if not by_name[name].after & waiting - {name}), left[0])
        left.remove(free)
        order.append(by_name[free])
    return [site for site in order if site.reached]
