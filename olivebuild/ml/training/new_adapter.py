"""A new adapter around a model: its configuration in peft, its layers, its first weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file

from olivebuild.core.errors import InputError, first_line
from olivebuild.ml.models import load
from olivebuild.ml.nn import loftq
from olivebuild.ml.weights import patterns

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import AdapterFields

PREFIX = "base_model.model."
"""Of modules' names in a peft model."""
BASE = ".base_layer"
"""Of the name of a layer that has an adapter beside it."""


def configuration(fields: AdapterFields, model: Any) -> Any:
    """Return peft's configuration of an adapter of `model`."""
    modules: str | list[str] | None = (
        fields.modules if isinstance(fields.modules, str) else list(fields.modules)
    )
    # What the recipe leaves out is left to peft, so that configurations stay as they were.
    options: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "r": fields.r,
        "target_modules": None if modules == "peft-default" else modules,
    }
    if fields.exclude or fields.layers:
        options["exclude_modules"] = [*fields.exclude, *_outside(fields.layers, model)]
    for name in ("rank_pattern", "alpha_pattern"):
        if pattern := getattr(fields, name):
            options[name] = dict(pattern)
    if fields.method in ("loha", "lokr"):
        options |= {
            "alpha": fields.alpha,
            "rank_dropout": fields.rank_dropout,
            "module_dropout": fields.module_dropout,
            "init_weights": fields.init_weights,
        }
    if fields.method == "loha":
        return LoHaConfig(**options)
    if fields.method == "lokr":
        return LoKrConfig(
            rank_dropout_scale=fields.rank_dropout_scale,
            decompose_both=fields.decompose_both,
            decompose_factor=fields.decompose_factor,
            **options,
        )
    return LoraConfig(
        lora_alpha=fields.alpha,
        lora_dropout=fields.dropout,
        use_rslora=fields.rslora,
        use_dora=fields.dora,
        **options,
    )


def _outside(layers: list[int], model: Any) -> list[str]:
    """Return the names of modules with weights that are in no layer of these numbers.

    peft's own layers_to_transform can't be combined with all-linear.
    """
    names = [name for name, m in model.named_modules() if getattr(m, "weight", None) is not None]
    return [name for name in names if _number(name) not in layers] if layers else []


def _number(module: str) -> int | None:
    """Return the number of the layer that a module is in, as peft reads it from the name."""
    match = re.match(r".*?\.[^.]*\.(\d+)\.", module)
    return int(match[1]) if match else None


def add_adapter(job: Job, fields: AdapterFields, model: Any) -> Any:
    """Return peft's model around `model`.

    Raises InputError when no layer takes the adapter, and for names and numbers of layers that the
    model does not have.
    """
    names = [name for name, _ in model.named_modules()]
    asked = {
        "target_modules": fields.modules,
        "rank_pattern": fields.rank_pattern,
        "alpha_pattern": fields.alpha_pattern,
    }
    patterns.check(asked, names, job.where("modules"))
    _check_named(job, fields, names)
    try:
        # In half precision the loop keeps float32 sums of its own.
        wrapped = get_peft_model(model, configuration(fields, model), autocast_adapter_dtype=False)
    except (ValueError, TypeError) as e:
        hint = f"the model's linear layers are {', '.join(_linear_layers(model))}"
        raise InputError(
            f"no adapter for these modules: {first_line(e, 200)}",
            where=job.where("modules"),
            hint=hint,
        ) from None
    _check_patterns(job, fields, wrapped)
    return wrapped


def _linear_layers(model: Any) -> list[str]:
    """Return the last parts of the names of all linear layers but the head."""
    linear = (name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear))
    return sorted({name.rpartition(".")[2] for name in linear} - {"lm_head"})


def _check_named(job: Job, fields: AdapterFields, names: Iterable[str]) -> None:
    """Raise InputError for an excluded name, or a number of a layer, that is not in the model.

    A name of a layer to adapt is told where it stands beside others: models of one family differ.
    """
    modules = list(names)
    for name in fields.modules if isinstance(fields.modules, list) else ():
        if not _is_among(name, modules):
            job.note(f"the model has no module {name}, so that none gets an adapter")
    for name in fields.exclude:
        if not _is_among(name, modules):
            raise InputError(
                f"the model has no module {name} to exclude",
                where=job.where("exclude"),
                hint="names or ends of names, such as o_proj or layers.0.mlp.up_proj",
            )
    numbers = {number for name in modules if (number := _number(name)) is not None}
    if missing := sorted(set(fields.layers) - numbers):
        raise InputError(
            f"the model has no layer {missing[0]}",
            where=job.where("layers"),
            hint=f"its layers are 0 to {max(numbers)}" if numbers else "leave `layers` out",
        )


def _is_among(name: str, modules: list[str]) -> bool:
    """Return whether a name is a module's, or the end of one, as peft matches them."""
    return any(f".{module}".endswith(f".{name}") for module in modules)


def _check_patterns(job: Job, fields: AdapterFields, wrapped: Any) -> None:
    """Raise InputError for a pattern of ranks or alphas that no adapted layer's name fits."""
    adapted = adapted_layers(wrapped)
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(fields, field):
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in adapted):
                raise InputError(
                    f"{field}: {pattern!r} fits no layer that gets an adapter",
                    where=job.where(field),
                    hint=f"they are {', '.join(sorted({n.rpartition('.')[2] for n in adapted}))}",
                )


def adapted_layers(wrapped: Any) -> list[str]:
    """Return the names of the layers of a peft model that have an adapter, as the base has them."""
    return [
        name.removeprefix(PREFIX).removesuffix(BASE)
        for name, _ in wrapped.named_modules()
        if name.endswith(BASE)
    ]


def begin_with(job: Job, model: Any, folder: Path) -> None:
    """Give the adapter another one's weights. Raises InputError unless it has the same shape."""
    old = {name: t.shape for name, t in get_peft_model_state_dict(model).items()}
    tensors = load_file(folder / "adapter_model.safetensors")
    new = {name: t.shape for name, t in tensors.items()}
    unexpected = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if unexpected:
        hint = "r, modules and dora must be those of the adapter that training begins with"
        raise InputError(
            f"the adapter to begin with differs in {unexpected[0]} "
            f"({len(unexpected)} such tensors)",
            where=job.where("from"),
            hint=hint,
        )
    set_peft_model_state_dict(model, tensors)


def begin_by_loftq(
    job: Job, fields: AdapterFields, model: Any, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Give the adapter LoftQ's first weights, and the 4-bit base its values.

    Return what was subtracted from the base's weights. Raises InputError.
    """
    base = job.input("model")
    exact = load.load_model(
        base.folder,
        dtype,
        trust_remote_code=base.trust_remote_code,
        where=job.where("model"),
    )
    return loftq.begin(
        model,
        exact,
        fields.quantisation,
        fields.loftq_iter,
        lambda done, count: job.progress("decomposing what 4 bits lose", done, count),
    )
