"""Moments: merging is exact, and the only n/(n-1) of the package is right at its edges."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normwise.kernels import reference
from normwise.moments import Moments, isfinite, where

SOURCE = Path(__file__).parents[1] / "src" / "normwise"


@pytest.mark.parametrize("far", [0.0, 1e4, 1e8], ids=lambda far: f"mean{far:g}")
@pytest.mark.parametrize("sizes", [(5, 3), (1, 7), (1, 1), (0, 4), (4, 0), (64, 2)], ids=str)
def test_merging_two_sets_gives_the_moments_of_their_union(sizes: tuple[int, int], far: float) -> None:
    """Whatever the counts, an empty side included, and however far from zero."""
    values = np.random.default_rng(0).normal(far, 2.0, (sum(sizes), 3))
    first, second = values[: sizes[0]], values[sizes[0] :]
    merged = reference.moments(first).merge(reference.moments(second))
    union = reference.moments(values)
    assert merged.count == union.count
    np.testing.assert_allclose(merged.mean, union.mean, rtol=1e-14)
    # Each of the values carries a rounding error of eps * far; the squares inherit it.
    np.testing.assert_allclose(merged.var, union.var, rtol=1e-12, atol=1e-15 * far)


def test_two_empty_sets_stay_empty() -> None:
    """Nothing and nothing is nothing, without a warning."""
    nothing = Moments(np.zeros(2), np.zeros(2), 0)
    merged = nothing.merge(nothing)
    assert merged.count == 0
    np.testing.assert_array_equal(merged.mean, [0, 0])
    np.testing.assert_array_equal(merged.var, [0, 0])


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_any_partition_in_any_grouping_merges_to_the_same(sizes: list[int], seed: int) -> None:
    """Left to right, or as a tree: the same moments, and those of numpy."""
    values = np.random.default_rng(seed).normal(50.0, 3.0, sum(sizes))
    parts = [reference.moments(part[:, None]) for part in np.split(values, np.cumsum(sizes)[:-1])]
    from_left = parts[0]
    for part in parts[1:]:
        from_left = from_left.merge(part)
    tree = parts
    while len(tree) > 1:
        tree = [tree[i].merge(tree[i + 1]) if i + 1 < len(tree) else tree[i] for i in range(0, len(tree), 2)]
    for merged in (from_left, tree[0]):
        np.testing.assert_allclose(merged.mean, values.mean(), rtol=1e-13)
        np.testing.assert_allclose(merged.var, values.var(), rtol=1e-10, atol=1e-24)


def test_weighted_counts_merge_like_repeated_values() -> None:
    """A weight of 3 is the value three times."""
    values, weights = np.array([[1.0], [4.0], [7.0]]), np.array([[3.0], [1.0], [2.0]])
    weighted = reference.moments(values[:2], weights=weights[:2]).merge(
        reference.moments(values[2:], weights=weights[2:])
    )
    repeated = np.repeat(values, weights.ravel().astype(int), axis=0)
    assert weighted.count == 6
    np.testing.assert_allclose(weighted.mean, repeated.mean(0), rtol=1e-15)
    np.testing.assert_allclose(weighted.var, repeated.var(0), rtol=1e-15)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_unbiased_variance_is_numpys_and_invertible(n: int) -> None:
    """numpy's ddof=1, and back."""
    values = np.random.default_rng(1).normal(size=(n, 4))
    batch = reference.moments(values)
    np.testing.assert_allclose(batch.unbiased_var(), values.var(0, ddof=1), rtol=1e-14)
    back = Moments.from_unbiased_var(batch.mean, batch.unbiased_var(), batch.count)
    np.testing.assert_allclose(back.var, batch.var, rtol=1e-15)


@pytest.mark.parametrize("n", [0, 1])
def test_one_value_says_nothing_about_spread(n: int) -> None:
    """NaN rather than a zero that looks like an answer."""
    assert np.isnan(Moments(np.zeros(2), np.zeros(2), n).unbiased_var()).all()


def test_counts_may_differ_per_channel() -> None:
    """Arrays of counts work as numbers do."""
    batch = Moments(np.zeros(3), np.ones(3), np.array([0, 1, 2]))
    np.testing.assert_array_equal(batch.unbiased_var(), [np.nan, np.nan, 2.0])


