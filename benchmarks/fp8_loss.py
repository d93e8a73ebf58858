"""What a training on a base in FP8 learns, beside one in bf16, over seeds: held-out losses.

    python benchmarks/fp8_loss.py        # on a GPU from compute capability 8.9 on

Each seed of the quick start trains two adapters, whose merges, in full precision, are judged on
rows that were held out and on fresh ones. The loss of a row is the negative log-likelihood of its
answer, in nats a token. The interval (95 %) of the difference is over fresh rows and seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import table
from benchmarks._seeded_tasks import (
    LATENCY,
    Task,
    build,
    in_groups,
    interval,
    merged,
    prepare,
    task_of,
)

BASES = ("bf16", "fp8")


def recipe(task: Task, seeds: int) -> dict[str, Any]:
    """Return a recipe with the targets of each seed."""
    targets = dict(task.recipe)
    for seed in range(seeds):
        adapter = task.seeded(seed)
        training = adapter["training"] | {"base": "fp8"}
        targets[f"adapter-bf16-{seed}"] = adapter
        targets[f"adapter-fp8-{seed}"] = adapter | {"training": training}
        names = [f"{base}-{seed}" for base in BASES]
        targets |= {name: merged(f"adapter-{name}") for name in names}
        bench = {"kind": "benchmark", "models": names, "data": task.data(seed)}
        targets[f"bench{seed}"] = bench | task.bench | {"latency": LATENCY}
    return {"version": 1, "default": "bench0", "targets": targets}


def losses(models: dict[str, Any], base: str, seed: int, data: str) -> list[float]:
    """Return the loss of each row, in nats a token."""
    answers = models[f"{base}-{seed}"]["data"][data]["answers"]
    return [float(answer["nll"]) / max(1, int(answer["tokens"])) for answer in answers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="a folder to work in, and to go on in")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="seeds that are built at once")
    parser.add_argument("--base", help="a source of the base model, where there is no network")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp())
    task = task_of("tone", options.seeds)
    if options.base:
        task.recipe["base"]["source"] = options.base
    prepare(work, task, recipe(task, options.seeds))
    seeds = range(options.seeds)
    with ThreadPoolExecutor(options.jobs) as pool:
        by_seed = list(pool.map(lambda seed: build(work, f"bench{seed}"), seeds))
    rows = []
    for data in task.data(0):
        found = {
            base: [losses(by_seed[seed], base, seed, data) for seed in seeds] for base in BASES
        }
        more = [
            [b - a for a, b in zip(*pair, strict=True)]
            for pair in zip(*(found[base] for base in BASES), strict=True)
        ]
        means = {base: [mean(each) for each in found[base]] for base in BASES}
        right = {
            base: mean(
                bool(answer[task.right])
                for seed in seeds
                for answer in by_seed[seed][f"{base}-{seed}"]["data"][data]["answers"]
            )
            for base in BASES
        }
        row = [data, *(f"{mean(means[base]):.4f}" for base in BASES)]
        row.append(", ".join(f"{mean(each):+.4f}" for each in more))
        row.append(f"{stdev(means['bf16']):.4f}" if len(seeds) > 1 else "")
        row += [f"{100 * right[base]:.1f} %" for base in BASES]
        if data == task.data(0)[-1]:
            each, low, high = interval(in_groups(task, len(seeds), more.__getitem__))
            row.append(f"{each:+.4f} ({low:+.4f} to {high:+.4f})")
        rows.append(row)
    head = ["rows", *BASES, "fp8 - bf16, by seed", "bf16's deviation over seeds"]
    head += [f"right, {base}" for base in BASES]
    print(table([*head, "interval"], [row + [""] * (8 - len(row)) for row in rows]))


if __name__ == "__main__":
    main()
