"""Hand-made results that hold everything a page may have to show."""

from __future__ import annotations

import math

import pytest

from normwise.lab.results import (
    EDITION,
    Conclusion,
    Estimate,
    Figure,
    Panel,
    Result,
    Series,
    Statement,
    Table,
    Verdict,
)

HOSTILE = (
    '<script>document.title = "taken"</script> & "$x_1$" <img src="http://example.invalid/a.png" onerror=boom()>\x07'
)


def _steps() -> Result:
    x = tuple(float(step) for step in range(0, 3001, 100))
    with_norm = tuple(0.975 - 0.87 * math.exp(-step / 160) for step in x)
    without = tuple(0.1 + 0.82 / (1 + math.exp(-(step - 1300) / 260)) for step in x)
    accuracy = Figure(
        name="accuracy",
        title="Test accuracy while training",
        caption="Mean over 10 seeds; the band is the 95 % interval of the mean. The best learning rate of each arm.",
        x_label="training step",
        y_label="test accuracy",
        panels=(
            Panel(
                title="",
                series=(
                    Series(
                        "with batch norm",
                        x,
                        with_norm,
                        tuple(y - 0.01 for y in with_norm),
                        tuple(min(1.0, y + 0.01) for y in with_norm),
                    ),
                    Series(
                        "without",
                        x,
                        without,
                        tuple(y - 0.05 for y in without),
                        tuple(min(1.0, y + 0.05) for y in without),
                    ),
                ),
                marks=((0.95, "95 %, the level that is timed"), (0.1, "chance")),
            ),
        ),
    )

    def percentiles(height: float, drift: float) -> tuple[Series, ...]:
        shapes = (("85th percentile", 1.0), ("50th percentile", 0.1), ("15th percentile", -0.9))
        return tuple(
            Series(name, x, tuple(height * at + drift * (1 + at / 3) * math.sin(step / 500) for step in x))
            for name, at in shapes
        )

    inputs = Figure(
        name="last_layer_inputs",
        title="Inputs of one sigmoid of the last hidden layer",
        caption="15th, 50th and 85th percentile over the test images, one seed. Less movement is better.",
        x_label="training step",
        y_label="input of the sigmoid",
        panels=(Panel("with batch norm", percentiles(1.1, 0.12)), Panel("without", percentiles(1.9, 0.9))),
    )
    return Result(
        experiment="does_it_train_in_fewer_steps",
        question="Does a small sigmoid network reach the same accuracy in fewer steps with batch normalization?",
        claim="Ioffe and Szegedy (2015), figure 1: with batch normalization it trains faster and ends higher.\n\n"
        "The inputs of the last layer keep their distribution while those of the plain network drift.",
        refuted_by="A ratio of steps to 95 % whose interval contains 1, at the best learning rate of each arm.",
        settings={"layers": (100, 100, 100), "activation": "sigmoid", "learning rates": (0.1, 0.5, 2.0), "batch": 60},
        seeds=tuple(range(10)),
        conclusion=Conclusion(
            statements=(
                Statement(
                    "With batch norm the network needs at most a third of the steps to reach 95 % test accuracy.",
                    Estimate(4.27, 3.61, 5.02, 10, "ratio"),
                    "the whole interval of the ratio lies above 3",
                    Verdict.REPRODUCED,
                    "about 5 on MNIST, read off figure 1a",
                ),
                Statement(
                    "The final test accuracy is higher with batch norm.",
                    Estimate(0.31, -0.12, 0.74, 10, "points"),
                    "the whole interval of the paired difference lies above 0.5 points",
                    Verdict.NOT_VISIBLE,
                    "about 1 point on MNIST, read off figure 1a",
                ),
            ),
            table=Table(
                "Steps to 95 % test accuracy and final accuracy, mean ± 95 % interval over 10 seeds",
                ("network", "learning rate", "steps to 95 %", "final accuracy, %", "runs that failed"),
                (
                    ("with batch norm", "0.5", "610 ± 45", "97.4 ± 0.3", "0"),
                    ("without", "0.5", "2 600 ± 210", "97.1 ± 0.4", "0"),
                    ("without", "2", "–", "61.0 ± 9.5", "4"),
                ),
            ),
            figures=(accuracy, inputs),
            caveats=(
                "1,797 images of 8 by 8 pixels, not MNIST; one test image of 450 is 0.22 points.",
                "The learning rate is picked on a validation split for each arm on its own.",
            ),
        ),
        stamp={
            "normwise": "0.1.0",
            "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
            "device": "cpu",
            "threads": 2,
            "date": "2026-11-21T01:30:00Z",
            "seconds": 38.2,
        },
        command="normwise lab run does_it_train_in_fewer_steps --seeds 10",
        references=("Ioffe and Szegedy 2015, Batch Normalization, section 4.1, figure 1. arXiv:1502.03167",),
        says="Ioffe & Szegedy 2015, figure 1",
        topic="regularization",
        data="scikit-learn's digits, 8 x 8",
        architecture="3 hidden layers of 100 sigmoid units",
        edition=EDITION,
    )


