"""Test rows among training rows, in texts that have a template around them or none."""

from __future__ import annotations

import json
import random

import pytest

from olivebuild.data.overlap import Match, matches, question_of

WORDS = [f"word{i}" for i in range(400)]


def texts(seed: int, count: int, length: int = 9) -> list[str]:
    drawn = random.Random(seed)
    return [" ".join(drawn.sample(WORDS, length)) for _ in range(count)]


def test_equal_and_near_rows_are_told_apart() -> None:
    train = [*texts(1, 30), "the train to Cologne left an hour late again, sadly, on a Monday"]
    test = [*texts(2, 20), train[4].upper() + "!", train[-1].replace("Monday", "Friday")]
    found = matches(train, test)
    assert found[:20] == [None] * 20
    assert found[20:] == [Match(4, True), Match(30, False)]
    assert matches(train, test, near=False)[20:] == [Match(4, True), None]


def test_an_equal_row_counts_before_a_near_one() -> None:
    row = "a b c d e f g h i j"
    assert matches(["a b c d e f g h i k", row], [row]) == [Match(1, True)]


@pytest.mark.parametrize("count", [3, 60])
def test_templates_of_two_data_sets_are_no_likeness(count: int) -> None:
    long = "You are a careful assistant who names the tone of a text in one single word: "
    train = [f"{long}{text}" for text in texts(3, 60, 4)]
    asked = "Here is a text {} What is the tone of it, in one word?"
    test = [asked.format(text) for text in texts(4, count, 4)]
    assert matches(train, test) == [None] * count
    inside = [*test, asked.format(train[7].removeprefix(long))]
    if count > 10:
        assert matches(train, inside)[-1] == Match(7, True)


def test_few_rows_go_by_what_all_rows_share() -> None:
    long = "You are a careful assistant who names the tone of a text in one single word: "
    train = [f"{long}{text}" for text in texts(5, 60, 4)]
    test = [f"{long}{text}" for text in texts(6, 3, 4)]
    assert matches(train, test) == [None] * 3
    assert matches(train, [*test, train[2]])[-1] == Match(2, True)


def test_random_rows_of_a_small_vocabulary_are_found_as_by_comparing_all_pairs() -> None:
    drawn = random.Random(8)
    train, test = ([" ".join(drawn.sample(WORDS[:14], 6)) for _ in range(n)] for n in (120, 40))

    def similar(a: str, b: str) -> bool:
        one, other = set(a.split()), set(b.split())
        return len(one & other) / len(one | other) >= 0.8

    assert [m is not None for m in matches(train, test)] == [
        any(similar(a, b) for a in train) for b in test
    ]


def test_rows_without_a_word_are_like_no_others() -> None:
    assert matches(["...", "a b"], ["!!", "..."]) == [None, None]
    assert matches([], ["a"]) == [None]
    assert matches(["a"], []) == []


def test_what_is_asked_by_a_row() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    assert question_of("messages", {"messages": json.dumps(messages)}) == "Be brief.\nHi"
    assert question_of("prompt", {"prompt": "p", "completion": "c"}) == "p"
    assert question_of("user", {"user": "u", "assistant": "a"}) == "u"
    assert question_of("text", {"text": "t"}) == "t"
