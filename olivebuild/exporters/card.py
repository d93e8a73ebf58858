"""The model card of an export, README.md: what it is, what it was made from, how good it is.

The block at its head is what the Hugging Face hub reads:
https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from olivebuild import __version__
from olivebuild.core.fs.small_files import read_text
from olivebuild.core.text import size as size_of
from olivebuild.engine.provenance.lineage import Lineage, StepRun
from olivebuild.exporters.layouts.origin import Written
from olivebuild.metrics.catalogue import is_share, title
from olivebuild.ui.report.records import Bench, Model, Report, Value
from olivebuild.ui.report.render.markdown import table, text
from olivebuild.ui.wording import format_metric

LIBRARIES = {
    "onnx": "onnxruntime-genai",
    "onnx-adapter": "onnxruntime-genai",
    "merged": "transformers",
    "adapter": "peft",
}
FIGURES = ("accuracy", "generated_accuracy", "json_exact", "exact_match", "perplexity")
MOST = 80
"""Most characters that are shown of a value."""
COSTS = ("ttft", "tokens_per_second", "peak_rss")


def card(
    report: Report,
    lineage: Lineage,
    base: Path | None,
    doubts: Sequence[str],
    licences: Sequence[str],
    written: Written,
) -> str:
    """Return the text of the card. `base` is the folder of the base model."""
    head = _head(report, lineage, base, licences)
    if written.library:
        head["library_name"] = written.library
    front = "".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in head.items()
    )
    lines = [
        *_opening(report, lineage, doubts),
        *([written.told, ""] if written.told else []),
        *_licence(base, licences),
        *_measured(report, lineage.target),
        *_data(report, lineage),
        *_steps(lineage),
        *_again(report, lineage),
    ]
    return f"---\n{front}---\n" + "\n".join(lines) + "\n"


def licence_of(base: Path | None) -> str:
    """Return the licence that a base model's own card names; "" where it names none."""
    try:
        told = read_text(base / "README.md") if base else ""
    except (OSError, ValueError):
        return ""
    if not told.startswith("---"):
        return ""
    for line in told[3:].partition("\n---")[0].splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "license" and value.strip():
            return value.strip().strip("\"'")[:80]
    return ""


def _head(
    report: Report, lineage: Lineage, base: Path | None, licences: Sequence[str]
) -> dict[str, Any]:
    head: dict[str, Any] = {
        # "other" is the hub's word for a licence that is not in its list.
        "license": licence_of(base) or "other",
        "library_name": LIBRARIES.get(lineage.kind, "olivebuild"),
        "pipeline_tag": "text-generation",
        "tags": ["olivebuild", lineage.kind],
    }
    if head["license"] == "other" and licences:
        head["license_link"] = licences[0]
    hubs = [
        s.text.removeprefix("hf:") for s in lineage.sources.values() if s.text.startswith("hf:")
    ]
    if hubs:
        head["base_model"] = hubs[0].partition("@")[0]
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": data, "type": data},
            "metrics": [
                {"type": name, "name": title(name), "value": judged.figures[name].value}
                for name in FIGURES
                if name in judged.figures
            ],
        }
        for model in _models(report, lineage.target)
        for data, judged in model.sets.items()
    ]
    if results:
        head["model-index"] = [{"name": lineage.target, "results": results}]
    return head


def _models(report: Report, target: str) -> list[Model]:
    return [model for bench in report.benches for model in bench.models if model.name == target]


def _opening(report: Report, lineage: Lineage, doubts: Sequence[str]) -> Iterator[str]:
    yield f"# {text(lineage.target)}"
    yield ""
    total = size_of(sum(file.size for file in lineage.files))
    yield (
        f"Made by olivebuild {__version__} from the recipe {text(report.name)}: kind "
        f"{text(lineage.kind)}, {total}, digest `{lineage.digest}`."
    )
    yield ""
    if doubts:
        yield "**Exported although:**"
        yield ""
        yield from (f"- {text(doubt)}" for doubt in doubts)
        yield ""


