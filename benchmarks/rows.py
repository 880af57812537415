"""Measures one row: agreement first, then everybody in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks import agreement, peers
from benchmarks.cases import Case, inputs
from benchmarks.spread import Spread, calmest, published, ratios, spread, widest
from benchmarks.timing import in_turn
from normwise.kernels.kernel import Call
from normwise.torch.steps.call import choice_for

Attempt = tuple[dict[str, list[float]], dict[str, int], dict[str, Spread]]
"""Seconds and calls in a row by name, and the ratios by peer."""


@dataclass(frozen=True)
class Row:
    """The measurements of a case.

    Args:
        case: what.
        kernel: the implementation that ``kernels/choose.py`` chose.
        reason: why it.
        refused: why nothing was timed, or empty.
        milliseconds: ours; for orientation, the machine may be shared.
        ratios: by peer, its time over ours; only what may be published.
        in_a_row: how many of our calls make one measurement.
        absent: by peer, why it was not measured.
        accuracy: by mean/std and implementation, the worst error of y and of the variance.
    """

    case: Case
    kernel: str
    reason: str
    refused: str = ""
    milliseconds: Spread | None = None
    ratios: dict[str, Spread] = field(default_factory=dict)
    in_a_row: int = 0
    absent: dict[str, str] = field(default_factory=dict)
    accuracy: agreement.Accuracy = field(default_factory=dict)


def measure(case: Case, others: Sequence[str], *, rounds: int, seconds: float) -> Row:
    """The row of a case; nothing is timed if our own call is not right.

    Args:
        case: what; its memory treatment is in force already.
        others: the peers.
        rounds: at most.
        seconds: after them no new round begins.
    """
    i = inputs(case)
    choice = choice_for(Call(i.x), by_batch=case.phase != "inference")
    wrong = agreement.disagreement(case, i)
    if wrong:
        return Row(case, choice.name, choice.reason, refused=wrong)
    calls: dict[str, Callable[[], object]] = {peers.OURS: peers.build(peers.OURS, case, i)}
    absent = {}
    for peer in others:
        try:
            call = peers.build(peer, case, i)
            call()
        except peers.NoPeer as why:
            absent[peer] = str(why)
        except Exception as error:  # a peer that fails is a finding about the peer, not the end of the run
            first_line = str(error).strip().partition("\n")[0]
            absent[peer] = f"{type(error).__name__}: {first_line[:120]}"
        else:
            calls[peer] = call

    def attempt() -> Attempt:
        times, in_a_row = in_turn(calls, rounds=rounds, seconds=seconds)
        return times, in_a_row, {peer: ratios(times[peer], times[peers.OURS]) for peer in calls if peer != peers.OURS}

    times, in_a_row, found = calmest(attempt, lambda tried: widest(tried[2]))
    calm, busy = published(found)
    return Row(
        case,
        choice.name,
        choice.reason,
        milliseconds=spread([1e3 * t for t in times[peers.OURS]]),
        ratios=calm,
        in_a_row=in_a_row[peers.OURS],
        absent=absent | busy,
        accuracy=agreement.accuracy(case),
    )
