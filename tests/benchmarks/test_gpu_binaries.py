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
from benchmarks.gpu.binaries import TARGETS, Binary, Counts, compiled, counted, source_of
from benchmarks.gpu.compiling import described, digest, kept, key_in_file, measured
from benchmarks.gpu.launches import DEFAULT, H200, KERNELS, Asked, launches_of
from benchmarks.gpu.traffic import FLOOR, rows
from benchmarks.gpu.variants import IMAGES, variants
from benchmarks.shapes import RESNET50_LAYERS
from normwise.kernels.activation_numbers import ACTIVATIONS
from normwise.kernels.triton_gpu.constants import Tile
from normwise.kernels.triton_gpu.moments import gather
from normwise.kernels.triton_gpu.plan import Device
from normwise.kernels.triton_gpu.tuning import CANDIDATES

KEPT = kept()
ROWS: list[dict[str, Any]] = KEPT["rows"]
VARIANTS = {key_in_file(launch): (name, launch) for name, launch in variants()}
FLAGS = ("BY_B", "WANT")  # how the names of a kernel's options begin
AGAIN = {row["kernel"]: row for row in reversed(ROWS)}  # the first of each kernel


def named(row: dict[str, Any]) -> str:
    """A variant in a test's name."""
    return f"{row['kernel']} {row['dtype']} {row['layout']} {row['size']} {row['feature']}"


def compiled_of(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The facts of each variant for each target, with its name."""
    return [(f"{named(row)} {target}", facts) for row in rows for target, facts in row["compiled"].items()]


def test_what_is_kept_is_of_these_sources() -> None:
    """Else `python -m benchmarks.gpu compile` writes it again; where the kernels are as they were, it keeps theirs."""
    assert KEPT["digest"] == digest()
    assert KEPT["kernels"] == compiling.digests()
    assert KEPT["targets"] == [*TARGETS]


def test_every_variant_is_there() -> None:
    """Equal keys are equal code; and every row says what its launch is."""
    assert {row["key"] for row in ROWS} == VARIANTS.keys()
    assert len(ROWS) == len(VARIANTS)
    for row in ROWS:
        assert {name: value for name, value in row.items() if name != "compiled"} == described(*VARIANTS[row["key"]])
        assert [*row["compiled"]] == [str(target) for target in TARGETS]
    assert {row["kernel"] for row in ROWS} == {*KERNELS}


@pytest.mark.parametrize("batch", [256, 64, 32])
@pytest.mark.parametrize(
    "device", [H200, Device("A100", 108, 40 << 20), Device("B200", 148, 126 << 20)], ids=lambda device: device.name
)
def test_nothing_that_resnet50_launches_is_missing(device: Device, batch: int) -> None:
    """As float32 with the channels first and bfloat16 with the channels last, with the settings that may be chosen."""
    there = {row["key"] for row in ROWS}
    missing = set()
    for settings in CANDIDATES if batch == 256 else (DEFAULT,):
        for dtype, last in page.SETTINGS:
            for layer in RESNET50_LAYERS:
                for adds in {layer.adding > 0, layer.adding == layer.count}:
                    asked = Asked((batch, *layer.size[1:]), dtype, last, adds=adds, settings=settings)
                    for launch in (one for part in launches_of(asked, device) for one in part):
                        if key_in_file(launch) not in there:
                            missing.add((launch.name, layer.name, dtype, last, adds, settings))
    assert missing == set()


def test_every_option_is_there_for_every_kernel_that_has_it() -> None:
    """As the page says."""
    options = defaultdict[str, set[tuple[str, Any]]](set)
    for _, launch in VARIANTS.values():
        if launch.tile:
            options[launch.name] |= {*launch.tile._asdict().items(), ("threads", launch.threads)}
        if "LINE" in launch.arguments:
            options[launch.name] |= {*launch.line._asdict().items()}
            if isinstance(scale := launch.arguments["scale"], torch.Tensor):
                options[launch.name].add(("scale", scale.dtype))
        options[launch.name] |= {(name, value) for name, value in launch.arguments.items() if name[:4] in FLAGS}
    for kernel in KERNELS:
        if not kernel.startswith("finish"):
            wanted: set[tuple[str, Any]] = {("last", False), ("last", True), ("masked", False), ("masked", True)}
            wanted.add(("each", True))
            if kernel != "gather":
                wanted |= {(name, value) for name in ("residual", "scaled", "shifted") for value in (False, True)}
                wanted |= {("scale", dtype) for dtype in (torch.float32, torch.bfloat16)}
                wanted |= {("activation", number) for number in ACTIVATIONS.values()}
            assert wanted - options[kernel] == set(), kernel
    assert {("BY_BATCH", True), ("BY_BATCH", False), ("WANTS_X", True), ("WANTS_X", False)} <= options["gradients_held"]
    for kernel in ("sum_gradients", "normalize_gradients", "gradients_by_last", "gradients_held"):
        assert {("WANTS_RESIDUAL", True), ("WANTS_RESIDUAL", False)} <= options[kernel]
    for kernel in ("normalize", "sum_gradients", "gradients_held"):  # with running statistics
        assert ("scale", torch.float64) in options[kernel]


def test_nothing_spills_anywhere() -> None:
    assert [name for name, facts in compiled_of(ROWS) if facts["spilled"]] == []


def test_accesses_are_16_bytes_wide_wherever_rows_allow_it() -> None:
    """In PTX the narrowest to a large tensor, and every one of them in the machine's own code too."""
    aligned = [row for row in ROWS if page.is_aligned(row)]
    assert len(aligned) > 300
    assert [named(row) for row in aligned if not page.is_wide(row)] == []
    for row in ROWS:
        if row["vector"] and not page.is_aligned(row):  # as wide as rows allow
            assert {facts["narrowest"] for facts in row["compiled"].values()} == {row["vector"] * page._size(row)}


def test_every_kernel_reads_and_writes_what_it_was_designed_to() -> None:
    apart = {
        name: (row["designed"], facts["loads"], facts["stores"])
        for row in ROWS
        for name, facts in compiled_of([row])
        if row["designed"] != [facts["loads"], facts["stores"]]
    }
    assert apart == {}


def test_registers_and_shared_memory_leave_enough_loads_in_flight() -> None:
    """A quarter of a multiprocessor's threads, or more, in every kernel."""
    assert [name for name, facts in compiled_of(ROWS) if facts["occupancy"] < 0.25] == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_sources_compile_to_what_is_kept(kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    row = AGAIN[kernel]
    _, launch = VARIANTS[row["key"]]
    found = measured(launch, [compiled(launch, target) for target in TARGETS])
    for facts in found.values():
        assert facts["spilled"] == facts["lost"] == 0
        assert [facts["loads"], facts["stores"]] == row["designed"]
    if triton.__version__ == KEPT["triton"]:
        assert found == row["compiled"]


def test_an_access_counts_for_the_tensor_whose_pointer_it_goes_by() -> None:
    """A narrow load of a tensor is no load of bits, and a wide one of a channel's own number is none of a tensor."""
    launch = next(one for one in launches_of(Asked(IMAGES, torch.bfloat16, True, adds=True))[0] if one.line.bits)
    passed = [name for name, kind in source_of(launch).signature.items() if kind != "constexpr"]
    address = {name: f"%rd{50 + number}" for number, name in enumerate(passed)}
    lines = [
        *(f"ld.param.b64 \t%rd{number}, [{launch.name}_param_{number}];" for number in range(len(passed))),
        *(f"add.s64 \t{address[name]}, %rd{number}, %rd99;" for number, name in enumerate(passed)),
        "$L__BB0_1:",
        f"@%p1 ld.global.v4.b32 {{ %r1, %r2, %r3, %r4 }}, [ {address['scale']} + 0 ];",
        f"@%p1 ld.global.L1::evict_first.b16 {{ %rs1 }}, [ {address['x']} + 2 ];",
        f"@%p1 st.global.b8 [ {address['bits']} + 0 ], {{ %rs1 }};",
        "@%p2 bra \t$L__BB0_1;",
    ]
    each = launch.threads / launch.elements
    assert counted("\n".join(lines), launch) == (each, 0.0, 2, each)


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "share"),
    [(64, 0, 256, 0.5), (65, 0, 256, 0.375), (32, 100 << 10, 256, 0.25), (128, 0, 512, 0.25), (16, 0, 32, 0.5)],
)
def test_occupancy_is_what_registers_and_shared_memory_let_run(
    registers: int, shared: int, threads: int, share: float
) -> None:
    counts = Counts(0.0, 0.0, 0, 0.0)
    assert Binary(90, registers, 0, shared, (0, 0), 0, counts).occupancy(threads) == share


