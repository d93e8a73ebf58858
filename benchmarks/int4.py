"""What 4 bits cost: conversions of one merged model beside it, over seeds of its training.

    python benchmarks/int4.py                         # the quick start
    python benchmarks/int4.py --task extract          # orders out of messages
    python benchmarks/int4.py --task rows.jsonl       # rows with `phrase` and `tone`, in folds

Each seed trains an adapter, whose merge is converted in each way; `aware` has an adapter of its
own, of the same seed. All are judged on rows that were held out, and on fresh ones that nothing was
chosen by: 240, drawn by benchmarks/_seeded_tasks.py, or folds, each judged by the seed that was not
trained on it. A loss is in points of right answers against the merge of the same seed, in brackets
the least and the most of a seed. Its interval (95 %) is over fresh rows and seeds, both drawn anew.
Tokens a second are those of the first seed's models, measured in turns
by one benchmark target, as a ratio to plain int4.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
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

CALIBRATED = {"algorithm": "gptq"}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "k-quant": {"algorithm": "k_quant"},
    "gptq-base": CALIBRATED | {"moments": "base"},
    "gptq": CALIBRATED | {"moments": "merged"},
    "tuned": CALIBRATED | {"moments": "merged", "tuning": {}},
    "gptq-symmetric": CALIBRATED | {"moments": "merged", "symmetric": True},
    "aware": {},
}
"""Conversion -> its options; that of `aware` is plain, of another adapter."""
SPEED = {"prompt_tokens": 64, "new_tokens": 64, "rounds": 15, "max_seconds": 120.0}
Answers = list[dict[str, Any]]


def recipe(task: Task, seeds: int, ways: list[str]) -> dict[str, Any]:
    """Return a recipe with the targets of each seed."""
    targets = dict(task.recipe)
    for seed in range(seeds):
        adapter, names = task.seeded(seed), [f"merged{seed}"]
        targets[f"adapter{seed}"] = adapter
        targets[f"merged{seed}"] = merged(f"adapter{seed}")
        if "aware" in ways:
            targets[f"learnt{seed}"] = adapter | {"aware": {"precision": "int4"}}
            targets[f"joined{seed}"] = merged(f"learnt{seed}")
        for way in ways:
            model = f"joined{seed}" if way == "aware" else f"merged{seed}"
            options: dict[str, Any] = {"kind": "onnx", "model": model, "precision": "int4"}
            if WAYS[way].get("algorithm") == "gptq":
                options["calibration"] = adapter["data"]
            targets[f"{way}{seed}"] = options | {"provider": "cpu"} | WAYS[way]
            names.append(f"{way}{seed}")
        bench = {"kind": "benchmark", "models": names, "data": task.data(seed)}
        targets[f"bench{seed}"] = bench | task.bench | {"latency": LATENCY}
    names = [f"{way}0" for way in ways]
    bench = {"kind": "benchmark", "models": names, "data": task.data(0)}
    targets["speed"] = bench | task.bench | {"latency": SPEED}
    return {"version": 1, "default": "bench0", "targets": targets}


def rows_of(
    task: Task, by_seed: list[dict[str, Any]], speed: dict[str, Any], ways: list[str]
) -> list[list[str]]:
    """Return for each way what it loses on each data set, its size, and its speed."""

    rows, seeds = [], range(len(by_seed))
    for way in ("merged", *ways):
        row = [way]
        for place, title in enumerate(columns(task)):
            names = [task.data(seed)[place] for seed in seeds]
            right = [mean(answers(task, by_seed, seed, way, names[seed])) for seed in seeds]
            lost = [losses(task, by_seed, seed, way, names[seed]) for seed in seeds]
            row.append(f"{100 * mean(right):.1f} %")
            means = [100 * mean(each) for each in lost]
            row.append(f"{mean(means):.1f} ({min(means):.1f} to {max(means):.1f})")
            if title == "fresh":
                row.append(ends(in_groups(task, len(by_seed), lost.__getitem__)))
        size = float(by_seed[0][f"{way}0"]["size"]) / 1e6
        pace = float(speed[f"{way}0"]["tokens_per_second"]) if f"{way}0" in speed else math.nan
        ratio = pace / float(speed["plain0"]["tokens_per_second"]) if speed else math.nan
        rows.append([*row, f"{size:.0f} MB", "" if math.isnan(ratio) else f"{ratio:.2f}"])
    return rows


def answers(
    task: Task, by_seed: list[dict[str, Any]], seed: int, way: str, data: str
) -> list[bool]:
    """Return whether each answer is right."""
    found: Answers = by_seed[seed][f"{way}{seed}"]["data"][data]["answers"]
    return [bool(answer[task.right]) for answer in found]


def losses(task: Task, by_seed: list[dict[str, Any]], seed: int, way: str, data: str) -> list[int]:
    """Return for each row 1 where the merge alone is right, -1 where it alone is wrong."""
    pair = (answers(task, by_seed, seed, each, data) for each in ("merged", way))
    return [int(before) - int(after) for before, after in zip(*pair, strict=True)]


def ends(lost: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Return a mean loss in points and its interval; where no answer differs, there is none."""
    mean, low, high = (100 * x for x in interval(lost))
    if not any(any(seed) for seeds in lost.values() for seed in seeds):
        return f"{mean:.2f} (no answer differs)"
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def columns(task: Task) -> list[str]:
    """Return what data sets are called in the table."""
    return [*task.data(0)[:-1], "fresh"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="tone", help="tone, extract, or a file of rows")
    parser.add_argument("--work", type=Path, help="a folder to work in, and to go on in")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="seeds that are built at once")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--base", help="a source of the base model, where there is no network")
    parser.add_argument("--no-speed", action="store_true", help="measure no tokens a second")
    options = parser.parse_args()
    ways = list(dict.fromkeys(["plain", *options.ways]))
    work = options.work or Path(tempfile.mkdtemp())
    task = task_of(options.task, options.seeds)
    if options.base:
        task.recipe["base"]["source"] = options.base
    prepare(work, task, recipe(task, options.seeds, ways))
    with ThreadPoolExecutor(options.jobs) as pool:
        names = [f"bench{seed}" for seed in range(options.seeds)]
        by_seed = list(pool.map(lambda name: build(work, name), names))
    speed = {} if options.no_speed else build(work, "speed")
    head = []
    for title in columns(task):
        head += [title, f"loss on {title}", *(["interval"] if title == "fresh" else [])]
    groups = in_groups(
        task,
        options.seeds,
        lambda seed: losses(task, by_seed, seed, "plain", task.data(seed)[-1]),
    )
    rows = sum(len(rows) for seeds in groups.values() for rows in seeds)
    print(f"{rows} answers of each way to fresh rows in {len(groups)} groups")
    print(table(["int4 by", *head, "size", "tokens/s"], rows_of(task, by_seed, speed, ways)))


if __name__ == "__main__":
    main()
