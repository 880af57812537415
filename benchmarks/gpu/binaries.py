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
REGISTERS, MOST_THREADS, MOST_PROGRAMS = 65536, 2048, 32  # of a multiprocessor of any of them
SHARED = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}  # bytes of a multiprocessor
RESERVED = 1 << 10  # bytes of these that each program takes beside its own
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
}
ACCESS = re.compile(r"\b(ld|st)\.global(?:\.L\d::\w+)*\.(?:v(\d)\.)?b(\d+)\s[^\[]*\[\s*(%rd\d+)")
LABEL, BRANCH = re.compile(r"^(\$L__BB\w+):"), re.compile(r"bra(?:\.uni)?\s+(\$L__BB\w+)")
POINTER = re.compile(r"ld\.param\.[bu]64\s+(%rd\d+), \[\w+_param_(\d+)\]")
SET = re.compile(r"^\s*(?:@!?%p\d+\s+)?(?!ld\.|st\.|atom\.|setp)[\w.:]+\s+(%rd\d+),\s*(.*);")
REGISTER = re.compile(r"%rd\d+")
IN_SASS = re.compile(r"\b(LDG|STG)\.E(\.[\w.]*)?")
LARGE = ("x", "y", "dy", "dx", "residual", "dresidual")  # tensors of as many values as x
BESIDE = ("mask", "bits")
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class Counts(NamedTuple):
    """The counts of a tile: accesses to large tensors per element, and the bytes of the narrowest of them."""

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
    wide: tuple[int, int]  # loads and stores of 16 bytes in SASS
    lost: int  # accesses of 16 bytes that PTX has and SASS has not
    counts: Counts

    def occupancy(self, threads: int) -> float:
        """The share of a multiprocessor's threads that its registers and its shared memory let run."""
        by_registers = REGISTERS // (-(-self.registers // 8) * 8 * threads)
        by_shared = SHARED[self.target] // (self.shared + RESERVED)
        return min(by_registers, by_shared, MOST_PROGRAMS, MOST_THREADS // threads) * threads / MOST_THREADS


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
    bounds = [option for option in launch.options.items() if option[0] == "maxnreg"]
    return launch.name, *source.signature.items(), *source.constants.items(), launch.threads, *bounds


def compiled(launch: Launch, target: int, *, aligned: bool = True) -> Binary:
    """Compile for a target, down to machine code."""
    found: Any = triton.compile(
        source_of(launch, aligned=aligned), target=GPUTarget("cuda", target, 32), options=dict(launch.options)
    )
    usage, sass = _disassembled(found.asm["cubin"])
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    there = [access.width == 16 and access.kind for access in accesses(found.asm["ptx"].splitlines())]
    wide = (_wide("LDG", sass), _wide("STG", sass))
    return Binary(
        target,
        numbers["REG"],
        numbers["LOCAL"] + numbers["STACK"],
        int(found.metadata.shared),
        wide,
        max(there.count("ld") - wide[0], 0) + max(there.count("st") - wide[1], 0),
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


def _wide(operation: str, sass: str) -> int:
    return sum(found == operation and "128" in (rest or "").split(".") for found, rest in IN_SASS.findall(sass))


class Access(NamedTuple):
    """One access to memory in PTX."""

    kind: str  # ld, st
    width: int  # bytes
    address: str  # the register


def accesses(lines: list[str]) -> list[Access]:
    """The accesses to global memory in lines of PTX."""
    return [
        Access(kind, int(times or 1) * int(bits) // 8, address)
        for line in lines
        for kind, times, bits, address in ACCESS.findall(line)
    ]


def counted(ptx: str, launch: Launch) -> Counts:
    """The accesses to the large tensors: those of the loops over tiles, or all where there is none.

    An access belongs to the tensor from whose pointer its address comes.
    """
    if launch.tile is None:  # it puts partial results together
        return Counts(0.0, 0.0, 0, 0.0)
    lines = ptx.splitlines()
    of = _tensors(lines, launch)
    itemsize = launch.arguments["x"].element_size()
    share = launch.threads / launch.elements
    totals, octets, widths = {"ld": 0.0, "st": 0.0}, 0.0, []
    for access in accesses(_loops(lines) or lines):
        (name,) = of[access.address]
        if name in LARGE:
            totals[access.kind] += access.width / itemsize * share
            widths.append(access.width)
        elif name in BESIDE:
            octets += access.width * share
    return Counts(totals["ld"], totals["st"], min(widths, default=0), octets)


def _tensors(lines: list[str], launch: Launch) -> dict[str, frozenset[str]]:
    """The tensors from whose pointers the value of each register comes."""
    passed = [name for name, kind in source_of(launch).signature.items() if kind != "constexpr"]
    found: dict[str, frozenset[str]] = {}
    for register, number in POINTER.findall("\n".join(lines)):
        if int(number) < len(passed):  # behind them Triton passes memory of its own
            found[register] = frozenset({passed[int(number)]})
    steps = [(step.group(1), REGISTER.findall(step.group(2))) for line in lines if (step := SET.match(line))]
    while True:
        before = dict(found)
        for register, sources in steps:
            met = frozenset[str]().union(*(found.get(source, frozenset()) for source in (register, *sources)))
            if met:
                found[register] = met
        if found == before:
            return found


def _loops(lines: list[str]) -> list[str]:
    """The lines of all loops that are in no other."""
    at = {found.group(1): number for number, line in enumerate(lines) if (found := LABEL.match(line))}
    loops = [
        (at[found.group(1)], number)
        for number, line in enumerate(lines)
        if (found := BRANCH.search(line)) and at.get(found.group(1), number) < number
    ]
    return [line for number, line in enumerate(lines) if any(begin <= number < end for begin, end in loops)]
