"""The loops that are compared, each in a process of its own: olivebuild's, a stock one, TRL with
Liger, the transformers Trainer.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._train_inputs import CARD, SKIPPED, long_rows, short_rows, tone_rows


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


SUSTAINED = 5.0
"""Seconds."""


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
    once = min(run(20) for _ in range(3)) / 20
    # A card that is kept busy slows down to stay within its power; a training keeps it busy.
    long = 20 if options.quick else round(SUSTAINED / once)
    return {"flops": 2 * size**3 / once, "sustained": 2 * size**3 * long / run(long)}


def clock(torch: Any) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def memory(torch: Any) -> int:
    from olivebuild.core.host import peak_rss

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_rss()


def figures(
    torch: Any,
    model: Any,
    ends: list[float],
    tokens: list[int],
    losses: list[float],
    ahead: int = 0,
    skipped: int = SKIPPED,
) -> dict[str, Any]:
    """`ends`: the clock before the first step and after each, that after step `skipped` when
    `ahead` more were done.
    """
    first = min(skipped, len(tokens) - 1)
    speed = sum(tokens[first + ahead :]) / (ends[-1] - ends[first])
    return {
        "tokens_per_second": round(speed, 1),
        "parameters": sum(parameters_in(p) for p in model.parameters() if not p.requires_grad),
        "memory": memory(torch),
        "first_step": round(ends[1] - ends[0], 2),
        "steps": len(tokens),
        "losses": [round(x, 5) for x in losses],
    }


def parameters_in(tensor: Any) -> int:
    """Of one in 4 bits, those that it stands for."""
    state = getattr(tensor, "quant_state", None)
    return math.prod(state.shape) if state else int(tensor.numel())


def adapter_fields(options: argparse.Namespace, batch: int, **more: Any) -> Any:
    from olivebuild.steps.adapter import AdapterFields

    training = {
        "lr": 1e-4,
        "steps": options.steps + SKIPPED,
        "batch": batch,
        "max_length": options.length,
        "speed": more.pop("speed", "auto"),
    }
    training |= more.pop("training", {})
    fields = {
        "model": "base",
        "data": "tone",
        "r": options.rank,
        "alpha": float(options.rank),
        "modules": ["o_proj", "qkv_proj"],
        "training": training,
    }
    return AdapterFields.model_validate(fields | more)


def ours(
    folder: Path,
    fields: Any,
    rows: list[Any] | None = None,
    skipped: int = SKIPPED,
    texts: str = "texts",
    base: str = "base",
) -> dict[str, Any]:
    """olivebuild's own loop, from loading the model on; the clock is read where it tells of a step.

    `base` is the model's folder. Without `rows`, on the texts of that name.
    """
    if rows is not None:
        # Another GPU's process would read the texts in the folder, not these rows.
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    torch = torch_here()
    from olivebuild.api.action import Action, ActionInput
    from olivebuild.api.job import Job
    from olivebuild.ml.models import load
    from olivebuild.ml.nn import tuning
    from olivebuild.ml.training import train

    # As in a training of some minutes, where compiling pays.
    tuning.WORTH_COMPILING = 0
    ends: list[float] = []
    losses: list[float] = []
    notes: list[str] = []
    began = time.monotonic()

    class Listening(Job):
        def say(self, event: str, **data: Any) -> None:
            if event == "metric" and "loss" in data:
                # The device is waited for at the ends of what is measured only: the loop reads
                # figures while the next step runs.
                ends.append(
                    clock(torch)
                    if len(losses) + 1 in (skipped, fields.training.steps)
                    else time.monotonic()
                )
                losses.append(float(data["loss"]))
            elif event == "note":
                notes.append(str(data["text"]))
                print(f"{time.monotonic() - began:6.1f} s  {data['text']}", file=sys.stderr)
            elif event == "progress":
                done = data["done"]
                if done == 0:
                    ends.append(clock(torch))
                print(f"{time.monotonic() - began:6.1f} s  {done} steps", file=sys.stderr)

    place = Path(tempfile.mkdtemp(dir=folder))
    model = ActionInput(str(folder / base), str(folder / base), "model", "base")
    data = ActionInput(
        str(folder / texts), str(folder / texts / "train.parquet"), "dataset", "texts"
    )
    given = fields.model_dump(mode="json", exclude_unset=True)
    (place / "out").mkdir()
    action = Action(
        "a",
        "a",
        "adapter",
        "0" * 32,
        given,
        {"model": model, "data": data},
        {},
        str(place),
        str(place / "out"),
        str(place / "cache"),
    )
    job = Listening(action, io.StringIO())
    device, dtype = load.platform()
    tokens_of: Any = train.rows_of(job, fields) if rows is None else rows
    loop = train.fit(job, fields, tokens_of, None, device, dtype)
    batches = list(loop.schedule.batches())
    tokens = [sum(len(tokens_of[i]) for i in batch) for batch in batches]
    # When the first of these is read, the next has begun, and was waited for too.
    found = figures(
        torch, loop.runner.forward.model, ends, tokens, losses, loop.steps_in_flight, skipped
    )
    found["gpus"] = loop.runner.ranks.count if loop.runner.ranks else 1
    return (
        found
        | {
            k: v
            for k, v in loop.runner.forward.setup.provenance().items()
            if k in ("packed", "share", "limit", "grouped", "twice")
        }
        | {"notes": notes}
    )


def ours_long(folder: Path, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    return ours(folder, adapter_fields(options, 4, **{"dropout": 0.1} | more), long_rows(options))


def ours_short(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return ours(folder, adapter_fields(options, options.rows, dropout=0.1), short_rows(options))


def ours_texts(
    folder: Path, options: argparse.Namespace, gpus: int, *, short: bool = False, **asked: Any
) -> dict[str, Any]:
    """A training as a build runs it: tokens out of the cache, compiled because that pays.

    `short`: batches of as many short rows as `options` say. `asked`: fields of the adapter.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(gpus)))
    if gpus > 1 and torch_here().cuda.device_count() < gpus:
        raise SystemExit(f"needs {gpus} GPUs")
    # So many that compiling pays by the tokens and the numbers that weights are in: another GPU's
    # process decides that for itself. Some layers are compiled a second time after a few steps.
    long = 150 if short else 180 if asked.get("method") == "qlora" else 90
    steps, skipped = (4, 2) if options.quick else (long, 20)
    training = {"steps": steps, "loss": "all"} | asked.pop("training", {})
    batch = options.rows if short else 8
    return ours(
        folder,
        adapter_fields(options, batch, training=training, **asked),
        skipped=skipped,
        texts="short-texts" if short else "texts",
    )


