"""A recipe whose models were never made: data sets are built, and the figures of training and
benchmarks are drawn from a seed.

Everything that reads them is real: plan, traces, store, history, and the statistics of the
benchmark.
"""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path
from typing import Any
from unittest import mock

from olivebuild.api.event import Event
from olivebuild.cache.traces import Trace
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.builder import Builder
from olivebuild.engine.history import Entry
from olivebuild.engine.recorder import Recorder, record
from olivebuild.executors.local import LocalExecutor
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.model_comparison import comparisons
from olivebuild.metrics.records import ModelMetrics
from olivebuild.metrics.scoring import Judged, metrics_of
from olivebuild.metrics.statistics import median_interval
from olivebuild.planner.project import Project, open_project
from olivebuild.planner.states import State, Verdict
from olivebuild.planner.workspace import LastBuild
from tests.conftest import Place

RECIPE = """\
default: [onnx-int4, bench]
targets:
  base: {kind: model, source: base}
  tone:
    kind: dataset
    source: data/tone.jsonl
    prompt: "<|user|>\\nIs the tone joy, sad, fear or surprise?\\n\
{phrase}<|end|>\\n<|assistant|>\\n"
    completion: "{tone}<|end|>"
    holdout: 0.3
  adapter: {kind: adapter, model: base, data: tone.train, training: {lr: 1e-3, steps: 60}}
  merged: {kind: merged, model: base, adapter: adapter}
  onnx-int4: {kind: onnx, model: merged, precision: int4, provider: cpu}
  bench:
    kind: benchmark
    models: [base, merged, onnx-int4]
    data: tone
    baseline: tone
    gates: ["accuracy >= 0.8", "accuracy drop vs merged <= 0.02", "ttft_p95 <= 20ms"]
"""
SEARCH = (
    RECIPE.replace(
        "models: [base, merged, onnx-int4]",
        "models: [base, merged, onnx-int4, onnx-wide, onnx-int8]",
    )
    + """\
  onnx-wide: {kind: onnx, model: merged, precision: int4, provider: cpu, block_size: 128}
  onnx-int8: {kind: onnx, model: merged, precision: int8, provider: cpu}
  best: {kind: choice, by: bench, best: accuracy, gates: ["accuracy >= 0.8", "size <= 150MB"]}
"""
)
LONG = "onnx-int4-kquant-last-mixed"
SETS = ("tone", "hard-paraphrased-questions", "tickets_from_production_2026")


def wide(gates: str, sets: int = 1, seeds: int = 1) -> str:
    """A recipe of six models, some of long names, and of so many data sets."""
    models = ["onnx-int8-per-channel-symmetric", "onnx-fp32-unquantised-reference", LONG]
    kinds = ["int8", "fp32", "int4"]
    text = RECIPE.replace(
        "models: [base, merged, onnx-int4]",
        f"models: [base, merged, onnx-int4, {', '.join(models)}]",
    )
    text = text.replace(
        "data: tone\n    baseline", f"data: [{', '.join(SETS[:sets])}]\n    baseline"
    )
    head, _, _ = text.partition("    gates:")
    data = text[text.index("  tone:\n") : text.index("  adapter:")]
    for name in SETS[1:sets]:
        text_of_set = data.replace("  tone:\n", f"  {name}:\n").replace("0.3", "0.5")
        head = head.replace("  adapter:", f"{text_of_set}  adapter:")
    onnx = "".join(
        f"  {name}: {{kind: onnx, model: merged, precision: {kind}, provider: cpu}}\n"
        for name, kind in zip(models, kinds, strict=True)
    )
    onnx = onnx.replace("int4, provider: cpu", "int4, provider: cpu, block_size: 64")
    return f"{head}    gates: [{gates}]\n{onnx}"


