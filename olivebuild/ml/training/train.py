"""Training of an adapter from a model and a data set, put together from its parts.

The loop is in ml/training/loop.py, batches in ml/nn/forward.py.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from olivebuild.api.step import Result
from olivebuild.core.errors import InputError
from olivebuild.data import drops
from olivebuild.ml.data import end_tokens
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.data.sequences import has_masked
from olivebuild.ml.data.token_shards import TokenRows, lengths_of
from olivebuild.ml.data.tokens import COUNTS, Encoder
from olivebuild.ml.inference.context import check_asked
from olivebuild.ml.inference.sample_answers import SampleAnswers
from olivebuild.ml.models import load
from olivebuild.ml.nn import loftq, qlora, tuning
from olivebuild.ml.nn.forward import Forward
from olivebuild.ml.nn.frozen import base as frozen_base
from olivebuild.ml.training import data_parallel
from olivebuild.ml.training.checkpoint import Checkpointer
from olivebuild.ml.training.loop import TrainingLoop
from olivebuild.ml.training.new_adapter import (
    adapted_layers,
    add_adapter,
    begin_by_loftq,
    begin_with,
)
from olivebuild.ml.training.nodes import rendezvous
from olivebuild.ml.training.prefix import PrefixStates
from olivebuild.ml.training.schedule import Schedule, steps_of
from olivebuild.ml.training.step_runner import StepRunner
from olivebuild.ml.training.training_data import Rows, TrainingData, check_data, load_data
from olivebuild.ml.training.validation import Validation

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import AdapterFields
    from olivebuild.steps.parts.training import Training


def train(job: Job, fields: AdapterFields) -> Result:
    """Train an adapter into `job.out`. Raises InputError for rows that can't be trained on."""
    training, base = fields.training, job.input("model")
    device, dtype = load.platform(training.dtype)
    job.note(
        f"training on {torch.cuda.get_device_name() if device.type == 'cuda' else device.type} in "
        f"{str(dtype).removeprefix('torch.')}"
    )
    data = load_data(job, fields)
    rows = data.rows
    flaws = check_data(job, fields, data, "data", "data", name="drops")
    if not len(rows):
        raise InputError(
            "no row has a token to learn",
            where=job.where("data"),
            hint="is max_length long enough?",
        )
    ends = _ends_of(job, fields, data)
    validation, held_out = validation_of(job, fields, data.held_out)
    check_asked(job, data.encoder)
    drops.forget(job.log)
    samples = SampleAnswers(data.encoder, validation.rows if validation else rows, training)
    loop = fit(job, fields, rows, validation, device, dtype, samples)
    runner = loop.runner
    save_adapter(runner.forward.model, job.out, base.source.removeprefix("hf:") or base.target)
    (job.out / end_tokens.NAME).write_text(end_tokens.of_adapter(ends), "utf-8")
    if fields.quantises:
        iterations = fields.loftq_iter if fields.method == "loftq" else 0
        qlora.note(job.out, fields.quantisation, iterations)
        loftq.save(runner.forward.subtracted, job.out)
    provenance = {
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": runner.ranks.count if runner.ranks else 1,
        **({"nodes": runner.ranks.nodes} if runner.ranks and runner.ranks.nodes > 1 else {}),
    }
    figures = _figures(loop, data.stream) | data.figures(fields) | flaws | held_out
    return Result(
        metrics=figures | ({"samples": samples.record} if samples.record else {}),
        provenance=provenance | runner.forward.setup.provenance(),
    )


