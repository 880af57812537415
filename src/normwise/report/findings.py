"""Findings that somebody who trains or ships networks can act on, each of which stands on one statement of the lab.

The sentences hold no number and no verdict: the pages fill them in from the results, and leave a finding out where its
statement has no verdict, or one that does not bear it. There are more of them than a page shows, for that reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normwise.lab.results import Verdict
from normwise.report.runs import Line, Runs, by_experiment

HOLDS = (Verdict.REPRODUCED, Verdict.EXACT)
FAILS = (Verdict.CONTRADICTED, Verdict.ELSEWHERE)
SHOWN = 10
"""The number of findings on a page, at most."""


@dataclass(frozen=True)
class Finding:
    """Advice, and the statement that it follows from.

    Args:
        advice: one sentence, without numbers.
        experiment: its name.
        statement: its text.
        bears: the verdicts from which the advice follows.
        beside: texts of other statements of the experiment, without which the number would say too much.
    """

    advice: str
    experiment: str
    statement: str
    bears: tuple[Verdict, ...] = HOLDS
    beside: tuple[str, ...] = ()


FINDINGS = (
    Finding(
        "With the layer, search learning rates well above those at which the same network trains without it.",
        "does_it_allow_higher_learning_rates",
        "The largest rate that still trains is at least 5 times higher with batch normalization.",
    ),
    Finding(
        "Normalize a network of sigmoid units that begins with small weights: it then takes far fewer steps to the "
        "same accuracy.",
        "does_it_train_faster",
        "With grey pixels, training to 0.95 of what the network without normalization learns takes at least 3 times "
        "fewer steps, both with the paper's initialization (small Gaussian weights, std 0.1).",
        beside=(
            "With grey pixels, training to 0.95 of what the network without normalization learns takes at least 3 "
            "times fewer steps, each with the initialization tuned for it.",
        ),
    ),
    Finding(
        "Spend no time on the scale of initial weights in front of the layer; spend it on the learning rate.",
        "does_it_make_initialization_less_critical",
        "With batch normalization, the accuracy is within 5 points for initial weights from 0.01 to 30 times He's.",
    ),
    Finding(
        "Where deep layers must be sigmoids, normalize them: they then learn about as much as the best network without "
        "normalization.",
        "does_it_revive_saturating_activations",
        "A network of 10 sigmoid layers learns with batch normalization at least 0.95 of what the best network without "
        "it learns.",
    ),
    Finding(
        "Do not count on the layer alone to keep the gradients of a very deep plain chain at one size: before training "
        "they grow from the last layer to the first; skip connections are the published remedy.",
        "does_it_cure_vanishing_gradients",
        "With batch normalization and ReLU, the gradient keeps its size over 30 layers.",
        FAILS,
    ),
    Finding(
        "Switch to inference mode before you use a network: left in training mode, it is less accurate in small "
        "batches.",
        "how_much_does_the_batch_change_an_output",
        "Left in training mode, the network is less accurate in batches of 2.",
    ),
    Finding(
        "Shuffle before you cut batches: batches of few classes cost a normalized network accuracy.",
        "does_shuffling_help_more_with_it",
        "With batch normalization, batches of few classes cost accuracy.",
        beside=("Batches of few classes cost more with batch normalization than without it.",),
    ),
    Finding(
        "Recalibrate before you judge a network after few steps: a slow moving average, as Keras's default, still "
        "remembers its beginning.",
        "which_statistics_at_inference",
        "Rate 0.1, up to 100 steps: a moving average with 0.01 is worse than exact statistics.",
    ),
    Finding(
        "When contrast changes at inference, give the layers fresh statistics before you train again: images of all "
        "classes make far fewer errors then, and need no labels.",
        "do_fresh_statistics_repair_drift",
        "Contrast x .3: statistics of 32 images with a prior of 16 make the error smaller.",
    ),
    Finding(
        "When gain and brightness keep changing, let the statistics follow.",
        "do_fresh_statistics_repair_drift",
        "While gain and brightness wander, statistics that follow make fewer errors than fixed ones.",
    ),
    Finding(
        "Train on two data sets with both in every batch, or give each its own statistics.",
        "what_goes_wrong_with_two_data_sets",
        "A batch of each data set with shared averages is less accurate than one batch of both.",
    ),
    Finding(
        "In a batch norm of your own, let gradients pass through the mean and the variance of the batch: a network in "
        "which these are constants for the gradient is less accurate.",
        "must_gradients_pass_through_the_statistics",
        "With mean and variance held, the network is less accurate than under the whole gradient, each at its best "
        "rate.",
    ),
    Finding(
        "Leave out the bias in front of the layer: while batches are normalized by their own statistics, it changes no "
        "output.",
        "must_gradients_pass_through_the_statistics",
        "Under the whole gradient a bias in front of batch normalization never moves.",
    ),
    Finding(
        "Fold the layer into the one before it when you ship: the outputs stay the same up to rounding.",
        "does_it_cost_nothing_at_inference",
        "In float32 no test image changes its class by folding.",
    ),
    Finding(
        "Tune L2 and the learning rate together: in front of the layer, as long as the weights keep their size, L2 "
        "acts as another learning rate.",
        "should_l2_be_weaker",
        "At weights of fixed norm in front of batch normalization, L2 is exactly another learning rate.",
    ),
    Finding(
        "Plan for memory that the number of parameters does not show: the layer keeps more for the backward pass.",
        "what_does_it_cost_in_training",
        "ResNet50: with batch norm more is kept for the backward pass than without.",
    ),
)


@dataclass(frozen=True)
class Shown:
    """A finding with what was measured.

    Args:
        finding: what to do.
        runs: on its own data.
        line: of the statement, on the experiment's own data.
        elsewhere: the same on other data, by their words.
        confirmed: a second run at other seeds has the same verdict.
        beside: the other statements that belong to it, each with the words for its data.
    """

    finding: Finding
    runs: Runs
    line: Line
    elsewhere: Mapping[str, Line]
    confirmed: bool
    beside: Sequence[tuple[str, Line]] = ()

    @property
    def where(self) -> str:
        """The experiment's own data, and its network where the result names it."""
        return "; ".join(part for part in (self.runs.data, self.runs.first.architecture) if part)

    @property
    def everywhere(self) -> bool:
        """True if the verdicts on all other data bear it too."""
        return all(each.statement.verdict in self.finding.bears for each in self.elsewhere.values())


