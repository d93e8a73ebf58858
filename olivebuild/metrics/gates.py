"""Gates: conditions on a benchmark's metrics.

`accuracy >= 0.9`, `merged.accuracy >= 0.9`, `accuracy drop vs merged <= 0.02`.

A gate judges the last model listed and the first data set, unless a name before the metric says
otherwise: `hard.accuracy >= 0.8`, `merged.hard.accuracy >= 0.8`; `evaluate.f1 >= 0.8` judges a
metric of the command target `evaluate`. Times take ms or s, sizes KB, MB or GB. With `seeds`,
`accuracy_mean` and `accuracy_worst` are those over all trainings; so for every other metric of the
answers.

A metric that has an interval at 95 % is judged by it: the gate is met or missed where the whole
interval lies on one side of the limit, and not decided where the limit lies within, since other
rows of the same kind might have said the opposite. What has no interval, such as a size, is judged
by its value. A speed that was measured on a busy machine misses no gate: that is not decided.

`steps/benchmark.py` and `steps/choice.py` have the fields. `Gate.parse` reads them when a recipe is
loaded, `judge` is called by `planner/project.py` after each build; `ui/wording.py` writes what it
says.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from olivebuild.core.errors import BuildError, InvalidValue, RecipeError
from olivebuild.metrics.catalogue import ALL, UNITS
from olivebuild.metrics.pace import RATES, TIMES, busy_machine

if TYPE_CHECKING:
    from olivebuild.metrics.records import DataMetrics, Metrics

_SHARE = UNITS["share"]
METRICS: dict[str, tuple[str, dict[str, float]]] = {m.name: (m.better, UNITS[m.unit]) for m in ALL}
"""metric -> (which way is better, the units that a limit may have)"""
OF_ANSWERS = {m.name: METRICS[m.name] for m in ALL if m.of_answers}
OF_ROWS = ("accuracy", "generated_accuracy", "exact_match", "schema_valid", "json_exact")
"""Metrics that are a share of a data set's rows."""
NORMAL_95 = 1.959963984540054
"""The normal distribution's quantile at 97.5 %."""
Interval = tuple[float, float]
State = Literal["met", "missed", "undecided"]
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_FORM = re.compile(
    r"\s*(?:([a-z0-9_.-]+?)\.)?([a-z][a-z0-9_]*)(?:\s+(drop)\s+vs\s+([a-z0-9][a-z0-9_-]*))?\s*(>=|<=|>|<)\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*([A-Za-z%]*)\s*"
)


class Gate(Struct, frozen=True):
    text: str
    names: tuple[str, ...]
    metric: str
    versus: str
    compare: str
    limit: float
    command: str = ""
    """The command target whose metric this is."""
    strict: bool = False
    over: str = ""
    """`mean` or `worst` of the metric over seeds."""

    @staticmethod
    def parse(
        text: str,
        scores: Collection[str] = (),
        commands: Collection[str] = (),
        *,
        strict: bool = False,
    ) -> Gate:
        """`scores` are the benchmark's own metrics, `commands` the targets whose metrics it shows.

        Raises InvalidValue.
        """
        m = _FORM.fullmatch(text)
        if not m:
            raise InvalidValue(
                f"the gate {text!r} can't be read",
                "write for example 'accuracy >= 0.9' or 'accuracy drop vs merged <= 0.02'",
            )
        command = m[1] if m[1] in commands else ""
        if command and m[4]:
            raise InvalidValue(
                f"the gate {text!r} asks for a drop of what a command measured once",
                "name a figure of the models",
            )
        units_by_metric = {} if command else METRICS | dict.fromkeys(scores, ("higher", _SHARE))
        metric, over = (m[2], "") if command or m[2] in units_by_metric else _over_seeds(m[2])
        if not command and metric not in units_by_metric:
            raise InvalidValue(
                f"the gate {text!r} names an unknown figure {m[2]!r}",
                f"known are {', '.join(units_by_metric)}",
            )
        if over and metric in METRICS and metric not in OF_ANSWERS:
            raise InvalidValue(
                f"the gate {text!r} names {m[2]!r}, but of {metric} there is one only, whatever "
                "the seeds",
                f"write {metric}",
            )
        units = {} if command else units_by_metric[metric][1]
        if m[7] and m[7] not in units:
            raise InvalidValue(
                f"the gate {text!r} has an unknown unit {m[7]!r} for {m[2]}",
                f"known are {', '.join(units) or 'none'}",
            )
        names = tuple(m[1].split(".")) if m[1] else ()
        return Gate(
            text,
            names,
            metric,
            m[4] or "",
            m[5],
            float(m[6]) * units.get(m[7], 1.0),
            command,
            strict,
            over,
        )


