"""Training on several processes that survives a killed one, and gives the losses of one process with all of each batch.

    torchrun --standalone --nproc-per-node=2 --max-restarts=3 examples/train_distributed.py --checkpoint digits.pt

Without torchrun it is one process: python examples/train_distributed.py
"""

import json
import os
from pathlib import Path
from typing import Any

import click
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import normwise
import normwise.torch as nt
from normwise.torch.models.loading import check_weights_name, save_weights

FORMAT = "normwise examples/train_distributed.py, 1"
SEED = 0
FILE = click.Path(dir_okay=False, path_type=Path)


def join(backend: str) -> torch.device:
    """Meet the processes that torchrun started, or be a group of one; where this one computes."""
    if backend == "auto":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    device = torch.device("cpu")
    if backend == "nccl":
        if not torch.cuda.is_available():
            raise click.UsageError("--backend nccl needs a GPU, and PyTorch sees none: use --backend gloo.")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    store, rank, world = distributed.HashStore(), 0, 1
    if "WORLD_SIZE" in os.environ:
        store, rank, world = next(rendezvous("env://"))
    # torchrun keeps its store through a restart, and with it the addresses of processes that are dead.
    attempt = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    distributed.init_process_group(backend, store=attempt, rank=rank, world_size=world)
    return device


def share(batch: Tensor) -> Tensor:
    """This process's part: every second row where there are two; it may be empty."""
    return batch[distributed.get_rank() :: distributed.get_world_size()]


def summed(value: Tensor) -> float:
    """The sum of a value over all processes."""
    distributed.all_reduce(value)
    return value.item()


def data(device: torch.device) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels, for training and for the test: all of them in every process, which takes its share later."""
    digits = load_digits()
    images = torch.from_numpy(digits.images[:, None] / 16).to(device)
    labels = torch.from_numpy(digits.target).to(device)
    rows = train_test_split(range(len(labels)), test_size=360, stratify=digits.target, random_state=SEED)
    train, test = (torch.tensor(part, device=device) for part in rows)
    return (images[train], labels[train]), (images[test], labels[test])


def network() -> nn.Module:
    torch.manual_seed(SEED)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nt.BatchNorm2d(16, activation="relu"),
        nn.Conv2d(16, 32, 3, stride=2, bias=False),
        nt.BatchNorm2d(32, activation="relu"),
        nn.Flatten(),
        nn.Linear(32 * 3 * 3, 10),
    )
    return nt.convert_to_synchronized(model).model


class Training:
    """A model, what trains it, and how far it has come."""

    def __init__(self, model: nn.Module, settings: dict[str, Any], steps: int) -> None:
        self.settings = settings  # those without which a run cannot be continued as the same one
        self.order = torch.Generator().manual_seed(SEED)  # on the CPU, and the same in all processes
        self.optimizer = torch.optim.SGD(normwise.param_groups(model, 1e-4), lr=0.1, momentum=0.9, nesterov=True)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, settings["epochs"] * steps)
        self.parts = {"model": model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        # `begun` is the generator's state before it gave the epoch its order; `total` the epoch's losses so far.
        self.progress = {"epoch": 0, "step": 0, "total": 0.0, "losses": [], "begun": self.order.get_state()}

    def write(self, path: Path) -> None:
        """All of it or nothing: whenever this process is killed, the file is the last whole checkpoint."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, "settings": self.settings, "progress": self.progress, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def read(self, path: Path) -> dict[str, Any]:
        """The checkpoint, or one sentence that says why it is none of this run."""
        advice = "move it away, or give another with --checkpoint."
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file leads to
            raise click.ClickException(f"{path} is damaged, or no checkpoint at all: {advice}") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise click.ClickException(f"{path} is no checkpoint of this script: {advice}")
        if state["settings"] != self.settings:
            theirs = " ".join(
                f"--{name.replace('_', '-')} {value}" for name, value in sorted(state["settings"].items())
            )
            raise click.ClickException(
                f"{path} belongs to a run with {theirs}: repeat them, or give another file with --checkpoint."
            )
        return state

    def resume(self, path: Path) -> None:
        """Rank 0 reads and tells the others, which may be on other machines, and any number of them."""
        found: list[Any] = [None]
        try:
            if distributed.get_rank() == 0:
                found = [self.read(path) if path.exists() else "new"]
        finally:  # a failure is one of all processes
            distributed.broadcast_object_list(found)
        if found == [None]:
            raise click.exceptions.Exit(1)  # rank 0 says why
        if found != ["new"]:
            for name, part in self.parts.items():
                part.load_state_dict(found[0][name])
            self.progress = found[0]["progress"]

    def run(self, images: Tensor, labels: Tensor, checkpoint: Path | None, every: int) -> None:
        """All epochs that are left."""
        model, now = DistributedDataParallel(self.parts["model"]), self.progress
        while now["epoch"] < self.settings["epochs"]:
            self.order.set_state(now["begun"])
            batches = torch.randperm(len(images), generator=self.order).split(self.settings["batch_size"])
            since = torch.zeros((), dtype=torch.float64, device=images.device)
            for step in range(now["step"], len(batches)):
                mine = share(batches[step]).to(images.device)
                loss = cross_entropy(model(images[mine]), labels[mine], reduction="sum")
                self.optimizer.zero_grad()
                # The processes' gradients are averaged, not added, and their shares may be of different sizes, or
                # empty: so each divides its sum by the size of the whole batch, and undoes the division by `world`.
                (loss * (distributed.get_world_size() / len(batches[step]))).backward()
                self.optimizer.step()
                self.scheduler.step()
                since += loss.detach()
                last = step + 1 == len(batches)
                if last or (step + 1) % every == 0:
                    now.update(step=step + 1, total=now["total"] + summed(since))
                    since.zero_()
                    if last:
                        now["losses"].append(now["total"] / len(images))
                        now.update(epoch=now["epoch"] + 1, step=0, total=0.0, begun=self.order.get_state())
                    if checkpoint is not None and distributed.get_rank() == 0:
                        self.write(checkpoint)
            if distributed.get_rank() == 0:
                click.echo(f"epoch {now['epoch']}: loss {now['losses'][-1]:.6f}")


