"""Run as a program: each block that comes in, in a fresh namespace and folder; what failed of them goes out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
import traceback
import warnings


def paste(blocks: dict[str, str]) -> dict[str, str]:
    """The errors, by the name of the block; a warning counts unless the code that is imported gives it."""
    wrong = {}
    for name, block in blocks.items():
        started, printed = time.perf_counter(), io.StringIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.filterwarnings("error", module="__main__")
            os.chdir(folder)
            try:
                exec(compile(block, f"<{name}>", "exec"), {"__name__": "__main__"})
            except BaseException:
                wrong[name] = traceback.format_exc(limit=-2)
            finally:
                os.chdir(tempfile.gettempdir())
        sys.stderr.write(f"{time.perf_counter() - started:.1f} s {name}\n")
    return wrong


if __name__ == "__main__":
    given = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library's C code prints is no answer
    json.dump(paste(given), answers)