def _over_seeds(name: str) -> tuple[str, str]:
    """`accuracy_worst` is ("accuracy", "worst")."""
    metric, _, over = name.rpartition("_")
    return (metric, over) if over in ("mean", "worst") else (name, "")


class Judgement(Struct, frozen=True, kw_only=True):
    """A gate's outcome.

    `value` is the metric, or the drop, that was judged, and `interval` its interval at 95 %, in the
    same direction; `passed` is true where `state` is met. `rows_needed`: about how many rows of the
    data set would decide, if the value stays; None where that can't be told.
    """

    target: str
    gate: str
    value: float
    passed: bool
    state: State
    interval: Interval | None = None
    rows_needed: int | None = None
    strict: bool = False
    """The recipe takes what is not decided for missed."""
    likely: bool = False
    """The value alone would have met the gate."""
    is_drop: bool = False
    why: str = ""
    """Why it is not decided, where more rows would not decide it."""

    @property
    def fails(self) -> bool:
        """Tell whether the build ends with exit code 3."""
        return self.state == "missed" or (self.strict and self.state == "undecided")

    @property
    def may_pass(self) -> bool:
        """Tell whether a search takes the model.

        Of what is not decided the value counts; a drop must be proven to be one.
        """
        if self.strict or not self.is_drop:
            return self.likely
        return self.state != "missed"


def judge(target: str, gates: Iterable[Gate], metrics: Metrics) -> list[Judgement]:
    """Raises RecipeError when a gate names a model or data set that the benchmark does not have."""
    return [_judge(target, gate, metrics) for gate in gates]


def summary(states: Iterable[State]) -> str:
    """Return how many gates have which outcome: `2 met, 1 not decided`."""
    states = list(states)
    counts = [(states.count(state), WORDS[state]) for state in ("met", "missed", "undecided")]
    return ", ".join(f"{count} {word}" for count, word in counts if count)


WORDS: dict[State, str] = {"met": "met", "missed": "missed", "undecided": "not decided"}


def _judge(target: str, gate: Gate, metrics: Metrics) -> Judgement:
    if gate.command:
        return _judgement(target, gate, _metric_of_command(gate, metrics), None, None)
    models = list(metrics.models)
    model, data = place(target, gate, models, metrics.data, gate.names)
    value = _metric(target, gate, metrics, model, data)
    rows = metrics.models[model].data[data].rows or None
    if not gate.versus:
        judged = _judgement(target, gate, value, _interval_of(gate, metrics, model, data), rows)
        return _on_busy_machine(judged, gate, metrics)
    versus, _ = place(target, gate, models, metrics.data, (gate.versus,))
    drop = _metric(target, gate, metrics, versus, data) - value
    # A comparison's rows are those of one training.
    interval = None if gate.over else _interval_of_drop(gate, metrics, model, versus, data)
    if _lower_is_better(gate):
        drop, interval = -drop, interval and (-interval[1], -interval[0])
    return _judgement(target, gate, drop, interval, rows)


def _judgement(
    target: str, gate: Gate, value: float, interval: Interval | None, rows: int | None
) -> Judgement:
    state = state_of(gate, value, interval)
    needed = None
    if state == "undecided" and interval and rows and gate.metric in OF_ANSWERS and not gate.over:
        if gate.metric in OF_ROWS and not gate.versus:
            needed = rows_for_share(value, gate.limit)
        else:
            needed = rows_for(value, interval, gate.limit, rows)
    return Judgement(
        target=target,
        gate=gate.text,
        value=value,
        passed=state == "met",
        state=state,
        interval=interval,
        rows_needed=needed,
        strict=gate.strict,
        likely=state_of(gate, value, None) == "met",
        is_drop=bool(gate.versus),
    )


def state_of(gate: Gate, value: float, interval: Interval | None) -> State:
    """Return a gate's outcome by the interval, or by the value where there is none."""
    compare = _COMPARE[gate.compare]
    ends = [bool(compare(end, gate.limit)) for end in interval or (value,)]
    return "met" if all(ends) else "undecided" if any(ends) else "missed"


def _on_busy_machine(judged: Judgement, gate: Gate, metrics: Metrics) -> Judgement:
    """Return a judgement of a speed as not decided where it may have missed for a busy machine."""
    busy = metrics.latency.busy
    if not busy or gate.metric not in (*TIMES, *RATES) or judged.state == "met":
        return judged
    return structs.replace(judged, state="undecided", why=busy_machine(busy))


