"""One int4 model for CUDA and for the processor: built, loaded, judged and timed by olivebuild.

    python benchmarks/cuda.py                       # a Phi-3 of 0.7B parameters, random weights
    python benchmarks/cuda.py --model FOLDER        # any Hugging Face model that can be converted
    python benchmarks/cuda.py --quick               # a tiny one
    python benchmarks/cuda.py --providers cpu       # where there is no CUDA

The recipe trains an adapter (a small task, so that right answers mean something), merges it, and
converts the merge for each provider; a benchmark asks both on the same rows, and times them in
turns. It takes an environment with olivebuild[cuda] and an NVIDIA GPU: `olivebuild doctor` names
cuda among the providers then. What is promised: the models agree, and both beat chance. Speed is
told, and nothing is promised of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, end, table
from benchmarks.rebuild import make_model
from olivebuild.core.providers import reason_against
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.records import DataMetrics, Metrics, ModelMetrics

HOME = Path(__file__).parent.parent
CHANCE = 1 / 3
"""Of three labels."""
WORDS = {
    "warm": ("sun", "fire", "summer", "oven", "desert", "lava"),
    "cold": ("ice", "snow", "winter", "frost", "glacier", "sleet"),
    "wet": ("rain", "river", "sea", "puddle", "flood", "dew"),
}
RECIPE = """\
default: bench
targets:
  base: {{kind: model, source: "{source}"}}
  rows: {{kind: dataset, source: rows.jsonl, prompt: "{{text}} =", completion: " {{label}}",
         label: label, holdout: 0.3, dedupe: false, near_duplicates: false}}
  adapter: {{kind: adapter, model: base, data: rows.train, r: 16, alpha: 32, modules: all-linear,
            training: {{lr: 2e-3, steps: {steps}, batch: 16}}}}
  merged: {{kind: merged, model: base, adapter: adapter}}
{models}
  bench: {{kind: benchmark, models: [{names}], data: rows.test,
          latency: {{prompt_tokens: {prompt}, new_tokens: {new}}}}}
"""
MODEL = "  int4-{0}: {{kind: onnx, model: merged, precision: int4, provider: {0}}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="", help="a Hugging Face folder instead of random weights"
    )
    parser.add_argument("--providers", default="cpu,cuda")
    for name, default in (("layers", 16), ("hidden", 2048), ("intermediate", 5632)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32064)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="a tiny model; about two minutes")
    options = parser.parse_args()
    if options.quick:
        options.layers, options.hidden, options.intermediate = 2, 512, 1024
        options.heads, options.vocabulary = 4, 400
        options.prompt_tokens, options.new_tokens = 32, 16
    names = options.providers.split(",")
    for name in names:
        if problem := reason_against(name):
            raise SystemExit(f"{name} can't run here: {problem.fact}; {problem.hint}")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="cuda-", dir=os.environ.get("BENCHMARK_DIR")) as name:
        metrics = measure(Path(name), names, options)
    report(metrics, names)
    end(claims(metrics, names), "onnxruntime-gpu", "onnxruntime-genai-cuda", "torch")


def measure(root: Path, names: list[str], options: argparse.Namespace) -> Metrics:
    """Build everything in a new folder with a new cache, and return the benchmark's results."""
    if not options.model:
        sizes = ("hidden", "intermediate", "layers", "heads", "vocabulary")
        shape = argparse.Namespace(**{size: getattr(options, size) for size in sizes})
        print(f"{make_model(root / 'model', shape):,} parameters", file=sys.stderr)
    (root / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows()), "utf-8")
    recipe = RECIPE.format(
        source=Path(options.model).absolute() if options.model else "model",
        steps=options.steps,
        models="\n".join(MODEL.format(name) for name in names),
        names=", ".join(f"int4-{name}" for name in names),
        prompt=options.prompt_tokens,
        new=options.new_tokens,
    )
    (root / "olivebuild.yaml").write_text(recipe, "utf-8")
    for goal in ("merged", *(f"int4-{name}" for name in names), "bench"):
        start = time.monotonic()
        olivebuild(root, "build", goal)
        print(f"{time.monotonic() - start:8.2f} s  {goal}", file=sys.stderr, flush=True)
    return decode(json.loads((root / "build/bench/metrics.json").read_bytes()), Metrics)


def rows() -> list[dict[str, str]]:
    """Return rows of which words decide: every pair of words of a label, shuffled."""
    pairs = [
        {"text": f"{first} and {second}", "label": label}
        for label, words in WORDS.items()
        for first in words
        for second in words
    ]
    random.Random(0).shuffle(pairs)
    return pairs


def olivebuild(root: Path, *arguments: str) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH")))),
        "OLIVEBUILD_CACHE": str(root / "cache"),
    }
    command = [sys.executable, "-m", "olivebuild", "-C", str(root), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")


def on_rows(metrics: Metrics, name: str) -> DataMetrics:
    """Return a model's results on the test rows, which are the only data set."""
    (result,) = metrics.models[f"int4-{name}"].data.values()
    return result


def report(metrics: Metrics, names: list[str]) -> None:
    head = ["provider", "accuracy", "first token", "a token", "tokens/s", "loading", "size", "GPU"]
    print(table(head, [line(metrics, name) for name in names]))


def line(metrics: Metrics, name: str) -> list[str]:
    model: ModelMetrics = metrics.models[f"int4-{name}"]
    accuracy = on_rows(metrics, name).accuracy
    return [
        str(model.provider),
        "none" if accuracy is None else f"{accuracy:.3f}",
        f"{1000 * (model.ttft or 0):.1f} ms",
        f"{1000 * (model.tpot or 0):.2f} ms",
        f"{model.tokens_per_second or 0:.1f}",
        f"{model.load_seconds or 0:.2f} s",
        f"{(model.size or 0) / 1e6:.0f} MB",
        f"{model.gpu_memory / 2**20:.0f} MiB" if model.gpu_memory else "",
    ]


def claims(metrics: Metrics, names: list[str]) -> list[Claim]:
    result = []
    for name in names:
        accuracy = on_rows(metrics, name).accuracy or 0.0
        what = f"accuracy of int4 on {name}, beside chance"
        result.append(Claim(what, accuracy, CHANCE, "share", accuracy / CHANCE, 1.5))
    if {"cpu", "cuda"} <= set(names):
        labels = [[a.label for a in on_rows(metrics, name).answers] for name in ("cpu", "cuda")]
        same = sum(a == b for a, b in zip(*labels, strict=True)) / len(labels[0])
        result.append(Claim("answers that are the same on both", same, 1.0, "share", same, 0.9))
        cuda, cpu = (metrics.models[f"int4-{name}"].tpot or 0.0 for name in ("cuda", "cpu"))
        ratio = cpu / cuda if cuda else 0.0
        result.append(Claim("a token on CUDA, beside the processor", cuda, cpu, "s", ratio, None))
    return result


if __name__ == "__main__":
    main()
