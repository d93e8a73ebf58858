"""What 4 bits cost: conversions of one merged model beside it, over seeds of its training.

    python benchmarks/int4.py                         # the quick start
    python benchmarks/int4.py --task extract          # orders out of messages
    python benchmarks/int4.py --task rows.jsonl       # rows with `phrase` and `tone`, in folds

Each seed trains an adapter, whose merge is converted in each way; `aware` has an adapter of its
own, of the same seed. All are judged on rows that were held out, and on fresh ones that nothing was
chosen by: 240, drawn by benchmarks/_int4_tasks.py, or folds, each judged by the seed that was not
trained on it. A loss is in points of right answers against the merge of the same seed. Its interval
(95 %) is over the fresh rows, each with the mean over its seeds, since the answers of several
models to one row are alike. Tokens a second are those of the first seed's models, measured in turns
by one benchmark target, as a ratio to plain int4.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._int4_tasks import ROOT, Task, task_of
from benchmarks._measure import run, table

OLIVEBUILD = [sys.executable, "-m", "olivebuild"]
CALIBRATED = {"algorithm": "gptq"}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "k-quant": {"algorithm": "k_quant"},
    "gptq-base": CALIBRATED | {"moments": "base"},
    "gptq": CALIBRATED | {"moments": "merged"},
    "gptq-symmetric": CALIBRATED | {"moments": "merged", "symmetric": True},
    "aware": {},
}
"""Conversion -> its options; that of `aware` is plain, of another adapter."""
LATENCY = {"prompt_tokens": 8, "new_tokens": 1, "rounds": 1, "max_rounds": 1}
"""As little as is possible where it is not looked at."""
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


def merged(adapter: str) -> dict[str, str]:
    return {"kind": "merged", "model": "base", "adapter": adapter}


def build(work: Path, name: str) -> dict[str, Any]:
    """Build a benchmark, and return its models' metrics."""
    run([*OLIVEBUILD, "build", name], folder=work)
    text = (work / "build" / name / "metrics.json").read_text("utf-8")
    models: dict[str, Any] = json.loads(text)["models"]
    return models


def rows_of(
    task: Task, by_seed: list[dict[str, Any]], speed: dict[str, Any], ways: list[str]
) -> list[list[str]]:
    """Return for each way what it loses on each data set, its size, and its speed."""

    def answers(seed: int, way: str, data: str) -> list[bool]:
        found: Answers = by_seed[seed][f"{way}{seed}"]["data"][data]["answers"]
        return [bool(answer[task.right]) for answer in found]

    def losses(seed: int, way: str, data: str) -> list[int]:
        pairs = zip(answers(seed, "merged", data), answers(seed, way, data), strict=True)
        return [int(before) - int(after) for before, after in pairs]

    rows, seeds = [], range(len(by_seed))
    for way in ("merged", *ways):
        row = [way]
        for place, title in enumerate(columns(task)):
            names = [task.data(seed)[place] for seed in seeds]
            right = [mean(answers(seed, way, names[seed])) for seed in seeds]
            lost = [losses(seed, way, names[seed]) for seed in seeds]
            row.append(f"{100 * mean(right):.1f} %")
            means = [100 * mean(each) for each in lost]
            row.append(f"{mean(means):.1f} ({min(means):.1f} to {max(means):.1f})")
            if title == "fresh":
                row.append(interval(lost, shared=len(set(names)) == 1))
        size = float(by_seed[0][f"{way}0"]["size"]) / 1e6
        pace = float(speed[f"{way}0"]["tokens_per_second"]) if f"{way}0" in speed else math.nan
        ratio = pace / float(speed["plain0"]["tokens_per_second"]) if speed else math.nan
        rows.append([*row, f"{size:.0f} MB", "" if math.isnan(ratio) else f"{ratio:.2f}"])
    return rows


def interval(lost: list[list[int]], *, shared: bool) -> str:
    """Return the mean loss over rows, in points, and the ends of its 95 % interval.

    `shared`: all seeds' models answered the same rows.
    """
    rows = (
        [mean(each) for each in zip(*lost, strict=True)]
        if shared
        else [x for each in lost for x in each]
    )
    middle, half = 100 * mean(rows), 196 * stdev(rows) / math.sqrt(len(rows))
    return f"{middle:.2f} ({middle - half:.2f} to {middle + half:.2f})"


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
    count = sum(
        len(seed["merged" + str(i)]["data"][task.data(i)[-1]]["answers"])
        for i, seed in enumerate(by_seed)
    )
    print(f"{count} answers of each way to fresh rows")
    print(table(["int4 by", *head, "size", "tokens/s"], rows_of(task, by_seed, speed, ways)))


def prepare(work: Path, task: Task, content: dict[str, Any]) -> None:
    """Write the recipe and its files."""
    for folder in ("tone", "extract"):
        data = ROOT / "recipes" / folder
        for path in (*data.glob("data/*"), *data.glob("*.json")):
            place = work / path.relative_to(data)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    for name, rows in task.files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (work / name).write_text("".join(lines), "utf-8")
    lock = (ROOT / "recipes/tone/olivebuild.lock").read_bytes()
    (work / "olivebuild.lock").write_bytes(lock)
    (work / "olivebuild.yaml").write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


if __name__ == "__main__":
    main()