def rows_for_share(share: float, limit: float) -> int | None:
    """Return how many rows put Wilson's interval of a share on one side of the limit.

    If the share stays. None for a share at the limit, which no number of rows decides.
    """
    if share == limit:
        return None
    return math.floor(limit * (1 - limit) * (NORMAL_95 / (share - limit)) ** 2) + 1


def rows_for(value: float, interval: Interval, limit: float, rows: int) -> int | None:
    """Return about how many rows would put the whole interval on one side of the limit.

    If the value stays: intervals shrink with the square root of the rows. None for a value at the
    limit, which no number of rows decides.
    """
    if value == limit:
        return None
    reach = value - interval[0] if limit < value else interval[1] - value
    return max(rows + 1, math.ceil(rows * (reach / (value - limit)) ** 2))


def wilson(share: float, rows: int) -> Interval:
    """Return the interval at 95 % of a share of rows (Wilson 1927, JASA 22:209).

    As `statistics.share_interval`, which imports scipy: a build judges gates without that.
    """
    z2 = NORMAL_95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return max(0.0, middle - half), min(1.0, middle + half)


def _lower_is_better(gate: Gate) -> bool:
    return METRICS.get(gate.metric, ("higher", {}))[0] == "lower"


def place(
    target: str, gate: Gate, models: Sequence[str], sets: Sequence[str], names: tuple[str, ...]
) -> tuple[str, str]:
    """Return the model and the data set that the names mean.

    Raises RecipeError for a name of neither.
    """
    model, data = models[-1], sets[0]
    for name in names:
        if name in models:
            model = name
        elif name in sets:
            data = name
        else:
            raise RecipeError(
                f"the gate {gate.text!r} names {name!r}, which {target} does not measure",
                hint=f"it measures {', '.join([*models, *sets])}",
            )
    return model, data


def _metric(target: str, gate: Gate, metrics: Metrics, model: str, data: str) -> float:
    row = metrics.models[model]
    of_data = row.data[data]
    of_model = gate.metric in METRICS and gate.metric not in OF_ANSWERS
    value = (row if of_model else of_data).metric(gate.metric)
    # A model that is not trained is the same for all seeds.
    if gate.over and row.seeds:
        spread = of_data.over_seeds.get(gate.metric)
        value = getattr(spread, gate.over) if spread else None
    if value is None:
        raise BuildError(
            f"the gate {gate.text!r} can't be judged: {target} has no {gate.metric} for {model}",
            hint=_hint(gate.metric),
        )
    return value


def _hint(metric: str) -> str:
    if metric in ("schema_valid", "field_exact", "json_exact"):
        return "is `json_schema` set on the benchmark?"
    return (
        "is `label` set on the data set?"
        if metric in OF_ANSWERS
        else "this machine or model does not tell"
    )


def _metric_of_command(gate: Gate, metrics: Metrics) -> float:
    measured = metrics.commands[gate.command]
    if gate.metric not in measured:
        raise BuildError(
            f"the gate {gate.text!r} can't be judged: {gate.command} measured no {gate.metric}",
            hint=f"it measured {', '.join(measured) or 'nothing'}",
        )
    return float(measured[gate.metric])


def _interval_of(gate: Gate, metrics: Metrics, model: str, data: str) -> Interval | None:
    """Return the interval of a metric; None where it has none."""
    row = metrics.models[model]
    of_data = row.data[data]
    if gate.over and row.seeds:
        spread = of_data.over_seeds.get(gate.metric)
        # The worst of some trainings is what it is.
        return spread.bounds if spread and gate.over == "mean" else None
    if gate.metric in METRICS and gate.metric not in OF_ANSWERS:
        return row.interval(gate.metric)
    return of_data.interval(gate.metric) or _share_interval(gate.metric, of_data)


def _share_interval(metric: str, of_data: DataMetrics) -> Interval | None:
    value = of_data.metric(metric)
    if metric not in OF_ROWS or value is None or not of_data.rows:
        return None
    return wilson(value, of_data.rows)


def share_interval(metric: str, share: float, rows: int) -> Interval:
    """Return the interval of a share of all rows as a benchmark's record will have it."""
    if metric in ("accuracy", "generated_accuracy"):
        low, high = wilson(share, rows)
        return round(low, 6), round(high, 6)
    return wilson(round(share, 6), rows)


def _interval_of_drop(
    gate: Gate, metrics: Metrics, model: str, versus: str, data: str
) -> Interval | None:
    """Return the interval of versus minus model, from the benchmark's comparison.

    Whichever way round it was made; None where it has none.
    """
    for row in metrics.comparisons:
        if row.figure != gate.metric or row.data not in (data, None):
            continue
        if row.bounds and {row.model, row.versus} == {model, versus}:
            low, high = row.bounds
            return (-high, -low) if row.model == model else (low, high)
    return None
