"""A mean so large against the spread that the variance loses its digits.

What it finds:
    The mean of a channel's input is hundreds of times its standard deviation.

Why it is bad:
    Float32 has seven digits, and the variance of such values is a small difference of large numbers. Kernels that
    compute E[x^2] - E[x]^2 lose all digits at a ratio of 3000, and return NaN. In half precision the values
    themselves have lost the digits.

How it is measured:
    The doctor computes the ratio |mean| / standard deviation of each channel on these data, in float64, without
    channels that are constant.

What to do:
    Remove the constant before the layer: standardize the data, or leave out the bias that causes it.

References:
    keras-team/keras pull request 18795; google/flax issue 1491.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.channels import constant
from normwise.doctor.distances import CHANNELS
from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import KERAS_ROWS, these
from normwise.facts import LayerFacts, ModelFacts

LIMITS = {
    "ratio": (300.0, "mean over standard deviation", "there a one-pass variance in float32 is 1 % off"),
    "error": (1000.0, "mean over standard deviation", "there it is 10 % off"),
    "channels": (CHANNELS, "share of the channels", "single channels are on their way to be dead"),
}
HIDES = ("stale_running_statistics", "drifted_data", "unfinished_warm_up")
ON = True
PROOF = "limits"
REMEDY = (
    "x = torch.cat(list(batches)).double(); mean, std = x.mean(0), x.std(0) + 1e-12; "
    "batches = [((x - mean) / std).float() for x in batches]; normwise.recalibrate(model, batches)"
)
WITH_TARGETS = (
    "x = torch.cat([x for x, _ in batches]).double(); mean, std = x.mean(0), x.std(0) + 1e-12; "
    "batches = [(((x - mean) / std).float(), y) for x, y in batches]; normwise.recalibrate(model, batches)"
)
KERAS_REMEDY = (
    f"{KERAS_ROWS}x = np.asarray(batches[0] if isinstance(batches, tuple) else batches, 'float64')\n"
    "x = ((x - x.mean(0)) / (x.std(0) + 1e-12)).astype('float32')\n"
    "batches = (x, *batches[1:]) if isinstance(batches, tuple) else x\n"
    "normwise.recalibrate(model, batches)"
)
LEFT = "Weights that were trained on the raw data have to be trained further on the standardized ones."
FINER = {"float32": 1.0, "float64": 1e4, "float16": 0.3, "bfloat16": 0.05}


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers, the largest ratio first."""
    ratios = {each.name: ratio for each in facts.layers if (ratio := _ratio(each)) > LIMITS["ratio"][0]}
    if not ratios:
        return
    names = sorted(ratios, key=lambda name: -ratios[name])
    yield Finding(
        "cancelling_variance",
        tuple(names),
        Severity.ERROR if ratios[names[0]] > LIMITS["error"][0] else Severity.WARNING,
        f"the mean of the input of {these(names)} is {ratios[names[0]]:.3g} times its standard deviation, so that the "
        "variance loses its digits.",
        {
            "mean over standard deviation": Number(
                ratios[names[0]], "counted for the digits of float32", LIMITS["ratio"][0]
            )
        },
        _remedy(facts),
    )


def _remedy(facts: ModelFacts) -> str:
    if facts.framework == "keras":
        return KERAS_REMEDY
    return REMEDY if facts.labels is None else WITH_TARGETS


def _ratio(layer: LayerFacts) -> float:
    """The ratio of mean to spread that all but a few of the channels stay below, as it would be in float32."""
    if layer.own is None:
        return 0.0
    pooled, alive = layer.own.pooled(), ~constant(layer)
    if not alive.mean() > LIMITS["channels"][0]:
        return 0.0
    dtype = "float32" if layer.input is None else layer.input.dtype
    with np.errstate(all="ignore"):
        ratio = np.abs(np.asarray(pooled.mean))[alive] / np.sqrt(np.asarray(pooled.var)[alive])
    return float(np.quantile(ratio, 1 - LIMITS["channels"][0])) / FINER.get(dtype, 1.0)


def sick() -> ModelFacts:
    """Temperatures in kelvin, which differ by a tenth."""
    data = seen(mean=290.0, var=0.01)
    return model(layer("bn", mean=290.0, var=0.01 * 65 / 64, own=data, served=data))


def healthy() -> ModelFacts:
    """The same in degrees from their mean."""
    return model(layer("bn"))