def test_where_serves_numbers_and_arrays() -> None:
    """The one place that knows how to choose without a framework."""
    assert where(False, 1.0, 2.0) == 2.0
    np.testing.assert_array_equal(where(np.array([True, False]), 1.0, np.zeros(2)), [1.0, 0.0])


def test_the_correction_is_written_once() -> None:
    """No other module may divide by a count less one: that is how two conventions get mixed."""
    guilty = []
    for path in SOURCE.rglob("*.py"):
        # The spread over seeds, in the lab, is not a statistic of a layer.
        if path.name == "moments.py" or path.relative_to(SOURCE).parts[0] in ("lab", "report"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _is_less_one(node.right):
                guilty.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
            if isinstance(node, ast.keyword) and node.arg in ("correction", "ddof", "unbiased"):
                guilty.append(f"{path.relative_to(SOURCE)}:{node.value.lineno}")
    assert not guilty, f"n/(n-1) belongs to moments.py only: {guilty}"


def _is_less_one(node: ast.expr) -> bool:
    """True if this is ``something - 1``."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Sub)
        and isinstance(node.right, ast.Constant)
        and node.right.value == 1
    )


@pytest.mark.parametrize("far", [0.0, 1e4], ids=lambda far: f"mean{far:g}")
@pytest.mark.parametrize("counts", [4, [4, 4, 4], [5, 1, 6], [0, 12, 0], [0, 0, 0]], ids=str)
def test_rows_merged_at_once_are_merged_one_after_the_other(counts: int | list[int], far: float) -> None:
    rng = np.random.default_rng(0)
    means, variances = rng.normal(far, 2.0, (3, 2)), rng.uniform(0.5, 2.0, (3, 2))
    each = counts if isinstance(counts, list) else [counts] * 3
    for row, count in enumerate(each):
        if count == 0:
            means[row] = variances[row] = 0
    one = Moments(means[0], variances[0], each[0])
    for row in (1, 2):
        one = one.merge(Moments(means[row], variances[row], each[row]))
    whole = Moments(means, variances, np.array(each)[:, None] if isinstance(counts, list) else counts).merged()
    np.testing.assert_allclose(whole.mean, one.mean, rtol=1e-14)
    # Each of the means carries a rounding error of eps * far; the squares of their distances inherit it.
    np.testing.assert_allclose(whole.var, one.var, rtol=1e-12, atol=1e-15 * far)
    np.testing.assert_array_equal(whole.count, one.count)


def test_rows_may_have_a_count_for_each_channel() -> None:
    rows = Moments(np.array([[1.0, 5.0], [3.0, 7.0]]), np.zeros((2, 2)), np.array([[1, 0], [1, 2]])).merged()
    np.testing.assert_array_equal(rows.mean, [2.0, 7.0])
    np.testing.assert_array_equal(rows.var, [1.0, 0.0])
    np.testing.assert_array_equal(rows.count, [2, 2])


def test_old_names_of_the_unbiased_variance_work_and_name_the_new_ones() -> None:
    """Estimators that users wrote call them."""
    batch = Moments(np.zeros(2), np.array([2.0, 3.0]), np.array([4, 1]))
    with pytest.warns(
        DeprecationWarning,
        match=r"^Moments\.population_var is called Moments\.unbiased_var now and has its old name until 0\.2: "
        r"call it by the new one\.$",
    ) as told:
        np.testing.assert_array_equal(batch.population_var(), batch.unbiased_var())
    assert [each.filename for each in told] == [__file__]
    with pytest.warns(
        DeprecationWarning,
        match=r"^Moments\.from_population_var is called Moments\.from_unbiased_var now and has its old name until "
        r"0\.2: call it by the new one\.$",
    ) as told:
        back = Moments.from_population_var(batch.mean, population_var=np.array([8 / 3, 1.0]), count=batch.count)
    assert [each.filename for each in told] == [__file__]
    np.testing.assert_array_equal(back.var, [2.0, 0.0])


def test_what_is_finite_is_known_without_a_warning() -> None:
    """NumPy warns of a difference of infinities, and warnings are errors here."""
    values = np.array([0.0, -1e308, np.nan, np.inf, -np.inf])
    assert isfinite(values).tolist() == np.isfinite(values).tolist()
    assert isfinite(1.0) is True
    assert isfinite(float("nan")) is False
