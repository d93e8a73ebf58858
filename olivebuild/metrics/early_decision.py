"""Gates judged while their rows are asked: what all rows will say, as soon as that is sure.

A gate about a share of rows is met, missed or not decided (`gates.py`) by how many of all rows are
right. So the question is about a finite data set, and is answered by a confidence sequence
(`confidence_sequence.py`): once all numbers within its bounds have one outcome, that is the gate's.
At most 5 % of a gate's early decisions are other than what all rows say, whenever they are made.

A drop depends on two numbers, of the rows that only one of the two models got right. Each has a
sequence at 97.5 %, so that both hold together at 95 %; the outcome falls with the one and rises
with the other, so that two corners tell it for all pairs between.

Rows may be answered in any order: they are looked at in that of `row_order.py`, which is random.
Pure numbers; knows nothing of builds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct, field

from olivebuild.metrics.confidence_sequence import ShareSequence
from olivebuild.metrics.gates import (
    NORMAL_95,
    OF_ROWS,
    Gate,
    State,
    place,
    share_interval,
    state_of,
)
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.records import YES_OR_NO, DataMetrics
from olivebuild.metrics.row_order import row_order
from olivebuild.metrics.tango_score import tango_score

LEVEL = 0.95
LEAST = 32
"""Rows before which nothing is decided, where there are so many: two wrong answers may be enough
for the sequence, and are too few to be believed.
"""
Outcomes = Mapping[str, bool]
"""Metric of `gates.OF_ROWS` -> whether one row's answer is right."""
Place = tuple[str, str]
"""A model and a data set."""


class Rows(Struct, kw_only=True):
    """The outcomes so far of one model on one data set, by row."""

    outcomes: list[Outcomes | None]
    answered: int = 0
    right: dict[str, int] = field(default_factory=dict)

    def add(self, row: int, outcomes: Outcomes) -> None:
        """Take in the outcomes of a row, once."""
        if self.outcomes[row] is not None:
            return
        self.outcomes[row] = outcomes
        self.answered += 1
        for metric, right in outcomes.items():
            self.right[metric] = self.right.get(metric, 0) + right

    def shares(self) -> dict[str, float]:
        """Return each metric's share of the rows answered so far."""
        return {metric: right / self.answered for metric, right in self.right.items()}


class Standing(Struct, frozen=True, kw_only=True):
    """What the first `rows` of a data set's `of` rows say of a gate; `state` is None while open.

    `value` is the metric over these rows, or its drop. `interval`: where the metric over all rows
    lies, at every moment, at 95 %.
    """

    gate: str
    state: State | None
    rows: int
    of: int
    value: float
    interval: tuple[float, float]
    strict: bool = False
    is_drop: bool = False


class _Question(Protocol):
    """What a gate asks of rows, one after the other."""

    def see(self, outcomes: Sequence[Outcomes]) -> bool:
        """Take in the next row as each model answered it; False if one lacks the metric."""

    def state(self) -> State | None: ...
    def value(self) -> float: ...
    def interval(self) -> tuple[float, float]: ...


class _Share:
    """A metric that is a share of rows, against a limit."""

    def __init__(self, gate: Gate, rows: int) -> None:
        self._gate = gate
        self._right = ShareSequence(rows, LEVEL)

    def see(self, outcomes: Sequence[Outcomes]) -> bool:
        right = outcomes[0].get(self._gate.metric)
        if right is None:
            return False
        self._right.see(right=right)
        return True

    def state(self) -> State | None:
        """Return the outcome of all numbers of right rows that are left.

        The interval moves with the number, so the two ends tell it.
        """
        low, high = self._state(self._right.low), self._state(self._right.high)
        return low if low == high else None

    def _state(self, right: int) -> State:
        rows = self._right.rows
        return state_of(
            self._gate, right / rows, share_interval(self._gate.metric, right / rows, rows)
        )

    def value(self) -> float:
        return self._right.right / self._right.seen

    def interval(self) -> tuple[float, float]:
        return self._right.low / self._right.rows, self._right.high / self._right.rows


class _Drop:
    """The drop of a share from one model to another, against a limit."""

    def __init__(self, gate: Gate, rows: int) -> None:
        self._gate = gate
        each = (1 + LEVEL) / 2
        self._lost, self._won = ShareSequence(rows, each), ShareSequence(rows, each)

    def see(self, outcomes: Sequence[Outcomes]) -> bool:
        new, old = (row.get(self._gate.metric) for row in outcomes)
        if new is None or old is None:
            return False
        self._lost.see(right=old and not new)
        self._won.see(right=new and not old)
        return True

    def state(self) -> State | None:
        most = self._state(self._lost.high, self._won.low)
        least = self._state(self._lost.low, self._won.high)
        return most if most == least else None

    def _state(self, lost: int, won: int) -> State:
        """Return the outcome by Tango's interval, whose ends have the score 1.96 and -1.96."""
        rows = self._lost.rows
        score = tango_score(min(lost, rows - won), won, rows, self._gate.limit)
        if abs(score) <= NORMAL_95:
            return "undecided"
        return "met" if (score < 0) == (self._gate.compare in ("<=", "<")) else "missed"

    def value(self) -> float:
        return (self._lost.right - self._won.right) / self._lost.seen

    def interval(self) -> tuple[float, float]:
        rows = self._lost.rows
        return (
            (self._lost.low - self._won.high) / rows,
            (self._lost.high - self._won.low) / rows,
        )


