"""The lab on a Dask cluster: real worker processes, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from normwise import lab
from normwise.errors import MissingExtra, NormwiseError
from normwise.installation import extra_command
from normwise.lab.running import cluster

distributed: Any = pytest.importorskip("distributed")

Make = Callable[..., Path]
NAME = "does_it_end"


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """Two workers with a nanny each, which starts another when one dies; two threads each, which may not interfere."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=50
    ) as found:
        yield found


def measured(out: Path) -> dict[str, Any]:
    kept = [json.loads(path.read_text("utf-8")) for path in out.glob("trials/*/*.json")]
    return {json.dumps(each["trial"], sort_keys=True): each["outcome"] for each in kept}


def test_a_killed_worker_changes_no_number(make: Make, tmp_path: Path, local: Any) -> None:
    folder = make(seconds=0.3)
    out = tmp_path / "cluster"
    killed: list[int] = []

    def kill() -> None:
        give_up = time.monotonic() + 120
        while not measured(out) and time.monotonic() < give_up:
            time.sleep(0.02)
        with distributed.Client(local.scheduler_address, set_as_default=False) as client:
            victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    (result,) = lab.run([NAME], out=out, folder=folder, dask=local.scheduler_address)
    killer.join(120)
    assert killed
    assert len(measured(out)) == 10
    (alone,) = lab.run([NAME], out=tmp_path / "alone", folder=folder, workers=1)
    assert measured(out) == measured(tmp_path / "alone")
    assert result.conclusion == alone.conclusion


def test_a_trial_that_raises_there_is_named_here(make: Make, tmp_path: Path, local: Any) -> None:
    folder = make(deed="assert trial.seed < 4, 'too steep'")
    with pytest.raises(
        lab.TrialFailed, match=r"^experiment 'does_it_end' failed in trial rate=0\.\d, seed=4 with Asser"
    ):
        lab.run([NAME], out=tmp_path / "out", folder=folder, dask=local.scheduler_address)
    assert len(measured(tmp_path / "out")) == 8


def test_workers_with_another_version_are_refused(
    make: Make, tmp_path: Path, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normwise.lab.running.stamp.origin", lambda *_: "another")
    with pytest.raises(lab.TrialFailed, match=r"^a Dask worker has another version of normwise, of the experiment or"):
        lab.run([NAME], seeds=2, out=tmp_path / "out", folder=make(), dask=local.scheduler_address)
    assert measured(tmp_path / "out") == {}


def test_no_scheduler_is_one_sentence(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WAIT", 0.5)
    with pytest.raises(NormwiseError) as error:
        lab.run([NAME], seeds=2, out=tmp_path / "out", folder=make(), dask="tcp://127.0.0.1:9")
    assert str(error.value) == (
        "no Dask scheduler answers at 'tcp://127.0.0.1:9': start one with `dask scheduler`, and give its address."
    )


def test_without_distributed_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra) as error:
        cluster.Cluster("tcp://127.0.0.1:9")
    assert str(error.value) == f"distributed is not installed; install it with: {extra_command('dask')}"
