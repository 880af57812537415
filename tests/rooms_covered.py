"""The share of each room's lines that the tests ran, as a table: the end of ``make coverage``.

Code that the compilers of Triton and PyTorch take up runs in no interpreter, so its lines count as not run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src/normwise"
# Folders that hold rooms of their own.
HOUSES = {"torch", "keras", "lab", "callbacks"}


def room_of(file: Path) -> str:
    """The room that a file of the package stands in.

    >>> room_of(SOURCE / "torch/layers/batch_norm.py"), room_of(SOURCE / "moments.py")
    ('torch/layers', 'normwise')
    """
    *folders, _ = file.relative_to(SOURCE).parts
    depth = 2 if folders and folders[0] in HOUSES else 1
    return "/".join(folders[:depth]) or "normwise"


def table(counted: Iterable[tuple[Path, int, int]]) -> str:
    """The table, from the number of lines of each file and of those among them that did not run."""
    rooms: dict[str, list[int]] = {}
    for file, lines, missed in counted:
        for room in (room_of(file), "all"):
            sums = rooms.setdefault(room, [0, 0, 0])
            rooms[room] = [sums[0] + 1, sums[1] + lines, sums[2] + missed]
    rows = [f"{'room':<24} {'files':>6} {'lines':>7} {'missed':>7} {'covered':>8}"]
    for room in sorted(rooms, key=lambda each: (each == "all", each)):
        files, lines, missed = rooms[room]
        share = 100 * (1 - missed / lines) if lines else 100.0
        rows.append(f"{room:<24} {files:>6} {lines:>7} {missed:>7} {share:>6.1f} %")
    return "\n".join(rows)


def main() -> None:
    """Join what all processes noted, and print."""
    from coverage import Coverage  # the extra `dev` has it; the table alone needs it not

    found = Coverage()
    found.combine()
    analyses = [(file, found.analysis2(str(file))) for file in sorted(SOURCE.rglob("*.py"))]
    print(table((file, len(lines), len(missed)) for file, (_, lines, _, missed, _) in analyses))


if __name__ == "__main__":
    main()
