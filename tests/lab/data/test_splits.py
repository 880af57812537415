"""The splits share no image, keep the classes' shares, and depend on the seed alone."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.splits import batches, digits, digits_on_photos


@pytest.mark.parametrize("seed", [0, 7])
def test_every_image_is_in_exactly_one_part(seed: int) -> None:
    data = digits(seed)
    rows = torch.cat([data.train.rows, data.validation.rows, data.test.rows])
    assert sorted(rows.tolist()) == list(range(1797))
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [1077, 270, 450]


def test_every_part_has_the_same_share_of_every_class() -> None:
    data = digits(0)
    whole = torch.cat([part.labels for part in (data.train, data.validation, data.test)]).bincount() / 1797
    for part in (data.train, data.validation, data.test):
        shares = part.labels.bincount(minlength=10) / len(part.labels)
        assert torch.allclose(shares, whole, atol=1.01 / len(part.labels))


def test_the_seed_decides_the_split() -> None:
    assert torch.equal(digits(3).test.rows, digits(3).test.rows)
    assert not torch.equal(digits(3).test.rows, digits(4).test.rows)
    assert torch.equal(digits(3).train.rows, digits(3, binary=True).train.rows)


def test_pixels_are_between_0_and_1_or_one_of_them() -> None:
    grey, binary = digits(0).train.images, digits(0, binary=True).train.images
    assert (grey.shape, grey.dtype) == ((1077, 64), torch.float32)
    assert (float(grey.min()), float(grey.max())) == (0.0, 1.0)
    assert sorted(set(binary.flatten().tolist())) == [0.0, 1.0]
    assert torch.equal(binary, (grey >= 0.5).float())


def test_a_pass_shows_every_training_image_at_most_once_and_no_other() -> None:
    data = digits(0)
    source = batches(data.train, 60, seed=0)
    seen = [next(source) for _ in range(1077 // 60)]
    assert all(len(labels) == 60 for _, labels in seen)
    images = torch.cat([images for images, _ in seen])
    train = {tuple(image) for image in data.train.images.tolist()}
    assert {tuple(image) for image in images.tolist()} <= train
    assert len(torch.unique(images, dim=0)) >= 1077 // 60 * 60 - 5  # a few digits are the same in all pixels


def test_the_order_of_images_depends_on_its_seed_alone() -> None:
    data = digits(0)
    torch.manual_seed(1)
    first = [labels.tolist() for _, (_, labels) in zip(range(30), batches(data.train, 60, seed=5), strict=False)]
    torch.manual_seed(2)
    again = [labels.tolist() for _, (_, labels) in zip(range(30), batches(data.train, 60, seed=5), strict=False)]
    assert first == again
    assert first[0] != first[18]  # each pass has its own order


def test_the_second_domain_is_the_same_split_of_the_same_digits_on_photographs() -> None:
    plain, blended = digits(3), digits_on_photos(3)
    for one, other in (
        (plain.train, blended.train),
        (plain.validation, blended.validation),
        (plain.test, blended.test),
    ):
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.labels, other.labels)
        assert other.images.shape == one.images.shape
        assert 0 <= float(other.images.min()) < float(other.images.max()) <= 1
    # where a digit has no ink, the photograph shows; where it has all, the photograph's negative does
    empty, full = (plain.test.images == level for level in (0, 1))
    photo = blended.test.images.where(empty, 1 - blended.test.images)
    assert float((blended.test.images - plain.test.images).abs().mean()) > 0.2
    ink = blended.test.images[full].mean() + photo[empty].mean()
    assert float(ink) == pytest.approx(1, abs=0.05)


def test_a_digit_lies_on_the_same_photograph_whatever_the_split() -> None:
    first, second = digits_on_photos(0).test, digits_on_photos(1).test
    both = sorted(set(first.rows.tolist()) & set(second.rows.tolist()))
    assert len(both) > 50
    one, other = (part.images[[part.rows.tolist().index(row) for row in both]] for part in (first, second))
    assert torch.equal(one, other)
    assert len(torch.unique(first.images, dim=0)) == 450
