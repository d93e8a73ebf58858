"""Near-duplicates stay together, and a new row moves no other row."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from olivebuild.data.split import SIMILARITY, near_duplicate_groups, sides

TEN = "one two three four five six seven eight nine ten"
words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(" ".join)


def similarity(a: str, b: str) -> float:
    one, other = set(a.split()), set(b.split())
    return len(one & other) / len(one | other)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The cat sat.", "the CAT, sat!"),
        ("a b c", "c b a"),
        ("a a b", "a b b"),
        (TEN, TEN + " eleven"),
        (TEN, TEN.replace("ten", "zehn") + " ten"),
        ("Straße", "STRASSE"),
        ("a b c d", "a b c d e"),
    ],
)
def test_near_duplicates_are_one_group(a: str, b: str) -> None:
    one, other = near_duplicate_groups([a, b])
    assert one == other


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a b c", "a b d"),
        (TEN, TEN.replace("ten", "zehn").replace("nine", "neun")),
        ("?!", "..."),
        ("a b c", "a b c d"),
        ("x", "y"),
    ],
)
def test_different_rows_are_different_groups(a: str, b: str) -> None:
    one, other = near_duplicate_groups([a, b])
    assert one != other


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    texts = ["a b c d e", "a b c d e f", "b c d e f", "x y z"]
    one, two, three, other = near_duplicate_groups(texts)
    assert one == two == three != other


def test_no_rows_have_no_groups() -> None:
    assert near_duplicate_groups([]) == []


@settings(database=None, max_examples=120)
@given(st.lists(words, max_size=9))
def test_every_pair_that_is_similar_is_together_and_every_group_is_connected(
    texts: list[str],
) -> None:
    groups = near_duplicate_groups(texts)
    reached = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if similarity(texts[i], texts[j]) >= SIMILARITY - 1e-12:
                old, new = reached[i], reached[j]
                reached = [new if r == old else r for r in reached]
    assert [[g == h for h in groups] for g in groups] == [
        [r == s for s in reached] for r in reached
    ]


@settings(database=None, max_examples=100)
@given(st.lists(words, max_size=9), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(texts: list[str], random: object) -> None:
    order = list(range(len(texts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    groups = near_duplicate_groups(texts)
    assert near_duplicate_groups([texts[i] for i in order]) == [groups[i] for i in order]


@settings(database=None, max_examples=120)
@given(st.lists(words, min_size=1, max_size=9), words, st.integers(0, 3))
def test_a_row_that_is_near_no_other_moves_no_row(texts: list[str], added: str, seed: int) -> None:
    assume(all(similarity(added, t) < SIMILARITY - 1e-12 for t in texts))
    before = sides(near_duplicate_groups(texts), seed, 0.5)
    assert sides(near_duplicate_groups([*texts, added]), seed, 0.5)[:-1] == before
    assert sides(near_duplicate_groups([added, *texts]), seed, 0.5)[1:] == before


@settings(database=None, max_examples=60)
@given(st.lists(words, min_size=1, max_size=9), st.integers(0, 8))
def test_a_second_copy_of_a_row_moves_no_row(texts: list[str], which: int) -> None:
    copy = texts[which % len(texts)]
    before = sides(near_duplicate_groups(texts), 0, 0.5)
    assert sides(near_duplicate_groups([*texts, copy]), 0, 0.5)[:-1] == before


def test_rows_of_a_group_are_on_one_side() -> None:
    texts = [f"{n} {TEN}" for n in "abcdef"] + [f"word{n}" for n in range(50)]
    found = sides(near_duplicate_groups(texts), 0, 0.5)
    assert len(set(found[:6])) == 1
    assert set(found[6:]) == {True, False}


@pytest.mark.parametrize(("holdout", "held"), [(0.0, {False}), (1.0, {True})])
def test_nothing_or_everything_is_held_out(holdout: float, held: set[bool]) -> None:
    assert set(sides(near_duplicate_groups([f"word{n}" for n in range(100)]), 0, holdout)) == held


def test_about_as_many_are_held_out_as_asked_for() -> None:
    found = sides([f"group{n}" for n in range(5000)], 0, 0.2)
    assert sum(found) / len(found) == pytest.approx(0.2, abs=0.02)


def test_a_larger_holdout_only_adds_rows() -> None:
    groups = [f"group{n}" for n in range(500)]
    small, large = sides(groups, 0, 0.1), sides(groups, 0, 0.4)
    assert all(b for a, b in zip(small, large, strict=True) if a)


def test_another_seed_is_another_split() -> None:
    groups = [f"group{n}" for n in range(100)]
    assert sides(groups, 0, 0.5) != sides(groups, 1, 0.5)
