"""The facts of a model and its data: a few passes over the data, and the model is afterwards as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np

from normwise.doctor.costs import not_told, without_what_is_no_number
from normwise.doctor.distances import COMPANY, FEW_BATCHES, HARM, in_question
from normwise.doctor.received import finite, measured, numbered, run, stepping
from normwise.doctor.subject import Subject
from normwise.entering import described
from normwise.errors import CallFailed, NormwiseError
from normwise.estimators.pooled import Pooled
from normwise.facts import Array, Company, Input, LayerFacts, ModelFacts, Outcome, Seen, Source
from normwise.failures import sentence
from normwise.moments import Moments, where
from normwise.recalibration.batches import Batches
from normwise.recalibration.site import Site

Function = Callable[[Any, Any], Any]

KEPT_OUTPUTS = 512
"""Samples whose outputs are kept to be compared, at most."""
IN_QUESTION = 8
"""Layers whose share in a difference is measured, each by a pass over the data, at most."""
STEPS = 3
"""Batches that ``train_step`` gets."""
FEW = 8
"""Samples of a batch that are enough to see how layers follow each other."""


class Gathering:
    """One examination of one model.

    Args:
        subject: the model.
        batches: the data.
        loss: of outputs and targets, or None.
        metric: the same.
    """

    def __init__(self, subject: Subject, batches: Batches, loss: Function | None, metric: Function | None) -> None:
        self.subject, self.batches, self.loss, self.metric = subject, batches, loss, metric
        self.samples: list[float] = []
        self.labels: list[Array] | None = []
        self.with_targets = False  # whether some batch has any
        self.inputs: dict[str, Input] = {}
        self.places: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.not_finite: str | None = None  # the first layer that NaN or infinite values come into

    def facts(self, train_step: Function | None, source: Any) -> ModelFacts:
        """Everything that can be known.

        Args:
            train_step: of a model and a batch, one step of the optimizer; or None.
            source: what the model was derived from, or None.
        """
        subject = self.subject
        missing = dict(subject.missing)
        with subject.unchanged() as restore:
            first = [batch for _, batch in islice(numbered(self.batches), STEPS)]  # a loader draws random numbers
            if not first:
                raise NormwiseError(
                    "examine received no batches, so there is nothing to measure: pass data; an iterator that was gone "
                    "through before is empty."
                )
            self.batches.passes = 5 + IN_QUESTION
            served, stored = self._pass(restore, "stored")
            own, by_batch = self._pass(restore, "batch")
            noisy = None
            if subject.dropouts:
                with subject.with_dropout():
                    noisy = self._pass(restore, "batch")[0]
            layers = self._layers(served, own, noisy)
            recalibrated, shares = self._corrected(restore, layers, stored)
            crossed = self._crossed(restore, layers)
            company = self._company(first[0], missing)
            layers = self._with_neighbours(first[0], layers)
            restore()
        self.batches.close()
        facts = ModelFacts(
            subject.framework, layers, batches=len(self.samples), samples=int(sum(self.samples)), stored=stored,
            by_batch=by_batch, recalibrated=recalibrated, crossed=crossed, shares=shares, labels=self.labels or None,
            company=company, averaged=subject.averaged,
        )  # fmt: skip
        facts = without_what_is_no_number(facts)
        if train_step is None:
            missing["steps"] = "no train_step was given"
        else:
            facts = replace(facts, steps=subject.steps(stepping(train_step, first), first))
        if source is None:
            missing["source"] = "no source_model was given"
        else:
            facts = replace(facts, source=self._compared(source, first))
        given = [name for name in ("loss", "metric") if getattr(self, name) is not None]
        missing |= not_told(facts, given, with_targets=self.with_targets)
        if self.loss is None:
            missing["gradients"] = "no loss was given"
        elif "loss" in missing:
            missing["gradients"] = missing["loss"]
        elif subject.targets(first[0]) is None:
            missing["gradients"] = "the first batch has no targets"
        else:
            facts = replace(facts, gradients=subject.gradients(self.loss, first[0]))
        if not self.labels:
            missing["labels"] = "the batches have no targets that are one number per sample"
        return replace(facts, missing={**missing, **subject.missing})  # it learned more on the way

    def _pass(self, restore: Callable[[], None], state: str) -> tuple[dict[str, Seen], Outcome | None]:
        """Run the model once through the data, and return what came into each layer and what the model gave.

        Args:
            restore: sets the random state to that of the beginning, so that a loader gives the same again.
            state: ``"stored"``, what the layers have; or ``"batch"``, batch statistics everywhere.
        """
        restore()
        rows: dict[str, list[tuple[Moments, float]]] = {layer.name: [] for layer in self.subject.layers}
        before = [(layer, layer.read()) for layer in self.subject.layers]
        outcome = _Outcomes(self)
        order = count()
        first = not self.samples
        with ExitStack() as ends:
            for layer in self.subject.layers:
                site = Site(layer, Pooled()) if state == "batch" else None
                ends.callback(layer.listen(partial(self._hear, rows[layer.name], layer.name, site, order)))
            if first:
                ends.callback(self.subject.look(self.inputs.setdefault))
            for place, batch in numbered(self.batches):
                result = run(self.subject, batch, place)
                if self.not_finite is not None and state == "batch":
                    self._refuse_not_finite(self.not_finite, batch, place)
                outcome.add(result, batch, place)
                number = self.subject.samples_in(batch)
                if first:
                    self.samples.append(number)
                    self._keep_labels(batch)
                for each in rows.values():
                    each.append((_END, number))
        if state == "batch":
            for layer, statistics in before:
                layer.write(*statistics)
        return {name: seen for name, calls in rows.items() if (seen := _seen(calls)) is not None}, outcome.mean()

    def _hear(
        self,
        rows: list[tuple[Moments, float]],
        name: str,
        site: Site | None,
        order: count[int],
        batch: Moments,
        values_per_sample: float,
    ) -> None:
        self.places.setdefault(name, next(order))
        self.calls[name] += site is None  # in the first pass
        found = _as_arrays(batch)
        rows.append((found, values_per_sample))
        if site is not None:
            if self.not_finite is None and not np.isfinite(found.mean).all():
                self.not_finite = name
            site.normalize_by(batch)

    def _refuse_not_finite(self, layer: str, batch: Any, number: int) -> None:
        """Nothing can be measured by what is not finite; stored statistics that are not tell enough without it."""
        stored = [part for each in self.subject.facts.values() for part in (each.mean, each.var) if part is not None]
        if not all(np.isfinite(part).all() for part in stored):
            return
        if not finite(batch):
            raise NormwiseError(
                f"examine received NaN or infinite values in batch {number}, {described(batch)}, which come into layer "
                f"{layer!r}: leave such samples out, or replace the values."
            )
        if (weight := self.subject.not_finite()) is not None:
            raise NormwiseError(
                f"examine needs a model whose weights are finite, received one with NaN or infinite values in "
                f"{weight!r}: load weights of before that."
            )

    def _keep_labels(self, batch: Any) -> None:
        if self.labels is None:
            return
        targets = self.subject.targets(batch)
        labels = None if targets is None else self.subject.labels(targets)
        if labels is None:
            self.labels = None
        else:
            self.labels.append(labels)

    def _layers(
        self, served: dict[str, Seen], own: dict[str, Seen], noisy: dict[str, Seen] | None
    ) -> tuple[LayerFacts, ...]:
        found = [
            replace(
                facts,
                served=served.get(name),
                own=own.get(name),
                noisy=None if noisy is None else noisy.get(name),
                input=self.inputs.get(name),
                calls=self.calls.get(name, 0) / max(len(self.samples), 1),
            )
            for name, facts in self.subject.facts.items()
        ]
        return tuple(sorted(found, key=lambda layer: self.places.get(layer.name, len(found))))

    def _corrected(
        self, restore: Callable[[], None], layers: Sequence[LayerFacts], stored: Outcome | None
    ) -> tuple[Outcome | None, dict[str, float]]:
        """The outcome with the statistics of these data in all layers, and the share of each suspect in the change."""
        own = {layer.name: layer.own for layer in layers if layer.own is not None}
        targets = {layer.name: layer for layer in self.subject.layers if layer.name in own}
        before = {name: layer.read() for name, layer in targets.items()}

        def correct(names: Iterable[str]) -> Outcome | None:
            for name in names:
                mean, var = _population(own[name], before[name])
                targets[name].write(mean, var)
            found = self._outcome(restore)
            for name in names:
                targets[name].write(*before[name])
            return found

        together = correct(list(targets))
        shares: dict[str, float] = {}
        if stored is not None and together is not None and (apart := stored.apart(together)) > HARM / 4:
            for name in in_question(layers, IN_QUESTION):
                alone = correct([name])
                if alone is not None:
                    shares[name] = 1 - alone.apart(together) / apart
        return together, shares

    def _crossed(self, restore: Callable[[], None], layers: Sequence[LayerFacts]) -> Outcome | None:
        """The outcome when every second batch is normalized by the statistics of the batches between.

        The statistics of all of the data know each of its samples and are better for them than any others; these are
        not, so that a healthy model's stored ones, of more samples, do no worse.
        """
        number = len(self.samples)
        own = {each.name: each.own for each in layers if each.own is not None and len(each.own.mean) == number}
        targets = {layer.name: layer for layer in self.subject.layers if layer.name in own}
        if self.loss is None or self.labels == [] or number < 2 * FEW_BATCHES or not targets:
            return None
        before = {name: layer.read() for name, layer in targets.items()}
        halves = [
            {name: _population(own[name].every_second(half), before[name]) for name in targets} for half in (1, 0)
        ]

        def take(statistics: dict[str, tuple[Any, Any]]) -> None:
            for name, layer in targets.items():
                layer.write(*statistics[name])

        found = self._outcome(restore, lambda place: take(halves[place % 2]))
        take(before)
        return found

    def _outcome(self, restore: Callable[[], None], prepare: Callable[[int], None] | None = None) -> Outcome | None:
        """Run the model once through the data; ``prepare`` gets the place of each batch before it enters the model."""
        restore()
        outcome = _Outcomes(self)
        for number, batch in numbered(self.batches):
            if prepare is not None:
                prepare(number - 1)
            outcome.add(run(self.subject, batch, number), batch, number)
        return outcome.mean()

    def _compared(self, source: Any, batches: list[Any]) -> Source:
        try:
            return self.subject.compared(source, batches)
        except NormwiseError:
            raise
        except Exception as error:
            raise CallFailed(
                f"examine could not run source_model on the batches that the model takes, the first of which is "
                f"{described(batches[0])}: {sentence(error)}; pass the model that this one was derived from, or leave "
                "source_model out."
            ) from error

    def _company(self, batch: Any, missing: dict[str, str]) -> Company | None:
        """A sample alone, and beside others."""
        number = self.subject.samples_in(batch)
        half = max(1, number // 2)
        companies = [[0], list(range(half)), [0, *range(number - 1, half - 1, -1)]]
        parts = [self.subject.part(batch, rows) for rows in companies]
        if number < 2 or any(part is None for part in parts):
            missing["company"] = "the first batch has one sample" if number < 2 else "the batches cannot be cut"
            return None
        if not self._runs(parts[0]):  # a layer that normalizes by the batch refuses one sample
            parts = parts[1:]
        try:
            results = [self.subject.outputs(self.subject.forward(part)) for part in [*parts, parts[0]]]
        except Exception as error:  # it may take whole batches only
            missing["company"] = f"the model does not take a part of a batch ({sentence(error)})"
            return None
        if any(result is None for result in results):
            missing["company"] = "the model gives no array with a row for each sample"
            return None
        largest = float(np.abs(results[0]).max()) or 1.0
        alone, *beside, again = (result[0] for result in results)
        apart = max(float(np.abs(each - alone).max()) for each in beside) / largest
        by_chance = float(np.abs(again - alone).max()) / largest
        first = self.subject.first_that_differs(parts[0], parts[-1], COMPANY) if apart > COMPANY else None
        return Company(apart, first, len(parts), by_chance)

    def _runs(self, batch: Any) -> bool:
        try:
            self.subject.forward(batch)
        except Exception:  # whatever it does not like about a part of a batch
            return False
        return True

    def _with_neighbours(self, batch: Any, layers: tuple[LayerFacts, ...]) -> tuple[LayerFacts, ...]:
        part = self.subject.part(batch, range(min(FEW, self.subject.samples_in(batch))))
        near = self.subject.neighbours(batch if part is None or not self._runs(part) else part)
        return tuple(replace(each, **vars(near[each.name])) if each.name in near else each for each in layers)


class _Outcomes:
    """The outputs of the first samples, and the means of loss and metric, as a pass goes on."""

    def __init__(self, gathering: Gathering) -> None:
        self.gathering = gathering
        self.outputs: list[Array] = []
        self.sums = {"loss": 0.0, "metric": 0.0}
        self.losses: list[float] = []
        self.samples = 0  # of the batches with targets: what no function was called for counts in no mean

    def add(self, result: Any, batch: Any, place: int) -> None:
        """Add the result of the model for the batch at a place, counted from 1."""
        subject = self.gathering.subject
        outputs = subject.outputs(result)
        if outputs is not None and sum(map(len, self.outputs)) < KEPT_OUTPUTS:
            self.outputs.append(outputs[:KEPT_OUTPUTS])
        targets = subject.targets(batch)
        if targets is None:
            return
        self.gathering.with_targets = True
        number = subject.samples_in(batch)
        self.samples += number
        for name, function in (("loss", self.gathering.loss), ("metric", self.gathering.metric)):
            if function is not None:
                found = measured(subject, name, function, result, targets, place)
                self.sums[name] += found * number
                if name == "loss":
                    self.losses.append(found)

    def mean(self) -> Outcome | None:
        """The outputs kept, and the mean loss and metric over the samples; None where the model gave no array."""
        if not self.outputs or len({each.shape[1] for each in self.outputs}) > 1:
            return None
        known = self.samples > 0
        return Outcome(
            np.concatenate(self.outputs),
            self.sums["loss"] / self.samples if known and self.gathering.loss is not None else None,
            self.sums["metric"] / self.samples if known and self.gathering.metric is not None else None,
            tuple(self.losses),
        )


_END = Moments(None, None, None)  # between the calls of one batch and those of the next


def _as_arrays(batch: Moments) -> Moments:
    mean, var, number = (np.asarray(getattr(part, "cpu", lambda part=part: part)()) for part in vars(batch).values())
    return Moments(mean.astype(np.float64), var.astype(np.float64), np.broadcast_to(number, mean.shape) * 1.0)


def _seen(calls: list[tuple[Moments, float]]) -> Seen | None:
    """A row for each batch, several calls in one forward merged."""
    rows, samples, current = [], [], None
    for moments, number in calls:
        if moments is not _END:
            current = moments if current is None else current.merge(moments)
        elif current is not None:
            rows.append(current)
            samples.append(number)
            current = None
    if not rows:
        return None
    mean, var, counts = (np.stack([getattr(row, part) for row in rows]) for part in ("mean", "var", "count"))
    return Seen(mean, var, counts, np.asarray(samples, dtype=np.float64))


def _population(seen: Seen, like: tuple[Any, Any]) -> tuple[Any, Any]:
    """The pooled mean and unbiased variance, as the layer's own arrays are."""
    pooled = seen.pooled()
    var = where(pooled.count > 1, pooled.unbiased_var(), pooled.var)
    return _like(pooled.mean, like[0]), _like(var, like[1])


def _like(value: Array, old: Any) -> Any:
    return value if isinstance(old, np.ndarray) else old.new_tensor(value)
