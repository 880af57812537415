"""The price of exact gradients of a batch in parts: ``make bench ARGS="--part accumulation"``.

One training step of a network of 29 batch norms on 32 images of 64 x 64, in 8 parts, on one thread: time against plain
accumulation, in turn, and the peak of the memory of this process above that before the step. What is offloaded is
written to a file meanwhile, which stands for the memory of another device: so the peak is what stays on this one.
Writes ``benchmarks/results/accumulation.json``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint_sequential

import normwise
from benchmarks import parts
from benchmarks.kept import Conditions, keep
from benchmarks.networks import resnet
from benchmarks.spread import Spread, calmest, published, ratios, widest
from benchmarks.timing import in_turn
from normwise.torch import accumulate_gradients
from normwise.torch.models.accumulation.offloading import Offload, offloaded

LAYERS = {False: "torch's layers", True: "normwise's layers, by fuse"}
PARTS, SAMPLES = 8, 32
MEGABYTE = 2**20


class _InAFile:
    """The values of a tensor, where they count for no memory of this process."""

    _file = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
    _end = 0

    def __init__(self, tensor: Tensor) -> None:
        values = tensor.detach().contiguous().numpy().tobytes()
        self.shape, self.dtype, self.place = tensor.shape, tensor.dtype, _InAFile._end
        _InAFile._end += os.pwrite(self._file.fileno(), values, self.place)

    def to(self, *_: Any, **__: Any) -> Tensor:
        """Read the values back into a tensor, as a tensor's ``to`` brings one back to the device."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        os.preadv(self._file.fileno(), [memoryview(tensor.numpy().reshape(-1).view(np.uint8).data)], self.place)
        return tensor


class _ToAFile(Offload):
    def _copy(self, tensor: Tensor) -> Any:
        return _InAFile(tensor)


def ways(fused: bool) -> dict[str, Callable[[], object]]:
    """A step in each way."""
    torch.manual_seed(0)
    model = resnet((2, 2, 2, 2), classes=10)
    if fused:
        normwise.fuse(model)
    x, y = torch.randn(SAMPLES, 3, 64, 64), torch.randint(10, (SAMPLES,))
    parts = list(zip(x.chunk(PARTS), y.chunk(PARTS), strict=True))

    def loss(model: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(part[0]), part[1])

    def plain() -> None:
        for part in parts:
            (loss(model, part) / PARTS).backward()

    def whole_offloaded() -> None:
        with offloaded([*model.parameters(), *model.buffers()]):
            found = loss(model, (x, y))
        found.backward()

    def checkpoints() -> None:
        whole = nn.Sequential(model[:4], *model[4:].children())  # no part begins with the ReLU that changes its input
        F.cross_entropy(checkpoint_sequential(whole, 6, x, use_reentrant=False), y).backward()

    return {
        "plain accumulation (not the whole batch)": plain,
        "the whole batch": lambda: loss(model, (x, y)).backward(),
        "the whole batch in 6 checkpoints": checkpoints,
        "the whole batch, offloaded": whole_offloaded,
        "accumulate_gradients": lambda: accumulate_gradients(model, parts, loss),
        "accumulate_gradients, offloaded": lambda: accumulate_gradients(model, parts, loss, offload=True),
    }


def peak(fused: bool, name: str) -> float:
    """Megabytes, in a process of its own, whose allocator gives large blocks back at once."""
    settings = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_ARENA_MAX": "1", "NORMWISE_POOL_MB": "0"}
    command = [sys.executable, "-m", "benchmarks.accumulation", "--peak", name, "--layers", LAYERS[fused]]
    return float(subprocess.run(command, env=os.environ | settings, capture_output=True, check=True).stdout)


def _measure(fused: bool, name: str) -> None:
    Offload._copy = _ToAFile._copy  # type: ignore[assignment,method-assign]  # in this process only
    everything = ways(fused)
    everything["plain accumulation (not the whole batch)"]()  # gradients and libraries are there
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    everything[name]()
    print((_status("VmHWM") - before) / MEGABYTE)


def _status(key: str) -> int:
    with Path("/proc/self/status").open() as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))


def row(fused: bool, name: str, ratio: Spread) -> dict[str, Any]:
    """The row that is kept: no ratio that may not be published, and then why."""
    calm, absent = published({"time": ratio})
    kept = {"time": asdict(ratio) if calm else None, "absent": absent.get("time", "")}
    return {"layers": LAYERS[fused], "way": name, **kept, "peak, MB": peak(fused, name)}


def measure(fused: bool, *, rounds: int) -> dict[str, Spread]:
    """The time of each way over that of plain accumulation, in the calmest of some attempts."""
    calls = ways(fused)
    first = next(iter(calls))

    def attempt() -> dict[str, Spread]:
        times, _ = in_turn(calls, rounds=rounds, seconds=60)
        return {name: ratios(found, times[first]) for name, found in times.items()}

    return calmest(attempt, widest)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parts.parser(__doc__)
    parser.add_argument("--layers", choices=LAYERS.values(), help="one of them only; what is kept of the other stays")
    parser.add_argument("--peak", metavar="WAY", help="only print the peak of this process by one step in that way")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.peak:
        _measure(options.layers == LAYERS[True], options.peak)
        return
    for fused, layers in LAYERS.items():
        if options.layers not in (None, layers):
            continue
        conditions = Conditions()
        found = measure(fused, rounds=5 if options.quick else 7)
        rows = [{**row(fused, name, ratio), **conditions.after()} for name, ratio in found.items()]
        print(layers)
        for each in rows:
            words = f"{found[each['way']].said}, n = {found[each['way']].pairs}"
            print(f"  {each['way']:42} time {words}   peak {each['peak, MB']:6.0f} MB", flush=True)
        if not options.quick:
            keep(options.out / "accumulation.json", rows, by=("layers", "way"))


if __name__ == "__main__":
    main()
