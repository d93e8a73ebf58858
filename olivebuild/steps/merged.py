"""A base model with an adapter merged into its full-precision weights: a normal Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

from olivebuild.errors import InputError
from olivebuild.sources import Source
from olivebuild.step import Edge, Fields, Ref, Result, Step
from olivebuild.worker import Job


class MergedFields(Fields):
    model: Ref | None = None
    adapter: Ref | None = None
    source: Source | None = None


class Merged(Step):
    kind = "merged"
    fields = MergedFields
    summary = "an adapter merged into its base, or a merged model from elsewhere (`source`)"
    lazy = True

    def libraries(self, fields: MergedFields) -> tuple[str, ...]:
        return () if fields.source else ("torch", "transformers", "peft", "safetensors")

    def edges(self, fields: MergedFields) -> list[Edge]:
        if not (fields.model and fields.adapter):
            return []
        return [
            Edge("model", fields.model, ("model", "merged"), field=("model",)),
            Edge("adapter", fields.adapter, ("adapter",), field=("adapter",)),
        ]

    def lies_at(self, fields: MergedFields) -> str | None:
        return fields.source.name if fields.source and fields.source.scheme == "file" else None

    def check(self, fields: MergedFields) -> str | None:
        if fields.source:
            if fields.source.scheme not in ("file", "hf"):
                return "a merged model comes from a folder or hf:ID; name one"
            return "`source` brings a merged model; leave `model` and `adapter` out" if fields.model or fields.adapter else None
        if fields.adapter and not fields.model:
            return "an adapter is merged into an explicit full-precision `model`; also one trained on a ...-bnb-4bit base, without that suffix"
        return None if fields.model and fields.adapter else "it needs `model` and `adapter`, or `source`; for example model: base, adapter: adapter"

    def run(self, job: Job) -> None:
        fields = job.fields(MergedFields)
        if fields.source:
            from olivebuild.steps._fetch import fetch

            job.result = Result(reference=fetch(job, fields.source))
        else:
            merge(job, Path(job.input("model").folder), Path(job.input("adapter").folder))


def merge(job: Job, base: Path, adapter: Path) -> None:
    """Merge with peft on the CPU: fp32 products, rounded once to the weight's own number format."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict

    from olivebuild.steps import _models
    from olivebuild.tensors import tensors_of

    check_base(job, adapter, base)
    dtype = getattr(torch, stored_dtype(base))
    model = _models.load_model(base, dtype, trust_remote_code=job.input("model").trust_remote_code)
    try:
        wrapped = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=True)
    except (ValueError, RuntimeError, KeyError) as e:
        first = str(e).strip().splitlines()[0]
        raise InputError(
            f"the adapter does not fit the model: {first[:200]}", where=job.where("adapter"), hint="was it trained on this model?"
        ) from None
    places = set(get_peft_model_state_dict(wrapped))
    given = {t.name for t in tensors_of(adapter / "adapter_model.safetensors")}
    if places != given:
        # Whatever is left over would be missing from the merged model without a word.
        odd = sorted(given - places) or sorted(places - given)
        what = "has no place in" if given - places else "is missing for"
        raise InputError(
            f"the adapter's {odd[0]} {what} the model ({len(odd)} such tensors)", where=job.where("adapter"), hint="was it trained on this model?"
        )
    job.progress("merging", 0, 1)
    merged = wrapped.merge_and_unload(safe_merge=True)
    _models.save_model(merged, job.out, extra_from=base)
    job.progress("merging", 1, 1)
    job.result = Result(metrics={"adapter_tensors": len(given)})


def check_base(job: Job, adapter: Path, base: Path) -> None:
    """Raises InputError when the base is quantised, as that of adapters trained in 4 bit often is."""
    trained_on = str(json.loads((adapter / "adapter_config.json").read_text("utf-8")).get("base_model_name_or_path") or "")
    config = json.loads((base / "config.json").read_text("utf-8"))
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        full = trained_on.removesuffix("-bnb-4bit")
        example = f", here probably hf:{full}" if full != trained_on else ""
        hint = f"name the full-precision model{example}: an adapter merged into quantised weights loses what it learnt"
        raise InputError(f"the base model is quantised ({method})", where=job.where("model"), hint=hint)


def stored_dtype(folder: Path) -> str:
    """The number format of most of a model's weights, by torch's name."""
    from collections import Counter
    from math import prod

    from olivebuild.tensors import tensors_of

    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    sizes: Counter[str] = Counter()
    for file in folder.glob("*.safetensors"):
        for tensor in tensors_of(file):
            sizes[tensor.dtype] += prod(tensor.shape)
    found = sizes.most_common(1)[0][0]
    if found not in names:
        raise InputError(f"weights of type {found} are not full precision", where=str(folder), hint="name the full-precision model")
    return names[found]


STEP = Merged()
