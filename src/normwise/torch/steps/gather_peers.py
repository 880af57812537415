"""The processes that share a batch, and the two messages that a layer exchanges with them.

Forward, every process gives all others the moments of its part; backward, they add up the sums that the gradient of
the shared moments needs. One collective call each. Both messages are in float64: it holds every count up to 2^53 as it
is, which no tensor's number of values reaches, so that counts and moments travel in one tensor and neither is rounded.
Counts are given for each channel, whatever the mask, so that the message has one size on all processes. Its last number
says which layer it comes from, because moments of two layers would merge as well as those of one.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from normwise.errors import NormwiseError
from normwise.moments import Moments
from normwise.torch.steps.buffers import readable

Result = TypeVar("Result")


class Peers:
    """The processes of a group, this one among them.

    Args:
        group: of ``torch.distributed``, or None for all processes.
        layer: what the layer is called in errors.
        place: its name in the model, the same in all processes, or None where it is not known.
    """

    def __init__(self, group: Any, layer: Callable[[], str], place: str | None) -> None:
        self._group, self._layer = group, layer
        self._mark = 0 if place is None else zlib.crc32(place.encode()) + 1
        self.number: int = distributed.get_world_size(group)

    @torch.no_grad()
    def gathered(self, local: Moments) -> Moments:
        """Everyone's moments of each channel, shape (processes, C) each; the same on all of them, bit for bit.

        Raises:
            NormwiseError: another process is gone, late, or at another layer.
        """
        count = torch.as_tensor(local.count, dtype=torch.float64, device=local.mean.device).expand_as(local.mean)
        mine = torch.cat((local.mean.double(), local.var.double(), count, torch.full_like(count[:1], self._mark)))
        found = mine.new_empty((self.number, len(mine)))
        # As a list, which every backend takes.
        self._meet("forward", lambda: distributed.all_gather(list(found.unbind(0)), mine, group=self._group))
        if readable(found) and not bool((found[:, -1] == self._mark).all()):
            raise NormwiseError(
                f"{self._layer()} met another layer in another process: let all processes come to the layers in the "
                "same order."
            )
        return Moments(*found[:, :-1].unflatten(1, (3, -1)).unbind(1))

    @torch.no_grad()
    def summed(self, sums: Tensor) -> Tensor:
        """Added up over the processes, in float64.

        Raises:
            NormwiseError: another process is gone or late.
        """
        total = sums.to(torch.float64, copy=True)
        self._meet("backward", lambda: distributed.all_reduce(total, group=self._group))
        return total

    def _meet(self, when: str, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except RuntimeError as error:
            # Its first sentence, without the place in gloo's source.
            words = re.sub(r"^\[[^\]]*\] *", "", str(error).strip()).split("\n")[0].split(". ")[0].rstrip(".")
            raise NormwiseError(
                f"{self._layer()} could not join its batch with those of the other processes of its {self.number}, in "
                f"the {when} ({words}): one of them ended, was later than the group's timeout, or was at another "
                "layer; see what happened there, and start all of them again."
            ) from error


def peers_of(group: Any, layer: Callable[[], str], place: str | None = None) -> Peers | None:
    """The processes that a layer joins its batch with, or None where there is no other.

    Args:
        group: of ``torch.distributed``, or None for all processes.
        layer: what the layer is called in errors.
        place: its name in the model, the same in all processes, or None where it is not known.

    Raises:
        NormwiseError: this process is not in the group.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    number = distributed.get_world_size(group)
    if number < 1:
        raise NormwiseError(
            f"{layer()} was given a process group that rank {distributed.get_rank()} is not in, so there is no batch "
            "to join: give every process the group that it is in."
        )
    return Peers(group, layer, place) if number > 1 else None