THINGS = [
    "a letter",
    "the old dog",
    "my phone",
    "the red door",
    "a long night",
    "the river",
    "our garden",
    "the last train",
    "an empty house",
]
THINGS += [
    "the open window",
    "that song",
    "her answer",
    "the first snow",
    "his voice",
    "this road",
    "a quiet street",
    "the news",
    "a stranger",
]
WORDS = {"joy": "glad about", "sad": "crying over", "fear": "afraid of", "surprise": "amazed by"}
SKILL = {
    "base": (0.35, 0.05, 2.7e8),
    "merged": (0.97, 0.047, 2.7e8),
    "onnx-int4": (0.93, 0.012, 1.0e8),
    "onnx-wide": (0.5, 0.014, 9.5e7),
    "onnx-int8": (0.96, 0.02, 1.6e8),
    "onnx-int8-per-channel-symmetric": (0.96, 0.02, 1.6e8),
    "onnx-fp32-unquantised-reference": (0.97, 0.0043, 1.9e8),
    LONG: (0.95, 0.011, 1.04e8),
}
"""model -> (how often it is right, seconds to the first token, bytes)"""
COSTS = {
    "adapter": 76.2,
    "merged": 9.2,
    "onnx": 12.0,
    "benchmark-latency": 118.0,
    "benchmark-accuracy": 31.0,
    "benchmark-baseline": 2.6,
}


def write_recipe(place: Place, text: str = RECIPE) -> None:
    base = place.folder / "base"
    base.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (base / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (base / "config.json").write_text("{}")
    place.recipe.write_text(text)
    write_rows(place)


def write_rows(place: Place, skip: int = 0) -> None:
    rows = [
        {"phrase": f"I am {word} {thing} today", "tone": tone}
        for thing in THINGS
        for tone, word in WORDS.items()
    ]
    (place.folder / "data").mkdir(exist_ok=True)
    (place.folder / "data/tone.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[skip:])
    )


def opened(place: Place) -> Project:
    with mock.patch.dict(os.environ, {"OLIVEBUILD_CACHE": str(place.cache)}):
        return open_project(place.folder, None)


def build(place: Place, seed: int = 0, lost: float = 0.0) -> Entry | None:
    """One build: `lost` is how much worse the last model becomes."""
    project = opened(place)
    recorder = Recorder(lambda event: None)
    data = [name for name, target in project.graph.targets.items() if target.kind == "dataset"]
    assert not Builder(project.planner, LocalExecutor(1), recorder).run(data).errors
    goals = project.graph.all_goals
    while stale := [
        s
        for s in project.planner.plan(goals).states.values()
        if s.verdict in (Verdict.STALE, Verdict.CACHED)
    ]:
        for state in stale:
            if state.node.kind == "choice":
                if (
                    errors := Builder(project.planner, LocalExecutor(1), recorder)
                    .run([state.node.target])
                    .errors
                ):
                    raise errors[0]
            elif state.verdict is Verdict.STALE and state.trace is None:
                _pretend(project, state, random.Random(seed), lost)
                seconds = COSTS.get(state.node.kind, 0.2)
                recorder(Event("finished", {"node": state.node.name, "seconds": seconds}))
            elif state.manifest:
                project.workspace.publish(state.node.target, state.manifest, project.planner.store)
    project.workspace.save()
    plan = project.planner.plan(goals)
    report = BuildReport(
        goals=goals,
        plan=plan,
        ran=list({plan.states[n].node.target for n in recorder.done}),
        seconds=250.5 + seed,
    )
    entry = record(
        project,
        recorder,
        report,
        project.judge({name: project.metrics(plan, name) for name in plan.targets}),
    )
    project.planner.traces.close()
    return entry


def _pretend(project: Project, state: State, chance: random.Random, lost: float) -> None:
    assert state.key
    node, store = state.node, project.planner.store
    scratch = store.scratch("pretend")
    out = scratch / "out"
    out.mkdir()
    metrics = _metrics(project, state, chance, lost)
    # The content depends on the key, as a real result does.
    (out / "weights.bin").write_bytes(state.key.encode() * 4000)
    (out / "metrics.json").write_text(json.dumps(metrics))
    manifest, blob = store.put_folder(out, scratch)
    outputs = dict.fromkeys(node.outputs or {"": "."}, manifest.digest)
    seconds = COSTS.get(node.kind, 0.2)
    provenance = {"device": "cpu", "dtype": "float32"} if node.kind == "adapter" else {}
    peak = int(seconds * 2e7) + 10**8
    trace = Trace(
        state.key,
        node.kind,
        state.parts,
        outputs,
        blob,
        "",
        manifest.size,
        seconds,
        peak,
        metrics,
        provenance,
    )
    project.planner.traces.put(trace)
    project.workspace.remember(node.name, LastBuild(state.key, tuple(state.reasons)))
    store.discard(scratch)


def _metrics(project: Project, state: State, chance: random.Random, lost: float) -> dict[str, Any]:
    if state.node.kind == "adapter":
        return _training(chance)
    if state.node.kind != "benchmark":
        return {}
    fields = project.graph.recipe.targets["bench"].fields.model_dump(mode="json")
    names = [str(name) for name in fields["models"]]
    data = fields["data"]
    sets = [data] if isinstance(data, str) else [str(name) for name in data]
    rows = {name: _test_rows(project.workspace.output_folder(name)) for name in sets}
    models = {
        name: _model(name, rows, chance, lost if name == names[-1] else 0.0)
        for name in SKILL
        if name in names
    }
    count = len(rows["tone"])
    return {
        "models": models,
        "data": sets,
        "comparisons": comparisons(decode(models, dict[str, ModelMetrics]), sets),
        "baselines": {"naive bayes": {"tone": {"rows": count, "accuracy": 0.72}}},
        "latency": {
            "prompt_tokens": 64,
            "new_tokens": 16,
            "rounds": 12,
            "why_stopped": "tight",
            "measured_at": f"2026-11-20T10:{int(60 * chance.random()):02}:00Z",
            "control": {"kernel": "numpy", "threads": 2, "seconds": 0.05, "stretch": 1.01},
        },
    }


def _test_rows(folder: Path) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, str]] = pq.read_table(folder / "test.parquet").to_pylist()
    return rows


