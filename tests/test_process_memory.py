"""Freed memory stays with the process while somebody wants it, and no longer; each case in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from normwise import process_memory
from normwise.errors import NormwiseError

BLOCK = """
import ctypes, resource
from normwise import process_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def faults():  # of the second of two blocks of 100 MB, of which the first was freed
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(100 << 20)
        ctypes.memset(block, 1, 100 << 20)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
"""


def answer(program: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", BLOCK + program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_block_that_was_freed_serves_the_next_and_costs_no_page_fault() -> None:
    given_back, kept, undone = map(
        int,
        answer("a = faults(); kept = process_memory.keep(); b = faults(); kept.undo(); print(a, b, faults())").split(),
    )
    assert kept < 20
    assert min(given_back, undone) > 40  # huge pages of 2 MB at the least


def test_what_was_kept_goes_back_to_the_system_at_the_end() -> None:
    before, within, after = map(
        int,
        answer(
            "a = resident()\nwith process_memory.keep():\n    faults()\n    b = resident()\nprint(a, b, resident())"
        ).split(),
    )
    assert within >= before + 95
    assert after < before + 20


def test_it_holds_until_the_last_one_ends_and_each_ends_once() -> None:
    program = (
        "one, two = process_memory.keep(), process_memory.keep()\n"
        "one.undo(); one.undo(); a = faults()\n"
        "two.undo(); print(a, faults())"
    )
    held, ended = map(int, answer(program).split())
    assert held < 20
    assert ended > 40


def test_another_library_than_glibc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    with pytest.raises(NormwiseError, match=rf"^{process_memory._NOT_GLIBC}$"):
        process_memory.keep()


@pytest.mark.skipif(shutil.which("cc") is None, reason="another allocator is compiled for this test")
def test_an_allocator_in_front_of_glibc_s_is_noticed_and_glibc_is_left_as_it_was(tmp_path: Path) -> None:
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stddef.h>\n#include <sys/mman.h>\n"
        "static void *(*next)(size_t);\nstatic void (*next_free)(void *);\nstatic void *mine;\n"
        "void *malloc(size_t n) {\n"
        '  if (!next) next = dlsym(RTLD_NEXT, "malloc");\n'
        "  if (n != 64 << 20) return next(n);\n"
        "  return mine = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n}\n"
        "void free(void *p) {\n"
        '  if (!next_free) next_free = dlsym(RTLD_NEXT, "free");\n'
        "  if (p && p == mine) { munmap(p, 64 << 20); mine = 0; } else next_free(p);\n}\n",
        encoding="ascii",
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    program = (
        "try:\n    process_memory.keep()\nexcept process_memory.NormwiseError as error:\n"
        "    print(str(error)[:52], faults() > 40)"
    )
    assert answer(program, LD_PRELOAD=str(library)) == "this process's memory is not glibc's malloc, so it c True"
