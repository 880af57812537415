"""The comparison on a PyTorch model."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.nn.parameter import is_lazy

from normwise.lab.comparison import torch_layers, torch_where
from normwise.lab.comparison.arms import Trial
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
from normwise.torch import paused_statistics
from normwise.torch.models.recalibration.recalibrate import recalibrate


class TorchTrainer:
    """Trains a PyTorch model by gradient descent with momentum 0.9, on the device that it is built on.

    Args:
        make: builds it, initialized from torch's random state.
        rows: to train and to examine on.
        identity: what tells the model from others of the same structure.

    Raises:
        NormwiseError: it cannot take the rows, or has no batch norm that could make room.
    """

    def __init__(self, make: Callable[[], nn.Module], rows: Rows, identity: str) -> None:
        self._make, self._rows = make, rows
        self.framework = f"torch {torch.__version__}"
        model = self._built(0)
        torch_layers.check(model)
        with in_one_sentence("MODEL cannot take the rows", TAKES), torch.no_grad():
            shape = tuple(model.eval()(self._inputs(np.arange(2), model)).shape)
        rows.check(shape)
        found = torch_where.places(model)
        self.where = torch_where.choices(found)
        why = {name: None if place.where else place.why for name, place in found.items()}
        self.remarks = where_remarks(why, self.where)
        shapes = [[name, list(value.shape)] for name, value in model.state_dict().items()]
        self.fingerprint: list[Any] = [identity, repr(model), shapes]

    def train(self, trial: Trial) -> Outcome:
        """Train from scratch and examine.

        Initial weights, split and order of the rows depend on the seed alone, so that arms pair up.

        Raises:
            NormwiseError: the model cannot take the rows, or a layer cannot normalize what reaches it.
        """
        arm = trial.arm
        model = self._built(trial.seed)
        moves = torch_where.moves(model, arm.where)
        torch_layers.replace(model, arm.normalizer, arm.batch)
        for move in moves:
            move()
        batches = Batches(self._rows.split(trial.seed)[0], arm.batch, trial.seed)
        with (
            in_one_sentence(f"MODEL cannot be trained with {arm.words()}"),
            np.errstate(over="ignore", invalid="ignore"),
        ):
            finite, per_step = self._trained(model.train(), batches, trial)
            return self._examined(model.eval(), trial, per_step) if finite else nothing_learned(trial, per_step)

    def _built(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = self._make()
        if any(is_lazy(each) for each in [*model.parameters(), *model.buffers()]):
            with torch.no_grad():
                model.eval()(torch.from_numpy(self._rows.inputs[:2]))
        return copy.deepcopy(model)  # a callable may return the same one every time

    def _inputs(self, rows: Array, model: nn.Module) -> Tensor:
        return torch.from_numpy(self._rows.inputs[rows]).to(_device(model))

    def _trained(self, model: nn.Module, batches: Batches, trial: Trial) -> tuple[bool, float]:
        """Train the model; return True if the loss stayed finite, and the seconds of a step."""
        learning = [each for each in model.parameters() if each.requires_grad]
        if not learning:
            raise ValueError("it has no parameters that learn")
        optimizer = torch.optim.SGD(learning, lr=trial.arm.rate, momentum=0.9)
        seconds = []
        for _ in range(trial.steps):
            began = time.perf_counter()
            rows = batches.next()
            loss = self._loss(model(self._inputs(rows, model)), rows)
            finite = math.isfinite(loss.item())
            if finite:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            seconds.append(time.perf_counter() - began)
            if not finite:
                return False, statistics.median(seconds)
        return True, statistics.median(seconds)

    def _loss(self, outputs: Tensor, rows: Array) -> Tensor:
        targets = torch.from_numpy(self._rows.targets[rows]).to(outputs.device)
        if not self._rows.classes:
            return mse_loss(outputs.reshape(targets.shape), targets)
        if outputs.shape[1] == 1:
            return binary_cross_entropy_with_logits(outputs[:, 0], targets.to(outputs.dtype))
        return cross_entropy(outputs, targets)

    def _examined(self, model: nn.Module, trial: Trial, per_step: float) -> Outcome:
        exam = Examination(self._rows, trial)
        kept = copy.deepcopy(model.state_dict())
        for way in ways(trial.arm, final=trial.final):
            if way == "recalibrated":
                self._recalibrate(model, trial)
            by_batch = way == "batch"
            validation = self._outputs(model, exam.validation, by_batch)
            exam.note(way, validation, self._outputs(model, exam.test, by_batch) if trial.final else None)
            if way == "recalibrated":
                model.load_state_dict(kept)
        return Outcome(exam.outcome.validation, exam.outcome.test, per_step)

    def _recalibrate(self, model: nn.Module, trial: Trial) -> None:
        train = self._rows.split(trial.seed)[0]
        most = MANY if trial.final else FEW
        batches = [self._inputs(rows, model) for rows in parts(train, max(trial.arm.batch, 64))][:most]
        # by the batch it is one pass, which is what there is time for where arms are only ranked
        recalibrate(model, batches, upstream="inference" if trial.final else "batch", distributed=False)

    def _outputs(self, model: nn.Module, rows: Array, by_batch: bool) -> Array:
        norms = [part for part in model.modules() if isinstance(part, torch_layers.BatchNorm)] if by_batch else []
        with torch.no_grad(), paused_statistics(model) if by_batch else nullcontext():
            for norm in norms:
                norm.train()
            found = [model(self._inputs(part, model)).float().cpu().numpy() for part in parts(rows, EXAMINED)]
            model.eval()
        return np.concatenate(found)


def _device(model: nn.Module) -> torch.device:
    return next((each.device for each in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
