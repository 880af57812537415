"""Runs the scripts beside it and keeps what each of them prints in a file of its name; names after it choose some."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NO_CASES = {"digits", "keras_digits", "write"}

for script in sorted(HERE.glob("*.py")):
    if script.stem in NO_CASES or (sys.argv[1:] and script.stem not in sys.argv[1:]):
        continue
    settings = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, script], env=settings, stdout=subprocess.PIPE, text=True, check=True)
    script.with_suffix(".txt").write_text(done.stdout, encoding="utf-8")
    print(f"{script.stem}: {done.stdout.splitlines()[0]}")
