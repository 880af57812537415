"""The accuracy to reach, on made-up curves: one rule for easy data and for hard ones."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace as Trial

import numpy as np
import pytest

from normwise.lab.design import Arm
from normwise.lab.design.curves import ends_best
from normwise.lab.design.sweeps import Sweeps
from normwise.lab.design.targets import SHARE, Target, shares
from normwise.lab.outcomes import Outcomes

AT = (10, 20, 30)
RATES = (0.1, 0.3, 1.0)
NEVER = [0.1, 0.1, 0.1]


def arm(*of_each_seed: Sequence[float]) -> Arm:
    """An arm with these curves at the rate in the middle, and guessing at the others."""
    curves = [[NEVER, list(curve), NEVER] for curve in of_each_seed]
    trials = [Trial(seed=seed) for seed in range(len(curves))]
    runs = Outcomes(trials, [{"validation": each, "test": each} for each in curves])
    return Arm({}, {}, runs, RATES, choose=ends_best)


@pytest.mark.parametrize("end", [0.98, 0.93, 0.5])  # as on digits, as on 5000 images of MNIST, and on something hard
def test_the_same_curves_get_there_in_the_same_steps_whatever_the_data_allow(end: float) -> None:
    def curve(*parts: float) -> list[float]:
        return [0.1 + part * (end - 0.1) for part in parts]

    baseline, quick = arm(curve(0.5, 0.9, 1.0)), arm(curve(0.5, 0.96, 1.0))
    target = Target(baseline, AT)
    assert target.steps(baseline).tolist() == [30]
    assert target.steps(quick).tolist() == [20]
    assert target.level == pytest.approx(0.1 + SHARE * (end - 0.1))
    assert (target.got_there(baseline), target.obstacle(baseline, quick)) == ("1 of 1", "")


def test_each_seed_has_a_target_of_its_own() -> None:
    baseline = arm([0.1, 0.1, 0.98], [0.1, 0.1, 0.9])
    other = arm([0.91, 0.91, 0.91], [0.91, 0.91, 0.91])
    target = Target(baseline, AT)
    assert target.steps(other).tolist() == [30, 10]
    assert target.got_there(other) == "1 of 2"
    assert target.level == pytest.approx(0.1 + SHARE * 0.84)


def test_a_seed_in_which_the_baseline_does_not_train_has_the_target_of_the_others() -> None:
    for failed in (0.1, 0.0, np.nan):
        baseline = arm([0.1, 0.8, 0.9], [0.1, 0.1, failed])
        target = Target(baseline, AT)
        assert target.steps(baseline).tolist() == [30, 30]  # nobody is first at guessing
        assert target.steps(arm([0.9, 0.9, 0.9], [0.9, 0.9, 0.9])).tolist() == [10, 10]


def test_where_the_baseline_trains_in_no_seed_there_is_no_target() -> None:
    target = Target(arm(NEVER, NEVER), AT)
    assert target.obstacle(arm([0.9, 0.9, 0.9], [0.9, 0.9, 0.9])) == (
        "the network that sets the accuracy to reach does not train"
    )
    assert np.isfinite(target.level)


def test_what_nobody_reaches_bears_no_verdict() -> None:
    """Two that never get there take equally many steps, which proves nothing."""
    target = Target(arm([0.1, 0.8, 0.9]), AT)
    slow, quick = arm([0.1, 0.2, 0.5]), arm([0.9, 0.9, 0.9])
    assert target.obstacle(slow, slow) == "none of them gets there in 30 steps"
    assert target.obstacle(slow, quick) == ""  # one did: the other takes longer than 30 steps
    assert target.steps(slow).tolist() == [30]
    assert target.obstacle() == ""  # of what is compared in no steps


def test_what_all_reach_before_anybody_looks_bears_no_verdict() -> None:
    target = Target(arm([0.1, 0.8, 0.9]), AT)
    quick = arm([0.9, 0.9, 0.9])
    assert target.obstacle(quick, quick) == "all of them are there at the first look"
    assert target.obstacle(quick, target.baseline) == ""


def test_the_rate_of_the_baseline_counts_among_those_at_an_edge() -> None:
    curves = [[[0.1, 0.5, 0.9], [0.1, 0.4, 0.5], [0.1, 0.1, 0.1]]]
    outcomes = Outcomes([Trial(seed=0)], [{"validation": curves[0], "test": curves[0]}])
    baseline = Arm({"arm": 1}, {"arm": "plain"}, outcomes, RATES, choose=ends_best)
    inside = arm([0.9, 0.9, 0.9])
    assert Target(baseline, AT).obstacle(inside, inside) == "the best rate lies at the edge of its grid (plain)"


def test_the_fastest_rate_is_picked_by_the_target_on_validation_images() -> None:
    baseline = arm([0.1, 0.5, 0.9])
    validation = [[0.1, 0.2, 0.99], [0.1, 0.87, 0.88], [0.1, 0.1, 0.1]]  # the first ends higher, the second is sooner
    outcomes = Outcomes([Trial(seed=0)], [{"validation": validation, "test": [[0.9] * 3, [0.1] * 3, [0.9] * 3]}])
    assert Target(baseline, AT).fastest(Arm({}, {}, outcomes, RATES)) == 1


def test_shares_are_of_the_way_from_guessing() -> None:
    assert shares(np.array([0.1, 0.5, 0.98]), np.array([0.9, 0.9, 0.9])) == pytest.approx([0.0, 0.5, 1.1])


def test_a_sweep_takes_its_target_from_the_weights_and_the_rate_that_end_highest_without_it() -> None:
    curves = {(False, 0.1): [0.1, 0.6, 0.8], (False, 0.3): [0.1, 0.7, 0.9], (True, 0.1): [0.5, 0.9, 0.9]}
    curves[True, 0.3] = [0.1, 0.5, 0.95]
    runs = {}
    for each in (False, True):
        trials = [Trial(deviation=deviation, rate=rate, seed=0) for deviation in (0.1, 0.3) for rate in RATES]
        found = [curves[each, trial.deviation] if trial.rate == 0.3 else NEVER for trial in trials]
        runs[each] = Outcomes(trials, [{"validation": curve, "test": curve} for curve in found])
    sweeps = Sweeps(runs, (0.1, 0.3), RATES, AT)
    assert sweeps.target.level == pytest.approx(0.1 + SHARE * 0.8)
    assert [sweeps.fastest(each).values["deviation"] for each in (False, True)] == [0.3, 0.1]
    assert sweeps.target.steps(sweeps.fastest(True)).tolist() == [20]
    assert sweeps.target.steps_at_every_rate(sweeps.of(False, 0.1)).tolist() == [[30, 30, 30]]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_initial_weights_that_are_best_at_the_edge_of_their_grid_bear_no_verdict(place: int) -> None:
    """A sweep of two values has nothing but edges; a value is tuned where one on either side of it is worse."""
    deviations = (0.1, 0.3, 1.0)
    trials = [Trial(deviation=deviation, rate=rate, seed=0) for deviation in deviations for rate in RATES]
    good = deviations[place]
    quick, slow = [0.1, 0.95, 0.95], [0.1, 0.3, 0.5]
    curves = [(quick if each.deviation == good else slow) if each.rate == 0.3 else NEVER for each in trials]
    runs = Outcomes(trials, [{"validation": curve, "test": curve} for curve in curves])
    sweeps = Sweeps({True: runs, False: runs}, deviations, RATES, AT)
    edges = {False: (0, 2), True: (2,)}  # in front of batch normalization the scale of small weights cancels
    for each, network in ((False, "without"), (True, "with")):
        words = f"the best deviation of the initial weights lies at the edge of its grid ({network} batch norm, std "
        for arm in (sweeps.fastest(each), sweeps.highest(each)):
            assert (arm.values["deviation"], arm.rate) == (good, "0.3")
            assert arm.obstacle == (f"{words}{good:g})" if place in edges[each] else "")
    assert sweeps.fastest(True, [good]).obstacle == ""  # given, not picked
