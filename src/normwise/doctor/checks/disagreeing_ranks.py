"""Processes whose running statistics or weights disagree.

What it finds:
    Several processes train one model, and the running statistics of a layer, or the weights, differ between the
    processes.

Why it is bad:
    Only the statistics of one process are saved, and they come from its part of the data only. If the parts are
    unlike, these statistics are wrong for the other parts, and each process evaluates another model.

How it is measured:
    If every process calls ``normwise.examine(model, batches, distributed=True)``, the processes send each other
    their running statistics and some values of each weight. Without ``distributed=True`` nothing is sent, because a
    process would wait for ever for one that does not examine; the check is then skipped, and the diagnosis says so.
    The distance is the largest between two processes in any channel. If the weights disagree, the processes did not
    start with the same weights or did not average them, and pooling the statistics does not correct that.

What to do:
    Call ``normwise.torch.pool_statistics(model)`` in every process before saving; or use batch norms that join the
    batches of all processes. If the weights disagree, let ``DistributedDataParallel`` start and average them.

References:
    pytorch/pytorch issue 2584; facebookresearch/fvcore issue 152.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.distances import FAR
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import ModelFacts, Processes

LIMITS = {
    "distance": (1e-3, "standard deviations between processes", "joined or broadcast statistics are equal"),
    "error": (FAR, "standard deviations between processes", "as for stale statistics"),
    "weights": (1e-6, "of their size, the difference of the weights", "averaged gradients keep them equal"),
}
HIDES = ()
ON = True
PROOF = "limits"
REMEDY = "normwise.torch.pool_statistics(model)  # in every process"
OF_WEIGHTS = "[torch.distributed.broadcast(each.data, 0) for each in model.state_dict().values()]  # in every process"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers, the furthest apart first."""
    found = facts.processes
    if found is None:
        if "processes" in facts.missing:
            yield Skipped("disagreeing_ranks", facts.missing["processes"])
        return
    apart = found.statistics_apart
    names = sorted((name for name, far in apart.items() if far > LIMITS["distance"][0]), key=lambda name: -apart[name])
    weights = found.weights_apart or 0.0
    trained_apart = weights > LIMITS["weights"][0]
    if not names and not trained_apart:
        return
    far = apart[names[0]] if names else 0.0
    evidence = {"distance": Number(far, "standard deviations between processes", LIMITS["distance"][0])}
    if found.weights_apart is not None:
        evidence["difference of the weights"] = Number(weights, "relative to their size", LIMITS["weights"][0])
    evidence["processes"] = Number(found.number, "that were compared")
    what = f"the running statistics of {these(names)}" if names else "the weights"
    and_so = " and the weights" if names and trained_apart else ""
    yield Finding(
        "disagreeing_ranks",
        tuple(names),
        Severity.ERROR if far > LIMITS["error"][0] or trained_apart else Severity.WARNING,
        f"{what}{and_so} differ between the processes: only those of one process would be saved.",
        evidence,
        OF_WEIGHTS if trained_apart else REMEDY,
    )


def sick() -> ModelFacts:
    """A layer that is another in another process."""
    return model(layer("bn"), processes=Processes(2, {"bn": 0.8}, 0.0))


def healthy() -> ModelFacts:
    """A layer that is the same in all."""
    return model(layer("bn"), processes=Processes(2, {"bn": 0.0}, 0.0))
