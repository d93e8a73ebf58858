"""The results of a benchmark (`metrics.json`, and the same in its trace) as records.

The classes are the schema of the file. Every key may be missing: an older version did not write
it, or the machine could not measure it (then it may be null). Keys that this version does not know
are kept in `extra`. Times are in seconds, sizes in bytes, shares from 0 to 1. An interval is
`[low, high]` at 95 %; it is null or empty where there are too few samples for one.

Traces and files keep the JSON as it was written; a record is read from it and never written back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from olivebuild.core.errors import StoreError
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.metrics.json_record import Record, decode, is_number, pair

T = TypeVar("T")
Interval = tuple[float | None, ...]


class MetricSet(Record, frozen=True, kw_only=True):
    """An object that holds metrics by name."""

    def metric(self, name: str) -> float | None:
        """Return a metric by its name; None where it was not measured."""
        value = self.get(name)
        return float(value) if is_number(value) else None

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the interval of a metric; None where there is none."""
        return pair(self.get(f"{name}_interval"))

    def deviation(self, name: str) -> float | None:
        """Return the standard deviation of a metric over seeds; None where there is none."""
        return None


class Answer(Record, frozen=True, kw_only=True):
    """A model's answer to a test row: the likeliest `label`, and the `text` that it wrote.

    `right` and `exact` compare the text with the expected one, in its words or to the letter. `nll`
    is the negative log-likelihood of the right answer in nats, over `tokens` tokens.
    """

    expected: str | None = None
    label: str | None = None
    text: str | None = None
    right: bool | None = None
    exact: bool | None = None
    nll: float = 0.0
    tokens: int = 0
    schema_valid: bool | None = None
    field_exact: float | None = None
    json_exact: bool | None = None
    scores: dict[str, float] = {}


YES_OR_NO: Mapping[str, Callable[[Answer], bool | None]] = {
    "accuracy": lambda a: a.label == a.expected,
    "generated_accuracy": lambda a: a.right,
    "exact_match": lambda a: a.exact,
    "schema_valid": lambda a: a.schema_valid,
    "json_exact": lambda a: a.json_exact,
}
"""Metric -> whether an answer is right, for the metrics that are a share of rows."""


class LabelMetrics(Record, frozen=True, kw_only=True):
    """A label's row of the classification report."""

    rows: int = 0
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


