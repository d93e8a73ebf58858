"""Additions of `--better`: a benchmark with gates, and a second recipe.

The first recipe stays beside it, and means what Olive does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import yaml

from olivebuild.recipe.importers.olive.draft import Draft, DraftTarget, Ref
from olivebuild.recipe.importers.olive.workflow import State, Workflow

MOST_EPOCHS = 3.0
"""More passes over a few rows are learnt by heart."""
HOLDOUT = 0.2
WARMUP = 0.03


@dataclass(frozen=True, kw_only=True)
class Side:
    """A field whose value differs between the two recipes; None where one has no such field."""

    field: str
    """Such as `lora.training.epochs`."""
    literal: object
    better: object


def add_benchmarks(workflow: Workflow, states: Iterable[State]) -> None:
    """Write a benchmark for each adapter's data set that has held-out rows; name it as a goal."""
    draft = workflow.draft
    measured = {str(t.get("data")) for t in draft.targets.values() if t.kind == "benchmark"}
    by_data: dict[str, list[State]] = {}
    for state in states:
        if (data := _held_out(draft, state)) and data not in measured:
            by_data.setdefault(data, []).append(state)
    for data, group in by_data.items():
        _benchmark(draft, data, group)


def _benchmark(draft: Draft, data: str, states: list[State]) -> None:
    adapter = _adapter(draft, states[0])
    assert adapter is not None
    base = str(adapter.get("model"))
    names = [base]
    for state in states:
        names += [n for n in (state.adapter, state.model, state.onnx) if n and n not in names]
        if (trained := _adapter(draft, state)) and not _is_merged(draft, state):
            names += [trained.name] if trained.name not in names else []
    ordered = sorted(names, key=lambda n: (draft.targets[n].kind == "onnx", names.index(n)))
    target = draft.target("bench", "benchmark")
    target.comment("Recommended: what training and rounding change, on rows held out.")
    target.set("models", [Ref(target=name) for name in ordered])
    target.set("data", Ref(target=data, output="test"))
    gates = [f"perplexity drop vs {base} <= 0"]
    merged = next((n for n in ordered if draft.targets[n].kind == "merged"), None)
    if merged is not None and draft.targets[ordered[-1]].kind == "onnx":
        gates.append(f"exact_match drop vs {merged} <= 0.02")
    target.set("gates", gates, note="the last model is judged")
    draft.default = [*draft.default, target.name]


def _is_merged(draft: Draft, state: State) -> bool:
    return draft.targets[state.model].kind == "merged"


def _adapter(draft: Draft, state: State) -> DraftTarget | None:
    """Return the adapter that a flow trained."""
    merged = draft.targets.get(state.model)
    onnx = draft.targets.get(state.onnx)
    for name in (
        state.adapter,
        str(merged.get("adapter")) if merged else "",
        str(onnx.get("adapter")) if onnx else "",
    ):
        target = draft.targets.get(name)
        if target is not None and target.get("data") is not None:
            return target
    return None


def _held_out(draft: Draft, state: State) -> str:
    """Return the data set of a flow's adapter, if rows of it are held out; else that of `eval`."""
    adapter = _adapter(draft, state)
    if adapter is None:
        return ""
    if isinstance(judged := adapter.get("eval.data"), Ref):
        return judged.target
    data = adapter.get("data")
    name = data.target if isinstance(data, Ref) else ""
    rows = draft.targets.get(name)
    return "" if rows is None or rows.get("holdout") == 0 else name


def sides(literal: str, better: str) -> Iterator[Side]:
    """Yield the fields in which two recipes, given as text, differ; in the order of the first."""
    one, other = _flat(yaml.safe_load(literal)), _flat(yaml.safe_load(better))
    for field in dict.fromkeys([*one, *other]):
        if one.get(field) != other.get(field):
            yield Side(field=field, literal=one.get(field), better=other.get(field))


def _flat(recipe: object) -> dict[str, object]:
    assert isinstance(recipe, dict)
    fields: dict[str, object] = {}
    _fill(fields, "", recipe.get("targets"))
    fields["default"] = recipe.get("default")
    return fields


def _fill(fields: dict[str, object], name: str, value: object) -> None:
    if isinstance(value, dict):
        for key, below in value.items():
            _fill(fields, f"{name}.{key}" if name else str(key), below)
    else:
        fields[name] = value
