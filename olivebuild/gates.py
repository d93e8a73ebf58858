"""Gates: conditions on a benchmark's figures. `accuracy >= 0.9`, `merged.accuracy >= 0.9`, `accuracy drop vs merged <= 0.02`.

A gate judges the last model listed and the first data set, unless a name before the figure says otherwise:
`hard.accuracy >= 0.8`, `merged.hard.accuracy >= 0.8`. Times take ms or s, sizes KB, MB or GB.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from olivebuild.errors import BuildError, RecipeError

_TIME = {"ms": 1e-3, "s": 1.0}
_SIZE = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SHARE = {"%": 0.01}
# figure -> (which way is better, its units)
FIGURES: dict[str, tuple[str, dict[str, float]]] = {
    "accuracy": ("higher", _SHARE),
    "generated_accuracy": ("higher", _SHARE),
    "ttft": ("lower", _TIME),
    "ttft_p95": ("lower", _TIME),
    "tokens_per_second": ("higher", {}),
    "load_seconds": ("lower", _TIME),
    "peak_rss": ("lower", _SIZE),
    "size": ("lower", _SIZE),
}
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_FORM = re.compile(
    r"\s*(?:([a-z0-9_.-]+?)\.)?([a-z][a-z0-9_]*)(?:\s+(drop)\s+vs\s+([a-z0-9][a-z0-9_-]*))?\s*(>=|<=|>|<)\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*([A-Za-z%]*)\s*"
)


@dataclass(frozen=True)
class Gate:
    text: str
    names: tuple[str, ...]
    figure: str
    versus: str
    compare: str
    limit: float

    @staticmethod
    def parse(text: str) -> Gate:
        """Raises ValueError with what is wrong."""
        m = _FORM.fullmatch(text)
        if not m:
            raise ValueError(f"the gate {text!r} can't be read; write for example 'accuracy >= 0.9' or 'accuracy drop vs merged <= 0.02'")
        if m[2] not in FIGURES:
            raise ValueError(f"the gate {text!r} names an unknown figure {m[2]!r}; known are {', '.join(FIGURES)}")
        units = FIGURES[m[2]][1]
        if m[7] and m[7] not in units:
            raise ValueError(f"the gate {text!r} has an unknown unit {m[7]!r} for {m[2]}; known are {', '.join(units) or 'none'}")
        return Gate(text, tuple(m[1].split(".")) if m[1] else (), m[2], m[4] or "", m[5], float(m[6]) * units.get(m[7], 1.0))


@dataclass(frozen=True)
class Judgement:
    """A gate's outcome. `value` is the figure, or the drop, that was judged."""

    target: str
    gate: str
    value: float
    passed: bool


def judge(target: str, gates: list[str], metrics: Mapping[str, Any]) -> list[Judgement]:
    """Raises RecipeError when a gate names a model or data set that the benchmark does not have."""
    result = []
    for text in gates:
        gate = Gate.parse(text)
        value = _figure(target, gate, metrics, gate.names)
        if gate.versus:
            value = _figure(target, gate, metrics, (gate.versus, *(n for n in gate.names if n in metrics["data"]))) - value
            value = -value if FIGURES[gate.figure][0] == "lower" else value
        result.append(Judgement(target, text, value, bool(_COMPARE[gate.compare](value, gate.limit))))
    return result


def _figure(target: str, gate: Gate, metrics: Mapping[str, Any], names: tuple[str, ...]) -> float:
    model, data = list(metrics["models"])[-1], metrics["data"][0]
    for name in names:
        if name in metrics["models"]:
            model = name
        elif name in metrics["data"]:
            data = name
        else:
            known = ", ".join([*metrics["models"], *metrics["data"]])
            raise RecipeError(f"the gate {gate.text!r} names {name!r}, which {target} does not measure", hint=f"it measures {known}")
    row = metrics["models"][model]
    value = row["data"][data].get(gate.figure) if gate.figure.endswith("accuracy") else row.get(gate.figure)
    if value is None:
        raise BuildError(f"the gate {gate.text!r} can't be judged: {target} has no {gate.figure} for {model}", hint="is `label` set on the data set?")
    return float(value)
