"""The Triton kernels compiled without a GPU: what is kept of every variant is what the sources compile to."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed; the extra `dev` has it on Linux")
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("the kernels are interpreted in this process, and not compiled", allow_module_level=True)

import torch
import triton
from triton.backends.compiler import GPUTarget

from benchmarks.gpu import compiling, page
from benchmarks.gpu.binaries import TARGETS, compiled, source_of
from benchmarks.gpu.compiling import digest, kept, row_of
from benchmarks.gpu.launches import DEFAULT, KERNELS, Asked, launches_of
from benchmarks.gpu.traffic import FLOOR, rows
from benchmarks.gpu.variants import variants
from normwise.kernels.triton_gpu.constants import Tile
from normwise.kernels.triton_gpu.moments import gather

KEPT = kept()
SWEPT = ("gather", "normalize", "sum_gradients", "normalize_gradients")
# As many as take some seconds: both layouts, bits, and one that holds a channel.
AGAIN = [
    ("gather", "float32", "first", "relu"),
    ("normalize", "bfloat16", "last", "add, relu"),
    ("gradients_held", "float32", "first", "relu"),
]


def named(row: dict[str, Any]) -> str:
    """A variant in a test's name."""
    return f"{row['kernel']} {row['dtype']} {row['layout']} {row['size']} {row['feature']}"


def test_what_is_kept_is_of_these_sources() -> None:
    """Else `python -m benchmarks.gpu compile` writes it again (`--every`)."""
    assert KEPT["digest"] == digest()
    assert KEPT["targets"] == [*TARGETS]


def test_every_variant_is_there() -> None:
    there = {(named(row), row["vector"], row["elements"]) for row in KEPT["rows"]}
    wanted = {
        (
            named(
                {"kernel": launch.name, "dtype": name[0], "layout": "last" if name[1] else "first", "size": [*name[2]]}
                | {"feature": name[3]}
            ),
            launch.tile.vector if launch.tile else None,
            launch.elements,
        )
        for name, launch in variants(every=True)
    }
    assert wanted == there
    assert {name.partition(" ")[0] for name, *_ in there} == {*KERNELS}


def test_nothing_spills_anywhere() -> None:
    assert [named(row) for row in KEPT["rows"] if any(target["spilled"] for target in row["targets"].values())] == []


def test_accesses_are_16_bytes_wide_wherever_rows_allow_it() -> None:
    aligned = [row for row in KEPT["rows"] if row["vector"] and row["vector"] * page._size(row) == 16]
    assert len(aligned) > 25
    assert [named(row) for row in aligned if not page.is_wide(row)] == []
    for row in aligned:  # in the machine's own code too
        if row["designed"][0] and row["elements"] // row["threads"] * page._size(row) >= 16:
            assert {target["widest"][0] for target in row["targets"].values()} == {128}, named(row)
        if row["designed"][1]:
            assert {target["widest"][1] for target in row["targets"].values()} == {128}, named(row)


def test_every_sweep_reads_and_writes_what_it_was_designed_to() -> None:
    swept = [row for row in KEPT["rows"] if row["kernel"] in SWEPT]
    assert {row["kernel"] for row in swept} == {*SWEPT}
    apart = {
        named(row): (row["loads"], row["stores"]) for row in swept if row["designed"] != [row["loads"], row["stores"]]
    }
    assert apart == {}


def test_registers_leave_enough_loads_in_flight() -> None:
    """A quarter of a multiprocessor's threads, or more, in every sweep."""
    swept = [row for row in KEPT["rows"] if row["kernel"] in SWEPT]
    assert min(target["occupancy"] for row in swept for target in row["targets"].values()) >= 0.25