def fit(
    job: Job,
    fields: AdapterFields,
    rows: Sequence[Tokens],
    validation: Validation | None,
    device: torch.device,
    dtype: torch.dtype,
    samples: SampleAnswers | None = None,
) -> TrainingLoop:
    """Train an adapter of the input `model` on rows of tokens, resuming from the last state."""
    training = fields.training
    schedule = schedule_of(training, len(rows))
    node = rendezvous.here()
    if node.wanted > node.total:
        job.note(f"{node.total} of {node.wanted} nodes are left, and training goes on there")
    shared = node.total > 1 or data_parallel.count_for(device, schedule.batch) > 1
    with (
        data_parallel.Ranks(job, device, dtype, schedule.batch, node) if shared else nullcontext()
    ) as ranks:
        judged = validation.rows if validation else ()
        shares = ranks.count if ranks and training.shard else 1
        forward = forward_of(job, fields, rows, schedule, device, dtype, judged, shares)
        seconds = float(os.environ.get("OLIVEBUILD_CHECKPOINT_SECONDS", CHECKPOINT_SECONDS))
        checkpointer = Checkpointer(
            job, steps=schedule.steps, seconds=seconds, every=training.checkpoint_steps
        )
        runner = StepRunner(forward, training, ranks)
        if validation:
            validation.attach(job, forward, runner.trainable.weights, schedule.steps)
        loop = TrainingLoop(job, rows, schedule, runner, validation)
        loop.resume_from(checkpointer.file)
        if schedule.stable:
            prefix_states = PrefixStates(job, fields, loop)
            prefix_states.resume()
            loop.callbacks.append(prefix_states)
        if samples:
            samples.attach(
                job,
                forward,
                lambda: (loop.progress.tokens, loop.progress.seconds),
                schedule.steps,
                fields.eval,
            )
            loop.callbacks.append(samples)
        loop.callbacks.append(checkpointer)
        if ranks:
            job.note(ranks.note())
            ranks.join()
            if shares > 1:
                forward.share_layers(0, shares, data_parallel.Passes(0))
        checkpointer.stop_on_sigterm()
        loop.run()
    return loop


def rows_of(job: Job, fields: AdapterFields) -> Rows:
    """Return what is trained on of the input `data`, as tokens of the input `model`."""
    return load_data(job, fields).rows


def _ends_of(job: Job, fields: AdapterFields, data: TrainingData) -> set[int]:
    """Return the tokens at which trained answers end, those of the recipe included; report them.

    Raises InputError when an end of the recipe is no token.
    """
    encoder = data.encoder
    _note_tokens(job, data.stream, encoder)
    ends = {
        *data.stream.ends,
        *(end_tokens.token_of(text, encoder.tokenizer) for text in fields.stop),
    }
    if not ends:
        job.note("texts are learnt without an end: a model with this adapter writes on")
    base_ends = end_tokens.ends_of(Path(job.input("model").folder))
    if new_ends := sorted(ends - base_ends):
        names = ", ".join(encoder.tokenizer.convert_ids_to_tokens(new_ends))
        job.note(
            f"answers end with {names}, at which the base does not stop; what is merged with this "
            "adapter will"
        )
    return ends


def _note_tokens(job: Job, rows: TokenRows, encoder: Encoder) -> None:
    """Report what was changed or missing when rows were encoded."""
    for name, text in COUNTS.items():
        if rows.counts[name]:
            job.note(text.format(n=rows.counts[name]))
    if rows.format in ("user", "messages"):
        if header := encoder.habits.header:
            job.note(
                "the chat template ignores add_generation_prompt: prompts are made to end with "
                f"{header!r}, as it writes before answers"
            )
        if encoder.habits.end is None:
            job.note(
                "the chat template writes no end after an answer: the tokenizer's own end token "
                "is put there"
            )


def forward_of(
    job: Job,
    fields: AdapterFields,
    rows: Sequence[Tokens],
    schedule: Schedule,
    device: torch.device,
    dtype: torch.dtype,
    judged: Sequence[Tokens] = (),
    shares: int = 1,
) -> Forward:
    """Return the input `model` with a new adapter, set up for this machine.

    `judged` are held-out rows that it evaluates, too. `shares`: processes that share the base, with
    `shard: base`.
    """
    training = fields.training
    # The seed comes before the adapter is made, since its first values are drawn.
    load.seed_everything(training.seed, device)
    model = add_adapter(job, fields, frozen_base.load_base(job, fields, device, dtype))
    if fields.from_:
        begin_with(job, model, Path(job.input("from").folder))
    subtracted = begin_by_loftq(job, fields, model, dtype) if fields.method == "loftq" else {}
    if fields.aware:
        # The conversion's code is imported for it alone.
        from olivebuild.ml.training.aware import grids

        grids.see_rounded(job, fields, model)
    frozen_base.place(job, fields, model, device, shares)
    tokens = int(lengths_of(rows).sum()) * schedule.batch * schedule.steps // len(rows)
    setup = tuning.prepare(
        job,
        model,
        rows,
        tokens,
        device,
        dropout=max(fields.dropout, fields.rank_dropout, fields.module_dropout),
        plain=training.speed == "plain",
        masked=has_masked(rows) or has_masked(judged),
    )
    # Trying layouts may have drawn random numbers.
    torch.manual_seed(training.seed)
    forward = Forward(model, device, setup, job.note)
    forward.subtracted = subtracted
    return forward


