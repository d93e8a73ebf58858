"""An adapter from a model and a data set: what is trained, put together from its parts.

The loop is in ml/training/loop.py, batches in ml/nn/forward.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from olivebuild.api.step import Result
from olivebuild.core.errors import InputError, first_line
from olivebuild.data import drops
from olivebuild.ml.data import end_tokens
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.data.token_shards import TokenRows, lengths_of, token_rows
from olivebuild.ml.data.tokens import COUNTS, Encoder
from olivebuild.ml.inference.context import check_asked, check_rows
from olivebuild.ml.models import load
from olivebuild.ml.nn import qlora, tuning
from olivebuild.ml.nn.forward import Forward
from olivebuild.ml.training import data_parallel
from olivebuild.ml.training.checkpoint import Keeper
from olivebuild.ml.training.loop import Loop
from olivebuild.ml.training.prefix import go_on_from_prefix
from olivebuild.ml.training.schedule import Schedule, steps_of
from olivebuild.ml.training.unusable_rows import check_flaws
from olivebuild.ml.training.validation import Evaluation
from olivebuild.ml.weights import patterns

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import AdapterFields, Training


def train(job: Job, fields: AdapterFields) -> Result:
    training, base = fields.training, job.input("model")
    device, dtype = load.platform(training.dtype)
    job.note(
        f"training on {torch.cuda.get_device_name() if device.type == 'cuda' else device.type} in "
        f"{str(dtype).removeprefix('torch.')}"
    )
    rows = rows_of(job, fields)
    flaws = check_flaws(job, rows, base.folder, "data", "data")
    check_rows(job, rows, base.folder, "data", "data")
    if not len(rows):
        raise InputError(
            "no row has a token to learn",
            where=job.where("data"),
            hint="is max_length long enough?",
        )
    ends = _ends_of(job, fields, rows)
    evaluation, held_out = evaluation_of(job, fields)
    check_asked(job, encoder_of(job, fields))
    drops.forget(job.log)
    loop = fit(job, fields, rows, evaluation, device, dtype)
    save_adapter(loop.forward.model, job.out, base.source.removeprefix("hf:") or base.target)
    (job.out / end_tokens.NAME).write_text(end_tokens.of_adapter(ends), "utf-8")
    if fields.method == "qlora":
        qlora.note(job.out, fields.quantisation)
    provenance = {
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    provenance["processes"] = loop.ranks.count if loop.ranks else 1
    return Result(
        metrics=_figures(loop, rows) | flaws | held_out,
        provenance=provenance | vars(loop.forward.setup),
    )


def fit(
    job: Job,
    fields: AdapterFields,
    rows: Sequence[Tokens],
    evaluation: Evaluation | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Loop:
    """Train an adapter of the input `model` on rows of tokens, from the last state that was kept,
    if any.
    """
    training = fields.training
    schedule = schedule_of(training, len(rows))
    count = data_parallel.count_for(device, schedule.batch)
    with data_parallel.Ranks(job, count, device, dtype) if count > 1 else nullcontext() as ranks:
        forward = forward_of(job, fields, rows, schedule, device, dtype)
        seconds = float(os.environ.get("OLIVEBUILD_CHECKPOINT_SECONDS", CHECKPOINT_SECONDS))
        keeper = Keeper(
            job.store.checkpoint(job.action.key),
            job.out.parent,
            seconds,
            training.checkpoint_steps,
            job.note,
            job.mode,
        )
        loop = Loop(job, forward, rows, schedule, training, evaluation, keeper, ranks)
        loop.resume_kept()
        if schedule.stable:
            go_on_from_prefix(job, fields, loop)
        if ranks:
            job.note(f"{count} GPUs share each batch")
            ranks.join()
        loop.run()
    return loop


def rows_of(job: Job, fields: AdapterFields) -> TokenRows:
    return token_rows(
        job,
        encoder_of(job, fields),
        job.input("model").folder,
        job.input("data").path,
        fields.training.loss,
    )


def encoder_of(job: Job, fields: AdapterFields) -> Encoder:
    base = job.input("model")
    tokenizer = load.load_tokenizer(
        base.folder, trust_remote_code=base.trust_remote_code, date=job.action.template_date
    )
    encoder = Encoder(tokenizer, fields.training.max_length, end_tokens.ends_of(Path(base.folder)))
    encoder.where = job.where("data")
    return encoder


def _ends_of(job: Job, fields: AdapterFields, rows: TokenRows) -> set[int]:
    """The tokens at which what is trained ends, those of the recipe included; says what there is to
    say of the tokens. Raises InputError.
    """
    encoder = encoder_of(job, fields)
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
    ends = {*rows.ends, *(end_tokens.token_of(text, encoder.tokenizer) for text in fields.stop)}
    if more := sorted(ends - end_tokens.ends_of(Path(job.input("model").folder))):
        names = ", ".join(encoder.tokenizer.convert_ids_to_tokens(more))
        job.note(
            f"answers end with {names}, at which the base does not stop; what is merged with this "
            "adapter will"
        )
    return ends


def forward_of(
    job: Job,
    fields: AdapterFields,
    rows: Sequence[Tokens],
    schedule: Schedule,
    device: torch.device,
    dtype: torch.dtype,
) -> Forward:
    """The input `model` with a new adapter, and how its batches are computed here."""
    training, base = fields.training, job.input("model")
    # The seed comes before the adapter is made, since its first values are drawn.
    load.seed_everything(training.seed, device)
    quantised = (
        qlora.configuration(fields.quantisation, dtype) if fields.method == "qlora" else None
    )
    loaded = load.load_model(
        base.folder,
        dtype,
        device,
        trust_remote_code=base.trust_remote_code,
        quantised=quantised,
        where=job.where("model"),
    )
    qlora.for_training(loaded)
    model = add_adapter(job, fields, loaded)
    if fields.from_:
        begin_with(job, model, Path(job.input("from").folder))
    tokens = int(lengths_of(rows).sum()) * schedule.batch * schedule.steps // len(rows)
    setup = tuning.prepare(
        job, model, rows, tokens, device, dropout=fields.dropout, plain=training.speed == "plain"
    )
    # Trying layouts may have drawn random numbers.
    torch.manual_seed(training.seed)
    return Forward(model, device, setup, job.note)


CHECKPOINT_SECONDS = 60


def schedule_of(given: Training, count: int) -> Schedule:
    training = given.resolved()
    steps = training.steps or steps_of(count, training.batch, training.epochs or 1)
    seed = None if training.order == "append" else training.data_seed
    decay = max(1, round(steps * training.decay)) if training.scheduler == "stable" else 0
    return Schedule(
        count,
        training.batch,
        steps,
        training.lr,
        training.warmup,
        training.scheduler or "linear",
        decay,
        seed,
    )


def evaluation_of(job: Job, fields: AdapterFields) -> tuple[Evaluation | None, dict[str, Any]]:
    """How training is judged, if it is, and what was dropped and cut of the rows that do."""
    if not fields.eval:
        return None, {}
    folder = job.input("model").folder
    rows = token_rows(
        job, encoder_of(job, fields), folder, job.input("eval").path, fields.training.loss
    )
    flaws = check_flaws(job, rows, folder, "eval", "eval", "data", name="eval_drops")
    check_rows(job, rows, folder, "eval", "eval", "data")
    if not len(rows):
        raise InputError(
            "there are no rows to evaluate on",
            where=job.where("eval", "data"),
            hint="does its data set hold any out?",
        )
    return Evaluation(
        rows, fields.eval.every, fields.eval.patience, best=fields.eval.keep == "best"
    ), flaws


def _figures(loop: Loop, rows: TokenRows) -> dict[str, object]:
    progress = loop.progress
    last = progress.losses[-max(1, len(progress.losses) // 10) :]
    curve = progress.curve()
    figures: dict[str, object] = {
        "loss": round(sum(last) / len(last), 5),
        "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9), 1),
    }
    figures |= {
        "steps": loop.step,
        "steps_known": loop.known,
        "examples": len(rows),
        "truncated": rows.truncated,
        "data": rows.figures(),
    }
    if loop.evaluation:
        curve |= loop.evaluation.curve()
        figures |= {"best_step": loop.evaluation.best_step, **loop.evaluation.last}
    return figures | {"curve": curve}


def add_adapter(job: Job, fields: AdapterFields, model: Any) -> Any:
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=fields.r,
        lora_alpha=fields.alpha,
        lora_dropout=fields.dropout,
        use_rslora=fields.rslora,
        use_dora=fields.dora,
        target_modules=fields.modules if isinstance(fields.modules, str) else list(fields.modules),
    )
    names = (name for name, _ in model.named_modules())
    patterns.check({"target_modules": fields.modules}, names, job.where("modules"))
    try:
        # In half precision the loop keeps float32 sums of its own.
        return get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as e:
        linear = sorted(
            {
                n.rpartition(".")[2]
                for n, m in model.named_modules()
                if isinstance(m, torch.nn.Linear)
            }
            - {"lm_head"}
        )
        hint = f"the model's linear layers are {', '.join(linear)}"
        raise InputError(
            f"no adapter for these modules: {first_line(e, 200)}",
            where=job.where("modules"),
            hint=hint,
        ) from None


def begin_with(job: Job, model: Any, folder: Path) -> None:
    """Give the adapter another one's weights. Raises InputError unless it has the same shape."""
    own, given = get_peft_model_state_dict(model), load_file(folder / "adapter_model.safetensors")
    odd = sorted(
        name
        for name in {*own, *given}
        if name not in own or name not in given or own[name].shape != given[name].shape
    )
    if odd:
        hint = "r, modules and dora must be those of the adapter that training begins with"
        raise InputError(
            f"the adapter to begin with differs in {odd[0]} ({len(odd)} such tensors)",
            where=job.where("from"),
            hint=hint,
        )
    set_peft_model_state_dict(model, given)


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """Write peft's own format without what differs between machines: paths, set order, README."""
    tensors = {
        name: t.detach().to("cpu", torch.float32).contiguous()
        for name, t in get_peft_model_state_dict(model).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config |= {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": sorted(config["target_modules"]),
    }
    text = json.dumps(
        config,
        indent=2,
        sort_keys=True,
        default=lambda x: sorted(x) if isinstance(x, set) else str(x),
    )
    (folder / "adapter_config.json").write_text(text + "\n", "utf-8")
