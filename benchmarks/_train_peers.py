"""The loops that people use: a stock one, TRL with Liger, the transformers Trainer."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._train_figures import clock, figures, torch_here
from benchmarks._train_inputs import SKIPPED, long_rows, short_rows, tone_rows


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
