"""The metrics of a benchmark: one list of names, titles, units, directions and meanings.

Gates and JSON have a metric's name, tables and pages its title, which is the name in words:
`ttft_p95` is TTFT p95. docs/reference/metrics.md is generated from the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Unit = Literal["share", "seconds", "bytes", "tokens/s", "joules", "number"]
Better = Literal["higher", "lower"]
UNITS: Mapping[Unit, dict[str, float]] = {
    "share": {"%": 0.01},
    "seconds": {"ms": 1e-3, "s": 1.0},
    "bytes": {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "tokens/s": {},
    "joules": {},
    "number": {},
}
"""Unit of a metric -> the units that a gate's limit may have, and what they are worth."""


class Metric(Struct, frozen=True, kw_only=True):
    """A metric: its name in gates and JSON, and how people read it.

    `title` is the name in words. `of_answers`: it is measured on each data set; else it is one of
    the model. `more`, `less`: what a greater and a smaller value are called.
    """

    name: str
    title: str
    unit: Unit
    better: Better
    of_answers: bool
    meaning: str
    more: str = "more"
    less: str = "less"


def _share(name: str, title: str, meaning: str) -> Metric:
    return Metric(
        name=name, title=title, unit="share", better="higher", of_answers=True, meaning=meaning
    )


def _time(name: str, title: str, meaning: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit="seconds",
        better="lower",
        of_answers=False,
        meaning=meaning,
        more="slower",
        less="faster",
    )


def _speed(name: str, title: str, meaning: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit="tokens/s",
        better="higher",
        of_answers=False,
        meaning=meaning,
        more="faster",
        less="slower",
    )


def _cost(name: str, title: str, unit: Unit, meaning: str) -> Metric:
    return Metric(
        name=name, title=title, unit=unit, better="lower", of_answers=False, meaning=meaning
    )


ALL = (
    _share("accuracy", "accuracy", "rows whose likeliest label is right, of a closed set"),
    _share("macro_f1", "macro F1", "F1 of each label, on average over labels"),
    _share(
        "generated_accuracy",
        "generated accuracy",
        "rows whose written answer is right, but for case, white space and punctuation at the ends",
    ),
    _share("exact_match", "exact match", "rows whose written answer is right to the letter"),
    Metric(
        name="perplexity",
        title="perplexity",
        unit="number",
        better="lower",
        of_answers=True,
        meaning="that of the right answers, or of the text",
    ),
    _share("schema_valid", "schema valid", "rows whose answer is valid by `json_schema`"),
    _share("field_exact", "field exact", "fields of the expected JSON that are right"),
    _share("json_exact", "JSON exact", "rows whose JSON is right as a whole"),
    _time("ttft", "TTFT", "time to first token"),
    _time("ttft_p95", "TTFT p95", "its 95th percentile"),
    _time("tpot", "TPOT", "time per output token, after the first"),
    _time("itl_p50", "ITL p50", "inter-token latency: the median gap between tokens"),
    _time("itl_p95", "ITL p95", "its 95th percentile"),
    _time("itl_p99", "ITL p99", "its 99th percentile"),
    _time("e2e", "E2E", "end to end: prompt in, last token out"),
    _speed("tokens_per_second", "tokens per second", "tokens written, 1 / TPOT"),
    _speed("prompt_tokens_per_second", "prompt tokens per second", "tokens of the prompt read"),
    _time("load_seconds", "load", "time to load the model"),
    _cost("peak_rss", "peak RSS", "bytes", "the process's greatest resident memory"),
    _cost("gpu_memory", "GPU memory", "bytes", "the greatest that was allocated on the GPU"),
    _cost("joules", "joules", "joules", "energy of one run, where the machine tells"),
    _cost("joules_per_token", "joules per token", "joules", "the same for each token written"),
    Metric(
        name="size",
        title="size",
        unit="bytes",
        better="lower",
        of_answers=False,
        meaning="the model's files",
        more="larger",
        less="smaller",
    ),
)
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in ALL}


def title(name: str) -> str:
    """Return a metric's title; of a score of the user's own its name in words.

    `hard.accuracy` is accuracy on hard.
    """
    if name in BY_NAME:
        return BY_NAME[name].title
    place, _, metric = name.rpartition(".")
    if metric in BY_NAME and place:
        return f"{BY_NAME[metric].title} on {place}"
    return name.replace("_", " ")


def is_share(name: str) -> bool:
    return name in BY_NAME and BY_NAME[name].unit == "share"
