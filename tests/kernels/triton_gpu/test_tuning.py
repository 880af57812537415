"""Settings: a bounded list, looked up by every call, measured by `normwise tune` alone, and kept in whole files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from normwise.errors import NormwiseError
from normwise.kernels.activation_numbers import number_of
from normwise.kernels.triton_gpu import launch, tuning
from normwise.kernels.triton_gpu.plan import Device, Settings
from normwise.kernels.triton_gpu.tuning import CANDIDATES, Tuned, keep, known, read, settings_for, trying, tune

DEVICE = Device("a GPU", 132, 60 << 20)
X = torch.zeros(3, 2, 5, 4)
KEY = "a GPU, 4 rows, 2 channels, 32 wide, float32, channels first"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for caches of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known.cache_clear()
    yield tmp_path / "normwise" / "triton.json"
    known.cache_clear()


def test_the_list_is_short_and_begins_with_the_default() -> None:
    assert CANDIDATES[0] == Settings()
    assert len(set(CANDIDATES)) == len(CANDIDATES) <= 16


def clock_of(fastest: Settings) -> Callable[[Callable[[], object]], float]:
    """A clock by which one of the settings is twice as fast as all others."""

    def clock(step: Callable[[], object]) -> float:
        step()
        return 1.0 if tuning._TRIED[-1] == fastest else 2.0

    return clock


def test_the_fastest_is_kept_and_found_again(cache: Path) -> None:
    seen: list[Settings] = []
    found = tune(X, DEVICE, lambda: seen.append(settings_for(X, DEVICE)), clock_of(CANDIDATES[5]))
    assert found == Tuned(KEY, CANDIDATES[5], 1.0, 2.0)
    assert tuple(seen) == CANDIDATES
    assert settings_for(X, DEVICE) == Settings()
    assert keep([found]) == cache
    assert settings_for(X, DEVICE) == CANDIDATES[5]
    for other in (X.bfloat16(), X.contiguous(memory_format=torch.channels_last), X[:, :1], torch.cat([X, X])):
        assert settings_for(other, DEVICE) == Settings()
    assert settings_for(X, DEVICE._replace(name="another")) == Settings()


def test_what_was_kept_before_stays() -> None:
    keep([Tuned("one", CANDIDATES[1], 1.0, 1.0)])
    path = keep([Tuned("two", CANDIDATES[2], 1.0, 1.0)])
    assert read(path) == {"one": CANDIDATES[1], "two": CANDIDATES[2]}
    assert [each.name for each in path.parent.iterdir()] == ["triton.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 99, "settings": {}}',
        '{"version": 1}',
        '{"version": 1, "settings": {"a": {"elements": 7}}}',
        '{"version": 1, "settings": {"a": {"unheard_of": 7}}}',
        '{"version": 1, "settings": [1]}',
    ],
)
def test_a_damaged_file_holds_nothing(text: str, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text(text)
    assert known() == {}
    assert settings_for(X, DEVICE) == Settings()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(NormwiseError) as error:
        keep([])
    assert str(error.value) == (
        f"the settings cannot be written to {blocked}/normwise/triton.json (Not a directory): set XDG_CACHE_HOME to a "
        "folder that can be written to."
    )


def test_nothing_is_timed_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "capturing", lambda _: True)
    with pytest.raises(NormwiseError) as error:
        tune(X, DEVICE, lambda: None, lambda _: 0.0)
    assert str(error.value) == (
        "tuning was asked for while a CUDA graph is captured, and nothing can be timed there: tune before the capture."
    )


def test_settings_that_a_gpu_has_no_room_for_are_left_out() -> None:
    def clock(_: Callable[[], object]) -> float:
        if tuning._TRIED[-1] == CANDIDATES[3]:
            raise RuntimeError("out of resource: shared memory")
        return 5.0

    assert tune(X, DEVICE, lambda: None, clock).settings == CANDIDATES[0]

    def broken(_: Callable[[], object]) -> float:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        tune(X, DEVICE, lambda: None, broken)
    assert tuning._TRIED == []


@pytest.mark.parametrize("settings", CANDIDATES, ids=str)
def test_every_candidate_computes_the_same(settings: Settings) -> None:
    x = torch.randn(3, 2, 5, 4)
    found = []
    for tried in (settings, Settings()):
        with trying(tried):
            y, mean, var, bits = launch.forward(x, None, None, None, None, None, None, 1e-5, number_of("relu"), False)
            dx, *_ = launch.backward(
                y, x, None, None, None, None, mean, var, bits, 1e-5, number_of("relu"), True, True, False
            )
            found.append((y, dx))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_file_says_what_it_holds() -> None:
    path = keep([Tuned(KEY, CANDIDATES[1], 1.0, 2.0)])
    assert json.loads(path.read_text()) == {"version": 1, "settings": {KEY: CANDIDATES[1]._asdict()}}
