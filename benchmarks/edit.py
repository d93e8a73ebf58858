"""From an edited row to a decision: olivebuild beside what one would run by hand, in turn.

    python benchmarks/edit.py
    python benchmarks/edit.py --no-peer --rounds 1
    python benchmarks/edit.py --phi3     # recipes/phi3 with random weights, on a GPU; no peer

It is the quick start (recipes/tone), built once; then one of its training rows is edited, and the
model and its benchmark are built again. By hand the same takes four commands: a transformers
Trainer with peft on the same rows, batches and steps; `merge_and_unload`; the model builder of
onnxruntime-genai; and lm-eval on the merged and the int4 model, on the same test rows, by the
likelihood of each label (its hf backend in batches of 16, its onnxruntime-genai backend one by one,
as it has them). Needs `pip install lm-eval`.

Not alike: ours also writes each answer, measures latency, compares logits, tokens and stop tokens
with the model before, and trains classical classifiers; the int4 model by hand has no 8-bit layers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, Cost, end, run, table
from benchmarks.rebuild import BUILDER, MERGE, make_model

ROOT = Path(__file__).parent.parent
SETS, STEPS = ("tone", "hard"), 36
LABELS = ("joy", "sad", "fear", "surprise")
GOALS = {"tone": 90.0, "phi3": 60.0}
"""Seconds from the edit to the decision: on 2 cores, and on a GPU."""
TRAIN = """
import sys
import pyarrow.parquet as parquet
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
base, rows, out, steps = sys.argv[1:5]
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
model = get_peft_model(model, lora)
def tokens(text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]
examples = []
for row in parquet.read_table(rows).to_pylist():
    prompt, completion = tokens(row["prompt"]), tokens(row["completion"])
    labels = [-100] * len(prompt) + completion
    examples.append({"input_ids": prompt + completion, "labels": labels})
def collate(batch):
    length = max(len(row["input_ids"]) for row in batch)
    def padded(name, value):
        return torch.tensor([row[name] + [value] * (length - len(row[name])) for row in batch])
    ids = padded("input_ids", 0)
    return {"input_ids": ids, "labels": padded("labels", -100),
            "attention_mask": (padded("labels", -200) != -200).long()}
arguments = TrainingArguments(output_dir=out + ".runs", max_steps=int(steps), warmup_steps=10,
    learning_rate=8e-4, lr_scheduler_type="linear", per_device_train_batch_size=8, seed=0,
    save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
    remove_unused_columns=False)