def shown(runs: Sequence[Runs], *, one_run: bool = False, findings: Sequence[Finding] = FINDINGS) -> list[Shown]:
    """The findings that the results bear, those that hold on all data first, at most ``SHOWN`` of them.

    Args:
        runs: of all experiments.
        one_run: what one run bears counts where there is no second one, and is not ``confirmed``.
        findings: from which.
    """
    groups = {group[0].first.experiment: group for group in by_experiment(runs)}
    found = [_shown(each, groups.get(each.experiment, []), one_run) for each in findings]
    kept = [each for each in found if each]
    return sorted(kept, key=lambda each: not each.everywhere)[:SHOWN]


def _shown(finding: Finding, group: Sequence[Runs], one_run: bool) -> Shown | None:
    """The finding with its numbers; None where it has no verdict, another one, or the contrary on other data."""
    lines = [(runs, line) for runs in group for line in runs.lines if line.first.text == finding.statement]
    if not lines:
        return None
    (own, line), *others = lines
    alone = one_run and own.second is None and not own.outdated
    verdict = line.first.verdict if alone else line.statement.verdict
    contrary = HOLDS if finding.bears == FAILS else FAILS
    said = [each.first.verdict if alone else each.statement.verdict for _, each in others]
    if verdict not in finding.bears or any(each in contrary for each in said):
        return None
    beside = [(runs.data, line) for runs in group for line in runs.lines if line.first.text in finding.beside]
    return Shown(finding, own, line, {runs.data: each for runs, each in others}, not alone, beside)
