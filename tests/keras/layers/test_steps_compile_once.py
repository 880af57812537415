"""Outside of jit, JAX compiles each operation once: a step that compiles again each time takes twenty times as long."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from normwise.estimators import Window, names
from normwise.keras import BatchNormalization, GhostBatchNormalization, PerDomainBatchNormalization, domain
from tests.keras.calls import BACKEND

if BACKEND != "jax":
    pytest.skip("only JAX compiles outside of a compiled function", allow_module_level=True)

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
ESTIMATORS = [Window(start=2, stop=4), *(each for each in names() if each != "window")]
LAYERS: dict[str, Callable[[], Any]] = {
    "plain": BatchNormalization,
    "renorm": partial(BatchNormalization, renorm=True),
    "ghost": partial(GhostBatchNormalization, num_splits=2),
    "domains": partial(PerDomainBatchNormalization, domains=["day"]),
    **{str(estimator): partial(BatchNormalization, estimator=estimator) for estimator in ESTIMATORS},
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_second_step_and_those_behind_it_compile_nothing(kind: str) -> None:
    layer, compiled = LAYERS[kind](), []
    x = np.random.default_rng(0).normal(3, 2, (8, 5)).astype("float32")

    def step() -> None:
        if isinstance(layer, PerDomainBatchNormalization):
            with domain(layer, "day"):
                layer(x, training=True)
        else:
            layer(x, training=True)

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            compiled.append(duration_secs)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        step()
        first = len(compiled)
        step()  # the first may be another one, where statistics begin
        compiled.clear()
        for _ in range(5):
            step()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert first > 0, "JAX tells nobody what it compiles"
    assert compiled == []
