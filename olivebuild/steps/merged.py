"""A base model with an adapter merged into its full-precision weights: a normal Hugging Face
folder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from olivebuild.errors import InputError, Problem
from olivebuild.job import Job
from olivebuild.small_files import read_json
from olivebuild.sources import Source
from olivebuild.step import Edge, Fields, Ref, Result, Step

if TYPE_CHECKING:
    from olivebuild.steps._merge import Change
    from olivebuild.steps._merge_proof import Reference
    from olivebuild.weights import Weights


class MergedFields(Fields):
    model: Ref | None = None
    adapter: Ref | None = None
    source: Source | None = None
    reproducible: bool = False
    """Products accumulated in float64, in one order: the same bytes on every processor. Slower."""
    onto: Literal["base", "dequantised"] = "base"
    """Of an adapter trained on 4-bit weights: into the full-precision ones, or into what training
    saw of them.
    """


class Merged(Step):
    kind = "merged"
    version = 3
    changes: ClassVar = {
        3: "a merged model in several files has the index that loaders need, additional chat "
        "templates and an "
        "adapter's own tokenizer come along, tied weights come apart, and generation_config.json "
        "names the end tokens that were trained",
    }
    fields = MergedFields
    summary = "an adapter merged into its base, or a merged model from elsewhere (`source`)"
    lazy = True
    ahead = (
        "olivebuild.steps._arrays",
        "olivebuild.steps._merge",
        "olivebuild.steps._assemble",
        "olivebuild.steps.onnx",
    )

    def libraries(self, fields: MergedFields) -> tuple[str, ...]:
        if fields.source:
            return ()
        libraries = ("torch", "transformers", "peft", "safetensors")
        return libraries if fields.onto == "base" else (*libraries, "bitsandbytes")

    def parameters(self, fields: Fields) -> dict[str, object]:
        given = super().parameters(fields)
        # The default is left out: it changes nothing for merges that were made before there was a
        # choice.
        return {name: value for name, value in given.items() if (name, value) != ("onto", "base")}

    def computes(self, fields: MergedFields) -> bool:
        return not fields.source and not fields.reproducible

    def template(self, fields: MergedFields) -> str:
        return "" if fields.source else "published"

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

    def check(self, fields: MergedFields) -> Problem | None:
        if fields.source:
            if fields.source.scheme not in ("file", "hf"):
                return Problem("a merged model comes from a folder or hf:ID", "name one")
            if fields.model or fields.adapter:
                return Problem("`source` brings a merged model", "leave `model` and `adapter` out")
            return None
        if fields.adapter and not fields.model:
            return Problem(
                "an adapter is merged into an explicit full-precision `model`",
                "also one trained on a ...-bnb-4bit base, without that suffix",
            )
        if not (fields.model and fields.adapter):
            return Problem(
                "it needs `model` and `adapter`, or `source`",
                "for example model: base, adapter: adapter",
            )
        return None

    def run(self, job: Job) -> None:
        fields = job.fields(MergedFields)
        if fields.source:
            from olivebuild import brought
            from olivebuild.steps._fetch import fetch
            from olivebuild.steps.model import seen_of

            path = fetch(
                job,
                fields.source,
                look=lambda folder: brought.check(
                    folder, "merged", job.where("source"), trust=False
                ),
            )
            job.result = Result(reference=path, provenance=seen_of(path))
            check_brought(job, path)
        else:
            merge(job, fields)


def check_brought(job: Job, folder: Path | None) -> None:
    from olivebuild.steps import _opened

    try:
        _opened.check_output(job, folder or job.out)
    except ModuleNotFoundError as e:
        job.note(
            f"not opened, since {e.name} is not installed: what reads it will see whether it is "
            "whole"
        )


def merge(job: Job, fields: MergedFields) -> None:
    """Tensor by tensor where that is proven to give peft's bytes; else by peft, and the trace says
    why.
    """
    from olivebuild.steps import _frozen
    from olivebuild.steps._adapters import why_unmergeable, why_unusable
    from olivebuild.steps._ends import stopping, write_ends
    from olivebuild.steps._merge import Unproven, changes, open_input
    from olivebuild.steps._placed import check_places
    from olivebuild.steps._tokenizer_files import dress, with_tokenizer

    base, adapter = (
        open_input(job.store, job.input("model")),
        open_input(job.store, job.input("adapter")),
    )
    config = adapter.file("adapter_config.json")
    check_base(job, config, base.file("config.json"))
    if refusal := why_unusable(config) or why_unmergeable(
        config, adapter.by_name.values(), base.by_name
    ):
        raise InputError(refusal[0], where=job.where("adapter"), hint=refusal[1])
    model = with_tokenizer(job, base, adapter)
    try:
        if job.input("model").trust_remote_code:
            raise Unproven("the model brings code of its own")
        if fields.onto == "dequantised":
            raise Unproven("it goes onto dequantised weights")
        changed = changes(adapter, model)
        check_places(job.store, model, changed)
    except Unproven as e:
        if fields.reproducible:
            hint = (
                "leave `reproducible` out: peft merges this adapter, and its bytes depend on the "
                "processor"
            )
            raise InputError(
                f"no reproducible merge: {e}", where=job.where("reproducible"), hint=hint
            ) from None
        from olivebuild.steps._inputs import as_folder

        job.note(f"merging with peft: {e}")
        merge_with_peft(
            job,
            as_folder(job, "model"),
            as_folder(job, "adapter"),
            dequantised=fields.onto == "dequantised",
        )
        if model is not base:
            dress(job.out, model)
        write_ends(job, model, adapter, job.out)
        _frozen.in_folder(job, job.out)
        job.result = job.result._replace(provenance={"by": "peft", "because": str(e)})
        return
    merge_by_tensors(
        job,
        _frozen.in_weights(job, stopping(job, model, adapter)),
        changed,
        reproducible=fields.reproducible,
    )


def merge_by_tensors(
    job: Job, model: Weights, changed: list[Change], *, reproducible: bool
) -> None:
    """Only a merge that goes into build/ is written; for steps that read single tensors it suffices
    to know how each is computed.
    """
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
        raise InputError(
            str(e),
            where=job.where("adapter"),
            hint="does the adapter hold NaN, or weights of another model?",
        ) from None
    job.progress("merging", len(changed), len(changed))
    merge = (
        None
        if job.action.publish
        else Merge(job.input("adapter").manifest, reproducible, tuple(computed))
    )
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
    """Merge with peft on the CPU: fp32 products, added and rounded to the weight's own number
    format (those for experts also before they are added).

    The result is compared with base and adapter.
    """
    import torch

    from olivebuild.steps import _merge_proof, _models, _opened
    from olivebuild.steps._adapters import PLAIN_STARTS

    config = read_json(adapter / "adapter_config.json")
    dtype, trust = getattr(torch, stored_dtype(base)), job.input("model").trust_remote_code
    tokens = _trained_tokens(config)

    def wrapped_with(seed: int, kind: torch.dtype = dtype) -> Any:
        torch.manual_seed(seed)
        model = _models.load_model(base, kind, trust_remote_code=trust)
        if dequantised:
            from olivebuild.steps._quantised import as_trained_on

            as_trained_on(job, model, adapter)
        return wrap(job, model, adapter)

    job.progress("merging", 0, 4)
    # Of a seed that is not the merge's: whatever is drawn at random when the adapter is loaded
    # shows as a difference.
    odd = (
        config.get("peft_type") != "LORA"
        or config.get("init_lora_weights", True) not in PLAIN_STARTS
    )
    earlier = (
        _reading(
            job,
            lambda: _merge_proof.compute(
                wrapped_with(1), _merge_proof.prompts_for(config_of(base, trust), tokens)
            ),
        )
        if odd
        else None
    )
    wrapped = wrapped_with(0)
    expected = _reading(
        job,
        partial(
            _merge_proof.reference, wrapped, dtype, _merge_proof.prompts_for(wrapped.config, tokens)
        ),
    )
    if (
        earlier is not None
        and _merge_proof.apart(wrapped, expected.logits, earlier) > expected.bound
    ):
        fact = (
            "the adapter is another one each time it is loaded: something in it is drawn at random"
        )
        raise InputError(fact, where=job.where("adapter"), hint="save it as a plain LoRA adapter")
    job.progress("merging", 1, 4)
    # Ties are undone first: peft adds to a shared weight, once for each module that it adapts.
    ties = _reading(job, partial(_merge_proof.Ties, wrapped.get_base_model()))
    # safe_merge would round the product before it is added.
    merged = _reading(job, wrapped.merge_and_unload)
    if ties.settle(merged):
        job.note(
            "the adapter changes the head and the embedding in different ways: they are stored "
            "apart, and tie_word_embeddings is false"
        )
    job.progress("merging", 2, 4)
    odd_ones = [
        name
        for name, tensor in merged.state_dict().items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if odd_ones:
        raise InputError(
            f"the merged {odd_ones[0]} is not finite",
            where=job.where("adapter"),
            hint="does the adapter hold NaN?",
        )
    _models.save_model(merged, job.out, extra_from=base)
    _opened.check_output(job, job.out, trust=trust)
    held = _merge_proof.in_memory(merged)
    del wrapped, merged, ties
    job.progress("merging", 3, 4)
    spread, bound = check_written(job, trust, held, expected)
    if spread > _merge_proof.TOLD:
        name = str(dtype).removeprefix("torch.")
        fact = (
            f"the merged model's logits differ by {spread:.2g} of their spread from those of base "
            "and "
            "adapter"
        )
        job.note(f"{fact}: rounding its weights to {name} once does that, up to {bound:.2g}")
    # A start that is computed from the weights changes them by rounding, too.
    if (
        bound > _merge_proof.HIDES
        and not dequantised
        and config.get("init_lora_weights", True) in PLAIN_STARTS
    ):
        again = wrapped_with(0, torch.float32)
        ties = _merge_proof.Ties(again.get_base_model())
        exact = again.merge_and_unload()
        ties.settle(exact)
        before, found = (
            _models.load_model(folder, dtype, trust_remote_code=trust) for folder in (base, job.out)
        )
        if odd := _merge_proof.odd_weight(exact, before, found, dtype):
            fact = (
                f"the merge does not do what its adapter does: {odd} is not what the same merge in "
                "float32 gives, rounded"
            )
            raise InputError(
                fact,
                where=job.where("adapter"),
                hint="nothing was stored; please report it, with adapter_config.json",
            )
    job.progress("merging", 4, 4)
    given = len(tensors_in(adapter))
    job.result = Result(
        metrics={"adapter_tensors": given, "merge_spread": spread, "merge_spread_allowed": bound}
    )


def check_written(
    job: Job, trust: bool, held: dict[str, str], expected: Reference
) -> tuple[float, float]:
    """How far the merge in the output is from base and adapter, and how far it may be.

    Raises InputError when rounding does not explain it.
    """
    from olivebuild.steps import _merge_proof, _models

    hint = "nothing was stored; please report it, with adapter_config.json"
    again = _models.load_model(job.out, expected.dtype, trust_remote_code=trust)
    read = _merge_proof.in_memory(again)
    if differing := sorted(
        name for name in held.keys() | read.keys() if held.get(name) != read.get(name)
    ):
        raise InputError(
            f"the merged {differing[0]} is loaded otherwise than it was written",
            where=job.where(),
            hint=hint,
        )
    logits = _reading(job, partial(_merge_proof.compute, again, expected.prompts))
    spread, bound = (
        _merge_proof.apart(again, expected.logits, logits),
        _merge_proof.bound_of(again, expected, logits),
    )
    if not spread <= bound:
        fact = (
            f"the merge does not do what its adapter does: logits differ by {spread:.3g} of their "
            f"spread, and rounding explains {bound:.1g}"
        )
        raise InputError(fact, where=job.where("adapter"), hint=hint)
    return spread, bound


def wrap(job: Job, model: Any, adapter: Path) -> Any:
    """The model with the adapter beside its weights.

    Raises InputError when a tensor finds no place, or one is missing.
    """
    from peft import PeftModel, get_peft_model_state_dict

    from olivebuild.steps import _patterns

    _patterns.check_adapter(adapter, model, trust=job.input("adapter").trust_remote_code)
    wrapped = _reading(
        job, lambda: PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=True)
    )
    places = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    given = tensors_in(adapter)
    # The embeddings' own weights may be saved along with what was trained, as peft does where
    # tokens were added.
    # In memory the adapter's name, default, stands in theirs.
    names = (
        name.replace(".modules_to_save.default.", ".modules_to_save.")
        for name in wrapped.state_dict()
    )
    own = {name for name in names if name.endswith((".weight", ".bias")) and ".lora_" not in name}
    left_over, lacking = sorted(given - places - own), sorted(places - given)
    if left_over or lacking:
        # Whatever is left over would be missing from the merged model without a word.
        what = "has no place in" if left_over else "is missing for"
        odd = left_over or lacking
        raise InputError(
            f"the adapter's {odd[0]} {what} the model ({len(odd)} such tensors)",
            where=job.where("adapter"),
            hint="was it trained on this model?"
            if left_over
            else "is the adapter's file whole, and was it trained on this model?",
        )
    check_tied_adapters(job, adapter)
    return wrapped


def check_tied_adapters(job: Job, adapter: Path) -> None:
    """Raises InputError where one LoRA should serve embedding and head, and the file holds two:
    which acts hangs on the base's number format.
    """
    from safetensors.torch import load_file

    if not read_json(adapter / "adapter_config.json").get("ensure_weight_tying"):
        return
    found = load_file(adapter / "adapter_model.safetensors")
    ends = {
        name.rpartition(".lora_embedding_")[2]: t
        for name, t in found.items()
        if ".lora_embedding_" in name
    }
    for name, tensor in sorted(found.items()):
        other = {"lora_A.weight": "B", "lora_B.weight": "A"}.get(".".join(name.split(".")[-2:]))
        if ".layers." not in name and other in ends and not tensor.equal(ends[other].t()):
            fact = (
                f"ensure_weight_tying is set, and yet {name} differs from what the embedding "
                "was given"
            )
            hint = (
                "peft does not keep them equal on a base in bfloat16; train without "
                "ensure_weight_tying, or on float32"
            )
            raise InputError(fact, where=job.where("adapter"), hint=hint)


Found = TypeVar("Found")


def _reading(job: Job, does: Callable[[], Found]) -> Found:
    """What `does` returns; whatever peft and the model refuse is an error of the adapter's, and its
    reason is shown whole.
    """
    try:
        return does()
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        raise InputError(
            f"the adapter does not fit the model: {reason_of(e)}",
            where=job.where("adapter"),
            hint="was it trained on this model?",
        ) from e


def reason_of(error: Exception) -> str:
    """The line of an error that tells why: a heading that ends in a colon says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    reasons = lines[1:] if len(lines) > 1 and lines[0].endswith(":") else lines[:1]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return reasons[0] + more


def tensors_in(adapter: Path) -> set[str]:
    from olivebuild.tensors import tensors_of

    return {t.name for t in tensors_of(adapter / "adapter_model.safetensors")}


def config_of(folder: Path, trust: bool) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)


def _trained_tokens(config: dict[str, Any]) -> list[int]:
    """Tokens whose rows alone were trained."""
    found = config.get("trainable_token_indices") or config.get("token_indices") or []
    rows = [i for some in found.values() for i in some] if isinstance(found, dict) else found
    return [int(i) for i in rows]


def check_base(job: Job, adapter: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises InputError when the base is quantised, as that of adapters trained in 4 bit
    often is.
    """
    from olivebuild.model_config import full_precision_hint, quantised_by

    if method := quantised_by(config):
        hint = full_precision_hint(str(adapter.get("base_model_name_or_path") or ""))
        raise InputError(
            f"the base model is quantised ({method})", where=job.where("model"), hint=hint
        )


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
        raise InputError(
            f"weights of type {found} are not full precision",
            where=str(folder),
            hint="name the full-precision model",
        )
    return names[found]


STEP = Merged()
