"""Merges by peft, compared with base and adapter before they are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.errors import InputError
from olivebuild.core.fs.small_files import read_json
from olivebuild.formats.safetensors import tensors_of
from olivebuild.formats.weight_files import weight_files
from olivebuild.ml.weights.adapter_config import PLAIN_STARTS

if TYPE_CHECKING:
    from olivebuild.ml.weights.merge_proof import Reference


def merge_with_peft(job: Job, base: Path, adapter: Path, *, dequantised: bool = False) -> None:
    """Merge with peft on the CPU, and compare the result with base and adapter.

    Products are float32, added and rounded to the weight's own dtype (those for experts also before
    they are added). Raises InputError.
    """
    import torch

    from olivebuild.ml.models import load, opened
    from olivebuild.ml.weights import merge_proof

    config = read_json(adapter / "adapter_config.json")
    dtype, trust = getattr(torch, stored_dtype(base)), job.input("model").trust_remote_code
    tokens = _trained_tokens(config)

    def wrapped_with(seed: int, kind: torch.dtype = dtype) -> Any:
        torch.manual_seed(seed)
        model = load.load_model(base, kind, trust_remote_code=trust)
        if dequantised:
            from olivebuild.ml.nn.qlora import as_trained_on

            as_trained_on(job, model, adapter)
        return wrap(job, model, adapter)

    job.progress("merging", 0, 4)
    earlier = None
    if config.get("peft_type") != "LORA" or not _starts_plain(config):
        # Of a seed that is not the merge's: anything drawn at random when the adapter is loaded
        # shows as a difference.
        earlier = _reading(
            job,
            lambda: merge_proof.compute(
                wrapped_with(1), merge_proof.prompts_for(config_of(base, trust), tokens)
            ),
        )
    wrapped = wrapped_with(0)
    expected = _reading(
        job,
        partial(
            merge_proof.reference, wrapped, dtype, merge_proof.prompts_for(wrapped.config, tokens)
        ),
    )
    if (
        earlier is not None
        and merge_proof.apart(wrapped, expected.logits, earlier) > expected.bound
    ):
        fact = (
            "the adapter is another one each time it is loaded: something in it is drawn at random"
        )
        raise InputError(fact, where=job.where("adapter"), hint="save it as a plain LoRA adapter")
    job.progress("merging", 1, 4)
    # Ties are undone first: peft adds to a shared weight, once for each module that it adapts.
    ties = _reading(job, partial(merge_proof.Ties, wrapped.get_base_model()))
    # safe_merge would round the product before it is added.
    merged = _reading(job, wrapped.merge_and_unload)
    if ties.settle(merged):
        job.note(
            "the adapter changes the head and the embedding in different ways: they are stored "
            "apart, and tie_word_embeddings is false"
        )
    job.progress("merging", 2, 4)
    _check_finite(job, merged)
    load.save_model(merged, job.out, extra_from=base)
    opened.check_output(job, job.out, trust=trust)
    held = merge_proof.in_memory(merged)
    del wrapped, merged, ties
    job.progress("merging", 3, 4)
    spread, bound = check_written(job, trust, held, expected)
    if spread > merge_proof.TOLD:
        name = str(dtype).removeprefix("torch.")
        fact = (
            f"the merged model's logits differ by {spread:.2g} of their spread from those of base "
            "and adapter"
        )
        job.note(f"{fact}: rounding its weights to {name} once does that, up to {bound:.2g}")
    # A start that is computed from the weights changes them by rounding, too.
    if bound > merge_proof.HIDES and not dequantised and _starts_plain(config):
        _check_weights(job, base, dtype, trust, lambda: wrapped_with(0, torch.float32))
    job.progress("merging", 4, 4)
    job.result = Result(
        metrics={
            "adapter_tensors": len(tensors_in(adapter)),
            "merge_spread": spread,
            "merge_spread_allowed": bound,
        }
    )


def _starts_plain(config: dict[str, Any]) -> bool:
    """Return whether the weights that an adapter was trained from are those of its base."""
    return config.get("init_lora_weights", True) in PLAIN_STARTS


def _check_finite(job: Job, merged: Any) -> None:
    """Raise InputError for a merged tensor with infinities or NaN."""
    import torch

    for name, tensor in merged.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"the merged {name} is not finite",
                where=job.where("adapter"),
                hint="does the adapter hold NaN?",
            )


def _check_weights(
    job: Job, base: Path, dtype: Any, trust: bool, wrapped_exactly: Callable[[], Any]
) -> None:
    """Compare each weight in the output with the same merge in float32. Raises InputError."""
    from olivebuild.ml.models import load
    from olivebuild.ml.weights import merge_proof

    wrapped = wrapped_exactly()
    ties = merge_proof.Ties(wrapped.get_base_model())
    exact = wrapped.merge_and_unload()
    ties.settle(exact)
    before, merged = (
        load.load_model(folder, dtype, trust_remote_code=trust) for folder in (base, job.out)
    )
    if name := merge_proof.wrong_weight(exact, before, merged, dtype):
        fact = (
            f"the merge does not do what its adapter does: {name} is not what the same merge in "
            "float32 gives, rounded"
        )
        raise InputError(
            fact,
            where=job.where("adapter"),
            hint="nothing was stored; please report it, with adapter_config.json",
        )


def check_written(
    job: Job, trust: bool, held: dict[str, str], expected: Reference
) -> tuple[float, float]:
    """Return how far the merge in the output is from base and adapter, and how far it may be.

    Raises InputError when rounding does not explain it.
    """
    from olivebuild.ml.models import load
    from olivebuild.ml.weights import merge_proof

    hint = "nothing was stored; please report it, with adapter_config.json"
    again = load.load_model(job.out, expected.dtype, trust_remote_code=trust)
    read = merge_proof.in_memory(again)
    if differing := sorted(
        name for name in held.keys() | read.keys() if held.get(name) != read.get(name)
    ):
        raise InputError(
            f"the merged {differing[0]} is loaded otherwise than it was written",
            where=job.where(),
            hint=hint,
        )
    logits = _reading(job, partial(merge_proof.compute, again, expected.prompts))
    spread, bound = (
        merge_proof.apart(again, expected.logits, logits),
        merge_proof.bound_of(again, expected, logits),
    )
    if not spread <= bound:
        fact = (
            f"the merge does not do what its adapter does: logits differ by {spread:.3g} of their "
            f"spread, and rounding explains {bound:.1g}"
        )
        raise InputError(fact, where=job.where("adapter"), hint=hint)
    return spread, bound


def wrap(job: Job, model: Any, adapter: Path) -> Any:
    """Return the model with the adapter beside its weights.

    Raises InputError when a tensor belongs to no module, or one is missing.
    """
    from peft import PeftModel, get_peft_model_state_dict

    from olivebuild.ml.weights import patterns

    patterns.check_adapter(adapter, model, trust=job.input("adapter").trust_remote_code)
    wrapped = _reading(
        job, lambda: PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=True)
    )
    places = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    saved = tensors_in(adapter)
    # The embeddings' own weights may be saved along with what was trained, as peft does where
    # tokens were added.
    # In memory the adapter's name, default, stands in theirs.
    names = (
        name.replace(".modules_to_save.default.", ".modules_to_save.")
        for name in wrapped.state_dict()
    )
    of_base = {n for n in names if n.endswith((".weight", ".bias")) and ".lora_" not in n}
    left_over, lacking = sorted(saved - places - of_base), sorted(places - saved)
    if left_over or lacking:
        # A tensor left over would be missing from the merged model without a word.
        what = "has no place in" if left_over else "is missing for"
        tensors = left_over or lacking
        raise InputError(
            f"the adapter's {tensors[0]} {what} the model ({len(tensors)} such tensors)",
            where=job.where("adapter"),
            hint="was it trained on this model?"
            if left_over
            else "is the adapter's file whole, and was it trained on this model?",
        )
    check_tied_adapters(job, adapter)
    return wrapped


def check_tied_adapters(job: Job, adapter: Path) -> None:
    """Raise InputError where one LoRA should serve embedding and head, and the file holds two.

    Which of them acts depends on the base's dtype.
    """
    from safetensors.torch import load_file

    if not read_json(adapter / "adapter_config.json").get("ensure_weight_tying"):
        return
    tensors = load_file(adapter / "adapter_model.safetensors")
    ends = {
        name.rpartition(".lora_embedding_")[2]: t
        for name, t in tensors.items()
        if ".lora_embedding_" in name
    }
    for name, tensor in sorted(tensors.items()):
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


T = TypeVar("T")


def _reading(job: Job, function: Callable[[], T]) -> T:
    """Return what `function` returns; failures of peft and the model are the adapter's InputError.

    The reason is shown whole.
    """
    try:
        return function()
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
    """Return the line of an error with its reason; a heading that ends in a colon has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    reasons = lines[1:] if len(lines) > 1 and lines[0].endswith(":") else lines[:1]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return reasons[0] + more


def tensors_in(adapter: Path) -> set[str]:
    """Return the names of an adapter's tensors."""
    return {t.name for t in tensors_of(adapter / "adapter_model.safetensors")}


def config_of(folder: Path, trust: bool) -> Any:
    """Return transformers' configuration of a folder."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)


def _trained_tokens(config: dict[str, Any]) -> list[int]:
    """Return the tokens whose rows alone were trained."""
    indices = config.get("trainable_token_indices") or config.get("token_indices") or []
    if isinstance(indices, dict):
        indices = list(chain.from_iterable(indices.values()))
    return [int(i) for i in indices]


def stored_dtype(folder: Path) -> str:
    """Return the dtype of most of a model's weights, by torch's name. Raises InputError."""
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    sizes: Counter[str] = Counter()
    for file in weight_files(folder).names:
        for tensor in tensors_of(folder / file):
            sizes[tensor.dtype] += prod(tensor.shape)
    dtype = sizes.most_common(1)[0][0]
    if dtype not in names:
        raise InputError(
            f"weights of type {dtype} are not full precision",
            where=str(folder),
            hint="name the full-precision model",
        )
    return names[dtype]