class ConfusionMatrix(Record, frozen=True, kw_only=True):
    """`counts[i][j]` rows of label i were answered with label j."""

    labels: tuple[str, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()


class JsonFieldMetrics(Record, frozen=True, kw_only=True):
    """The share of rows in which a field of the JSON answer is right."""

    rows: int = 0
    exact: float | None = None


class DateMetrics(Record, frozen=True, kw_only=True):
    """Answers that change when the chat template writes another date."""

    rows: int = 0
    changed: int = 0


class SeedStatistics(Record, frozen=True, kw_only=True):
    """A metric over trainings with different seeds; `values` begins with the recipe's own seed."""

    mean: float | None = None
    interval: Interval | None = None
    deviation: float | None = None
    worst: float | None = None
    values: tuple[float | None, ...] = ()

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval of the mean, if there is one."""
        return pair(self.interval)


class DataMetrics(MetricSet, frozen=True, kw_only=True):
    """A model (or a baseline) on a data set.

    `accuracy` is by the likelihood of each label, where labels are a closed set;
    `generated_accuracy` by what the model writes, but for case, white space and punctuation at the
    ends; `exact_match` to the letter. `perplexity` is that of the right answers, or of the text,
    over `tokens` tokens. `field_exact` is a share of expected fields, the others of rows. `scores`
    has the mean of each function of the user's own; `answers` an answer to each test row.
    """

    rows: int = 0
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    macro_f1: float | None = None
    labels: dict[str, LabelMetrics] = {}
    confusion: ConfusionMatrix | None = None
    generated_accuracy: float | None = None
    generated_accuracy_interval: Interval | None = None
    exact_match: float | None = None
    perplexity: float | None = None
    tokens: int | None = None
    schema_valid: float | None = None
    field_exact: float | None = None
    json_exact: float | None = None
    fields: dict[str, JsonFieldMetrics] = {}
    scores: dict[str, float | None] = {}
    answers: tuple[Answer, ...] = ()
    other_dates: dict[str, DateMetrics] = {}
    over_seeds: dict[str, SeedStatistics] = {}

    def metric(self, name: str) -> float | None:
        """Return a metric, or a score of the user's own, by its name; None where it is missing."""
        return self.scores[name] if name in self.scores else super().metric(name)

    def deviation(self, name: str) -> float | None:
        return self.over_seeds[name].deviation if name in self.over_seeds else None


class SeedMetrics(Record, frozen=True, kw_only=True):
    """The same model, trained with another seed; its data sets are without answers."""

    seed: int = 0
    data: dict[str, DataMetrics] = {}


class CheckMetrics(Record, frozen=True, kw_only=True):
    """Distance of a converted model's logits from those of what it was made from.

    `max` is the greatest difference; `rms` the root mean square in units of the logits' spread;
    `top1_agreement` the share of tokens of which both find the same likeliest.
    """

    max: float | None = None
    rms: float | None = None
    top1_agreement: float | None = None
    rows: int | None = None
    prompts: int | None = None
    adapter_effect: float | None = None


class LayerSensitivity(Record, frozen=True, kw_only=True):
    """Layers in 8 bits instead of 4: their share of the distance that is left, and bytes more.

    `layers` are patterns as an ONNX target's `overrides` has them.
    """

    layers: tuple[str, ...] = ()
    left: float = 1.0
    bytes: int = 0


class SensitivityMetrics(Record, frozen=True, kw_only=True):
    """Layers whose 8 bits would mend int4, measured where int4 loses more than noise.

    `rms` is the distance of the rounded model's logits from the source's, at the answers of `rows`
    rows. `groups` are kept in 8 bits one by one; `chosen` together. Empty where nothing was lost.
    """

    data: str = ""
    rows: int = 0
    rms: float | None = None
    groups: tuple[LayerSensitivity, ...] = ()
    chosen: LayerSensitivity | None = None
    why_not: str = ""


class Samples(Record, frozen=True, kw_only=True):
    """Raw times, a value a round; of `gaps` between tokens, `new_tokens` - 1 values a round."""

    ttft: tuple[float, ...] = ()
    tpot: tuple[float, ...] = ()
    e2e: tuple[float, ...] = ()
    gaps: tuple[float, ...] = ()


class ModelMetrics(MetricSet, frozen=True, kw_only=True):
    """A model of the benchmark: accuracy by data set, then speed, memory, energy and size.

    `ttft` is the time to the first token; `tpot` the time per token after it, and
    `tokens_per_second` its inverse; `itl_*` percentiles of the gaps between tokens; `joules` the
    energy of one run, where the machine tells. An adapter that no merge holds is not timed.
    `same_structure_as` names the model whose times these are.
    """

    data: dict[str, DataMetrics] = {}
    load_seconds: float | None = None
    threads: int | None = None
    provider: str | None = None
    ttft: float | None = None
    ttft_interval: Interval | None = None
    ttft_p95: float | None = None
    tpot: float | None = None
    tpot_interval: Interval | None = None
    e2e: float | None = None
    e2e_interval: Interval | None = None
    prompt_tokens_per_second: float | None = None
    tokens_per_second: float | None = None
    peak_rss: float | None = None
    gpu_memory: float | None = None
    joules: float | None = None
    joules_per_token: float | None = None
    size: float | None = None
    itl_p50: float | None = None
    itl_p95: float | None = None
    itl_p99: float | None = None
    samples: Samples = Samples()
    same_structure_as: str | None = None
    check: CheckMetrics | None = None
    sensitivity: SensitivityMetrics | None = None
    seeds: tuple[SeedMetrics, ...] = ()


class PairedComparison(Record, frozen=True, kw_only=True):
    """Two models on the same rows, or in the same rounds: `difference` is model minus versus.

    `data` is None for latency. `verdict` is better, worse or noise, at 99 %. `lost` and `won` count
    the rows that only `versus`, only `model` got right, of yes-or-no metrics. `detectable` is the
    loss that these rows would show 9 times in 10; `rows_needed` maps a loss to the rows that it
    would need. `ratio` is model / versus, of latency.
    """

    model: str
    versus: str
    figure: str
    """The metric, by the name of its JSON key."""
    data: str | None = None
    difference: float = 0.0
    interval: Interval | None = None
    verdict: str = ""
    p: float | None = None
    lost: int | None = None
    won: int | None = None
    detectable: float | None = None
    rows_needed: dict[str, int | None] = {}
    ratio: float | None = None
    ratio_interval: Interval | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval, if there is one."""
        return pair(self.interval)

    @property
    def ratio_bounds(self) -> tuple[float, float] | None:
        """The interval of the ratio, if there is one."""
        return pair(self.ratio_interval)


class ControlMetrics(Record, frozen=True, kw_only=True):
    """A fixed piece of work that took turns with the models; its times are medians over rounds.

    `stretch` is the time by the clock over processor time: 1 on a machine that does nothing else.
    """

    kernel: str | None = None
    threads: int | None = None
    seconds: float | None = None
    seconds_interval: Interval | None = None
    stretch: float | None = None
    gpu_seconds: float | None = None


class Latency(Record, frozen=True, kw_only=True):
    """Conditions of a latency measurement.

    `interleaved` says that models took turns in every round. `measured_at` is the time in UTC: a
    measurement stands until a structure changes. `busy` is how many times as long the control took
    on a machine that did something else; null where it did not.
    """

    prompt_tokens: int | None = None
    new_tokens: int | None = None
    warmup: int | None = None
    rounds: int | None = None
    rounds_left_out: int | None = None
    interleaved: bool | None = None
    why_stopped: str | None = None
    measured_at: str | None = None
    control: ControlMetrics | None = None
    busy: float | None = None
    machine: dict[str, str] = {}


class ParetoFront(Record, frozen=True, kw_only=True):
    """The models that no other beats; `beaten_by` maps each other model to one that does.

    `quality` (on the data set `data`) and `speed` name the metrics that were compared, beside the
    size.
    """

    quality: str = ""
    data: str = ""
    speed: str = ""
    front: tuple[str, ...] = ()
    beaten_by: dict[str, str] = {}


class Metrics(Record, frozen=True, kw_only=True):
    """The results of a benchmark.

    `models` are in the recipe's order, `data` has the data set first that gates mean.

    `baselines` maps a classical classifier to its data sets; `commands` a command target to its
    metrics.
    """

    models: dict[str, ModelMetrics] = {}
    data: tuple[str, ...] = ()
    comparisons: tuple[PairedComparison, ...] = ()
    latency: Latency = Latency()
    pareto: ParetoFront | None = None
    baselines: dict[str, dict[str, DataMetrics]] = {}
    commands: dict[str, dict[str, bool | int | float]] = {}
    diagnostics: tuple[Diagnostic, ...] = ()
    """Of answers and test rows; those of trainings and data sets are judged from their traces."""

    @property
    def score_names(self) -> set[str]:
        """The names of the user's own scores."""
        rows = [row for model in self.models.values() for row in model.data.values()]
        return {name for row in rows for name in row.scores}


class ChoiceMetrics(Record, frozen=True, kw_only=True):
    """The model that was chosen, by which metric and value, among which that passed."""

    chosen: str = ""
    by: str = ""
    value: float | None = None
    passing: tuple[str, ...] = ()
    pareto: ParetoFront | None = None


def read_metrics(metrics: Mapping[str, Any], target: str) -> Metrics:
    """Return a benchmark's metrics. Raises StoreError: a cache may come from elsewhere."""
    return _read(metrics, Metrics, target)


def read_choice(metrics: Mapping[str, Any], target: str) -> ChoiceMetrics:
    """Return a choice's metrics. Raises StoreError."""
    return _read(metrics, ChoiceMetrics, target)


def _read(metrics: Mapping[str, Any], kind: type[T], target: str) -> T:
    try:
        return decode(metrics, kind)
    except ValueError as e:
        raise StoreError(
            f"the metrics of {target} can't be read: {e}",
            hint="did another program write them? OLIVEBUILD_CACHE names another cache",
            target=target,
        ) from None
