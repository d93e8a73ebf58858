"""Trainings in this process: rows of tokens, adapters on tiny models, gradients, and a loop that
can be stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def token_rows(seed: int = 0, count: int = 7) -> list[Any]:
    """Rows of several lengths; some begin alike, two are equal, one is another's beginning."""
    from olivebuild.ml.data.examples import Tokens

    random = np.random.default_rng(seed)
    start = random.integers(3, 380, 9)
    made = [
        np.concatenate(
            [start[: random.integers(0, 10)], random.integers(3, 380, random.integers(2, 30))]
        )
        for _ in range(count)
    ]
    made += [made[0], made[1][:-1]]
    return [Tokens(ids.astype(np.int32), np.arange(len(ids)) >= len(ids) // 2) for ids in made]


def adapted(
    folder: Path, base: Any = None, *, r: int = 4, modules: str | list[str] = "all-linear"
) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    from olivebuild.ml.models import load

    torch.manual_seed(0)
    base = base or load.load_model(folder, torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=r, target_modules=modules))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    return model


def gradient(model: Any, setup: Any, batch: list[Any]) -> tuple[float, Any]:
    import torch

    from olivebuild.ml.nn.forward import Forward

    model.zero_grad()
    loss = Forward(model, torch.device("cpu"), setup, print).backward(batch)
    return float(loss), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


class Stopped(Exception):
    """As if the process had been killed."""


def fit(
    folder: Path,
    model: Path,
    batch_rows: list[Any],
    training: dict[str, Any],
    *,
    stop_at: int = 0,
    held_out: Any = None,
    samples: Any = None,
    **fields: Any,
) -> Any:
    """Train in this process, with the cache in `folder`; the loop, and what it said."""
    import torch

    from olivebuild.api.action import ActionInput
    from olivebuild.api.job import Job
    from olivebuild.cache.store import Store
    from olivebuild.ml.training import train
    from olivebuild.steps.adapter import AdapterFields
    from tests.scenarios.steps import job_in

    said: list[dict[str, Any]] = []

    class Listening(Job):
        def say(self, event: str, **data: Any) -> None:
            said.append({"event": event, **data})
            if event == "metric" and data["step"] == stop_at:
                raise Stopped

    given = {
        "model": ActionInput(str(model), str(model), "model", "base", digest="0"),
        **fields.pop("inputs", {}),
    }
    more = {"numerics": fields.pop("numerics", {})}
    job = Listening(
        job_in(
            folder / f"job{len(list(folder.glob('job*')))}", Store(folder), given, **more
        ).action,
        None,
    )
    asked = {
        "model": "base",
        "data": "tone",
        "r": 4,
        "training": {"lr": 1e-3, "batch": 4, "checkpoint_steps": 1} | training,
    }
    loop = train.fit(
        job,
        AdapterFields.model_validate(asked | fields),
        batch_rows,
        held_out,
        torch.device("cpu"),
        torch.float32,
        samples,
    )
    return loop, said


def bytes_of(loop: Any) -> bytes:
    return b"".join(weight.detach().numpy().tobytes() for weight in loop.runner.trainable.weights)
