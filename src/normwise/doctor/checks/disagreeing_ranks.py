"""Processes whose running statistics disagree.

What it finds:
    Several processes train one model, and a layer's running statistics are others in each of them.

Why it is bad:
    What is saved are those of one process, and they are of its share of the data only. Where shares are not alike, they
    are wrong for the rest, and each process evaluates another model.

How it is measured:
    With ``torch.distributed`` in use and ``distributed=True``, the statistics of all processes are compared.

What to do:
    ``normwise.torch.pool_statistics(model)`` before saving; or batch norms that join their batches.

References:
    pytorch/pytorch issue 2584; facebookresearch/fvcore issue 152.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.distances import FAR
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import ModelFacts

LIMITS = {
    "distance": (1e-3, "standard deviations between processes", "joined or broadcast statistics are equal"),
    "error": (FAR, "standard deviations between processes", "as for stale statistics"),
}
HIDES = ()
ON = True
PROOF = "limits"
REMEDY = "normwise.torch.pool_statistics(model)"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers, the furthest apart first."""
    apart = {each.name: each.ranks_apart for each in facts.tracked() if each.ranks_apart is not None}
    names = sorted((name for name, far in apart.items() if far > LIMITS["distance"][0]), key=lambda name: -apart[name])
    if not names:
        return
    far = apart[names[0]]
    yield Finding(
        "disagreeing_ranks",
        tuple(names),
        Severity.ERROR if far > LIMITS["error"][0] else Severity.WARNING,
        f"the running statistics of {these(names)} are others in each process, and one of them would be saved.",
        {"distance": Number(far, "standard deviations between processes", LIMITS["distance"][0])},
        REMEDY,
    )


def sick() -> ModelFacts:
    """A layer that is another in another process."""
    return model(layer("bn", ranks_apart=0.8))


def healthy() -> ModelFacts:
    """A layer that is the same in all."""
    return model(layer("bn", ranks_apart=0.0))
