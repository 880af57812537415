"""Runs experiments: begins, takes up again, measures, concludes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from normwise.errors import NormwiseError
from normwise.lab.experiment import FOLDER, describe, load, measures_time, neighbours_of, takes_data
from normwise.lab.experiment import names as known_names
from normwise.lab.results import Result
from normwise.lab.running import devices
from normwise.lab.running.devices import CPU
from normwise.lab.running.measuring import ConclusionFailed, Measuring
from normwise.lab.running.plan import Plan
from normwise.lab.running.progress import Progress, Silence
from normwise.lab.running.store import Store
from normwise.lab.running.workers import Pool, TrialFailed, Workers, cores


def run(
    names: Sequence[str] = (),
    *,
    seeds: int | None = None,
    quick: bool = False,
    full: bool = False,
    out: Path = Path("lab"),
    progress: Progress | None = None,
    workers: int | None = None,
    dask: str | None = None,
    data: tuple[str, Path | None] | None = None,
    first_seed: int = 0,
    setting: str = "",
    device: str = CPU,
    folder: Path = FOLDER,
) -> list[Result]:
    """Run experiments, or take up a run where it stopped.

    The numbers depend on settings, seeds and versions only, not on ``workers`` or on how often a run was interrupted.

    Args:
        names: which experiments; empty: all, or with ``data`` all that take one.
        seeds: how many seeds, at least 2; None: as many as each experiment takes, which is 10 for most.
        quick: 3 seeds, and smaller settings where an experiment has them.
        full: larger settings where an experiment has them.
        out: folder for ``trials/`` (one file per trial) and ``results/`` (one file per experiment).
        progress: is told what happens.
        workers: how many processes; None: as many as there are cores, and one on a GPU.
        dask: address of a Dask scheduler whose workers take the place of processes here.
        data: name and folder of a data set that takes the digits' place, in the experiments that take one; no folder:
            the images that an installed package brings, which there are of ``mnist``.
        first_seed: where the seeds begin; others than the usual ones show whether verdicts depend on them.
        setting: a neighbouring setting, "grid", "looks" or "width"; experiments that lack it are left out. Empty: the
            experiments' own.
        device: on which the trials run, in PyTorch's words; one process works on a GPU.
        folder: where experiments are looked for; another one than the package's own serves tests.

    Returns:
        One result per experiment, in the order asked for; a finished one is loaded instead of run again.

    Raises:
        UnknownName: no experiment is called so.
        MissingExtra: a library is not installed.
        DataError: a file of ``data`` is missing or damaged.
        TrialFailed: a trial raised, or a process died; everything that is finished is kept, and the other experiments
            are run to their end where there is still somebody to run them.
        NormwiseError: ``seeds`` is less than 2, ``first_seed`` negative, ``quick`` and ``full`` are asked for at once,
            an experiment that is named takes no ``data`` or lacks the ``setting``, ``out`` cannot be written to, no
            scheduler answers, or the ``device`` is not here, or is to work for several processes or for a cluster.
    """
    plan = Plan(seeds, quick, full, first_seed=first_seed, setting=setting, device=device)
    if device != CPU:
        if dask is not None or (workers or 1) > 1:
            raise NormwiseError(
                f"one process of this machine works on the device {device!r}: leave workers and dask out."
            )
        devices.check(device)
        workers = 1
    chosen = list(dict.fromkeys(names)) or known_names(folder)
    for name in chosen:  # all of them first: a typing error costs no time
        describe(name, folder)
    if data is not None:
        from normwise.lab.data.images import source  # NumPy, which a mistake need not wait for

        plan = replace(plan, data=source(*data))
        taking = [name for name in chosen if takes_data(load(name, folder))]
        if names and taking != chosen:
            without = next(name for name in chosen if name not in taking)
            raise NormwiseError(f"experiment {without!r} takes no other data than its own: run it without --data.")
        chosen = taking
    if setting:
        having = [name for name in chosen if setting in neighbours_of(load(name, folder))]
        if (names and having != chosen) or not having:
            without = next(name for name in chosen if name not in having)
            raise NormwiseError(f"experiment {without!r} has no neighbouring setting {setting!r}: run it without.")
        chosen = having
    store = Store(out)
    measuring = [Measuring(name, plan, folder, store) for name in chosen]
    if dask is None:
        pool: Pool = Workers(workers or cores())
    else:
        from normwise.lab.running.cluster import Cluster  # an extra of its own

        pool = Cluster(dask)
    with pool:
        return _worked_off(measuring, pool, progress or Silence())


def _worked_off(measuring: Sequence[Measuring], pool: Pool, progress: Progress) -> list[Result]:
    """All trials of all experiments in one stream, so that no worker waits for the last trial of an experiment.

    Trials that measure times come last, one at a time: side by side they would share the memory and measure each other.
    """
    trials = {each.name: (each.total, each.total - len(each.missing)) for each in measuring}
    progress.on_plan(trials, pool.count)
    found: dict[str, Result] = {}
    failures: list[str] = []

    def conclude(each: Measuring) -> None:
        try:
            found[each.name] = each.conclude(pool.count)
        except ConclusionFailed as error:
            failures.append(str(error))
        else:
            progress.on_result(found[each.name])

    by_name = {each.name: each for each in measuring}
    left = {each.name: len(each.missing) for each in measuring}
    together = [task for each in measuring if not measures_time(each.experiment) for task in each.missing]
    alone = [task for each in measuring if measures_time(each.experiment) for task in each.missing]
    for each in measuring:
        if not left[each.name]:
            conclude(each)
    for task, done in chain(pool.do(together), *(pool.do([task]) for task in alone)):
        each = by_name[task.experiment]
        each.take(task, done)
        if not done.error:
            progress.on_trial_done(each.name, task.words(), done.seconds)
        left[each.name] -= 1
        if not left[each.name] and not each.failure:
            conclude(each)
    failures += [each.failure for each in measuring if each.failure]
    results = [found[each.name] for each in measuring if each.name in found]
    if failures:
        more = f" {len(failures) - 1} more failed." if failures[1:] else ""
        raise TrialFailed(failures[0] + more, finished=results)
    return results
