"""The comparison on a Keras model, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from normwise.errors import NormwiseError
from normwise.keras.models.recalibrate import recalibrate
from normwise.lab.comparison import keras_layers, keras_where
from normwise.lab.comparison.arms import Trial
from normwise.lab.comparison.keras_layers import Slot
from normwise.lab.comparison.rows import Array, Rows
from normwise.lab.comparison.trainer import (
    EXAMINED,
    FEW,
    MANY,
    TAKES,
    Batches,
    Examination,
    Outcome,
    in_one_sentence,
    nothing_learned,
    parts,
    ways,
    where_remarks,
)


class KerasTrainer:
    """Trains a Keras model by gradient descent with momentum 0.9.

    The loss is that of the model where it was compiled with one; else cross-entropy for classes, of probabilities or of
    logits as the outputs look, and the mean square for values.

    Args:
        make: builds it, initialized from Keras's random state.
        rows: to train and to examine on.
        identity: what tells the model from others of the same structure.

    Raises:
        NormwiseError: it cannot take the rows, or has no batch norm that could make room.
    """

    def __init__(self, make: Callable[[], Any], rows: Rows, identity: str) -> None:
        self._make, self._rows = make, rows
        self.framework = f"keras {keras.__version__} on {keras.backend.backend()}"
        if make() is make():
            raise NormwiseError("MODEL must build a new Keras model at each call: it returned the same one twice.")
        model = self._built(0)
        keras_layers.batch_norms(model)
        outputs = self._outputs(model, np.arange(min(len(rows.targets), EXAMINED)))
        rows.check(outputs.shape)
        self._columns = outputs.shape[-1]
        self._probabilities = bool(rows.classes and _probabilities(outputs))
        found = keras_where.places(model)
        self.where = keras_where.choices(found)
        self.remarks = where_remarks({name: place.why or None for name, place in found.items()}, self.where)
        shapes = [[weight.path, list(weight.shape)] for weight in model.weights]
        self.fingerprint: list[Any] = [identity, _config(model), shapes]

    def train(self, trial: Trial) -> Outcome:
        """Train from scratch and examine.

        Initial weights, split and order of the rows depend on the seed alone, so that arms pair up.

        Raises:
            NormwiseError: the model cannot take the rows, or a layer cannot normalize what reaches it.
        """
        arm = trial.arm
        batches = Batches(self._rows.split(trial.seed)[0], arm.batch, trial.seed)
        with (
            in_one_sentence(f"MODEL cannot be trained with {arm.words()}"),
            np.errstate(over="ignore", invalid="ignore"),
        ):
            model = self._built(trial.seed)
            moves = keras_where.moves(model, arm.where)
            slots = keras_layers.replace(model, arm.normalizer, arm.batch)
            for name, move in moves:
                move(slots[name])
            self._outputs(model, batches.next()[:2])  # builds the layers that are new
            finite, per_step = self._trained(model, batches, trial)
            if not finite:
                return nothing_learned(trial, per_step)
            return self._examined(model, [*slots.values()], trial, per_step)

    def _built(self, seed: int) -> Any:
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        model = self._make()
        with in_one_sentence("MODEL cannot take the rows", TAKES):
            model(self._rows.inputs[:2], training=False)
        return model

    def _trained(self, model: Any, batches: Batches, trial: Trial) -> tuple[bool, float]:
        """Train; return True if the loss stayed finite, and the seconds of a step once everything is compiled."""
        if not model.trainable_variables:
            raise ValueError("it has no weights that learn")
        model.compile(keras.optimizers.SGD(trial.arm.rate, momentum=0.9), self._loss(model))
        seconds = []
        for _ in range(trial.steps):
            began = time.perf_counter()
            rows = batches.next()
            loss = float(model.train_on_batch(self._rows.inputs[rows], self._rows.targets[rows]))
            seconds.append(time.perf_counter() - began)
            if not math.isfinite(loss):
                return False, statistics.median(seconds)
        return True, statistics.median(seconds)

    def _loss(self, model: Any) -> Any:
        if getattr(model, "compiled", False) and model.loss is not None:
            return model.loss
        if not self._rows.classes:
            return keras.losses.MeanSquaredError()
        if self._columns == 1:
            return keras.losses.BinaryCrossentropy(from_logits=not self._probabilities)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=not self._probabilities)

    def _examined(self, model: Any, slots: list[Slot], trial: Trial, per_step: float) -> Outcome:
        exam = Examination(self._rows, trial)
        kept = [slot.statistics for slot in slots if slot.has_statistics]
        for way in ways(trial.arm, final=trial.final):
            if way == "recalibrated":
                self._recalibrate(model, slots, trial)
            for slot in slots:
                slot.by_batch = way == "batch"
            validation = self._outputs(model, exam.validation)
            exam.note(way, validation, self._outputs(model, exam.test) if trial.final else None)
            for slot, values in zip(slots, kept, strict=False):  # all of them have statistics, or none
                slot.statistics = values
        return Outcome(exam.outcome.validation, exam.outcome.test, per_step)

    def _recalibrate(self, model: Any, slots: list[Slot], trial: Trial) -> None:
        train = self._rows.split(trial.seed)[0]
        most = MANY if trial.final else FEW
        batches = [self._rows.inputs[rows] for rows in parts(train, max(trial.arm.batch, 64))[:most]]
        names = [slot.layer.name for slot in slots if slot.layer.trainable]
        if names:
            # by the batch it is one pass, which is what there is time for where arms are only ranked
            recalibrate(model, batches, upstream="inference" if trial.final else "batch", layers=names)

    def _outputs(self, model: Any, rows: Array) -> Array:
        """The outputs in inference mode; probabilities of class 1 become logits, so that 0 separates the classes."""
        found = [model(self._rows.inputs[part], training=False) for part in parts(rows, EXAMINED)]
        outputs: Array = np.concatenate([np.asarray(keras.ops.convert_to_numpy(each), np.float32) for each in found])
        if getattr(self, "_probabilities", False) and outputs.shape[-1] == 1:
            return outputs - np.float32(0.5)
        return outputs


def _probabilities(outputs: Array) -> bool:
    """True if these are probabilities of the classes, or of class 1."""
    if outputs.min() < 0 or outputs.max() > 1:
        return False
    return outputs.shape[-1] == 1 or bool(np.allclose(outputs.sum(-1), 1, atol=1e-3))


def _config(model: Any) -> str:
    """The model's settings in words, where it has any that can be told."""
    try:
        return json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True, default=str)
    except (NotImplementedError, TypeError, ValueError):
        return type(model).__name__
