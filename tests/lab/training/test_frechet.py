"""The Fréchet distance against its formula, and an examiner that tells images from what are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from normwise.lab.data.splits import Digits, digits
from normwise.lab.training.frechet import Examiner, distance


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits(0)


@pytest.fixture(scope="module")
def examiner(data: Digits) -> Examiner:
    return Examiner(data, 0, steps=300)


def test_the_distance_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(50, 4)), rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4)) + 0.5
    first, second = np.cov(ours.T), np.cov(theirs.T)
    root = np.asarray(sqrtm(first @ second)).real
    apart = ((ours.mean(axis=0) - theirs.mean(axis=0)) ** 2).sum()
    assert distance(ours, theirs) == pytest.approx(apart + np.trace(first + second - 2 * root))
    assert distance(ours, theirs) == pytest.approx(distance(theirs, ours))
    assert distance(ours, ours) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_of_a_generator_that_diverged_are_infinitely_far(value: float) -> None:
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(30, 3)), rng.normal(size=(20, 3))
    made[0, 0] = value
    assert distance(made, real) == distance(real, made) == np.inf


def test_the_distance_of_features_that_are_all_alike_is_their_spread_and_the_way_to_the_mean() -> None:
    rng = np.random.default_rng(0)
    spread, one = rng.normal(size=(30, 3)), np.full((20, 3), 2.0)
    way = ((spread.mean(axis=0) - 2) ** 2).sum()
    assert distance(one, spread) == pytest.approx(way + np.trace(np.cov(spread.T)))


def test_real_images_are_near_and_shuffled_pixels_and_one_image_are_far(data: Digits, examiner: Examiner) -> None:
    test = examiner.seen(data.test.images)
    assert test.shape == (450, 32)
    assert test.dtype == np.float64
    images = data.train.images
    order = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).argsort(dim=0)
    real, shuffled, one = (
        distance(examiner.seen(each), test) for each in (images, images.gather(0, order), images[:1].expand(100, -1))
    )
    assert 5 * real < shuffled < one


def test_classes_are_covered_from_a_fifth_of_their_share_on(data: Digits, examiner: Examiner) -> None:
    images, labels = data.train.images, data.train.labels
    assert examiner.classes(images) == 10
    assert examiner.classes(images[labels < 4]) == 4
    threes = images[labels == 3][:50]
    sevens = images[labels == 7]
    assert examiner.classes(torch.cat((threes, sevens[:4]))) == 2
    assert examiner.classes(torch.cat((threes.repeat(4, 1), sevens[:1]))) == 1


def test_an_image_that_the_classifier_is_not_sure_of_counts_for_no_class(data: Digits, examiner: Examiner) -> None:
    with torch.no_grad():
        sure = examiner.classifier(data.test.images).softmax(dim=1).amax(dim=1)
    doubtful = data.test.images[sure < 0.9]
    assert len(doubtful) > 0
    assert examiner.classes(doubtful) == 0
