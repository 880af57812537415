"""The example of the page "Coming from Keras" runs, on this process's backend."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_coming_from_keras() -> None:
    command = [sys.executable, "-W", "ignore", "examples/coming_from_keras.py"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert process.returncode == 0, process.stderr
    accuracies = [float(line.split()[-1]) for line in process.stdout.splitlines() if "accuracy" in line]
    assert len(accuracies) == 3
    assert min(accuracies) > 0.85


def test_the_page_shows_the_example_and_names_every_layer() -> None:
    page = (ROOT / "docs/coming_from_keras.md").read_text("utf-8")
    example = (ROOT / "examples/coming_from_keras.py").read_text("utf-8")
    assert f"```python\n{example}```" in page
    import normwise.keras

    assert [name for name in normwise.keras.__all__ if name not in page] == []


def test_on_jax_and_tensorflow_torch_is_not_imported() -> None:
    program = (
        "import sys, keras, normwise.keras, numpy\n"
        "normwise.keras.BatchNormalization()(numpy.ones((4, 3), 'float32'), training=True)\n"
        "print(keras.backend.backend() == 'torch', 'torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    on_torch, imported = process.stdout.split()
    assert on_torch == imported
