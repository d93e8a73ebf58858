"""Gates: conditions on a benchmark's metrics.

`accuracy >= 0.9`, `merged.accuracy >= 0.9`, `accuracy drop vs merged <= 0.02`.

A gate judges the last model listed and the first data set, unless a name before the metric says
otherwise: `hard.accuracy >= 0.8`, `merged.hard.accuracy >= 0.8`; `evaluate.f1 >= 0.8` judges a
metric of the command target `evaluate`. Times take ms or s, sizes KB, MB or GB. With `seeds`,
`accuracy_mean` and `accuracy_worst` are those over all trainings; so for every other metric of the
answers.

A drop is judged by its interval where the benchmark has one: only a drop that is more than noise
misses its gate, unless it is strict.

`steps/benchmark.py` and `steps/choice.py` have the fields. `Gate.parse` reads them when a recipe is
loaded, `judge` is called by `planner/project.py` after each build; `ui/wording.py` writes what it
says.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from olivebuild.core.errors import BuildError, InvalidValue, RecipeError

if TYPE_CHECKING:
    from olivebuild.metrics.records import Metrics

_TIME = {"ms": 1e-3, "s": 1.0}
_SIZE = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SHARE = {"%": 0.01}
# metric -> (which way is better, its units)
OF_ANSWERS: dict[str, tuple[str, dict[str, float]]] = {
    "accuracy": ("higher", _SHARE),
    "macro_f1": ("higher", _SHARE),
    "generated_accuracy": ("higher", _SHARE),
    "exact_match": ("higher", _SHARE),
    "perplexity": ("lower", {}),
    "schema_valid": ("higher", _SHARE),
    "field_exact": ("higher", _SHARE),
    "json_exact": ("higher", _SHARE),
}
METRICS: dict[str, tuple[str, dict[str, float]]] = OF_ANSWERS | {
    "ttft": ("lower", _TIME),
    "ttft_p95": ("lower", _TIME),
    "tpot": ("lower", _TIME),
    "itl_p50": ("lower", _TIME),
    "itl_p95": ("lower", _TIME),
    "itl_p99": ("lower", _TIME),
    "e2e": ("lower", _TIME),
    "tokens_per_second": ("higher", {}),
    "prompt_tokens_per_second": ("higher", {}),
    "load_seconds": ("lower", _TIME),
    "peak_rss": ("lower", _SIZE),
    "gpu_memory": ("lower", _SIZE),
    "joules": ("lower", {}),
    "joules_per_token": ("lower", {}),
    "size": ("lower", _SIZE),
}
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


class Judgement(Struct, frozen=True):
    """A gate's outcome.

    `value` is the metric, or the drop, that was judged; `interval` the drop's, in the same
    direction.

    `noise`: the value alone would have missed the gate, and its interval says that this may be
    chance.
    """

    target: str
    gate: str
    value: float
    passed: bool
    interval: tuple[float, float] | None = None
    noise: bool = False


def judge(target: str, gates: Iterable[Gate], metrics: Metrics) -> list[Judgement]:
    """Raises RecipeError when a gate names a model or data set that the benchmark does not have."""
    return [_judge(target, gate, metrics) for gate in gates]


def _judge(target: str, gate: Gate, metrics: Metrics) -> Judgement:
    compare = _COMPARE[gate.compare]
    if gate.command:
        value = _metric_of_command(gate, metrics)
        return Judgement(target, gate.text, value, bool(compare(value, gate.limit)))
    model, data = _place(target, gate, metrics, gate.names)
    value = _metric(target, gate, metrics, model, data)
    if not gate.versus:
        return Judgement(target, gate.text, value, bool(compare(value, gate.limit)))
    versus, _ = _place(target, gate, metrics, (gate.versus,))
    drop = _metric(target, gate, metrics, versus, data) - value
    # A comparison's rows are those of one training.
    interval = None if gate.over else _interval(gate, metrics, model, versus, data)
    if _lower_is_better(gate):
        drop, interval = -drop, interval and (-interval[1], -interval[0])
    passed = bool(compare(drop, gate.limit))
    # Only an interval that lies on the wrong side as a whole says that the drop is there.
    noise = (
        not passed
        and not gate.strict
        and interval is not None
        and any(compare(end, gate.limit) for end in interval)
    )
    return Judgement(target, gate.text, drop, passed or noise, interval, noise)


def _lower_is_better(gate: Gate) -> bool:
    return METRICS.get(gate.metric, ("higher", {}))[0] == "lower"


def _place(target: str, gate: Gate, metrics: Metrics, names: tuple[str, ...]) -> tuple[str, str]:
    """Return the model and the data set that the names mean."""
    model, data = list(metrics.models)[-1], metrics.data[0]
    for name in names:
        if name in metrics.models:
            model = name
        elif name in metrics.data:
            data = name
        else:
            measured = ", ".join([*metrics.models, *metrics.data])
            raise RecipeError(
                f"the gate {gate.text!r} names {name!r}, which {target} does not measure",
                hint=f"it measures {measured}",
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


def _interval(
    gate: Gate, metrics: Metrics, model: str, versus: str, data: str
) -> tuple[float, float] | None:
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
