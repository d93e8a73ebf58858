"""What a build would make of rows: how many it keeps, how it divides them, what is odd about them.

It is said before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator

from olivebuild.core.errors import InputError
from olivebuild.data.inspection.about import percent, short
from olivebuild.data.inspection.choice import Choice
from olivebuild.data.inspection.sources import Look
from olivebuild.data.inspection.usable import Division, division, usable
from olivebuild.recipe.scaffold.recipe_text import BYTES_OF_TOKEN, Seen, gates_of, holdout_for

ONE_SIDED = 0.8
"""From this share of one answer on, accuracy says little."""
RARE = 5
"""Rows of an answer below which it can hardly be learnt."""
FEW_TESTS = 30


def seen_of(data: str, *, is_remote: bool, subset: str | None, look: Look, choice: Choice) -> Seen:
    """Return what was seen of rows. Raises InputError where none is left to train or to test on."""
    train = usable(look.rows, choice)
    tests = usable(look.test_rows, choice) if look.tests else None
    for side in (train, tests):
        if side and not side.kept:
            needed = "a conversation that ends with an answer"
            if not choice.is_chat:
                needed = " and ".join([*(c.name for c in choice.inputs), choice.answer.name])
            raise InputError(
                f"none of the {side.read} rows has {needed}",
                where=data,
                hint="--input and --answer name other columns",
            )
    holdout = holdout_for(train.kept)
    if tests:
        divided = Division(train=train.kept, test=tests.kept)
    else:
        divided = division(train.contents, holdout)
        if not divided.test or not divided.train:
            raise InputError(
                f"{_rows(train.kept)} can't be divided into some to train and some to test",
                where=data,
                hint="a few hundred are a good beginning",
            )
    return Seen(
        data=data,
        is_remote=is_remote,
        subset=subset,
        look=look,
        choice=choice,
        train=train,
        tests=tests,
        division=divided,
        holdout=holdout,
    )


def notes_of(seen: Seen, context: int | None) -> Iterator[str]:
    """Yield lines on what is guessed, dropped or odd."""
    yield from seen.look.notes
    if seen.choice.why:
        yield seen.choice.why
    if not seen.look.is_whole:
        yield f"the first {_rows(seen.train.read)} were looked at"
    for side, name in ((seen.train, ""), (seen.tests, " to test")):
        if side and side.duplicates:
            yield f"{_rows(side.duplicates)}{name} repeat and are dropped"
        if side and side.incomplete:
            yield f"{_rows(side.incomplete)}{name} lack a value and are dropped"
    if seen.train.many_turns:
        yield (
            f"in {seen.train.many_turns} of {seen.train.kept} conversations the assistant speaks "
            f"more than once: {'all its turns are' if seen.learns_turns else 'the last is'} learnt"
        )
    if not seen.division.near_duplicates and not seen.tests:
        yield "most rows are alike, so likeness does not keep them on one side of the split"
    yield from _of_labels(seen)
    tokens = round(seen.train.longest_row / BYTES_OF_TOKEN)
    if context and tokens > context:
        yield (
            f"the longest row may have {tokens:,} tokens, and the model takes {context:,}: what is "
            "longer fails the build, or is cut by `max_length`"
        )


def _of_labels(seen: Seen) -> Iterator[str]:
    if not seen.metric:
        return
    answers, kept = seen.train.answers, seen.train.kept
    first, count = next(iter(answers.items()))
    if count >= ONE_SIDED * kept:
        yield (
            f"{percent(count, kept)} of the rows have one answer, {short(first)}: accuracy says "
            f"little{', macro F1 in the report more' if seen.is_labelled else ''}"
        )
    if rare := [label for label, rows in answers.items() if rows < RARE]:
        listed = ", ".join(short(label) for label in rare[:5]) + (" ..." if len(rare) > 5 else "")
        yield f"{len(rare)} of {len(answers)} answers stand in fewer than {RARE} rows: {listed}"


def outlook(seen: Seen) -> str:
    """Return how rows are divided and what is judged, as a line."""
    about = "" if seen.look.is_whole and seen.division.is_exact else "about "
    line = f"{about}{_rows(seen.division.train)} to train, {seen.test_rows:,} to test"
    gates = gates_of(seen).gates
    if gates:
        return f"{line}; gates: {', '.join(gates)}"
    return f"{line}: too few for a gate (some {FEW_TESTS} to test are a beginning)"


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"