@pytest.mark.parametrize(("kernel", "dtype", "layout", "feature"), AGAIN)
def test_the_sources_compile_to_what_is_kept(
    kernel: str, dtype: str, layout: str, feature: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    row = next(
        row
        for row in KEPT["rows"]
        if (row["kernel"], row["dtype"], row["layout"], row["feature"]) == (kernel, dtype, layout, feature)
    )
    size, last = tuple(row["size"]), layout == "last"
    name, launch = next(
        (name, launch) for name, launch in variants() if (launch.name, *name) == (kernel, dtype, last, size, feature)
    )
    found = row_of(name, launch, [compiled(launch, 90)])
    assert found["targets"]["90"]["spilled"] == 0
    assert [found["loads"], found["stores"]] == [row["loads"], row["stores"]]
    if triton.__version__ == KEPT["triton"]:
        assert found["targets"]["90"] == row["targets"]["90"]


@pytest.mark.parametrize("target", [80, 90])
def test_bfloat16_is_rounded_to_even(target: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch rounds; the interpreter, under which the values are tested, rounds to zero."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    _, (*_, launch) = launches_of(Asked((256, 64, 56, 56), torch.bfloat16, True))
    found: Any = triton.compile(source_of(launch), target=GPUTarget("cuda", target, 32), options=dict(launch.options))
    assert launch.name == "normalize_gradients"
    assert set(re.findall(r"cvt\.r\w\.bf16\w*", found.asm["ptx"])) == {"cvt.rn.bf16x2"}


def test_an_address_that_is_not_aligned_compiles_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (launch, *_), _ = launches_of(Asked((64, 64, 28, 28), torch.float32, False))
    found = compiled(launch, 90, aligned=False)
    assert (found.spilled, found.widest[0]) == (0, 32)


class NoGpu:
    """A GPU that is not there, for Triton's launcher up to the launch."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def test_the_launcher_takes_constants_as_one_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal ones find the code that is there, others are compiled, and none of it is passed when the kernel runs."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x, partials = torch.zeros(8, 8), torch.zeros(4, 1, 8)
    monkeypatch.setattr(triton.runtime.driver, "_active", NoGpu())
    monkeypatch.setattr(gather, "device_caches", defaultdict(gather.create_binder))
    one, two, other = (
        gather.warmup(
            x, None, partials, 0, 8, 8, 2, 1, 1, 1, 1, STEADY=True, TILE=Tile(4, down, 8, True, False), grid=(1, 1)
        )
        for down in (8, 8, 16)
    )
    assert one is two
    assert one is not other
    assert one.src.signature["TILE"] == "constexpr"


def test_the_page_is_what_is_kept_says() -> None:
    assert page.PAGE.read_text("utf-8") == page.page()
    assert "No GPU has run these kernels" in page.page()


def test_the_last_program_reads_behind_the_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A barrier, the addition that releases and acquires, a barrier, and only then the loads of what others stored."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (launch,), _ = launches_of(Asked((32, 16, 28, 28), torch.float32, False))
    found: Any = triton.compile(source_of(launch), target=GPUTarget("cuda", 90, 32), options=dict(launch.options))
    kinds = re.findall(
        r"^.*?(st\.global|bar\.sync|atom\.global\.gpu\.acq_rel\.add|ld\.global(?:\.nc)?)",
        found.asm["ptx"],
        re.MULTILINE,
    )
    at = kinds.index("atom.global.gpu.acq_rel.add")
    assert launch.name == "normalize_by_last"
    assert kinds.count("atom.global.gpu.acq_rel.add") == 1
    assert (kinds[at - 1], kinds[at + 1]) == ("bar.sync", "bar.sync")
    assert "st.global" in kinds[:at]
    assert "ld.global" in kinds[at:]
    assert "ld.global.nc" not in kinds


@pytest.mark.parametrize(("dtype", "last"), page.SETTINGS)
def test_no_call_of_resnet50_makes_more_launches_than_the_bound(dtype: torch.dtype, last: bool) -> None:
    """At batch 256; and what it costs in bytes is little."""
    bounded, free = (rows(dtype, last=last, settings=DEFAULT._replace(launches=most)) for most in (64, 1 << 20))
    assert DEFAULT.launches == 64
    assert max(max(row.ours.forward_launches, row.ours.backward_launches) for row in bounded) <= 64
    moved = [
        sum((row.ours.forward + row.ours.backward) * row.megabytes * row.layers for row in found)
        for found in (bounded, free)
    ]
    assert moved[0] <= 1.07 * moved[1]


def test_the_model_never_goes_below_the_floor() -> None:
    for dtype, last in ((torch.float32, False), (torch.bfloat16, True)):
        for row in rows(dtype, last=last):
            forward, backward = FLOOR[row.adds]
            assert row.ours.forward >= forward
            assert row.ours.backward >= backward
            assert row.ours.forward + row.ours.backward <= forward + backward + 3.2  # x twice, and dy


def test_no_results_of_a_gpu_are_kept_yet() -> None:
    """The day that one is, the kernels may be switched on, and the page and README say what was measured."""
    found = [path.name for path in compiling.KEPT.parent.glob("*.json") if path != compiling.KEPT]
    assert found == []
    assert json.loads(compiling.KEPT.read_text("utf-8"))["rows"]
