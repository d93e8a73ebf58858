"""What a training takes besides its steps, on a GPU: importing, loading, compiling, storing.

    python benchmarks/overhead.py               # a Phi-3-mini of random weights
    python benchmarks/overhead.py --quick       # a tiny one, to try the script out; no goals

One recipe, trained by `olivebuild` itself in new processes that differ in the seed alone, and so in
nothing that is loaded or compiled: with weights mapped and copied by transformers and nothing
compiled yet, as torch alone would have it; with weights streamed and nothing compiled yet; and
with weights streamed and kernels that an earlier training left. Layers are compiled in all, however
few steps there are. The steps' time is that of all but the first, and one more of their median.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, end, table
from benchmarks._train_inputs import make_model

HOME = Path(__file__).parent.parent
GOAL_SECONDS = 6.0
RECIPE = """\
default: adapter
targets:
  base: {{kind: model, source: base}}
  rows: {{kind: dataset, source: rows.jsonl, text: "{{text}}", dedupe: false,
         near_duplicates: false}}
  adapter: {{kind: adapter, model: base, data: rows, r: {rank}, alpha: {rank}, dropout: 0.1,
            modules: [qkv_proj, o_proj],
            training: {{lr: 1e-4, steps: {steps}, batch: 4, max_length: {length}}}}}
"""
PATCHES = """
import importlib.abc, importlib.machinery, sys
class Patched(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            CHANGES[name](module)
        spec.loader.exec_module = exec_module
        return spec
def always(module):
    module.WORTH_COMPILING = 0
def never(module):
    def taken(*given):
        raise module.Unstreamed("the benchmark wants it so")
    module.begin, module.taken = (lambda *given: None), taken
CHANGES = {"olivebuild.ml.nn.tuning": always}
sys.meta_path.insert(0, Patched())
"""
"""A sitecustomize.py: layers are always compiled."""
UNSTREAMED = PATCHES + 'CHANGES["olivebuild.ml.models.streamed"] = never\n'


@dataclass(frozen=True)
class Run:
    """Seconds of one training, from the start of the command."""

    variant: str
    wall: float
    started: float
    """The worker says what it trains on: torch, transformers and peft are imported."""
    ready: float
    """The model is loaded, and its layers are laid out."""
    first: float
    """The first step is done, and with it what was compiled for it."""
    steps: float
    """All steps, each as long as they are without compiling."""

    @property
    def other(self) -> float:
        return self.wall - self.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("hidden", 3072), ("intermediate", 8192), ("layers", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("heads", 32), ("vocabulary", 32064), ("rank", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2, help="trainings with kept kernels")
    parser.add_argument("--quick", action="store_true", help="a tiny model; no goals")
    options = parser.parse_args()
    if options.quick:
        options.hidden, options.intermediate, options.layers = 64, 128, 2
        options.heads, options.vocabulary, options.rank = 4, 400, 8
        options.length, options.steps, options.rounds = 48, 4, 1
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(
        prefix="overhead-", dir=os.environ.get("BENCHMARK_DIR")
    ) as name:
        runs = list(measure(Path(name), options))
    report(runs)
    end(claims(runs, quick=options.quick), "torch", "triton", "transformers", "peft")


def measure(root: Path, options: argparse.Namespace) -> Iterator[Run]:
    (root / "base").mkdir()
    make_model(root / "base", options)
    # Letters without a pattern, so that a token is hardly longer than one.
    draw = random.Random(0)
    texts = ("".join(draw.choices("bcdfgjklmn", k=options.length - 4)) for _ in range(64))
    (root / "rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    recipe = RECIPE.format(rank=options.rank, steps=options.steps, length=options.length)
    (root / "olivebuild.yaml").write_text(recipe)
    for name, text in (("streamed", PATCHES), ("mapped", UNSTREAMED)):
        (root / name).mkdir()
        (root / name / "sitecustomize.py").write_text(text)
    # What belongs to the first look at a model and rows is no part of a training after an edit.
    list(events(root, "streamed", "rows", []))
    list(events(root, "streamed", "base", []))
    variants = [("weights mapped, nothing compiled", "mapped", True)]
    variants += [("weights streamed, nothing compiled", "streamed", True)]
    variants += [("weights streamed, kernels kept", "streamed", False)] * options.rounds
    for number, (variant, patches, empty) in enumerate(variants):
        if empty:
            shutil.rmtree(root / "compiled", ignore_errors=True)
        run = one(root, variant, patches, number, options.steps)
        print(f"{run.wall:8.2f} s  {variant}", file=sys.stderr, flush=True)
        yield run


def events(
    root: Path, patches: str, goal: str, words: list[str]
) -> Iterator[tuple[float, dict[str, object]]]:
    """Build a goal, and yield its events with the seconds since the start; last an empty one."""
    paths = (root / patches, HOME, os.environ.get("PYTHONPATH", ""))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if str(path)),
        "OLIVEBUILD_CACHE": str(root / "cache"),
        "OLIVEBUILD_COMPILED": str(root / "compiled"),
    }
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    command = [sys.executable, "-m", "olivebuild", "-C", str(root), "build", goal, "--json", *words]
    start = time.monotonic()
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout
        for line in process.stdout:
            yield time.monotonic() - start, json.loads(line)
        if process.wait():
            raise SystemExit(f"{goal} failed:\n{(root / 'log').read_text(errors='replace')}")
    yield time.monotonic() - start, {}


def one(root: Path, variant: str, patches: str, seed: int, count: int) -> Run:
    """Train with a seed of its own."""
    started = ready = 0.0
    steps: list[float] = []
    for seconds, event in events(
        root, patches, "adapter", ["--set", f"adapter.training.seed={seed}"]
    ):
        text = str(event.get("text", ""))
        if event.get("event") == "note":
            print(f"{seconds:8.2f} s  {text}", file=sys.stderr, flush=True)
            started = started or (seconds if text.startswith("training on") else 0.0)
            ready = seconds if "at a time" in text else ready
        elif event.get("event") == "metric":
            steps.append(seconds)
    wall = seconds
    if len(steps) < 3:
        raise SystemExit(f"only {len(steps)} of {count} steps were told")
    # A compilation that a later step asks for is no part of what steps take.
    typical = statistics.median(b - a for a, b in pairwise(steps[1:]))
    return Run(variant, wall, started, ready, steps[0], typical * count)


def report(runs: list[Run]) -> None:
    head = ["training", "wall", "imported", "loaded", "first step", "steps", "all but steps"]
    print(
        table(
            head,
            [
                [r.variant, *(f"{s:.1f} s" for s in (r.wall, r.started, r.ready, r.first, r.steps)),
                 f"{r.other:.1f} s"]
                for r in runs
            ],
        )
    )  # fmt: skip
    if out := os.environ.get("OUT"):
        Path(out, "overhead.json").write_text(json.dumps([asdict(run) for run in runs], indent=2))


def claims(runs: list[Run], *, quick: bool) -> list[Claim]:
    kept = statistics.median(run.other for run in runs if run.variant.endswith("kept"))
    what = "a training but its steps: kernels kept and weights streamed, beside neither"
    ratio = round(runs[0].other / kept, 2)
    goal = Claim("a training but its steps, beside the goal", round(kept, 2), GOAL_SECONDS, "s",
                 round(GOAL_SECONDS / kept, 2), None if quick else 1.0)  # fmt: skip
    return [Claim(what, round(kept, 2), round(runs[0].other, 2), "s", ratio, None), goal]


if __name__ == "__main__":
    main()
