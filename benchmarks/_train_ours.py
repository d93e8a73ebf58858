"""olivebuild's own training loop, as the variants of the comparison run it."""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._train_figures import clock, figures, torch_here
from benchmarks._train_inputs import CARD, SKIPPED, long_rows, short_rows, tone_rows


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
