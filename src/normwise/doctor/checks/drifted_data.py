"""Data that have drifted away from the stored statistics.

What it finds:
    The model is exactly its source model, and its running statistics are not those of these data: the data have
    changed, and the model has not.

Why it is bad:
    The layers shift and scale by the statistics of other data, and every layer behind them gets inputs that it was
    not trained on.

How it is measured:
    The doctor measures as for stale statistics. A model and data alone do not show whether the statistics are stale
    or the data have drifted: the doctor also needs ``source_model``, the model as it was when it was right. Without
    it, ``stale_running_statistics`` names both causes.

What to do:
    Call ``normwise.adapt(model, batches)`` with data of the new kind, which need no labels; or find out why the
    data changed.

References:
    Schneider et al., Improving robustness against common corruptions by covariate shift adaptation, 2020,
    arXiv:2006.16971.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from normwise.doctor.costs import cost_of
from normwise.doctor.distances import FAR, HARM, costs, gap, harm, stale, typical
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import ModelFacts, Source

LIMITS = {
    "weights": (1e-6, "of the source's size, the difference of the weights", "the same model"),
    "mean": (FAR, "standard deviations", "as for stale statistics"),
    "harm": (HARM, "change of the output, relative to its spread", "as for stale statistics"),
}
HIDES = ("stale_running_statistics",)
ON = True
PROOF = "statistics"
LEFT = "From then on the model differs from its source, on purpose: leave ``source_model`` out."
REMEDY = "normwise.adapt(model, batches)"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all layers whose input has changed."""
    source, names = facts.source, stale(facts)
    if source is None or not names or source.weights_apart > LIMITS["weights"][0]:
        return
    if any(source.eps.get(each.name, each.eps) != each.eps for each in facts.tracked()):
        return  # it is not the same model
    if not source.statistics_apart or any(far != 0 for far in source.statistics_apart.values()):
        return
    names = sorted(names, key=lambda name: -facts.shares.get(name, 0.0))
    found = {each.name: gap(each) for each in facts.tracked()}[names[0]]
    assert found is not None  # it is one of those that are off
    evidence = {
        "mean off, median channel": Number(typical(found)[0], "standard deviations", FAR),
        "difference of the weights": Number(source.weights_apart, "relative to their size", LIMITS["weights"][0]),
    }
    done = harm(facts)
    if done is not None:
        evidence["change of the output"] = Number(done, "relative to its spread", HARM)
    yield Finding(
        "drifted_data",
        tuple(names),
        Severity.ERROR if costs(facts) or (done or 0) > 2 * HARM else Severity.WARNING,
        f"the model is exactly its source model, and the input of {these(names)} has other statistics than the running "
        "ones: the data have drifted.",
        evidence,
        REMEDY,
        cost_of(facts),
    )


def sick() -> ModelFacts:
    """An untouched model on other data."""
    return replace(model(layer("bn", mean=1.0), apart=1.0), source=Source(0.0, {"bn": 1e-5}, 0.0, {"bn": 0.0}, 1))


def healthy() -> ModelFacts:
    """An untouched model on data as before."""
    return replace(model(layer("bn")), source=Source(0.0, {"bn": 1e-5}, 0.0, {"bn": 0.0}, 1))
