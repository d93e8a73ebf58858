"""A fleet of adapters on one int4 base: what each adds to the store, how long it takes to add one
and to switch to another, and how accurate one is beside its merge.

    python benchmarks/adapters.py --count 100 --work FOLDER

The quick start, whose adapter is trained once. The fleet are copies of it, each moved a little at
random, so that no two hold the same bytes: folders as peft saves them. They are added one by one.

The store's growth is that of all files in it. Adding one is `olivebuild build NAME`. Switching is
measured in one process that holds the base: a generator with another adapter than the one before,
and the first token, beside a generator with the same one again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import run, table
from olivebuild.core import host

ROOT = Path(__file__).resolve().parent.parent
OLIVEBUILD = [sys.executable, "-m", "olivebuild"]
OVERRIDES = """\
    overrides:
      "/model/layers.*/attn/qkv_proj/MatMul": int8
      "/model/layers.*/attn/o_proj/MatMul": int8
      "/model/layers.*/mlp/down_proj/MatMul": int8
"""
TARGETS = f"""
  slotted:
    kind: onnx
    model: base
    slots: all-linear
{OVERRIDES}
  apart: {{kind: onnx-adapter, base: slotted, adapter: adapter}}
  beside:
    kind: benchmark
    models: [merged, onnx-int4, apart, slotted]
    data: [tone, hard]
    max_new_tokens: 4