Trainer(model=model, args=arguments, train_dataset=examples, data_collator=collate).train()
model.save_pretrained(out)
"""
JUDGE = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
folder, backend, tasks, out = sys.argv[1:5]
arguments = {"pretrained": folder} | ({"device": "cpu"} if backend == "hf" else {})
results = simple_evaluate(model=backend, model_args=arguments, tasks=["tone", "hard"],
    batch_size=16 if backend == "hf" else 1, task_manager=TaskManager(include_path=tasks),
    log_samples=False, bootstrap_iters=0)["results"]
json.dump({task: row["acc,none"] for task, row in results.items()}, open(out, "w"))
"""
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: [{choices}]
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One edit: what it cost, the seconds of each step, and the accuracy by model and data set."""

    cost: Cost
    steps: dict[str, float]
    accuracy: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="training steps; else the recipe's")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument(
        "--phi3", action="store_true", help="recipes/phi3 with random weights, ours alone"
    )
    parser.add_argument("--layers", type=int, default=32, help="of --phi3")
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--intermediate", type=int, default=8192)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32064)
    parser.add_argument("--json", action="store_true", help="only the last line")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Our modules would be compiled on each start; those of the peers were when pip installed them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="edit-", dir=os.environ.get("BENCHMARK_DIR")) as name:
        measure(Path(name), options)


def measure(root: Path, options: argparse.Namespace) -> None:
    if options.phi3:
        # Phi-3's own tokenizer makes hardly more tokens than such rows have words, too.
        options.texts = sorted(map(str, (ROOT / "docs").rglob("*.md")))
        make_model(root / "base", options)
    ours = Ours(root, options)
    first = ours.build()
    peer = None if options.no_peer or options.phi3 else ByHand(root, options.steps or STEPS)
    rounds: list[tuple[Edit, Edit | None]] = []
    for number in range(1, options.rounds + 1):
        ours.edit(number)
        mine = ours.build()
        rounds.append((mine, peer.build() if peer else None))
    report(first, rounds, options)


class Ours:
    """A recipe in a folder with a cache of its own."""

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        shutil.copytree(ROOT / "recipes", root / "recipes")
        self.folder = root / "recipes" / ("phi3" if options.phi3 else "tone")
        self.rows = root / "recipes/tone/data/tone.jsonl"
        self.changes = []
        if options.steps:
            self.changes.append(f"adapter.training.steps={options.steps}")
        if options.phi3:
            self.changes.append(f"base.source={root / 'base'}")
        if self.changes:
            # Such a model misses the gates, which is no failure of the benchmark.
            self.changes.append("bench.gates=[]")
        self.environment = {
            "OLIVEBUILD_CACHE": os.environ.get("BENCHMARK_CACHE", str(root / "cache")),
            "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
        }

    def edit(self, number: int) -> None:
        """Change a word of a training row."""
        lines = self.rows.read_text("utf-8").splitlines(keepends=True)
        row = json.loads(lines[4])
        row["phrase"] = re.sub(r"( \(\d+\))?$", f" ({number})", row["phrase"])
        lines[4] = json.dumps(row) + "\n"
        self.rows.write_text("".join(lines), "utf-8")

    def build(self) -> Edit:
        changes = [word for change in self.changes for word in ("--set", change)]
        cost = run(
            [sys.executable, "-m", "olivebuild", "--json", *changes, "onnx-int4", "bench"],
            folder=self.folder,
            environment=self.environment,
        )
        events = [
            json.loads(line)
            for line in (self.folder / "benchmark.log").read_text("utf-8").splitlines()
            if line.startswith("{")
        ]
        if out := os.environ.get("OUT"):
            shutil.copy(self.folder / "benchmark.log", Path(out) / "edit.jsonl")
        steps = {e["node"]: e["seconds"] for e in events if e.get("event") == "finished"}
        metrics = json.loads((self.folder / "build/bench/metrics.json").read_text("utf-8"))
        return Edit(cost=cost, steps=steps, accuracy=accuracies(metrics))


def accuracies(metrics: dict[str, Any]) -> dict[str, float]:
    """Return `model data` -> share of right answers by the likelihood of labels."""
    models: dict[str, Any] = metrics["models"]
    return {
        f"{name} {task}": row["data"][task]["accuracy"]
        for name, row in models.items()
        for task in row["data"]
    }


class ByHand:
    """The commands that do the same without olivebuild, on the rows of its data sets."""

    def __init__(self, root: Path, steps: int) -> None:
        self.root, self.built, self.steps = root, root / "recipes/tone/build", steps
        self.tasks = root / "tasks"
        self.tasks.mkdir()

    def build(self) -> Edit:
        import pyarrow.parquet as parquet

        for name in SETS:
            rows = parquet.read_table(self.built / name / "test.parquet").to_pylist()
            file = self.tasks / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
            task = TASK.format(name=name, rows=json.dumps(str(file)), choices=", ".join(LABELS))
            (self.tasks / f"{name}.yaml").write_text(task, "utf-8")
        for name in ("adapter", "merged", "int4"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        base, rows_file = str(self.built / "base"), str(self.built / "tone/train.parquet")
        adapter, merged, int4 = (str(self.root / n) for n in ("adapter", "merged", "int4"))
        costs = {
            "training": self._python(TRAIN, base, rows_file, adapter, str(self.steps)),
            "merge": self._python(MERGE, base, adapter, merged),
            "int4": self._python(BUILDER, merged, int4, ""),
        }
        accuracy: dict[str, float] = {}
        for name, folder, backend in (
            ("merged", merged, "hf"),
            ("onnx-int4", int4, "onnxruntime-genai"),
        ):
            out = self.root / f"{name}.json"
            costs[f"judge {name}"] = self._python(JUDGE, folder, backend, str(self.tasks), str(out))
            for task, share in json.loads(out.read_text("utf-8")).items():
                accuracy[f"{name} {task}"] = share
        total = Cost(
            sum(c.wall for c in costs.values()),
            sum(c.cpu for c in costs.values()),
            max(c.peak for c in costs.values()),
        )
        steps = {name: cost.wall for name, cost in costs.items()}
        return Edit(cost=total, steps=steps, accuracy=accuracy)

    def _python(self, script: str, *arguments: str) -> Cost:
        return run([sys.executable, "-c", script, *arguments], folder=self.root)


def report(
    first: Edit, rounds: list[tuple[Edit, Edit | None]], options: argparse.Namespace
) -> None:
    mine = [ours for ours, _ in rounds]
    theirs = [peer for _, peer in rounds if peer]
    goal = GOALS["phi3" if options.phi3 else "tone"]
    claims = [
        Claim(
            "from an edited row to the decision",
            wall := middle([e.cost.wall for e in mine]),
            goal,
            "s",
            goal / wall,
            1.0,
        )
    ]
    if theirs:
        peer = middle([e.cost.wall for e in theirs])
        claims.append(Claim("the same beside four commands", wall, peer, "s", peer / wall, None))
    training = middle([e.steps["adapter"] for e in mine])
    claims.append(
        Claim(
            "a benchmark beside one training of it",
            benchmark := middle([sum(benchmark_steps(e).values()) for e in mine]),
            training,
            "s",
            1.5 * training / benchmark,
            1.0,
        )
    )
    if not options.json:
        for name, edits in (("olivebuild", mine), ("by hand", theirs)):
            if edits:
                print(steps_table(name, edits), end="\n\n")
        head = ["accuracy", "olivebuild", *(["by hand"] if theirs else [])]
        print(table(head, [[k, *figures_of(k, mine, theirs)] for k in mine[-1].accuracy]))
        print(f"\nfirst build: {first.cost.wall:.0f} s, {first.cost.peak / 2**30:.1f} GiB\n")
    end(claims, "torch", "transformers", "peft", "onnxruntime-genai", "lm_eval")


def benchmark_steps(edit: Edit) -> dict[str, float]:
    return {name: s for name, s in edit.steps.items() if name.partition(":")[0] == "bench"}


def steps_table(name: str, edits: list[Edit]) -> str:
    """Return a table of the median seconds of each step, and of the whole."""
    names = dict.fromkeys(step for edit in edits for step in edit.steps)
    rows = [[n, f"{middle([e.steps.get(n, 0.0) for e in edits]):.1f} s"] for n in names]
    cpu, peak = middle([e.cost.cpu for e in edits]), max(e.cost.peak for e in edits)
    wall = middle([e.cost.wall for e in edits])
    whole = f"{wall:.1f} s ({cpu:.0f} s of a core, {peak / 2**30:.1f} GiB)"
    return table([name, "median"], [*rows, ["all", whole]])


def figures_of(name: str, mine: list[Edit], theirs: list[Edit]) -> list[str]:
    return [
        f"{edits[-1].accuracy[name]:.1%}" if name in edits[-1].accuracy else ""
        for edits in (mine, theirs)
        if edits
    ]


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
