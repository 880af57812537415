"""Running statistics that belong to other weights.

What it finds:
    The running statistics belong to another set of weights. They were copied from the source model, though the
    weights differ; or they were lost, though the weights are the same; or they were kept when the weights were
    averaged.

Why it is bad:
    Weights that were averaged, merged or trained further give other activations. Statistics that were estimated
    with the old weights are wrong for them at inference, and the training loss does not show it.

How it is measured:
    With ``source_model``, the doctor compares statistics and weights: it looks for statistics that are equal bit by
    bit while the weights differ by more than the limit, or weights that are equal while the statistics differ.
    Without it, ``torch.optim.swa_utils.AveragedModel`` shows that the weights are averages. Only statistics that
    are measurably off on these data count, together with the harm to the output.

What to do:
    Call ``normwise.recalibrate(model, batches)`` after every averaging, merging or loading.

References:
    pytorch/ignite issue 2590; huggingface/pytorch-image-models issue 245; huggingface/peft issue 1732.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from normwise.doctor.batches_apart import drawn_alike
from normwise.doctor.costs import cost_of
from normwise.doctor.distances import FAR, HARM, OUTDONE, OUTDONE_CLEARLY, gap, harm, lagging, stale, typical
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import ModelFacts, Source

AVERAGED = 2.0
"""Standard errors that are enough for an average of weights, whose statistics are known to come from elsewhere."""
LIMITS = {
    "weights": (1e-3, "of the size of the source's weights", "rounding stays below 1e-6"),
    "mean": (FAR, "standard deviations", "as for stale statistics"),
    "outdone": (
        OUTDONE,
        "times the loss with the statistics of other batches of these data",
        "as for stale statistics",
    ),
    "harm": (HARM, "change of the output, relative to its spread", "as for stale statistics"),
}
HIDES = ("stale_running_statistics", "drifted_data", "never_updated_statistics", "differing_derived_model")
ON = True
PROOF = "statistics"
REMEDY = "normwise.recalibrate(model, batches)"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all layers whose statistics are those of other weights."""
    names, why = _guilty(facts)
    if not names:
        return
    names = sorted(names, key=lambda name: -facts.shares.get(name, 0.0))
    found = {each.name: gap(each) for each in facts.tracked()}[names[0]]
    assert found is not None  # it is one of those that are off
    evidence = {"mean off, median channel": Number(typical(found)[0], "standard deviations", FAR)}
    if facts.source is not None:
        evidence["difference of the weights"] = Number(
            facts.source.weights_apart, "relative to their size", LIMITS["weights"][0]
        )
    done = harm(facts)
    if done is not None:
        evidence["change of the output"] = Number(done, "relative to its spread", HARM)
    yield Finding(
        "statistics_of_other_weights",
        tuple(names),
        Severity.ERROR if stale(facts) else Severity.WARNING,
        f"the running statistics of {these(names)} belong to other weights: {why}.",
        evidence,
        REMEDY,
        cost_of(facts),
    )


def _guilty(facts: ModelFacts) -> tuple[list[str], str]:
    errors = AVERAGED if facts.averaged else OUTDONE_CLEARLY
    off = stale(facts) or (lagging(facts, errors) if drawn_alike(facts) else [])
    source = facts.source
    if source is not None and source.norms <= len(facts.layers):  # or norms were folded into the weights
        same = [name for name in off if source.statistics_apart.get(name) == 0]
        if same and source.weights_apart > LIMITS["weights"][0]:
            return same, "they are exactly those of the source model, which has other weights"
        lost = [name for name in off if source.statistics_apart.get(name, 0.0) > FAR]
        if lost and source.weights_apart <= LIMITS["weights"][0]:
            return lost, "the weights are those of the source model, but the statistics are not"
    if facts.averaged:
        return off, "the weights are an average, and the statistics were not estimated with the average"
    return [], ""


def sick() -> ModelFacts:
    """A model with the statistics of its source, and other weights."""
    facts = model(layer("bn", mean=1.0), apart=1.0)
    return replace(facts, source=Source(0.9, {"bn": 1e-5}, 0.2, {"bn": 0.0}, 1))


def healthy() -> ModelFacts:
    """A model that was trained further: its statistics moved with its weights."""
    return replace(model(layer("bn")), source=Source(0.9, {"bn": 1e-5}, 0.2, {"bn": 0.4}, 1))
