"""Several domains under one set of statistics.

What it finds:
    The batches fall into two groups whose means are far apart, and the running statistics are those of both groups
    together.

Why it is bad:
    One mean and one variance for two groups are right for neither: at inference the layer shifts and scales each
    group wrongly, although in training every batch of one group looks right.

How it is measured:
    The doctor finds the best two groups of batches along the direction in which they differ most. It measures how
    far apart the groups are, in deviations within a group and in standard deviations of a channel. Data that are
    sorted by their labels are another finding.

What to do:
    Keep one set of statistics for each domain: ``normwise.torch.convert_to_domains(model, ['a', 'b'])``.

References:
    pytorch/pytorch issue 48929; Chang et al., Domain-specific batch normalization, 2019, arXiv:1906.03950.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.batches_apart import CLUSTERS, domains, seen_of, two_groups
from normwise.doctor.distances import FAR
from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import LayerFacts, ModelFacts

LIMITS = {
    "groups": (CLUSTERS, "deviations within between the groups", "a drift without groups stays below 4"),
    "distance": (FAR, "standard deviations between the groups", "batches drawn alike are nearer"),
}
HIDES = ("stale_running_statistics", "drifted_data")
ON = True
PROOF = "limits"
LEFT = "Say which batch is of which domain, with ``with normwise.torch.domain(...)``, and train or recalibrate again."
REMEDY = "model = normwise.torch.convert_to_domains(model, ['first', 'second']).model"
KERAS_REMEDY = (
    "layer = normwise.keras.PerDomainBatchNormalization(['first', 'second'])  # in the place of each such layer"
)


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for the layers in which the batches fall into groups."""
    found = domains(facts)
    if found is None:
        return
    names = [each.name for each in facts.tracked() if _falls_apart(each)]
    names.sort(key=lambda name: name != found.layer)
    yield Finding(
        "mixed_domains",
        tuple(names),
        Severity.WARNING,
        f"the batches fall into two groups with different statistics, and {these(names)} "
        f"{'keep' if names[1:] else 'keeps'}"
        " one set of running statistics for both.",
        {
            "between the groups": Number(found.far, "deviations within them", LIMITS["groups"][0]),
            "distance": Number(found.distance, "standard deviations, median channel", LIMITS["distance"][0]),
        },
        KERAS_REMEDY if facts.framework == "keras" else REMEDY,
    )


def _falls_apart(layer: LayerFacts) -> bool:
    seen = seen_of(layer)
    found = None if seen is None else two_groups(seen)
    return found is not None and found[1] > CLUSTERS


def sick() -> ModelFacts:
    """Batches of two data sets in turns."""
    data = seen(effective=1)
    return model(layer("bn", var=2.0, own=data, served=data))


def healthy() -> ModelFacts:
    """Batches that are drawn alike."""
    return model(layer("bn"))
