"""Training in an ordinary way, once: weights are kept on disk, in a folder named by this code and this PyTorch."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.doctor.digits import DATA, Batch, Batches, to_learn
from benchmarks.doctor.models import build

EPOCHS = 5


@cache
def folder() -> Path:
    """The folder of the trained weights: another one for another version of what trains them."""
    here = Path(__file__).parent
    sources = b"".join(
        (here / name).read_bytes()
        for name in ("digits.py", "models.py", "judged.py", "judged_before.py", "training.py")
    )
    version = hashlib.sha256(sources + torch.__version__.encode()).hexdigest()[:12]
    found = Path(tempfile.gettempdir()) / f"normwise-doctor-{os.getuid()}" / version
    found.mkdir(parents=True, exist_ok=True)
    return found


def with_adam(seed: int) -> bool:
    """True if a seed trains with AdamW, and not with SGD: two seeds in turns, because operators ask ``seed % 2``."""
    return seed // 2 % 2 == 1


def train(
    model: nn.Module,
    seed: int,
    *,
    epochs: int = EPOCHS,
    epoch: Callable[[int], Batches] = to_learn,
    decay: float = 0.0,
    after: Callable[[nn.Module], object] | None = None,
    after_step: Callable[[nn.Module], object] | None = None,
    rate: float | None = None,
) -> nn.Module:
    """Train with AdamW or SGD, as ``with_adam`` says; the rate falls to 0.

    Args:
        model: is changed, and comes back in inference mode.
        seed: of the order of the samples.
        epochs: how many.
        epoch: a seed -> the batches of an epoch.
        decay: of all weights.
        after: is called after each epoch.
        after_step: is called after each step.
        rate: of learning at the beginning, or None for the usual one.
    """
    torch.manual_seed(seed)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(learning, rate or 4e-3, weight_decay=decay)
        if with_adam(seed)
        else torch.optim.SGD(learning, rate or 0.05, momentum=0.9, weight_decay=decay)
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for number in range(epochs):
        for x, y in epoch(100 * seed + number):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            if after_step is not None:
                after_step(model)
        schedule.step()
        if after is not None:
            after(model)
    return model.eval()


def once(name: str, model: nn.Module, how: Callable[[nn.Module], object]) -> nn.Module:
    """The model with weights that were kept under this name; it is trained where there are none."""
    path = folder() / f"{name}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    how(model)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(model.state_dict(), unfinished)
    unfinished.replace(path)
    return model.eval()


@cache
def _trained(of: str, kind: str, seed: int) -> nn.Module:
    return once(f"{of}-{kind}-{seed}", build(kind, seed), lambda model: train(model, seed))


def trained(kind: str, seed: int) -> nn.Module:
    """A healthy model, the same for whoever asks: a copy of what was trained once."""
    return copy.deepcopy(_trained(DATA.get(), kind, seed))


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of right answers."""
    return (outputs.argmax(1) == targets).float().mean()


def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Loss and accuracy in inference mode."""
    model.eval()
    with torch.no_grad():
        results = [(model(x), y) for x, y in batches]
    outputs, targets = (torch.cat(part) for part in zip(*results, strict=True))
    return float(cross_entropy(outputs.double(), targets)), float(accuracy(outputs, targets))


def step(model: nn.Module, batch: Batch) -> None:
    """One ordinary step of the optimizer."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.02)
    cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def training_step(model: nn.Module, batch: Batch) -> None:
    """The same, and the step itself sets the model to training, as loops do."""
    model.train()
    step(model, batch)
