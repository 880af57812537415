"""Compiles every variant for every target, and keeps what came out in a file that a test holds."""

from __future__ import annotations

import ast
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton

from benchmarks.gpu.binaries import TARGETS, Binary, compiled, key_of
from benchmarks.gpu.launches import Launch
from benchmarks.gpu.traffic import moved
from benchmarks.gpu.variants import variants

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / "benchmarks/results/gpu/binaries.json"
COMPILED = ("activations", "constants", "gradient_tiles", "gradients", "moments", "normalize", "plan", "tiles")
SOURCES = ROOT / "src/normwise/kernels/triton_gpu"


def digest() -> str:
    """The digest of what is compiled and how tensors are cut, without comments and docstrings."""
    found = hashlib.sha256()
    for name in COMPILED:
        tree = ast.parse((SOURCES / f"{name}.py").read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        found.update(ast.dump(tree).encode())
    return found.hexdigest()


def row_of(name: tuple[str, bool, tuple[int, ...], str], launch: Launch, binaries: list[Binary]) -> dict[str, Any]:
    """One variant as the file has it."""
    dtype, last, size, feature = name
    counts = binaries[0].counts
    return {
        "kernel": launch.name,
        "dtype": dtype,
        "layout": "last" if last else "first",
        "size": list(size),
        "feature": feature,
        "threads": launch.threads,
        "vector": launch.tile.vector if launch.tile else None,
        "elements": launch.elements,
        "targets": {
            str(one.target): {
                "registers": one.registers,
                "spilled": one.spilled,
                "shared": one.shared,
                "occupancy": one.occupancy(launch.threads),
                "widest": list(one.widest),
            }
            for one in binaries
        },
        "designed": list(moved(launch)[:2]),
        "loads": counts.loads,
        "stores": counts.stores,
        "narrowest": counts.narrowest,
        "bits": counts.bits,
    }


def compile_all(*, every: bool = False, workers: int = 1) -> dict[str, Any]:
    """The usual variants, or every one, for every target, kept as they come; takes minutes.

    What is kept already of these sources and this Triton is not compiled again, so that a run that was ended goes on.

    Args:
        every: all variants.
        workers: processes that compile at the same time.
    """
    found: dict[str, Any] = {"triton": triton.__version__, "digest": digest(), "targets": list(TARGETS), "rows": []}
    before = kept() if KEPT.exists() else {"rows": []}
    there = {}
    if all(before.get(name) == found[name] for name in ("triton", "digest", "targets")):
        there = {_name_of_row(row): row for row in before["rows"]}
    order = [_name(name, launch) for name, launch in _variants(True)]
    numbers = range(len(order))
    usual = {key_of(launch) for _, launch in _variants(False)}
    wanted = [number for number in numbers if every or key_of(_variants(True)[number][1]) in usual]
    # Those of two sweeps in one kernel and of other tiles first, which take the most registers: a run that is ended
    # has at least these.
    missing = sorted(
        (n for n in wanted if order[n] not in there),
        key=lambda n: "by_last" not in order[n][0] and "in a tile" not in order[n][4],
    )
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for row in pool.map(_compiled, missing):
            there[_name_of_row(row)] = row
            keep({**found, "rows": [there[name] for name in order if name in there]})
    return {**found, "rows": [there[name] for name in order if name in there]}


def _name(name: tuple[str, bool, tuple[int, ...], str], launch: Launch) -> tuple[Any, ...]:
    """The name of a variant, as ``_name_of_row`` gives it."""
    return _name_of_row(
        {
            "kernel": launch.name,
            "dtype": name[0],
            "layout": "last" if name[1] else "first",
            "size": name[2],
            "feature": name[3],
            "elements": launch.elements,
            "key": hashlib.sha256(repr(key_of(launch)).encode()).hexdigest()[:12],
        }
    )


def _name_of_row(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        tuple(value) if isinstance(value, list) else value
        for value in (row[name] for name in ("kernel", "dtype", "layout", "size", "feature", "elements", "key"))
    )


def _compiled(number: int) -> dict[str, Any]:
    name, launch = _variants(True)[number]
    row = row_of(name, launch, [compiled(launch, target) for target in TARGETS])
    return {**row, "key": _name(name, launch)[-1]}


@cache
def _variants(every: bool) -> list[tuple[tuple[str, bool, tuple[int, ...], str], Launch]]:
    """The variants, made in each process once: a launch holds a kernel, which cannot be sent."""
    return variants(every=every)


def keep(found: dict[str, Any]) -> None:
    """Write the file, one variant a line."""
    rows = ",\n".join(json.dumps(row) for row in found["rows"])
    head = json.dumps({name: value for name, value in found.items() if name != "rows"})
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(f'{head[:-1]}, "rows": [\n{rows}\n]}}\n', "utf-8")


def kept() -> dict[str, Any]:
    """The contents of the file."""
    found: dict[str, Any] = json.loads(KEPT.read_text("utf-8"))
    return found