def _licence(base: Path | None, licences: Sequence[str]) -> Iterator[str]:
    """Say so where no licence of the base model is known: "other" at the head is a guess then."""
    if not (licence_of(base) or licences):
        yield "The licence of the base model is not known: its folder names none, or is not here."
        yield ""


def _measured(report: Report, target: str) -> Iterator[str]:
    """Yield the figures of the benchmarks that judged it, beside their other models."""
    for bench in report.benches:
        if any(model.name == target for model in bench.models):
            yield f"## Figures ({text(bench.target)})"
            yield ""
            yield from _figures(bench)
    gates = [g for g in report.gates if g.target in {b.target for b in report.benches}]
    if gates:
        yield from table(
            ("gate", "found", "verdict", ""),
            [(g.text, g.value, g.word, g.note) for g in gates],
            "lrll",
        )


def _figures(bench: Bench) -> Iterator[str]:
    first = bench.models[0]
    shown = [(d, n) for d, judged in first.sets.items() for n in FIGURES if n in judged.figures]
    costs = [name for name in COSTS if any(name in model.figures for model in bench.models)]
    head = ["model", *(f"{data}: {title(name)}" for data, name in shown), *map(title, costs)]
    rows = [
        (
            model.name,
            *(_cell(name, model.sets[data].figures.get(name)) for data, name in shown),
            *(_cell(name, model.figures.get(name)) for name in costs),
        )
        for model in bench.models
    ]
    yield from table(head, rows, "l" + "r" * (len(head) - 1))
    yield "Figures in brackets: 95 % interval. Speed and memory are of the machine that built it."
    yield ""


def _cell(name: str, value: Value | None) -> str:
    if value is None:
        return ""
    told = format_metric(name, value.value)
    if value.low is None or value.high is None or not is_share(name):
        return told
    return f"{told} ({value.low * 100:.1f} to {value.high * 100:.1f})"


def _data(report: Report, lineage: Lineage) -> Iterator[str]:
    names = {run.target for run in lineage.steps if run.kind == "dataset"}
    sets = [data for data in report.datasets if data.target in names]
    if sets:
        yield "## Data"
        yield ""
        digests = {r.target: next(iter(r.outputs.values()), "") for r in lineage.steps}
        for data in sets:
            figures = ", ".join(f"{text(k)} {text(v)}" for k, v in data.figures.items())
            yield f"- {text(data.target)}: {figures}; digest `{digests.get(data.target, '')}`"
            if data.dropped:
                yield f"  - {text(data.dropped)}"
        yield ""


def _steps(lineage: Lineage) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    rows = [(run.node, run.kind, _told(run), run.key[:12]) for run in lineage.steps]
    yield from table(("step", "kind", "parameters", "key"), rows, "llll")
    for source in lineage.sources.values():
        yield f"- {text(source.text)}" + (f", pinned to `{source.pin}`" if source.pin else "")
    if lineage.sources:
        yield ""


def _told(run: StepRun) -> str:
    """Return what the recipe says of a step; of long values their beginning."""
    values = run.values("parameter").items()
    told = (
        f"{name} {value if len(value) <= MOST else value[:MOST] + '…'}" for name, value in values
    )
    return ", ".join(told)


def _again(report: Report, lineage: Lineage) -> Iterator[str]:
    yield "## Again"
    yield ""
    yield (
        f"`olivebuild build {text(lineage.target)}` with the recipe {lineage.recipe.name} (SHA-256 "
        f"`{lineage.recipe.sha256}`) makes the same bytes where the same numerics are at hand; "
        "provenance.json names every input by SHA-256."
    )
    yield ""
    libraries = ", ".join(f"{name} {version}" for name, version in report.libraries.items())
    yield f"Libraries: {text(libraries)}." if libraries else "No libraries took part."
