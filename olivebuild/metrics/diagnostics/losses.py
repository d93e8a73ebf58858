"""Diagnostics of a model beside others: worse than its source, a baseline, the commonest label.

All are paired on the same rows. A test's level is corrected for the number of them, so that of a
hundred benchmarks of equals at most five get a diagnostic of one code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from olivebuild.core.text import size
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic, Figures
from olivebuild.metrics.diagnostics.labels import quoted
from olivebuild.metrics.diagnostics.lineage import Lineages
from olivebuild.metrics.records import YES_OR_NO, DataMetrics, Metrics, SensitivityMetrics
from olivebuild.metrics.statistics import CLEAR, Difference, Verdict, paired_means, paired_shares

FALSE_ALARMS = 0.05
QUALITIES = ("accuracy", "json_exact", "generated_accuracy")
"""Metrics by how much they say of an answer; the first that both models have is compared."""
MORE_PERPLEXITY = 0.02
"""Texts have so many tokens that any rounding of weights shows in their likelihood: less than this
share more of perplexity is not worth telling.
"""
NAMES = {"accuracy": "accuracy", "json_exact": "JSON right", "generated_accuracy": "answers right"}


@dataclass(frozen=True)
class Loss:
    """A model against another on a data set: both values, their difference, and the metric."""

    metric: str
    value: float
    against: float
    difference: Difference

    def is_sure(self, tests: int) -> bool:
        """Return whether it is a loss, of so many that were tested.

        Levels are of two sides, and only one is a loss.
        """
        p = self.difference.p
        if p is None or self.difference.verdict is not Verdict.WORSE:
            return False
        worth = self.metric != "perplexity" or self.value > (1 + MORE_PERPLEXITY) * self.against
        return worth and p < min(1 - CLEAR, 2 * FALSE_ALARMS / max(1, tests))

    @property
    def words(self) -> str:
        """`accuracy 61.0 % (22 rows lost, 3 won) against 83.2 %`."""
        if self.metric == "perplexity":
            return f"perplexity {self.value:.4g} against {self.against:.4g}"
        lost, won = self.difference.lost, self.difference.won
        name = NAMES[self.metric]
        return (
            f"{name} {self.value * 100:.1f} % ({lost} rows lost, {won} won) against "
            f"{self.against * 100:.1f} %"
        )

    def figures(self, versus: str) -> Figures:
        figures: Figures = {"figure": self.metric, "versus": versus}
        figures |= {"value": round(self.value, 6), "against": round(self.against, 6)}
        interval, p = self.difference.interval, self.difference.p
        if interval:
            figures |= {"difference_low": round(interval[0], 6)}
            figures |= {"difference_high": round(interval[1], 6)}
        return figures | {"p": None if p is None else float(f"{p:.3g}")}


def against_sources(metrics: Metrics, lineages: Lineages) -> Iterator[Diagnostic]:
    """Yield the diagnostics of models that are worse than the one that they were made from."""
    pairs = [
        (name, lineages[name].source)
        for name in metrics.models
        if name in lineages and lineages[name].source in metrics.models
    ]
    losses = [
        (name, source, data, loss)
        for name, source in pairs
        for data in metrics.data
        if (loss := loss_of(metrics, name, source, data))
    ]
    # What training changes and what rounding changes are told by codes of their own.
    for precision in (False, True):
        kind = [row for row in losses if bool(lineages[row[0]].precision) is precision]
        for name, source, data, loss in kind:
            if loss.is_sure(len(kind)):
                told = _worse_than_source(name, source, data, loss, lineages[name].precision)
                yield _mended(told, metrics.models[name].sensitivity)


def loss_of(metrics: Metrics, model: str, versus: str, data: str) -> Loss | None:
    """Return one model against another on a data set, by the metric that says most; else None."""
    first, second = metrics.models[model].data.get(data), metrics.models[versus].data.get(data)
    return loss_between(first, second) if first and second else None


def loss_between(first: DataMetrics, second: DataMetrics) -> Loss | None:
    """Return the first of two models on the same rows against the second; else None."""
    if not first.rows or first.rows != second.rows:
        return None
    for metric in QUALITIES:
        if (value := first.metric(metric)) is not None:
            against, right = second.metric(metric), YES_OR_NO[metric]
            if against is None:
                continue
            shares = [[bool(right(a)) for a in row.answers] for row in (first, second)]
            return Loss(metric, value, against, paired_shares(*shares))
    return _perplexity(first, second)


def _perplexity(first: DataMetrics, second: DataMetrics) -> Loss | None:
    """Compare the likelihoods of texts; None where they are of other tokens."""
    if first.perplexity is None or second.perplexity is None:
        return None
    if [a.tokens for a in first.answers] != [a.tokens for a in second.answers]:
        return None
    nll = [[a.nll for a in row.answers] for row in (first, second)]
    difference = paired_means(*nll, higher_is_better=False)
    return Loss("perplexity", first.perplexity, second.perplexity, difference)


def _worse_than_source(
    model: str, source: str, data: str, loss: Loss, precision: str
) -> Diagnostic:
    text = f"{model} is worse than {source}, which it was made from, on {data}: {loss.words}"
    hint = "was it trained too long or at too high a rate, or is it asked otherwise than trained?"
    if precision:
        text = f"{model} loses more than noise by {precision} on {data}: {loss.words} of {source}"
        hint = "keep some layers in 8 bits (`overrides`), or a smaller `block_size`"
    return Diagnostic(
        code="quantisation-loss" if precision else "worse-than-source",
        severity="warning" if precision else "error",
        text=text,
        hint=hint,
        target=model,
        model=model,
        data=data,
        figures=loss.figures(source),
    )


def _mended(diagnostic: Diagnostic, measured: SensitivityMetrics | None) -> Diagnostic:
    """Return a loss of int4 with the layers whose 8 bits would mend it, where that was measured."""
    if diagnostic.code != "quantisation-loss" or not measured or not measured.chosen:
        return diagnostic
    chosen = measured.chosen
    overrides = ", ".join(f'"{layer}": int8' for layer in chosen.layers)
    hint = (
        f"8 bits for some layers leave {chosen.left * 100:.0f} % of its distance from its source, "
        f"for {size(chosen.bytes)} more (measured on {measured.rows} rows): "
        f"overrides: {{{overrides}}}"
    )
    figures: Figures = {
        "layers": ", ".join(chosen.layers),
        "left": chosen.left,
        "bytes": chosen.bytes,
    }
    return replace(diagnostic, hint=hint, figures=diagnostic.figures | figures)


def against_baselines(metrics: Metrics, models: Sequence[str]) -> Iterator[Diagnostic]:
    """Yield the diagnostics of models that are worse than a classifier of words, or one label."""
    losses: dict[str, list[tuple[str, str, str, Loss]]] = {}
    for model in models:
        for data in metrics.data:
            for code, versus, loss in _simple(metrics, model, data):
                losses.setdefault(code, []).append((model, data, versus, loss))
    for code, rows in losses.items():
        for model, data, versus, loss in rows:
            if loss.is_sure(len(rows)):
                yield _worse_than_simple(code, model, data, versus, loss)


def _simple(metrics: Metrics, model: str, data: str) -> Iterator[tuple[str, str, Loss]]:
    """Yield (code, name, loss) of what needs no language model; the best classifier alone."""
    judged = metrics.models[model].data.get(data)
    if judged is None or judged.accuracy is None or not judged.answers:
        return
    right = [a.label == a.expected for a in judged.answers]
    baselines: Mapping[str, DataMetrics | None] = {
        name: rows.get(data) for name, rows in metrics.baselines.items()
    }
    best = max(
        ((row.accuracy, name) for name, row in baselines.items() if row and row.accuracy),
        default=(0.0, ""),
    )[1]
    row = baselines.get(best)
    if row and row.accuracy is not None and len(row.answers) == len(right):
        difference = paired_shares(right, [a.label == a.expected for a in row.answers])
        loss = Loss("accuracy", judged.accuracy, row.accuracy, difference)
        yield "worse-than-baseline", best, loss
    label, count = Counter(a.expected or "" for a in judged.answers).most_common(1)[0]
    commonest = [a.expected == label for a in judged.answers]
    loss = Loss("accuracy", judged.accuracy, count / len(right), paired_shares(right, commonest))
    yield "worse-than-majority", label, loss


def _worse_than_simple(code: str, model: str, data: str, versus: str, loss: Loss) -> Diagnostic:
    what = versus if code == "worse-than-baseline" else f"answering {quoted(versus)} to every row"
    return Diagnostic(
        code=code,
        severity="error",
        text=f"{model} is worse than {what} on {data}: {loss.words}",
        hint="a language model that is worse than this need not be shipped",
        target=model,
        model=model,
        data=data,
        figures=loss.figures(versus),
    )