def large_on_two_cards(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A base that is larger than a card, on two that have `CARD` bytes left."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    torch = torch_here()
    others = []
    for number in range(torch.cuda.device_count()):
        taken = torch.cuda.mem_get_info(number)[0] - CARD
        others.append(torch.empty(max(0, taken), dtype=torch.uint8, device=f"cuda:{number}"))
    training = {"steps": 4 if options.quick else 8, "loss": "all", "shard": "base"}
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    fields = adapter_fields(options, 4, modules=modules, training=training)
    found = ours(folder, fields, skipped=2, base="large")
    found["memory"] -= others[0].numel() if others else 0
    return found


SMALL_CARD = 8 << 30
"""Bytes of a laptop's GPU."""


def ours_on_small_card(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """With all of the card's memory but `SMALL_CARD` taken by somebody else."""
    torch = torch_here()
    taken = 0
    if torch.cuda.is_available():
        taken = torch.cuda.mem_get_info()[0] - SMALL_CARD
        others = torch.empty(max(0, taken), dtype=torch.uint8, device="cuda")
        taken = others.numel()
    found = ours_long(folder, options, training={"offload": "cpu"})
    found["memory"] -= taken
    return found


def stock(folder: Path, options: argparse.Namespace, batches: list[list[Any]]) -> dict[str, Any]:
    """The loop as most write it: the model as it is loaded, peft as it comes, labels to the model,
    AdamW.
    """
    torch = torch_here()
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder / "base", dtype=torch.bfloat16 if device == "cuda" else torch.float32
    )
    model = model.to(device)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.rank,
        lora_dropout=0.1,
        target_modules=["qkv_proj", "o_proj"],
    )
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0
    )
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
    from olivebuild.ml.training.schedule import batches_of

    order = batches_of(len(rows), batch, 0)
    return [[rows[i] for i in next(order)] for _ in range(steps)]