def _depth() -> Result:
    depth = tuple(float(layer) for layer in range(30, 0, -1))

    def panel(name: str, factor: float, normed: float) -> Panel:
        plain: tuple[float | None, ...] = tuple(factor ** (30 - layer) for layer in depth)
        if name == "relu":
            plain = tuple(None if 8 < layer < 14 or layer == 6 else y for layer, y in zip(depth, plain, strict=True))
        kept = tuple(normed ** (30 - layer) for layer in depth)
        return Panel(
            name,
            (
                Series("with batch norm", depth, kept, tuple(y / 1.6 for y in kept), tuple(y * 1.6 for y in kept)),
                Series(
                    "without",
                    depth,
                    plain,
                    tuple(None if y is None else 0.0 if n > 25 else y / 3 for n, y in enumerate(plain)),
                    tuple(None if y is None else y * 3 for y in plain),
                ),
            ),
            marks=((0.9**30, "0.9³⁰ = 0.04"),),
        )

    return Result(
        experiment="do_gradients_survive_depth",
        question="Does batch normalization keep the gradient of a 30-layer network from vanishing or exploding?",
        claim="A factor of 0.9 per layer leaves 0.9³⁰ = 0.04 after 30 layers; batch norm keeps it near 1.",
        refuted_by="Gradients that shrink or grow with depth as fast with batch norm as without.",
        settings={"depth": 30, "width": 256, "activations": ("sigmoid", "tanh", "relu"), "full": False},
        seeds=(0, 1, 2, 3, 4),
        conclusion=Conclusion(
            statements=(
                Statement(
                    "With batch norm the gradient neither shrinks nor grows over 30 layers of relu.",
                    Estimate(2.52, 2.44, 2.6, 5, "powers of ten"),
                    "the whole interval of log10 of the factor lies between −1 and 1",
                    Verdict.CONTRADICTED,
                    "1.211 per layer, that is 10^2.5 over 30 layers",
                    "Yang et al. 2019, theorem 8",
                ),
                Statement(
                    "Without batch norm the gradient of a sigmoid network vanishes.",
                    Estimate(1.3e-17, 4e-18, 5e-17, 5, "of the last layer's"),
                    "the whole interval lies below 10⁻¹⁰",
                    Verdict.REPRODUCED,
                ),
            ),
            table=Table(
                "Size of the gradient at layer 1 relative to layer 30, median over 5 seeds",
                ("activation", "with batch norm", "without"),
                (("sigmoid", "12", "1.3×10⁻¹⁷"), ("tanh", "3.1", "0.0021"), ("relu", "332", "0.61")),
            ),
            figures=(
                Figure(
                    name="gradient_by_layer",
                    title="Size of the gradient by layer, relative to the last layer",
                    caption="Median over 5 seeds at initialization; the band spans the seeds; a gap is no number.",
                    x_label="layer, counted from the input",
                    y_label="gradient norm relative to layer 30",
                    panels=(panel("sigmoid", 0.26, 1.09), panel("tanh", 0.81, 1.04), panel("relu", 0.98, 1.21)),
                    y_scale="log",
                ),
            ),
            caveats=("Measured at initialization, before any step.",),
        ),
        stamp={"versions": {"torch": "2.13.0"}, "device": "cpu", "date": "2026-11-21T01:31:00Z", "seconds": 9.4},
        command="normwise lab run do_gradients_survive_depth --seeds 5",
        says="Ioffe & Szegedy 2015, section 3.3",
        topic="optimization",
        data="scikit-learn's digits, 8 x 8",
        architecture="30 layers of 256 units",
        edition=EDITION,
    )


def _hostile() -> Result:
    line = Series(HOSTILE, (0.001, 0.01, 0.1, 1.0), (0.1, None, 0.9, 0.5))
    figure = Figure(
        HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (Panel(HOSTILE, (line,), ((0.3, HOSTILE),)),), x_scale="log"
    )
    estimate = Estimate(math.nan, -math.inf, math.inf, 1, HOSTILE)
    return Result(
        experiment=HOSTILE,
        question=HOSTILE,
        claim=HOSTILE,
        refuted_by=HOSTILE,
        settings={HOSTILE: HOSTILE},
        seeds=(0,),
        conclusion=Conclusion(
            (Statement(HOSTILE, estimate, HOSTILE, Verdict.NOT_VISIBLE, HOSTILE, HOSTILE),),
            Table(HOSTILE, (HOSTILE, "n"), ((HOSTILE, "1"),)),
            (figure,),
            (HOSTILE,),
        ),
        stamp={HOSTILE: HOSTILE},
        command=HOSTILE,
        references=(HOSTILE,),
        says=HOSTILE,
        topic=HOSTILE,
        data=HOSTILE,
        architecture=HOSTILE,
        edition=EDITION,
    )


@pytest.fixture
def results() -> list[Result]:
    """Two experiments with all verdicts, several panels, logarithmic axes, gaps, bands and reference lines."""
    return [_steps(), _depth()]


@pytest.fixture
def hostile() -> Result:
    """A result in which every text tries to break out of the page."""
    return _hostile()
