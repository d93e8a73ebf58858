"""All diagnostics of a benchmark's own measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from olivebuild.metrics.diagnostics.diagnostic import Diagnostic, ordered
from olivebuild.metrics.diagnostics.labels import FALSE_ALARMS, joined, of_answers
from olivebuild.metrics.diagnostics.lineage import Lineages, ancestors, judged_of
from olivebuild.metrics.diagnostics.losses import against_baselines, against_sources
from olivebuild.metrics.diagnostics.overlaps import Overlap, of_overlaps
from olivebuild.metrics.records import Metrics

OF_ONE_MODEL = {"one-label", "one-answer", "swapped-labels"}
OF_ONE_MODEL |= {"worse-than-baseline", "worse-than-majority"}
"""Codes that what is made from a model has from it."""
WORSE = ("worse-than-majority", "worse-than-baseline", "worse-than-source")
IMPLIES = dict.fromkeys(("one-label", "one-answer", "swapped-labels"), WORSE)
"""code -> those that say less of the same answers."""


def of_benchmark(
    metrics: Metrics, benchmark: str, lineages: Lineages, overlaps: Sequence[Overlap] = ()
) -> tuple[Diagnostic, ...]:
    """Return the diagnostics of a benchmark, errors first."""
    models = judged_of(metrics.models, lineages)
    level = FALSE_ALARMS / max(1, len(models) * len(metrics.data))
    diagnostics = [
        diagnostic
        for model in models
        for data in metrics.data
        if data in metrics.models[model].data
        for diagnostic in of_answers(model, data, metrics.models[model].data[data], level)
    ]
    diagnostics += against_sources(metrics, lineages)
    diagnostics += against_baselines(metrics, models)
    diagnostics = _inherited_once(_telling(diagnostics), lineages)
    diagnostics += of_overlaps(metrics, lineages, overlaps)
    return ordered(replace(diagnostic, benchmark=benchmark) for diagnostic in diagnostics)


def _telling(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Leave out what another diagnostic of the same model and data set explains."""
    rows = list(diagnostics)
    implied = {(code, d.model, d.data) for d in rows for code in IMPLIES.get(d.code, ()) if d.model}
    return [d for d in rows if (d.code, d.model, d.data) not in implied]


def _inherited_once(diagnostics: Iterable[Diagnostic], lineages: Lineages) -> list[Diagnostic]:
    """Tell what a model has from its source with the source: `; so does onnx-int4`."""
    rows = list(diagnostics)
    places = {(d.code, d.model, d.data) for d in rows if d.code in OF_ONE_MODEL}
    heirs: dict[tuple[str, str, str], list[str]] = {}
    for code, model, data in sorted(places):
        chain = [a for a in ancestors(model, lineages) if (code, a, data) in places]
        if chain:
            heirs.setdefault((code, chain[-1], data), []).append(model)
    inherited = {(code, heir, data) for (code, _, data), names in heirs.items() for heir in names}
    result = []
    for d in rows:
        place = (d.code, d.model, d.data)
        if place in inherited:
            continue
        names = heirs.get(place, [])
        too = f"; so {'does' if len(names) == 1 else 'do'} {joined(names)}" if names else ""
        result.append(replace(d, text=d.text + too) if too else d)
    return result
