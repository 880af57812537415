"""The code that a launch is compiled to, for GPUs that are not here: registers, spills, shared memory, memory accesses.

Accesses are counted in PTX, where a loop stands once; that they are as wide in the machine's own code is seen in SASS.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.gpu.launches import Launch

TARGETS = (80, 90, 100)
REGISTERS, MOST_THREADS = 65536, 2048  # of a multiprocessor of any of them
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
}
ACCESS = re.compile(r"\b(ld|st)\.global(?:\.L\d::\w+)*\.(?:v(\d)\.)?b(\d+)\b")
LABEL, BRANCH = re.compile(r"^(\$L__BB\w+):"), re.compile(r"bra(?:\.uni)?\s+(\$L__BB\w+)")
IN_SASS = re.compile(r"\b(LDG|STG)\.E(\.[\w.]*)?")
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class Counts(NamedTuple):
    """The counts of a tile: accesses per element, and the bytes of the narrowest of them."""

    loads: float
    stores: float
    narrowest: int
    bits: float  # bytes of packed bits and of the mask per element, read or written


class Binary(NamedTuple):
    """The code that one launch was compiled to for one target."""

    target: int
    registers: int
    spilled: int  # bytes of local memory
    shared: int  # bytes
    widest: tuple[int, int]  # bits of the widest load and store in SASS, 0 where there is none
    counts: Counts

    def occupancy(self, threads: int) -> float:
        """The share of a multiprocessor's threads that its registers let run."""
        rounded = -(-self.registers // 8) * 8
        return min(REGISTERS // (rounded * threads) * threads / MOST_THREADS, 1.0)


def source_of(launch: Launch, *, aligned: bool = True) -> ASTSource:
    """The source that Triton compiles for a launch: types for what is passed, values for what is compiled in."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    constant = {parameter.name for parameter in launch.kernel.params if parameter.is_constexpr}
    for number, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments[name]
        if name in constant or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            if aligned:
                attributes[(number,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    return ASTSource(launch.kernel, signature, constants, attributes)


def key_of(launch: Launch) -> tuple[Any, ...]:
    """Equal for launches that are compiled to the same code."""
    source = source_of(launch)
    return launch.name, *source.signature.items(), *source.constants.items(), launch.threads


def compiled(launch: Launch, target: int, *, aligned: bool = True) -> Binary:
    """Compile for a target, down to machine code."""
    found: Any = triton.compile(
        source_of(launch, aligned=aligned), target=GPUTarget("cuda", target, 32), options=dict(launch.options)
    )
    usage, sass = _disassembled(found.asm["cubin"])
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    return Binary(
        target,
        numbers["REG"],
        numbers["LOCAL"] + numbers["STACK"],
        int(found.metadata.shared),
        (_widest("LDG", sass), _widest("STG", sass)),
        counted(found.asm["ptx"], launch),
    )


def _disassembled(cubin: bytes) -> tuple[str, str]:
    """The resources that it takes, and its instructions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = str(TOOLS / "cuobjdump")
        usage, sass = (
            subprocess.run([tool, option, str(path)], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    return usage, sass


def _widest(operation: str, sass: str) -> int:
    widths = [
        next((int(part) for part in (rest or "").split(".") if part in ("64", "128")), 32)
        for found, rest in IN_SASS.findall(sass)
        if found == operation
    ]
    return max(widths, default=0)


def counted(ptx: str, launch: Launch) -> Counts:
    """The accesses to the large tensors: those of the loops over tiles, or all where there is none.

    A channel's own numbers are read in front of the loop; without one they are the accesses of a single value.
    """
    if launch.tile is None:  # it puts partial results together
        return Counts(0.0, 0.0, 0, 0.0)
    body = _loops(ptx.splitlines()) or ptx.splitlines()
    itemsize = launch.arguments["x"].element_size()
    elements = launch.elements
    # What is narrower than a thread's part of a row is of the mask's bytes, of the bits, or a channel's own number.
    least = min(launch.tile.vector, max(elements // launch.threads, 1)) * itemsize
    totals, octets, widths = {"ld": 0.0, "st": 0.0}, 0.0, []
    for line in body:
        for kind, times, bits in ACCESS.findall(line):
            width = int(times or 1) * int(bits) // 8
            if width < least:
                octets += width * launch.threads / elements
            else:
                totals[kind] += width / itemsize * launch.threads / elements
                widths.append(width)
    return Counts(totals["ld"], totals["st"], min(widths, default=0), octets)


def _loops(lines: list[str]) -> list[str]:
    """The lines of all loops that are in no other."""
    at = {found.group(1): number for number, line in enumerate(lines) if (found := LABEL.match(line))}
    loops = [
        (at[found.group(1)], number)
        for number, line in enumerate(lines)
        if (found := BRANCH.search(line)) and at.get(found.group(1), number) < number
    ]
    return [line for number, line in enumerate(lines) if any(begin <= number < end for begin, end in loops)]
