"""What a job says of a pull request, as the JSON that another job comments from.

Whoever opens a pull request can write it as he likes: all of it is text of bounded length, and
nothing in it names a place, a pull request or a file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from olivebuild.core.values.strict_json import decode

Text = Annotated[str, Meta(max_length=300)]
Count = Annotated[int, Meta(ge=0, le=10**9)]
MOST_BYTES = 1 << 20
"""Of the JSON."""


class Planned(Struct, frozen=True, kw_only=True):
    """A target: its verdict, and the seconds that its steps took last time, where that is known.

    `cached`: a remote cache has its result, or this one.
    """

    target: Text
    kind: Text
    verdict: Literal["fresh", "cached", "stale", "waiting", "broken"]
    seconds: Annotated[float, Meta(ge=0)] | None = None
    why: Text = ""


class GateLine(Struct, frozen=True, kw_only=True):
    """A gate as it stands, and as it stood on the branch that the pull request is for.

    "none": without a result nobody knows.
    """

    target: Text
    gate: Text
    state: Literal["met", "missed", "undecided", "none"]
    before: Literal["met", "missed", "undecided", "none"] = "none"
    value: Text = ""
    note: Text = ""


class ChangedRow(Struct, frozen=True, kw_only=True):
    """A row that is answered differently. Its texts leave a job only if that was asked for."""

    number: Count
    text: Text
    expected: Text
    before: Text
    now: Text


class Answers(Struct, frozen=True, kw_only=True):
    """How many rows of a data set a model answers differently, and some of them.

    `lost` were right before, `won` are right now, `other` are as right or wrong as before, and
    `fresh` were not asked before.
    """

    target: Text
    model: Text
    data: Text
    lost: Count
    won: Count
    other: Count
    fresh: Count = 0
    rows: Annotated[tuple[ChangedRow, ...], Meta(max_length=30)] = ()


class PullRequestReport(Struct, frozen=True, kw_only=True):
    """All that is said of a pull request."""

    version: Literal[1] = 1
    name: Text
    targets: Annotated[tuple[Planned, ...], Meta(max_length=500)] = ()
    gates: Annotated[tuple[GateLine, ...], Meta(max_length=200)] = ()
    answers: Annotated[tuple[Answers, ...], Meta(max_length=100)] = ()
    problems: Annotated[tuple[Text, ...], Meta(max_length=50)] = ()
    left_out: Count = 0
    """Targets, gates and problems beyond those that are listed."""

    @staticmethod
    def from_json(data: bytes) -> PullRequestReport:
        """Raises ValueError for what is none."""
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        return decode(data, PullRequestReport)
