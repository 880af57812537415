"""Compiles the variants for every target, and keeps what came out in a file that a test holds."""

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
from benchmarks.gpu.launches import KERNELS, Launch
from benchmarks.gpu.traffic import moved
from benchmarks.gpu.variants import Name, variants

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / "benchmarks/results/gpu/binaries.json"
SOURCES = ROOT / "src/normwise/kernels/triton_gpu"
# What Triton compiles, and with it what decides which constants it is compiled with.
SOURCES_OF_KERNELS = ("activations", "constants", "gradient_tiles", "gradients", "moments", "normalize", "tiles")
COMPILED = (*SOURCES_OF_KERNELS, "launch", "layout", "plan", "tuning")


def digest() -> str:
    """The digest of what is compiled and how tensors are cut, without comments and docstrings."""
    found = hashlib.sha256()
    for name in COMPILED:
        found.update(ast.dump(_without_docstrings(name)).encode())
    return found.hexdigest()


def digests() -> dict[str, str]:
    """The digest of each kernel: of its own source, and of all that it calls or takes its constants from."""
    defined: dict[str, ast.AST] = {}
    for module in SOURCES_OF_KERNELS:
        for node in _without_docstrings(module).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else (node.target,):
                    defined[ast.unparse(target)] = node
    return {kernel: _digest_of(kernel, defined) for kernel in KERNELS}


def _digest_of(kernel: str, defined: dict[str, ast.AST]) -> str:
    met, left = set[str](), [kernel]
    while left:
        name = left.pop()
        if name not in met:
            met.add(name)
            left += [part.id for part in ast.walk(defined[name]) if isinstance(part, ast.Name) and part.id in defined]
    return hashlib.sha256("".join(ast.dump(defined[name]) for name in sorted(met)).encode()).hexdigest()[:12]


def _without_docstrings(module: str) -> ast.Module:
    tree = ast.parse((SOURCES / f"{module}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def key_in_file(launch: Launch) -> str:
    """The key of a variant: equal for launches that are compiled to the same code."""
    return hashlib.sha256(repr(key_of(launch)).encode()).hexdigest()[:12]


def described(name: Name, launch: Launch) -> dict[str, Any]:
    """The part of a row that needs no compiler."""
    return {
        "kernel": launch.name,
        "dtype": name.dtype,
        "layout": "last" if name.last else "first",
        "size": list(name.size),
        "feature": name.feature,
        "key": key_in_file(launch),
        "threads": launch.threads,
        "vector": launch.tile.vector if launch.tile else None,
        "elements": launch.elements,
        "designed": list(moved(launch)[:2]),
    }


def measured(launch: Launch, binaries: list[Binary]) -> dict[str, Any]:
    """The part of a row that was read from the code for each target."""
    return {
        str(one.target): {
            "registers": one.registers,
            "spilled": one.spilled,
            "shared": one.shared,
            "occupancy": one.occupancy(launch.threads),
            "wide": list(one.wide),
            "lost": one.lost,
            **one.counts._asdict(),
        }
        for one in binaries
    }


def compile_all(*, workers: int = 1) -> dict[str, Any]:
    """Every variant for every target, kept as they come; takes many minutes.

    What is kept of a kernel that has not changed is not compiled again by the same Triton, so that a run that was ended
    goes on.

    Args:
        workers: processes that compile at the same time.
    """
    head = {"triton": triton.__version__, "targets": list(TARGETS)}
    whole, sources = digest(), digests()
    before = kept() if KEPT.exists() else {"rows": [], "kernels": {}}
    there: dict[str, dict[str, Any]] = {}
    if all(before.get(name) == value for name, value in head.items()):
        current = [row for row in before["rows"] if before["kernels"].get(row["kernel"]) == sources[row["kernel"]]]
        there = {row["key"]: row["compiled"] for row in current}
    rows = [described(name, launch) for name, launch in _variants()]
    missing = [number for number, row in enumerate(rows) if row["key"] not in there]

    def found() -> dict[str, Any]:
        done = [{**row, "compiled": there[row["key"]]} for row in rows if row["key"] in there]
        return {**head, "digest": whole, "kernels": sources, "rows": done}

    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for number, compiled_row in zip(missing, pool.map(_compiled, missing), strict=True):
            there[rows[number]["key"]] = compiled_row
            keep(found())
    return found()


def _compiled(number: int) -> dict[str, Any]:
    _, launch = _variants()[number]
    return measured(launch, [compiled(launch, target) for target in TARGETS])


@cache
def _variants() -> list[tuple[Name, Launch]]:
    """The variants, made in each process once: a launch holds a kernel, which cannot be sent."""
    return variants()


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
