"""An output that depends on the rest of the batch at inference.

What it finds:
    In inference mode the prediction for a sample changes with the other samples of its batch.

Why it is bad:
    Results then change with the size and the order of the batches, and a benchmark that feeds sorted data gives
    away the answers. The cause is a layer that uses batch statistics at inference: one without running statistics,
    or one that stays in training mode.

How it is measured:
    The doctor predicts the first sample of the first batch alone, with its neighbours and with other samples, in
    inference mode. In a healthy model the predictions differ by rounding only. The finding names the first layer
    whose output differs. If the model's output differs from call to call with the same input, for example because
    it samples, the check is skipped.

What to do:
    Let the layer keep running statistics and recalibrate it; or put it into inference mode.

References:
    yaodongyu/TRADES issue 3 (accuracy that changed with the batch size).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from normwise.doctor.costs import cost_of
from normwise.doctor.distances import COMPANY
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.facts import Company, ModelFacts

LIMITS = {"difference": (COMPANY, "of the largest output", "healthy models stay below 1e-6, in float32")}
HIDES = ("differing_derived_model", "too_few_values")
ON = True
PROOF = "limits"
REMEDY = (
    "layer, device = model.get_submodule({layer!r}), next(model.parameters()).device\n"
    "layer.track_running_stats, layer.num_batches_tracked = True, torch.tensor(0, device=device)\n"
    "layer.running_mean = torch.zeros(layer.num_features, device=device)\n"
    "layer.running_var = torch.ones(layer.num_features, device=device)\n"
    "normwise.recalibrate(model.eval(), batches, layers=[{layer!r}])"
)
ELSEWHERE = "# change the forward of {layer!r}: in inference mode it must not use values of other samples of the batch"
LEFT = "If the layer is no batch norm, only you can change its forward."


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding with the first layer whose output differs."""
    company = facts.company
    if company is None:
        yield Skipped("batch_dependent_output", facts.missing.get("company", "no prediction was compared"))
        return
    if company.by_chance > LIMITS["difference"][0] / 10:
        yield Skipped("batch_dependent_output", "the model's output for the same input differs from call to call")
        return
    if not math.isfinite(company.apart):
        yield Skipped("batch_dependent_output", "the model's output holds NaN or infinity")
        return
    if company.apart <= LIMITS["difference"][0]:
        return
    where = f"from layer {company.first!r} on" if company.first else "outside of the model's layers"
    yield Finding(
        "batch_dependent_output",
        (company.first,) if company.first is not None else (),
        Severity.ERROR,
        f"at inference the prediction for a sample depends on the other samples of its batch, {where}.",
        {
            "difference": Number(company.apart, "of the largest output", LIMITS["difference"][0]),
            "batches": Number(company.companions, "that the same sample was put into"),
        },
        (REMEDY if _untracked(facts) else ELSEWHERE).format(layer=company.first or "the model"),
        cost_of(facts),
    )


def _untracked(facts: ModelFacts) -> bool:
    """True if the layer is a PyTorch batch norm that has no running statistics."""
    first = next((each for each in facts.layers if facts.company and each.name == facts.company.first), None)
    return (
        facts.framework == "torch" and first is not None and first.kind.startswith("BatchNorm") and first.mean is None
    )


def sick() -> ModelFacts:
    """A model with a layer that normalizes by the batch at inference."""
    return replace(model(layer("bn", mean=None, var=None)), company=Company(0.2, "bn", 3))


def healthy() -> ModelFacts:
    """A model whose predictions differ by rounding."""
    return replace(model(layer("bn")), company=Company(2e-7, None, 3))
