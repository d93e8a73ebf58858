"""Tasks whose adapters are trained with several seeds: the quick start, orders out of messages, and
rows of one's own.

Rows of `fresh` were drawn after everything had been chosen. They are none of the recipes' rows,
though some of their words are. Sentences with one of the 52 phrases of a tone are alike, and count
as a group; so does an order, or a row of one's own, by itself.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks._measure import run

ROOT = Path(__file__).resolve().parent.parent
OLIVEBUILD = [sys.executable, "-m", "olivebuild"]
LATENCY = {"prompt_tokens": 8, "new_tokens": 1, "rounds": 1, "max_rounds": 1}
"""As little as is possible where it is not looked at."""
DRAWS = 10_000
FRESH = 240
"""Rows that are drawn for each of the two recipes."""


@dataclass(frozen=True)
class Task:
    """A recipe whose adapter is trained with several seeds, and what its models are judged on."""

    recipe: dict[str, Any]
    """The recipe's targets, without those of `seeded`."""
    seeded: Callable[[int], dict[str, Any]]
    """The `adapter` of a seed."""
    data: Callable[[int], list[str]]
    """Data sets that a seed's models are judged on; the last one holds fresh rows."""
    right: str
    """Whether an answer is right: a field of it."""
    files: Mapping[str, Sequence[dict[str, Any]]]
    """Files of rows to write beside the recipe."""
    bench: dict[str, Any]
    """Further fields of its benchmarks."""
    group: Callable[[dict[str, Any]], str] | None = None
    """Of a fresh row, what rows that are answered alike have in common; None: each is its own."""


def task_of(name: str, seeds: int) -> Task:
    """Return a task: `tone`, `extract`, or the path of rows with `phrase` and `tone`."""
    if name == "tone":
        return _of_recipe("tone", "tone", ["tone", "hard"], "right", fresh_tones(), ())
    if name == "extract":
        keep = ("json_schema", "max_new_tokens")
        return _of_recipe("extract", "orders", [], "json_exact", fresh_orders(), keep)
    return _of_folds(Path(name), seeds)


def _of_recipe(
    folder: str,
    data: str,
    judged: list[str],
    right: str,
    fresh: Sequence[dict[str, Any]],
    keep: Sequence[str],
) -> Task:
    targets = _targets(folder)
    adapter: dict[str, Any] = targets["adapter"]
    bench: dict[str, Any] = targets["bench"]
    kept = {name: targets[name] for name in ("base", data, *judged)}
    kept["fresh"] = targets[data] | {"source": "data/fresh.jsonl", "holdout": 1}

    def seeded(seed: int) -> dict[str, Any]:
        return adapter | {"training": adapter["training"] | {"seed": seed}}

    files = {"data/fresh.jsonl": fresh}
    more = {name: bench[name] for name in keep}
    group = phrase_of if folder == "tone" else None
    return Task(kept, seeded, lambda _: [*judged, "fresh"], right, files, more, group)


def _of_folds(path: Path, count: int) -> Task:
    """Each row is judged by the models of one seed, which were not trained on it."""
    lines = dict.fromkeys(path.read_text("utf-8").splitlines())
    rows = [json.loads(line) for line in lines if line.strip()]
    random.Random(0).shuffle(rows)
    names = sorted({str(row["tone"]) for row in rows})
    targets = _targets("tone")
    template = targets["tone"] | {
        "prompt": "<|im_start|>user\nIs the tone of this text "
        f"{', '.join(names[:-1])} or {names[-1]}?\n{{phrase}}<|im_end|>\n<|im_start|>assistant\n"
    }
    kept, files = {"base": targets["base"]}, {}
    for fold in range(count):
        files[f"data/train{fold}.jsonl"] = [r for i, r in enumerate(rows) if i % count != fold]
        files[f"data/fold{fold}.jsonl"] = rows[fold::count]
        kept[f"rows{fold}"] = template | {"source": f"data/train{fold}.jsonl", "holdout": 0}
        kept[f"fold{fold}"] = template | {"source": f"data/fold{fold}.jsonl", "holdout": 1}

    def seeded(seed: int) -> dict[str, Any]:
        adapter: dict[str, Any] = targets["adapter"]
        training = adapter["training"] | {"seed": seed}
        return adapter | {"data": f"rows{seed}.train", "training": training}

    return Task(kept, seeded, lambda seed: [f"fold{seed}"], "right", files, {})


def _targets(folder: str) -> dict[str, Any]:
    text = (ROOT / "recipes" / folder / "olivebuild.yaml").read_text("utf-8")
    targets: dict[str, Any] = yaml.safe_load(text)["targets"]
    return targets


def fresh_orders() -> list[dict[str, Any]]:
    """Return messages that `extract` does not have, by its own generator."""
    sys.path.insert(0, str(ROOT / "recipes/extract"))
    import make_data  # type: ignore[import-not-found]

    draw, known = random.Random(2026), {row["text"] for row in make_data.rows()}
    drawn = (make_data.row(draw) for _ in range(10 * FRESH))
    return [row for row in drawn if row["text"] not in known][:FRESH]