@click.command()
@click.option("--epochs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Of all processes together.")
@click.option("--checkpoint", type=FILE, help="Continue from here; keep it here.")
@click.option("--every", type=click.IntRange(1), default=10, show_default=True, help="Steps between checkpoints.")
@click.option("--backend", type=click.Choice(["auto", "gloo", "nccl"]), default="auto", help="auto: nccl with a GPU.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--losses", type=FILE, help="Write them here as JSON.")
@click.option("--weights", type=FILE, help="Write the model here, for one process.")
def main(checkpoint: Path | None, losses: Path | None, weights: Path | None, every: int, **how: Any) -> None:
    """Train a network on handwritten digits, with torchrun on several processes."""
    for path in (checkpoint, losses, weights):
        if path is not None and not path.parent.is_dir():
            raise click.UsageError(f"there is no folder {str(path.parent)!r} for {path.name!r}: make it first.")
    if weights is not None:
        check_weights_name(weights)
    (images, labels), (unseen, right) = data(join(how.pop("backend")))
    images, unseen = (each.to(getattr(torch, how["dtype"])) for each in (images, unseen))
    model = network().to(images)
    training = Training(model, how, steps=-(-len(images) // how["batch_size"]))
    if checkpoint is not None:
        training.resume(checkpoint)
    training.run(images, labels, checkpoint, every)

    # Each process brings its share of the training set, and each gets the statistics of all of it.
    normwise.recalibrate(model, share(images).split(how["batch_size"]))
    with torch.no_grad():
        hits = model.eval()(share(unseen)).argmax(1) == share(right)
    accuracy = summed(hits.sum()) / len(right)
    if distributed.get_rank() == 0:
        click.echo(f"accuracy on the test set {accuracy:.4f}")
        if losses is not None:
            losses.write_text(json.dumps({"losses": training.progress["losses"], "accuracy": accuracy}) + "\n", "utf-8")
        if weights is not None:
            save_weights(nt.convert_from_synchronized(model).model, weights)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