"""
PROMPT = list(range(100, 108))
ROUNDS = 1


def prepare(work: Path, count: int) -> None:
    """Write the recipe: the quick start, its adapter in slots, and a fleet."""
    if not work.exists():
        shutil.copytree(ROOT / "recipes/tone", work, ignore=shutil.ignore_patterns("build", ".*"))
    fleet = "".join(
        f"  {name}: {{kind: onnx-adapter, base: slotted, source: fleet/{name}}}\n"
        for name in names(count)
    )
    text = (ROOT / "recipes/tone/olivebuild.yaml").read_text("utf-8")
    (work / "olivebuild.yaml").write_text(text + TARGETS + fleet, "utf-8")


def names(count: int) -> list[str]:
    return [f"fleet-{number:03}" for number in range(count)]


def make_fleet(work: Path, count: int) -> int:
    """Write copies of the trained adapter, moved at random; return the bytes of their weights."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    trained, total = work / "build/adapter", 0
    tensors = load_file(trained / "adapter_model.safetensors")
    for number, name in enumerate(names(count)):
        random = np.random.default_rng(number)
        folder = work / "fleet" / name
        folder.mkdir(parents=True, exist_ok=True)
        moved = {
            key: (value * random.normal(1, 0.01, value.shape)).astype(value.dtype)
            for key, value in tensors.items()
        }
        save_file(moved, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        for other in ("adapter_config.json", "generation_config.json"):
            if (trained / other).is_file():
                shutil.copyfile(trained / other, folder / other)
        total += (folder / "adapter_model.safetensors").stat().st_size
    return total


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder, those with several names once."""
    sizes = {}
    for parent, _, files in os.walk(folder):
        for name in files:
            stat = Path(parent, name).lstat()
            sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def switch(base: Path, folders: list[Path]) -> dict[str, Any]:
    """Load a base and adapters, and ask each in turns. Seconds, the medians and the longest."""
    import numpy as np

    from olivebuild.ml.inference.generate import open_model
    from olivebuild.ml.inference.onnx_runtime import OnnxRuntime

    def timed(runtime: OnnxRuntime) -> tuple[float, float]:
        """Return the seconds to a generator, and to the logits of its first token."""
        start = time.perf_counter()
        generator = runtime.generator(len(PROMPT) + 8)
        ready = time.perf_counter() - start
        generator.append_tokens(np.array(PROMPT, dtype=np.int32))
        generator.get_logits()
        return ready, time.perf_counter() - start

    runtime = open_model(str(base), "", trust_remote_code=False)
    assert isinstance(runtime, OnnxRuntime)
    loads, runtimes = [], []
    for folder in folders:
        start = time.perf_counter()
        runtimes.append(runtime.adapted(folder))
        loads.append(time.perf_counter() - start)
    for one in (runtime, runtimes[0]):
        timed(one)
    ready, again, other, bare = [], [], [], []
    for _ in range(ROUNDS):
        for one in runtimes:
            made, first = timed(one)
            ready.append(made)
            other.append(first)
            again.append(timed(one)[1])
            bare.append(timed(runtime)[1])
    return {
        "load": (median(loads), max(loads)),
        "generator": (median(ready), max(ready)),
        "switched": (median(other), max(other)),
        "same": (median(again), max(again)),
        "bare": (median(bare), max(bare)),
        "cost": median(a - b for a, b in zip(other, again, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--work", type=Path, help="work here, and leave it there")
    parser.add_argument("--switch", nargs="+", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.switch:
        print(json.dumps(switch(options.switch[0], options.switch[1:])))
        return
    if options.work:
        measure(options.work.resolve(), options.count)
        return
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name, "work"), options.count)


def measure(work: Path, count: int) -> None:
    """Build, add and switch, and print what was measured."""
    cache = Path(os.environ.get("OLIVEBUILD_CACHE") or work.with_name("cache"))
    environment = {"OLIVEBUILD_CACHE": str(cache)}
    prepare(work, count)
    base = run([*OLIVEBUILD, "build", "adapter", "slotted"], folder=work, environment=environment)
    run([*OLIVEBUILD, "build", "beside", "apart"], folder=work, environment=environment)
    weights = make_fleet(work, count)
    before = size_of(cache)
    costs = [
        run([*OLIVEBUILD, "build", name], folder=work, environment=environment)
        for name in names(count)
    ]
    grown = size_of(cache) - before
    files = sum((work / "build" / n / "adapter.onnx_adapter").stat().st_size for n in names(count))
    folders = [str(work / "build" / name) for name in names(count)]
    words = [sys.executable, __file__, "--switch", str(work / "build/slotted"), *folders]
    said = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    times = json.loads(said.splitlines()[-1])
    walls = sorted(cost.wall for cost in costs)
    print(host.describe())
    rows = [
        ["base with slots, and the adapter", f"{base.wall:.1f} s"],
        ["weights of the fleet's folders", f"{weights / 1e6:.1f} MB"],
        ["their .onnx_adapter files", f"{files / 1e6:.1f} MB"],
        ["growth of the store", f"{grown / 1e6:.1f} MB, {grown / weights:.3f} of the weights"],
        [
            "to add one",
            f"{median(walls):.2f} s, at most {walls[-1]:.2f} s; "
            f"{median(c.cpu for c in costs):.2f} s of processor time",
        ],
        *([what, _shown(times[name])] for what, name in TIMES),
        ["so a switch costs", f"{1e3 * times['cost']:.1f} ms"],
    ]
    print(table([f"{count} adapters", "measured"], rows))
    metrics = json.loads((work / "build/beside/metrics.json").read_text("utf-8"))
    print(table(["model", "tone", "hard"], list(accuracies(metrics))))


TIMES = (
    ("to load one into a running process", "load"),
    ("a generator with another adapter", "generator"),
    ("first token, another adapter", "switched"),
    ("first token, the same adapter", "same"),
    ("first token, no adapter", "bare"),
)


def _shown(times: tuple[float, float]) -> str:
    return f"{1e3 * times[0]:.1f} ms, at most {1e3 * times[1]:.1f} ms"


def accuracies(metrics: dict[str, Any]) -> list[list[str]]:
    """Return for each model its accuracy on both data sets, with the interval."""
    rows = []
    for name, model in metrics["models"].items():
        judged = [model["data"][data] for data in metrics["data"]]
        rows.append([name, *(f"{100 * one['accuracy']:.1f} %" for one in judged)])
    return rows


if __name__ == "__main__":
    main()
