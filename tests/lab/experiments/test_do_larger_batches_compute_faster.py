"""Times of steps by the size of the batch, in a tiny setting; no time is asserted."""

from __future__ import annotations

import numpy as np
import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import do_larger_batches_compute_faster as experiment
from normwise.lab.networks.dense import Dense
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.settling import settled
from normwise.lab.training.timing import in_turns, step_of

SETTINGS = experiment.Settings(sizes=(2, 8, 32), width=8, depth=1, channels=(2, 2), repeats=1)


def test_deeds_take_turns() -> None:
    done: list[str] = []
    times = in_turns([lambda: done.append("a"), lambda: done.append("b")], repeats=2)
    assert done == ["a", "b"] * 3  # the first turn warms up
    assert len(times) == 2
    assert all(each >= 0 for each in times)


def test_a_step_leaves_the_parameters_as_they_were() -> None:
    model, data = Dense(depth=1, width=4, batch_norm=True, seed=0), digits(0).train
    before = [each.detach().clone() for each in model.parameters()]
    step_of(model, data.images[:8], data.labels[:8])
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_times_of_a_cpu_contradict_nothing_that_is_said_of_gpus() -> None:
    trials = experiment.trials(SETTINGS, range(10))
    longer = (np.array(SETTINGS.sizes) ** 2).tolist()  # an image takes the longer, the larger its batch
    conclusion = experiment.conclude(SETTINGS, Outcomes(trials, [{"seconds": longer}] * len(trials)))
    verdicts = {each.verdict for each in settled(conclusion, experiment.REGIME).statements}
    assert verdicts == {Verdict.ELSEWHERE}


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 4 * 3
    assert len(conclusion.table.rows) == 4
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [2, 2]