WHO = [
    "My brother",
    "Our neighbour",
    "The new teacher",
    "Grandpa",
    "Her best friend",
    "The coach",
    "My flatmate",
    "The old baker",
    "Aunt Rosa",
    "The driver",
    "Our guide",
    "The girl next door",
]
WHERE = [
    "after the concert",
    "when the parcel came",
    "at the airport",
    "on the balcony",
    "at the bakery",
    "after the meeting",
    "in the library",
    "when the results were read",
    "at the harbour",
    "during the interview",
    "in the kitchen",
    "as the lights came on",
    "on the ferry",
    "at the reunion",
    "when the curtain rose",
    "by the fountain",
    "in the office",
    "when the call ended",
    "at the market",
    "on Monday morning",
    "in the museum",
]
WHAT = {
    "joy": "was walking on air|hummed and skipped along|was radiant|whooped and danced"
    "|felt blissful|was tickled pink|glowed with contentment|was in high spirits|was exultant"
    "|grinned from ear to ear|was rapturous|felt on top of the world|was giddy with glee",
    "sad": "wept without a sound|was close to tears|was mourning|sobbed into a sleeve"
    "|was heavy-hearted|felt forsaken|was despairing|looked woebegone|sank into melancholy"
    "|was grief-stricken|moped about|wore a long, tearful face|was sunk in sorrow",
    "fear": "was trembling with fright|froze in terror|felt a cold dread|was scared stiff"
    "|broke out in a cold sweat|was shaking like a leaf|kept looking back in alarm"
    "|was panic-stricken|hid behind the door, shaking|was paralysed with dread"
    "|flinched at every noise|was too frightened to speak|felt the hairs rise in horror",
    "surprise": "could hardly believe it|was astonished|gasped in amazement"
    "|was caught off guard|stared open-mouthed|had not seen that coming|was thunderstruck"
    "|blinked in disbelief|did a double take|was bowled over by the twist|never expected that"
    "|was staggered by it|was amazed",
}


def phrase_of(row: dict[str, Any]) -> str:
    """Return the phrase of a drawn sentence that tells its tone."""
    return max((p for p in WHAT[row["tone"]].split("|") if p in row["phrase"]), key=len)


def fresh_tones() -> list[dict[str, Any]]:
    """Return sentences of the quick start's four tones, as many of each."""
    draw, rows = random.Random(2026), []
    for tone, texts in WHAT.items():
        every = [(who, what, where) for who in WHO for what in texts.split("|") for where in WHERE]
        for who, what, where in draw.sample(every, FRESH // len(WHAT)):
            before = where[0].upper() + where[1:]
            whom = who if who.startswith(("Grandpa", "Aunt")) else who[0].lower() + who[1:]
            first = draw.random() < 0.4
            phrase = f"{before}, {whom} {what}." if first else f"{who} {what} {where}."
            rows.append({"phrase": phrase, "tone": tone})
    return rows


def merged(adapter: str) -> dict[str, str]:
    return {"kind": "merged", "model": "base", "adapter": adapter}


def build(work: Path, name: str) -> dict[str, Any]:
    """Build a benchmark, and return its models' metrics."""
    run([*OLIVEBUILD, "build", name], folder=work)
    text = (work / "build" / name / "metrics.json").read_text("utf-8")
    models: dict[str, Any] = json.loads(text)["models"]
    return models


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


def in_groups(
    task: Task, seeds: int, losses: Callable[[int], Sequence[float]]
) -> dict[str, list[list[float]]]:
    """Return what fresh rows lose: group -> seed -> losses."""
    found: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        name, lost = task.data(seed)[-1], losses(seed)
        names = [f"{name} {number}" for number in range(len(lost))]
        if task.group:
            names = [task.group(row) for row in task.files[f"data/{name}.jsonl"]]
        for group, loss in zip(names, lost, strict=True):
            found.setdefault(group, [[] for _ in range(seeds)])[seed].append(loss)
    return found


def interval(lost: Mapping[str, Sequence[Sequence[float]]]) -> tuple[float, float, float]:
    """Return a mean, and the ends of its 95 % interval.

    `lost`: group of rows -> for each seed what its rows lose. Groups and seeds are drawn anew, as
    each might have been another (a bootstrap over both; Owen 2007, "The pigeonhole bootstrap",
    https://doi.org/10.1214/07-AOAS122). Where all are 0, the ends say nothing.
    """
    sums = np.array([[sum(seed) for seed in seeds] for seeds in lost.values()], float)
    counts = np.array([[len(seed) for seed in seeds] for seeds in lost.values()], float)
    random, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        groups = np.bincount(random.integers(0, len(sums), len(sums)), minlength=len(sums))
        seeds = np.bincount(
            random.integers(0, sums.shape[1], sums.shape[1]), minlength=sums.shape[1]
        )
        total = groups @ counts @ seeds
        # Of folds, each group has rows of one seed alone.
        if total:
            found.append((groups @ sums @ seeds) / total)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(sums.sum() / counts.sum()), float(low), float(high)