CHECKPOINT_SECONDS = 60
"""Time between two states of a training."""


def schedule_of(fields: Training, count: int) -> Schedule:
    """Return the schedule over `count` rows by the recipe's fields."""
    training = fields.resolved()
    steps = training.steps or steps_of(count, training.batch, training.epochs or 1)
    seed = None if training.order == "append" else training.data_seed
    ratio = training.warmup_ratio
    decay = max(1, round(steps * training.decay)) if training.scheduler == "stable" else 0
    return Schedule(
        count=count,
        batch=training.batch,
        steps=steps,
        lr=training.lr,
        warmup=training.warmup if ratio is None else math.ceil(steps * ratio),
        scheduler=training.scheduler or "linear",
        decay=decay,
        seed=seed,
    )


def validation_of(
    job: Job, fields: AdapterFields, held_out: Sequence[Tokens] | None
) -> tuple[Validation | None, dict[str, Any]]:
    """Return the evaluation of the input `eval`, or else of `held_out`, if the recipe wants one.

    Also returns counts of unusable rows. Raises InputError when there is no usable row.
    """
    if not fields.eval:
        return None, {}
    rows, flaws = held_out or (), dict[str, Any]()
    if fields.eval.data:
        data = load_data(job, fields, "eval")
        flaws = check_data(job, fields, data, "eval", "eval", "data", name="eval_drops")
        rows = data.rows
    if not len(rows):
        raise InputError(
            "there are no rows to evaluate on",
            where=job.where("eval", "data"),
            hint="does its data set hold any out?",
        )
    return Validation(
        rows, fields.eval.every, fields.eval.patience, best=fields.eval.keep == "best"
    ), flaws


def _figures(loop: TrainingLoop, rows: TokenRows) -> dict[str, object]:
    """Return the step's metrics: losses, speed, counts and the curve."""
    progress = loop.progress
    last = progress.losses[-max(1, len(progress.losses) // 10) :]
    curve = progress.curve()
    figures: dict[str, object] = {
        "loss": round(sum(last) / len(last), 5),
        "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9), 1),
    }
    figures |= {
        "steps": loop.step,
        "steps_known": loop.steps_skipped,
        "examples": len(loop.rows),
        "epochs": round(loop.step * loop.schedule.batch / max(1, len(loop.rows)), 2),
        "truncated": rows.truncated,
        "data": rows.figures(),
    }
    if loop.validation:
        curve |= loop.validation.curve()
        figures |= {
            "best_step": loop.validation.best_step,
            "kept_step": loop.validation.best_step if loop.validation.keeps_best else loop.step,
            **loop.validation.last,
        }
    return figures | {"curve": curve}


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """Write an adapter in peft's format, without what differs between machines.

    That is paths, the order of sets, and the read-me.
    """
    tensors = {
        name: t.detach().to("cpu", torch.float32).contiguous()
        for name, t in get_peft_model_state_dict(model).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config |= {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": config["target_modules"]
        if isinstance(config["target_modules"], str)
        else sorted(config["target_modules"]),
    }
    if config.get("exclude_modules"):
        # The same layers by their whole names, which merges tensor by tensor read, too.
        config |= {
            "target_modules": sorted(adapted_layers(model)),
            "exclude_modules": None,
        }
    text = json.dumps(
        config,
        indent=2,
        sort_keys=True,
        default=lambda x: sorted(x) if isinstance(x, set) else str(x),
    )
    (folder / "adapter_config.json").write_text(text + "\n", "utf-8")