class _Watch:
    """A gate, the models whose rows it reads, and how far it has read them."""

    def __init__(self, gate: Gate, places: Sequence[Place]) -> None:
        self.gate = gate
        self.places = places
        self._question: _Question | None = None
        self._next = 0

    def advance(self, rows: Sequence[Rows]) -> Standing | None:
        """Read on as far as all models have answered, or until the gate is decided.

        None where nothing could be read yet.
        """
        total = len(rows[0].outcomes)
        if self._question is None:
            self._question = (_Drop if self.gate.versus else _Share)(self.gate, total)
        state = None
        for row in row_order(total)[self._next :]:
            answers = [answered for r in rows if (answered := r.outcomes[row]) is not None]
            if len(answers) < len(rows) or not self._question.see(answers):
                break
            self._next += 1
            if self._next >= min(LEAST, total) and (state := self._question.state()):
                break
        return self._standing(self._question, state, total) if self._next else None

    def _standing(self, question: _Question, state: State | None, total: int) -> Standing:
        return Standing(
            gate=self.gate.text,
            state=state,
            rows=self._next,
            of=total,
            value=question.value(),
            interval=question.interval(),
            strict=self.gate.strict,
            is_drop=bool(self.gate.versus),
        )


class EarlyGates:
    """The gates of one benchmark, while its rows are asked."""

    def __init__(
        self, target: str, gates: Iterable[Gate], models: Sequence[str], sets: Sequence[str]
    ) -> None:
        self.decisions: list[Standing] = []
        self.running: dict[str, Standing] = {}
        """Gate -> what the rows so far say of it, while it is open."""
        self.later: list[str] = []
        """Gates that need more than the rows of one training: sizes, times, means over seeds."""
        self._open: list[_Watch] = []
        self._rows: dict[Place, Rows] = {}
        for gate in gates:
            if gate.metric not in OF_ROWS or gate.over or gate.command:
                self.later.append(gate.text)
                continue
            model, data = place(target, gate, models, sets, gate.names)
            places = [(model, data)]
            if gate.versus:
                places.append((place(target, gate, models, sets, (gate.versus,))[0], data))
            self._open.append(_Watch(gate, places))

    @property
    def open(self) -> list[str]:
        """The gates that rows will decide, and have not yet."""
        return [watch.gate.text for watch in self._open]

    @property
    def stand(self) -> bool:
        """Whether no further row can change what the gates say together: ship, or not."""
        if any(
            d.state == "missed" or (d.strict and d.state == "undecided") for d in self.decisions
        ):
            return True
        return bool(self.decisions) and not self._open and not self.later

    def needs(self) -> Collection[Place]:
        """Return the models and data sets whose rows open gates read."""
        return {place for watch in self._open for place in watch.places}

    def rows(self, model: str, data: str, count: int) -> Rows:
        """Return the outcomes of a model on a data set of `count` rows, to add to."""
        return self._rows.setdefault((model, data), Rows(outcomes=[None] * count))

    def decide(self) -> list[Standing]:
        """Return what is decided since the last call."""
        decided: list[Standing] = []
        for watch in list(self._open):
            rows = [self._rows[place] for place in watch.places if place in self._rows]
            if len(rows) < len(watch.places) or not rows[0].outcomes:
                continue
            standing = watch.advance(rows)
            if standing and standing.state:
                decided.append(standing)
                self._open.remove(watch)
            elif standing:
                self.running[standing.gate] = standing
        for standing in decided:
            self.running.pop(standing.gate, None)
        self.decisions += decided
        return decided


def outcomes_in(judged: Iterable[Mapping[str, object]]) -> list[list[dict[str, bool]]]:
    """Return the outcomes of each row of each data set, from what a model's judging has stored.

    Raises ValueError for what is no such record.
    """
    sets = [decode(data, DataMetrics) for data in judged]
    return [
        [
            {metric: bool(right(answer)) for metric, right in measured.items()}
            for answer in data.answers
        ]
        for data in sets
        for measured in [{m: f for m, f in YES_OR_NO.items() if data.metric(m) is not None}]
    ]
