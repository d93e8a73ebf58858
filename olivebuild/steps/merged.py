"""A base model with an adapter merged into its full-precision weights: a normal Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from olivebuild.errors import InputError
from olivebuild.sources import Source
from olivebuild.step import Edge, Fields, Ref, Result, Step
from olivebuild.worker import Job

if TYPE_CHECKING:
    from olivebuild.steps._merge import Change
    from olivebuild.weights import Weights


class MergedFields(Fields):
    model: Ref | None = None
    adapter: Ref | None = None
    source: Source | None = None
    reproducible: bool = False
    """Products accumulated in float64, in one order: the same bytes on every processor. Slower."""
    onto: Literal["base", "dequantised"] = "base"
    """Of an adapter trained on 4-bit weights: into the full-precision ones, or into what training saw of them."""


class Merged(Step):
    kind = "merged"
    version = 3
    changes: ClassVar = {
        3: "a merged model in several files has the index that loaders need, additional chat templates come along, and "
        "generation_config.json names the end tokens that its adapter was trained with",
    }
    fields = MergedFields
    summary = "an adapter merged into its base, or a merged model from elsewhere (`source`)"
    lazy = True
    ahead = ("olivebuild.steps._arrays", "olivebuild.steps._merge", "olivebuild.steps._assemble", "olivebuild.steps.onnx")

    def libraries(self, fields: MergedFields) -> tuple[str, ...]:
        if fields.source:
            return ()
        libraries = ("torch", "transformers", "peft", "safetensors")
        return libraries if fields.onto == "base" else (*libraries, "bitsandbytes")

    def parameters(self, fields: Fields) -> dict[str, object]:
        given = super().parameters(fields)
        # The default is left out: it changes nothing for merges that were made before there was a choice.
        return {name: value for name, value in given.items() if (name, value) != ("onto", "base")}

    def shares_process(self, fields: MergedFields) -> bool:
        return not fields.source

    def edges(self, fields: MergedFields) -> list[Edge]:
        if not (fields.model and fields.adapter):
            return []
        return [
            Edge("model", fields.model, ("model", "merged"), field=("model",), by_tensors=True),
            Edge("adapter", fields.adapter, ("adapter",), field=("adapter",), by_tensors=True),
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
            check_brought(job, job.result.reference)
        else:
            merge(job, fields)


def check_brought(job: Job, folder: Path | None) -> None:
    from olivebuild.steps import _opened

    try:
        _opened.check_output(job, folder or job.out)
    except ModuleNotFoundError as e:
        job.note(f"not opened, since {e.name} is not installed: what reads it will see whether it is whole")


def merge(job: Job, fields: MergedFields) -> None:
    """Tensor by tensor where that is proven to give peft's bytes; else by peft, and the trace says why."""
    from olivebuild.steps._ends import stopping, write_ends
    from olivebuild.steps._merge import Unproven, changes, open_input

    model, adapter = open_input(job.store, job.input("model")), open_input(job.store, job.input("adapter"))
    check_base(job, adapter.file("adapter_config.json"), model.file("config.json"))
    try:
        if job.input("model").trust_remote_code:
            raise Unproven("the model brings code of its own")
        if fields.onto == "dequantised":
            raise Unproven("it goes onto dequantised weights")
        changed = changes(adapter, model)
    except Unproven as e:
        if fields.reproducible:
            hint = "leave `reproducible` out: peft merges this adapter, and its bytes depend on the processor"
            raise InputError(f"no reproducible merge: {e}", where=job.where("reproducible"), hint=hint) from None
        job.note(f"merging with peft: {e}")
        merge_with_peft(job, job.folder("model"), job.folder("adapter"), dequantised=fields.onto == "dequantised")
        write_ends(job, model, adapter, job.out)
        job.result = job.result._replace(provenance={"by": "peft", "because": str(e)})
        return
    merge_by_tensors(job, stopping(job, model, adapter), changed, reproducible=fields.reproducible)


def merge_by_tensors(job: Job, model: Weights, changed: list[Change], *, reproducible: bool) -> None:
    """Only a merge that goes into build/ is written; for steps that read single tensors it suffices to know how each is computed."""
    from olivebuild.manifest import Merge
    from olivebuild.steps._assemble import Ahead
    from olivebuild.steps._merge import merge_all, multiplication, overlay
    from olivebuild.steps._opened import keep_finite
    from olivebuild.steps.onnx import known_recipes

    job.progress("merging", 0, len(changed))
    try:
        with job.store.batch(job.out.parent, sync=job.action.publish) as batch:
            recipes = known_recipes(job, model)
            ahead = Ahead(job.store, batch, recipes, model) if recipes else None
            groups = ahead.groups(changed) if ahead else [[c] for c in changed]
            computed, error = merge_all(
                groups,
                multiplication(job.store, reproducible=reproducible),
                batch.blob if job.action.publish else None,
                ahead.take if ahead else None,
            )
        if ahead:
            ahead.finish()
    except ValueError as e:
        raise InputError(str(e), where=job.where("adapter"), hint="does the adapter hold NaN, or weights of another model?") from None
    job.progress("merging", len(changed), len(changed))
    merge = None if job.action.publish else Merge(job.input("adapter").manifest, reproducible, tuple(computed))
    manifest, merged = overlay(job.store, model, computed, merge)
    # The base's weights were looked at before, the merged ones each when it was made.
    keep_finite(job.store, merged.model_digest())
    job.result = Result(
        digests={"": merged.model_digest()},
        metrics={"adapter_tensors": 2 * len(changed), "merge_error": error},
        provenance={"by": "tensors", "merged_bytes": sum(c.weight.size for c in changed)},
        manifest=job.store.put_manifest(manifest),
    )


def merge_with_peft(job: Job, base: Path, adapter: Path, *, dequantised: bool = False) -> None:
    """Merge with peft on the CPU: fp32 products, rounded once to the weight's own number format."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict

    from olivebuild.steps import _models, _opened
    from olivebuild.tensors import tensors_of

    dtype = getattr(torch, stored_dtype(base))
    model = _models.load_model(base, dtype, trust_remote_code=job.input("model").trust_remote_code)
    if dequantised:
        from olivebuild.steps._quantised import as_trained_on

        as_trained_on(job, model, adapter)
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
    # safe_merge would round the product before it is added.
    merged = wrapped.merge_and_unload()
    odd = [name for name, tensor in merged.state_dict().items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if odd:
        raise InputError(f"the merged {odd[0]} is not finite", where=job.where("adapter"), hint="does the adapter hold NaN?")
    _models.save_model(merged, job.out, extra_from=base)
    _opened.check_output(job, job.out, trust=job.input("model").trust_remote_code)
    job.progress("merging", 1, 1)
    job.result = Result(metrics={"adapter_tensors": len(given)})


def check_base(job: Job, adapter: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises InputError when the base is quantised, as that of adapters trained in 4 bit often is."""
    trained_on = str(adapter.get("base_model_name_or_path") or "")
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

    from olivebuild.tensors import tensors_of, weight_files

    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    sizes: Counter[str] = Counter()
    for file in weight_files(folder).names:
        for tensor in tensors_of(folder / file):
            sizes[tensor.dtype] += prod(tensor.shape)
    found = sizes.most_common(1)[0][0]
    if found not in names:
        raise InputError(f"weights of type {found} are not full precision", where=str(folder), hint="name the full-precision model")
    return names[found]


STEP = Merged()
