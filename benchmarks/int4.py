"""What 4 bits cost: conversions of one merged model beside it, over seeds of its training.

    python benchmarks/int4.py --work FOLDER --seeds 5

The quick start. Each seed trains an adapter, whose merge is converted in each way and judged on the
rows that are held out and on the hard ones. A loss is told in points of accuracy against the merge
of the same seed, with its least and most over seeds. Tokens a second are those of the first seed's
models, measured in turns by one benchmark target, as a ratio to plain int4.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import run, table

ROOT = Path(__file__).resolve().parent.parent
OLIVEBUILD = [sys.executable, "-m", "olivebuild"]
DATA = ("tone", "hard")
CALIBRATED = "algorithm: gptq, calibration: tone.train"
WAYS = {
    "plain": "",
    "k-quant": "algorithm: k_quant",
    "gptq": f"{CALIBRATED}, moments: base",
    "gptq-merged": f"{CALIBRATED}, moments: merged",
    "gptq-symmetric": f"{CALIBRATED}, moments: base, symmetric: true",
}
"""Conversion -> its options."""


def recipe(seeds: int, ways: list[str]) -> str:
    """Return the quick start's recipe up to its rows, with targets for each seed."""
    text = (ROOT / "recipes/tone/olivebuild.yaml").read_text("utf-8")
    start, trained = text.index("  adapter:"), text.index("  merged:")
    parts = [text[:start].replace("[onnx-int4, bench]", "bench0")]
    for seed in range(seeds):
        adapter = text[start:trained].replace("  adapter:", f"  adapter{seed}:")
        parts.append(adapter.replace("seed: 0", f"seed: {seed}"))
        merged = f"merged{seed}"
        parts.append(f"  {merged}: {{kind: merged, model: base, adapter: adapter{seed}}}\n")
        names = [merged]
        for way in ways:
            options = f"kind: onnx, model: {merged}, precision: int4, {WAYS[way]}".rstrip(", ")
            parts.append(f"  {way}{seed}: {{{options}}}\n")
            names.append(f"{way}{seed}")
        models, data = ", ".join(names), ", ".join(DATA)
        bench = f"kind: benchmark, models: [{models}], data: [{data}]"
        parts.append(f"  bench{seed}: {{{bench}}}\n")
    return "\n".join(parts)


def build(work: Path, seed: int) -> dict[str, Any]:
    """Build a seed's benchmark, and return its metrics."""
    run([*OLIVEBUILD, "build", f"bench{seed}"], folder=work)
    found: dict[str, Any] = json.loads(
        (work / f"build/bench{seed}/metrics.json").read_text("utf-8")
    )
    models: dict[str, Any] = found["models"]
    return models


def rows_of(by_seed: list[dict[str, Any]], ways: list[str]) -> list[list[str]]:
    """Return for each way accuracy and loss on each data set, size, and tokens a second."""

    def accuracy(seed: int, name: str, data: str) -> float:
        return 100 * float(by_seed[seed][f"{name}{seed}"]["data"][data]["accuracy"])

    def speed(name: str) -> float:
        return float(by_seed[0][f"{name}0"]["tokens_per_second"])

    rows, seeds = [], range(len(by_seed))
    for way in ("merged", *ways):
        row = [way]
        for data in DATA:
            found = [accuracy(seed, way, data) for seed in seeds]
            lost = [
                accuracy(seed, "merged", data) - a for seed, a in zip(seeds, found, strict=True)
            ]
            row += [
                f"{mean(found):.1f} %",
                f"{mean(lost):.1f} ({min(lost):.1f} to {max(lost):.1f})",
            ]
        size = float(by_seed[0][f"{way}0"]["size"]) / 1e6
        rows.append([*row, f"{size:.0f} MB", f"{speed(way) / speed('plain'):.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    ways = list(dict.fromkeys(["plain", *options.ways]))
    work = options.work or Path(tempfile.mkdtemp())
    if not work.exists() or not any(work.iterdir()):
        ignored = shutil.ignore_patterns("build", ".*")
        shutil.copytree(ROOT / "recipes/tone", work, ignore=ignored, dirs_exist_ok=True)
    (work / "olivebuild.yaml").write_text(recipe(options.seeds, ways), "utf-8")
    by_seed = [build(work, seed) for seed in range(options.seeds)]
    head = [word for data in DATA for word in (data, f"loss on {data}")]
    print(table(["int4 by", *head, "size", "tokens/s of plain"], rows_of(by_seed, ways)))


if __name__ == "__main__":
    main()
