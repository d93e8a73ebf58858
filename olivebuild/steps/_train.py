"""The training loop: LoRA on a causal language model, loss on completions only. Plain torch; every choice is in the recipe.

Not here yet: packing, resume, evaluation while training, quantised bases. Rows are left-padded so that all completions end at
the right edge, and the head runs on those positions alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from olivebuild.errors import InputError, StepError
from olivebuild.step import Result
from olivebuild.steps import _models
from olivebuild.steps._tokens import Encoder, Example, read_table

if TYPE_CHECKING:
    from olivebuild.steps.adapter import AdapterFields, Training
    from olivebuild.worker import Job

MICRO_TOKENS = 4096
"""Padded tokens in one forward pass; more examples of a batch go through one after the other, with the same gradient."""


def train(job: Job, fields: AdapterFields) -> Result:
    from olivebuild.steps.adapter import DEFAULT_EPOCHS

    training = fields.training
    base = job.input("model")
    device, dtype = _models.platform(training.dtype)
    job.note(f"training on {torch.cuda.get_device_name() if device.type == 'cuda' else device.type} in {str(dtype).removeprefix('torch.')}")
    encoder = Encoder(_models.load_tokenizer(base.folder, trust_remote_code=base.trust_remote_code), training.max_length)
    table = read_table(job.input("data").path)
    examples = [encoder.encode(table.format, row) for row in table.rows]
    if encoder.truncated:
        job.note(f"{encoder.truncated} of {len(examples)} rows are longer than max_length {training.max_length} and were cut")
    # The seed comes before the adapter is made, since its first values are drawn.
    _models.be_deterministic(training.seed)
    model = add_adapter(job, fields, _models.load_model(base.folder, dtype, device, trust_remote_code=base.trust_remote_code))
    per_epoch = math.ceil(len(examples) / training.batch)
    steps = training.steps or max(1, round(per_epoch * (training.epochs or DEFAULT_EPOCHS)))
    figures = _loop(job, model, examples, steps, training, device)
    save_adapter(model, job.out, base.source.removeprefix("hf:") or base.target)
    provenance = {"device": device.type, "dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    return Result(metrics=figures | {"steps": steps, "examples": len(examples), "truncated": encoder.truncated}, provenance=provenance)


def add_adapter(job: Job, fields: AdapterFields, model: Any) -> Any:
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=fields.r,
        lora_alpha=fields.alpha,
        lora_dropout=fields.dropout,
        target_modules=fields.modules if isinstance(fields.modules, str) else list(fields.modules),
    )
    try:
        return get_peft_model(model, config)
    except ValueError as e:
        linear = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {"lm_head"})
        hint = f"the model's linear layers are {', '.join(linear)}"
        raise InputError(f"no adapter for these modules: {str(e).splitlines()[0][:200]}", where=job.where("modules"), hint=hint) from None


def _loop(job: Job, model: Any, examples: list[Example], steps: int, training: Training, device: torch.device) -> dict[str, object]:
    weights = [p for p in model.parameters() if p.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    optimizer = torch.optim.AdamW(weights, lr=training.lr, betas=(0.9, training.beta2), weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps, training.warmup, training.scheduler))
    batches = batches_of(len(examples), training.batch, training.seed if training.data_seed is None else training.data_seed)
    start, tokens, losses = time.monotonic(), 0, []
    model.train()
    for step in range(1, steps + 1):
        batch = [examples[i] for i in next(batches)]
        loss = _backward(model, batch, device)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, training.max_grad_norm))
        if not math.isfinite(loss) or not math.isfinite(norm):
            hint = "a smaller training.lr or a longer training.warmup often helps"
            raise StepError(f"the loss became {loss:g} at step {step}", where=job.where("training", "lr"), hint=hint)
        lr = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss)
        tokens += sum(len(e.prompt) + len(e.completion) for e in batch)
        job.say("metric", step=step, steps=steps, loss=round(loss, 5), lr=lr, grad_norm=round(norm, 4))
        job.progress("training", step, steps)
    seconds = time.monotonic() - start
    last = losses[-max(1, steps // 10) :]
    return {"loss": round(sum(last) / len(last), 5), "tokens_per_second": round(tokens / seconds, 1)}


def batches_of(count: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Indices of examples, each epoch in a new order; the last batch of an epoch may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator).tolist()
        yield from (order[i : i + batch] for i in range(0, count, batch))


def lr_factor(step: int, steps: int, warmup: int, scheduler: str) -> float:
    """What the learning rate is multiplied with at `step` (from 0): linear warm-up, then decay to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = max(0.0, (steps - step) / max(1, steps - warmup))
    return {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}[scheduler]


def _backward(model: Any, batch: list[Example], device: torch.device) -> float:
    """Add the gradient of the batch's mean loss a label token; the mean is over the whole batch, however it is cut."""
    longest = max(len(e.prompt) + len(e.completion) for e in batch)
    rows = max(1, MICRO_TOKENS // longest)
    labels = sum(len(e.completion) - (0 if e.prompt else 1) for e in batch)
    total = 0.0
    for i in range(0, len(batch), rows):
        ids, mask, targets = collate(batch[i : i + rows])
        # One position before the first target predicts it; the last position predicts nothing that is known.
        keep = targets.shape[1]
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), logits_to_keep=keep + 1, use_cache=False).logits
        flat = logits[:, :-1].float().flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(flat, targets.to(device).flatten(), ignore_index=-100, reduction="sum") / max(1, labels)
        loss.backward()
        total += float(loss.detach())
    return total


def collate(batch: list[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left-padded ids and mask [rows, length], and the targets of the last positions [rows, longest completion]; -100 counts not."""
    length = max(len(e.prompt) + len(e.completion) for e in batch)
    keep = min(max(len(e.completion) for e in batch), length - 1)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    mask = torch.zeros(len(batch), length, dtype=torch.long)
    targets = torch.full((len(batch), keep), -100)
    for row, example in enumerate(batch):
        tokens = [*example.prompt, *example.completion]
        ids[row, length - len(tokens) :] = torch.tensor(tokens)
        mask[row, length - len(tokens) :] = 1
        # The first token of a row without a prompt has nothing before it that could predict it.
        known = example.completion[-min(len(example.completion), len(tokens) - 1, keep) :]
        targets[row, keep - len(known) :] = torch.tensor(known)
    return ids, mask, targets


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """peft's own format, without what differs from machine to machine: paths, set order, the read-me."""
    tensors = {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in get_peft_model_state_dict(model).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base, "inference_mode": True, "target_modules": sorted(config["target_modules"])}
    text = json.dumps(config, indent=2, sort_keys=True, default=lambda x: sorted(x) if isinstance(x, set) else str(x))
    (folder / "adapter_config.json").write_text(text + "\n", "utf-8")
