"""What a report says, as records: no markup, no reading.

Made by collect.py; page.py, markdown.py and junit.py show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from olivebuild.data import drops
from olivebuild.engine.comparison import Change


@dataclass(frozen=True)
class Value:
    """A figure, with its 95 % interval where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Sample:
    """Raw measurements in seconds, in order of size: what is drawn, and how many there were."""

    values: tuple[float, ...]
    count: int


@dataclass(frozen=True)
class Confusion:
    """`counts[i][j]`: rows of label i that were answered with j."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Label:
    """One label's row of figures."""

    name: str
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Judged:
    """A model on a data set."""

    rows: int
    figures: Mapping[str, Value]
    labels: tuple[Label, ...] = ()
    confusion: Confusion | None = None
    scores: tuple[str, ...] = ()
    """Which of the figures are the user's own."""


@dataclass(frozen=True)
class Model:
    """A row of the benchmark: accuracy by data set, then speed, memory and size."""

    name: str
    sets: Mapping[str, Judged]
    figures: Mapping[str, Value]
    samples: Mapping[str, Sample]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Versus:
    """Two models of one benchmark against each other, and whether it is noise.

    `unit`: points or %.
    """

    model: str
    versus: str
    figure: str
    data: str
    difference: Value
    unit: str
    verdict: str
    p: float | None = None
    detectable: float | None = None
    rows_needed: int | None = None
    """The test rows that a loss of 3 points takes to be seen 9 times in 10."""


@dataclass(frozen=True)
class Reply:
    """What a model answered to a row."""

    text: str
    right: bool


@dataclass(frozen=True)
class Flip:
    """A row on which answers differ; `replies` stand in the order of the columns."""

    number: int
    text: str
    expected: str
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class Move:
    """From one column of answers to the next: the rows that were lost, won, and answered otherwise
    without either.
    """

    old: str
    new: str
    lost: int
    won: int
    other: int


@dataclass(frozen=True)
class Flips:
    """The rows of a data set on which answers differ: between models, or, of one `model`, between
    two builds.
    """

    data: str
    model: str
    columns: tuple[str, ...]
    moves: tuple[Move, ...]
    rows: tuple[Flip, ...]
    """Those on which the last two columns differ, what was lost first."""
    others: tuple[Flip, ...]
    """Some of those on which only earlier columns differ."""
    count: int
    """How many rows any two columns differ on."""
    fresh: int = 0
    """Rows that the earlier build did not ask."""


@dataclass(frozen=True)
class Point:
    """A build in a trend: the figure of each model, and what was edited before it."""

    build: int
    time: str
    values: Mapping[str, float]
    edits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trend:
    """A figure over builds."""

    figure: str
    data: str
    models: tuple[str, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Seeds:
    """A figure of a model over retrainings with other seeds, the recipe's own first."""

    model: str
    data: str
    figure: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Bench:
    target: str
    sets: tuple[str, ...]
    models: tuple[Model, ...]
    baselines: Mapping[str, Mapping[str, float]]
    limits: tuple[tuple[str, str, float], ...]
    """(data set, figure, limit) of the gates that a chart can draw."""
    comparisons: tuple[Versus, ...]
    flips: tuple[Flips, ...]
    """Between models."""
    turned: tuple[Flips, ...]
    """Between the build before and the last one, model by model."""
    since: str
    changes: tuple[Change, ...]
    seeds: tuple[Seeds, ...]
    commands: Mapping[str, Mapping[str, float]]
    """command target -> its figures"""
    trends: tuple[Trend, ...]
    setting: Mapping[str, str]


@dataclass(frozen=True)
class Gate:
    target: str
    text: str
    value: str
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class Contender:
    """A model of the benchmark that a choice is made by.

    `gates`: what each says of it; None for one that can't be chosen.
    """

    model: str
    figures: Mapping[str, float]
    beaten_by: str
    gates: tuple[Gate, ...] | None


@dataclass(frozen=True)
class Choice:
    """Which model stands under a name, and among which."""

    target: str
    bench: str
    by: str
    """The figure by which is chosen."""
    chosen: str
    best: str
    """What the figures would choose now; "" if no model meets all gates."""
    axes: tuple[str, ...]
    """The figures that the front is made of: quality first, then speed and size; only the size
    where models have none in common.
    """
    gates: tuple[str, ...]
    limits: tuple[tuple[str, float], ...]
    """(figure, limit) of the gates that a chart can draw."""
    contenders: tuple[Contender, ...]
    """The best first, those that can't be chosen last."""


@dataclass(frozen=True)
class Curve:
    """Values over training steps, thinned to what a chart can show."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Training:
    target: str
    figures: Mapping[str, str]
    curves: tuple[Curve, ...]
    dropped: str = ""
    """The rows that were dropped or cut, as a line; "" if there are none."""
    failed: str = ""
    """The same of the last run, if it failed."""


@dataclass(frozen=True)
class Edit:
    """A row that was added, removed or changed; `before` or `after` is empty where there is
    none.
    """

    side: str
    before: str
    after: str


@dataclass(frozen=True)
class Drop:
    """Rows that were left out for one reason, and where the first stands.

    `side`: "test" for a file of test rows.
    """

    why: str
    count: int
    first: str
    fault: bool
    side: str = ""


@dataclass(frozen=True)
class DataSet:
    target: str
    figures: Mapping[str, str]
    labels: tuple[tuple[str, int, int], ...]
    """(label, train rows, test rows)"""
    edits: tuple[Edit, ...] = ()
    added: int = 0
    removed: int = 0
    since: int = 0
    """The build before which the last edit was made; 0 if none is known."""
    drops: tuple[Drop, ...] = ()
    dropped: str = ""
    """The drops as a line; "" if there are none."""
    failed: str = ""
    """The same of the last run, if it failed."""


@dataclass(frozen=True)
class Target:
    """A target as it stands, what the last build did with it, and why it was last made."""

    name: str
    kind: str
    verdict: str
    outcome: str
    why: tuple[str, ...]
    inputs: tuple[str, ...]
    key: str
    digest: str
    seconds: float | None
    size: int | None
    peak_rss: int | None
    facts: Mapping[str, str]
    libraries: Mapping[str, str]


@dataclass(frozen=True)
class BuildLine:
    """A build of the history."""

    number: int
    time: str
    ran: int
    restored: int
    fresh: int
    seconds: float
    saved: float
    causes: tuple[str, ...]
    since: str
    missed: tuple[str, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    name: str
    recipe: str
    time: str
    version: str
    python: str
    machine: Mapping[str, str]
    libraries: Mapping[str, str]
    targets: tuple[Target, ...]
    gates: tuple[Gate, ...]
    benches: tuple[Bench, ...]
    choices: tuple[Choice, ...]
    trainings: tuple[Training, ...]
    datasets: tuple[DataSet, ...]
    builds: tuple[BuildLine, ...]
    """The newest first."""

    @property
    def dropped(self) -> list[tuple[str, str]]:
        """(target, what it dropped and cut of its rows), those of a last run that failed, too."""
        found = [(d.target, d.dropped, d.failed) for d in self.datasets] + [
            (t.target, t.dropped, t.failed) for t in self.trainings
        ]
        lines = [
            (target, line)
            for target, dropped, failed in found
            for line in (dropped, failed and f"{drops.FAILED}: {failed}")
        ]
        return [(target, line) for target, line in lines if line]