def stock_long(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return stock(folder, options, ordered(long_rows(options), 4, options.steps + SKIPPED))


def stock_one(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return stock(
        folder, options, [[row] for row in short_rows(options)[: 3 * (options.steps + SKIPPED)]]
    )


def recorder(torch: Any, ends: list[float], losses: list[float]) -> Any:
    """A callback of the Trainer that fills `ends`, as `figures` wants them, and the losses that are
    logged.
    """
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not ends:
                ends.append(clock(torch))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(clock(torch))

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    return Clock()


def trl_liger(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch = torch_here()
    import liger_kernel  # noqa: F401
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []

    steps = options.steps + SKIPPED
    rows = Dataset.from_list(
        [
            {"input_ids": r.ids.tolist()}
            for batch in ordered(long_rows(options), 4, steps)
            for r in batch
        ]
    )
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(dir=folder),
        per_device_train_batch_size=4,
        max_steps=steps,
        learning_rate=1e-4,
        bf16=torch.cuda.is_available(),
        use_liger_kernel=True,
        gradient_checkpointing=False,
        max_length=options.length,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        model_init_kwargs={"dtype": "bfloat16"},
        disable_tqdm=True,
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.rank,
        target_modules=["qkv_proj", "o_proj"],
    )
    trainer = SFTTrainer(
        model=str(folder / "base"),
        args=config,
        train_dataset=rows,
        peft_config=lora,
        callbacks=[recorder(torch, ends, [])],
    )
    trainer.train()
    return figures(torch, trainer.model, ends, [4 * options.length] * steps, [])


def quick_start(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe's own options, for a few steps."""
    training = {"lr": 8e-4, "steps": options.steps + SKIPPED, "batch": 8, "seed": 0}
    return {
        "model": "base",
        "data": "tone",
        "r": 8,
        "alpha": 16.0,
        "modules": "all-linear",
        "training": training,
    }


def ours_cpu(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from olivebuild.steps.adapter import AdapterFields

    return ours(folder, AdapterFields.model_validate(quick_start(options)), tone_rows(folder))


def trainer_cpu(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The Trainer as people use it: a collator that pads, labels of -100 on the prompt, all
    logits.
    """
    torch = torch_here()
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    rows, steps = tone_rows(folder), options.steps + SKIPPED
    batches = ordered(rows, 8, steps)
    ends: list[float] = []
    losses: list[float] = []

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
    )
    data = [
        {
            "input_ids": r.ids.tolist(),
            "labels": [int(i) if c else -100 for i, c in zip(r.ids, r.counted, strict=True)],
        }
        for b in batches
        for r in b
    ]
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=folder),
        per_device_train_batch_size=8,
        max_steps=steps,
        learning_rate=8e-4,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(folder / "base"))
    InOrder(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=collator,
        callbacks=[recorder(torch, ends, losses)],
    ).train()
    return figures(torch, model, ends, [sum(map(len, b)) for b in batches], losses)


VARIANTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "ceiling": ceiling,
    "ours": ours_cpu,
    "trainer": trainer_cpu,
    "ours-long": ours_long,
    "ours-long-nodropout": lambda folder, options: ours_long(folder, options, dropout=0.0),
    "ours-long-plain": lambda folder, options: ours_long(folder, options, speed="plain"),
    "qlora-long": lambda folder, options: ours_long(folder, options, method="qlora"),
    "fp8-long": lambda folder, options: ours_long(folder, options, training={"base": "fp8"}),
    "offload-long": lambda folder, options: ours_long(folder, options, training={"offload": "cpu"}),
    "offload-8-gib": ours_on_small_card,
    "ours-short": ours_short,
    "ours-one-gpu": lambda folder, options: ours_texts(folder, options, 1),
    "ours-two-gpus": lambda folder, options: ours_texts(folder, options, 2),
    "ours-four-gpus": lambda folder, options: ours_texts(folder, options, 4),
    "fp8-two-gpus": lambda folder, options: ours_texts(
        folder, options, 2, training={"base": "fp8"}
    ),
    "sharded-two-gpus": lambda folder, options: ours_texts(
        folder, options, 2, training={"shard": "base"}
    ),
    "large-two-gpus": large_on_two_cards,
    "qlora-two-gpus": lambda folder, options: ours_texts(folder, options, 2, method="qlora"),
    "short-one-gpu": lambda folder, options: ours_texts(folder, options, 1, short=True),
    "short-two-gpus": lambda folder, options: ours_texts(folder, options, 2, short=True),
    "stock-long": stock_long,
    "stock-one": stock_one,
    "trl-liger": trl_liger,
}
