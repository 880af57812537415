"""The time of oneDNN's primitives, which PyTorch's profiler does not tell apart from the operator that calls them."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterable

import torch


def milliseconds(call: Callable[[], object]) -> dict[str, float]:
    """Milliseconds on the wall in one call, by primitive: convolution, reorder (a change of layout), matmul."""
    library = ctypes.CDLL(None)
    sys.stdout.flush()
    library.fflush(None)
    with tempfile.TemporaryFile() as file:
        out = os.dup(1)
        os.dup2(file.fileno(), 1)  # oneDNN prints in C, past Python's sys.stdout
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                call()
            library.fflush(None)
        finally:
            os.dup2(out, 1)
            os.close(out)
        file.seek(0)
        return by_primitive(file.read().decode().splitlines())


def by_primitive(lines: Iterable[str]) -> dict[str, float]:
    """The sums of the times in what oneDNN prints.

    >>> by_primitive(["onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src dst,,,64x3x7x7,0.25", "else"])
    {'reorder': 0.25}
    """
    found: dict[str, float] = {}
    for line in lines:
        fields = line.split(",")
        if fields[0] == "onednn_verbose" and "exec" in fields:
            name = fields[fields.index("exec") + 2]
            found[name] = found.get(name, 0.0) + float(fields[-1])
    return found
