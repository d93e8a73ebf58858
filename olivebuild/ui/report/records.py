"""Records of a report, without markup.

The modules of collect/ make them; those of render/ show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from olivebuild.data import drops
from olivebuild.engine.build_comparison import Change
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.metrics.gates import WORDS, State
from olivebuild.ui.report.decision import Decision


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
    """Names of the metrics that are the user's own scores."""


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
    """A model's answer to a row."""

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
    """Rows lost, won, and otherwise different between two neighbouring columns of answers."""

    old: str
    new: str
    lost: int
    won: int
    other: int


@dataclass(frozen=True)
class Flips:
    """Rows of a data set with different answers, between models or between two builds.

    `model` is the one whose builds are compared, else "".
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
    """Number of rows on which any two columns differ."""
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
    """A benchmark: its models, comparisons, flips and trends."""

    target: str
    sets: tuple[str, ...]
    models: tuple[Model, ...]
    baselines: Mapping[str, Mapping[str, float]]
    limits: tuple[tuple[str, str, float], ...]
    """(data set, figure, limit) of the gates that a chart can draw."""
    against: tuple[str, ...]
    """The models that gates compare with."""
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
    """A judgement of a gate, in words."""

    target: str
    text: str
    value: str
    passed: bool
    state: State
    fails: bool
    """The build ends with exit code 3."""
    interval: tuple[float, float] | None = None
    rows_needed: int | None = None
    note: str = ""

    @property
    def word(self) -> str:
        return WORDS[self.state]


@dataclass(frozen=True)
class Contender:
    """A model of the benchmark that a choice is made by.

    `gates`: the judgement of each; None for a model that can't be chosen.
    """

    model: str
    figures: Mapping[str, float]
    beaten_by: str
    gates: tuple[Gate, ...] | None


@dataclass(frozen=True)
class Choice:
    """A choice: the chosen model and its contenders."""

    target: str
    bench: str
    by: str
    """The metric that the choice maximises or minimises."""
    chosen: str
    best: str
    """The model that the metrics would choose now; "" if none meets all gates."""
    axes: tuple[str, ...]
    """Metrics of the Pareto front: quality, speed, size; the size alone without common metrics."""
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
    """The last training of an adapter."""

    target: str
    figures: Mapping[str, str]
    curves: tuple[Curve, ...]
    dropped: str = ""
    """The rows that were dropped or cut, as a line; "" if there are none."""
    failed: str = ""
    """The same of the last run, if it failed."""


@dataclass(frozen=True)
class Edit:
    """A row that was added (`before` is empty), removed (`after` is empty) or changed."""

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
    """A data set: its counts, labels, last edits and dropped rows."""

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
    """A target: its verdict, what the last build did with it, and its reasons."""

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
    gates: str = ""
    """How many gates had which outcome: `2 met, 1 not decided`."""
    folder: str = ""
    """The name of the folder it was built in, if that is another one."""


@dataclass(frozen=True)
class Report:
    """All records of a report."""

    name: str
    recipe: str
    time: str
    version: str
    python: str
    machine: Mapping[str, str]
    libraries: Mapping[str, str]
    targets: tuple[Target, ...]
    decision: Decision
    diagnostics: tuple[Diagnostic, ...]
    """What a colleague would say of the results, errors first."""
    gates: tuple[Gate, ...]
    benches: tuple[Bench, ...]
    choices: tuple[Choice, ...]
    trainings: tuple[Training, ...]
    datasets: tuple[DataSet, ...]
    builds: tuple[BuildLine, ...]
    """The newest first."""

    @property
    def last(self) -> BuildLine | None:
        """The last build of this folder; after a move the last of any."""
        here = (build for build in self.builds if not build.folder)
        return next(here, self.builds[0] if self.builds else None)

    @property
    def dropped(self) -> list[tuple[str, str]]:
        """Return (target, dropped and cut rows as a line), also of last runs that failed."""
        lines = []
        records: list[DataSet | Training] = [*self.datasets, *self.trainings]
        for record in records:
            if record.dropped:
                lines.append((record.target, record.dropped))
            if record.failed:
                lines.append((record.target, f"{drops.FAILED}: {record.failed}"))
        return lines