def _model(
    name: str, rows: dict[str, list[dict[str, str]]], chance: random.Random, lost: float
) -> dict[str, Any]:
    skill, first, size = SKILL[name]
    data = {}
    for at, (of_set, its) in enumerate(rows.items()):
        judged = _judged(its, skill - lost - 0.15 * at, chance)
        data[of_set] = metrics_of(judged, labelled=True, written=True)
    ttft = [first * (1 + chance.expovariate(12)) for _ in range(12)]
    gaps = [first / 4 * (1 + chance.expovariate(9)) for _ in range(12 * 15)]
    e2e = [t + sum(gaps[i * 15 : i * 15 + 15]) for i, t in enumerate(ttft)]
    tpot = sorted(gaps)[len(gaps) // 2]
    return {
        "data": data,
        "load_seconds": first * 20,
        "ttft": sorted(ttft)[6],
        "ttft_p95": sorted(ttft)[-1],
        "ttft_interval": median_interval(ttft),
        "tpot": tpot,
        "tokens_per_second": 1 / tpot,
        "peak_rss": int(4.9 * size),
        "size": int(size),
        "threads": 2,
        "samples": {"ttft": ttft, "gaps": gaps, "e2e": e2e},
    }


def _judged(rows: list[dict[str, str]], skill: float, chance: random.Random) -> list[Judged]:
    judged = []
    # Easy rows are easy for all models, so that their answers go together.
    luck = random.Random(7)
    for row in rows:
        right = (
            0.7 * luck.random() + 0.3 * chance.random() < max(0.0, skill) ** 0.7
            and luck.random() < skill + 0.02
        )
        label = row["label"] if right else chance.choice([w for w in WORDS if w != row["label"]])
        judged.append(Judged(row["label"], row["label"], label, label, -3.0 * (right - 1.1), 2))
    return judged


def _training(chance: random.Random) -> dict[str, Any]:
    steps = list(range(1, 61))
    loss = [1.9 * 0.93**s + 0.15 + chance.random() * 0.12 for s in steps]
    curve = {
        "step": steps,
        "loss": loss,
        "lr": [1e-3 * min(1, s / 10) * (61 - s) / 60 for s in steps],
        "grad_norm": [2 * v for v in loss],
    }
    curve |= {
        "eval_step": steps[9::10],
        "eval_loss": loss[9::10],
        "eval_accuracy": [0.4 + 0.09 * i for i in range(6)],
    }
    return {
        "loss": loss[-1],
        "steps": 60,
        "examples": 50,
        "tokens_per_second": 512.3,
        "curve": curve,
    }