@pytest.mark.parametrize(("dtype", "last"), page.SETTINGS)
def test_only_what_is_read_for_the_last_time_makes_room_first(
    dtype: torch.dtype, last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second sweep x, dy and a residual; what the first sweep reads stays in the cache for the second."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    forward, backward = launches_of(Asked(IMAGES, dtype, last, "silu", adds=True))
    kinds = {}
    for launch in {launch.name: launch for launch in (*forward, *backward) if launch.tile}.values():
        found: Any = triton.compile(source_of(launch), target=GPUTarget("cuda", 90, 32), options=dict(launch.options))
        large = [line for line in found.asm["ptx"].splitlines() if "ld.global" in line and ".v4." in line]
        kinds[launch.name] = {"evict_first" in line for line in large if len(large) > 1}
    assert kinds["gather"] <= {False}
    assert kinds["sum_gradients"] == {False}
    assert kinds["normalize"] == kinds["normalize_gradients"] == {True}


def test_a_residual_that_both_sweeps_read_takes_a_share_of_the_cache_too() -> None:
    """silu keeps it for the backward; relu keeps its sign."""
    pieces = [
        max(launch.grid[0] for launch in launches_of(Asked((256, 256, 14, 14), torch.float32, False, name, True))[1])
        for name in ("relu", "silu")
    ]
    assert pieces[1] <= pieces[0] * 2 / 3


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
    assert (found.spilled, found.wide, found.counts.narrowest) == (0, (0, 0), 4)


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
