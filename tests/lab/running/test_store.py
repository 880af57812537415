"""Files are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from normwise.lab.data.images import Source
from normwise.lab.running.store import Store, digest, write
from normwise.lab.running.workers import Done, Task

TASK = Task("does_it_end", Path(), {"rates": (0.1,)}, {"rate": 0.1, "seed": 0})


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write(path, "old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, "new")
    assert path.read_text("utf-8") == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_an_outcome_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.trial_file(TASK, "origin")
    done = Done({"number": 0.1 + 0.2, "many": [1e-300, None], "word": "x"}, 1.5)
    store.save_trial(path, TASK, done)
    assert store.load_trial(path) == done


def test_a_trial_is_found_only_by_all_that_its_numbers_depend_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = {
        store.trial_file(TASK, "origin"),
        store.trial_file(TASK, "another"),
        store.trial_file(Task("does_it_end", Path(), {"rates": (0.2,)}, TASK.trial), "origin"),
        store.trial_file(Task("does_it_end", Path(), TASK.settings, {"rate": 0.1, "seed": 1}), "origin"),
        store.trial_file(Task("is_it_so", Path(), TASK.settings, TASK.trial), "origin"),
        store.trial_file(
            Task("does_it_end", Path(), TASK.settings, TASK.trial, Source("mnist", Path(), "a")), "origin"
        ),
        store.trial_file(
            Task("does_it_end", Path(), TASK.settings, TASK.trial, Source("mnist", Path(), "b")), "origin"
        ),
    }
    assert len(files) == 7
    assert store.trial_file(Task("does_it_end", Path("moved"), TASK.settings, TASK.trial), "origin") in files


def test_the_digest_does_not_depend_on_the_order_of_names() -> None:
    assert digest({"a": 1, "b": (2,)}) == digest({"b": [2], "a": 1})
