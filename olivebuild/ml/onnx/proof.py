"""Whether an ONNX model computes what transformers computes, and up to which length: found on a
miniature of its architecture.

A miniature has the model's own configuration (rotary settings, windows, norms, factors, head size,
each kind of layer), but few
and narrow layers, a small vocabulary, and random weights. It goes through the same model builder,
runs in the same runtime, and
each logit is compared with torch's: at two short lengths, and before, across and beyond each length
where the model changes what
it does (its sliding window, the original context of LongRoPE). What is wrong there is wrong for
every model of the architecture.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from olivebuild.core.errors import first_line
from olivebuild.core.fs import trees
from olivebuild.ml.onnx.trial import ANY, LIMITS, Difference, Proof, Runner, compare

LAYERS, VOCABULARY = 2, 331
"""A prime, which no other size is: the model builder takes any product with as many outputs as
there are tokens for the head.
"""
SHORT = (6, 33)
"""Lengths of prompts that are tried on every model."""
STEPS = 3
"""Tokens that are decoded one by one after each."""
BEYOND = 40
"""How far beyond a boundary a prompt goes; onnxruntime-genai keeps a few tokens more than the
window.
"""
FAR = 4096
"""A window or an original context beyond this is tried as one of about `NEAR` tokens: what counts
is on which side of it a token is.
"""
NEAR = 1024
WRONG = 0.05
"""Logits of a float32 miniature that differ by this much of their spread come from another
computation, not from rounding.
"""
SIZES = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
}
WIDTHS = {
    "intermediate_size": 2,
    "moe_intermediate_size": 1,
    "shared_expert_intermediate_size": 1,
    "block_ff_dim": 2,
    "block_dim": 1,
    "conv_dim": 1,
    "conv_dim_out": 1,
}
"""Sizes that follow the hidden size, as multiples of it."""


ROPES = ("rope_scaling", "rope_parameters")


class Untried(Exception):
    """There can be no miniature; the text says why."""


@dataclass(frozen=True)
class Miniature:
    config: dict[str, Any]
    boundaries: tuple[tuple[int, int], ...]
    """(the model's, the miniature's) lengths at which something changes."""
    by_length: bool
    """The rotary embedding depends on the length of the whole text."""

    @property
    def short(self) -> tuple[int, ...]:
        """Lengths of prompts that reach no boundary."""
        end = min((length for _, length in self.boundaries), default=max(SHORT) + STEPS) - STEPS
        return tuple(sorted({max(1, min(prompt, end)) for prompt in SHORT}))

    @staticmethod
    def of(config: dict[str, Any], block: int) -> Miniature:
        """Of what config.json holds; widths are multiples of `block`. Raises Untried."""
        small = json.loads(json.dumps(config))
        for name in ("quantization_config", "auto_map"):
            small.pop(name, None)
        inner = small["text_config"] if isinstance(small.get("text_config"), dict) else small
        try:
            known = _read(config).get_text_config()
            heads, hidden = int(known.num_attention_heads), int(known.hidden_size)
            layers = int(known.num_hidden_layers)
            size = int(getattr(known, "head_dim", None) or hidden // heads)
            groups = int(getattr(known, "num_key_value_heads", None) or heads)
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            OSError,
            ImportError,
            RecursionError,
        ) as e:
            raise Untried(f"{type(e).__name__}: {first_line(e, 200)}") from None
        kept = _kinds(known, layers)
        few = (2, 2) if groups == heads else (2, 1) if groups == 1 else (4, 2)
        while few[0] * size % block:
            few = (few[0] * 2, few[1] * (2 if groups > 1 else 1))
        width = few[0] * size
        for name, value in list(inner.items()):
            if isinstance(value, list) and len(value) == layers and layers > kept:
                inner[name] = value[:kept]
            elif name in SIZES and isinstance(value, int):
                inner[name] = min(value, SIZES[name])
            elif name in WIDTHS and isinstance(value, int):
                inner[name] = width * WIDTHS[name]
        inner |= {
            "num_hidden_layers": kept,
            "hidden_size": width,
            "num_attention_heads": few[0],
            "vocab_size": VOCABULARY,
        }
        if "num_key_value_heads" in inner:
            inner["num_key_value_heads"] = few[1]
        for part in (small, inner):
            for name in [n for n in part if n.endswith("_token_id")]:
                part[name] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}.get(name, 3)
        inner |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        small |= {"torch_dtype": "float32", "dtype": "float32"}
        inner |= {"torch_dtype": "float32", "dtype": "float32"}
        return Miniature(small, *_boundaries(known, inner))


def _read(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    given = dict(config)
    return AutoConfig.for_model(given.pop("model_type"), **given)


def _kinds(known: Any, layers: int) -> int:
    """How many of the first layers hold one of each kind."""
    lists = [v for v in vars(known).values() if isinstance(v, list) and len(v) == layers]
    kinds = list(zip(*(map(str, v) for v in lists), strict=True)) if lists else []
    wanted = set(kinds)
    return (
        next((n for n in range(LAYERS, layers) if set(kinds[:n]) == wanted), layers)
        if kinds
        else min(LAYERS, layers)
    )


def _boundaries(known: Any, inner: dict[str, Any]) -> tuple[tuple[tuple[int, int], ...], bool]:
    context = int(getattr(known, "max_position_embeddings", 0) or 0)
    kinds = list(
        _nested(getattr(known, "rope_parameters", None) or getattr(known, "rope_scaling", None))
    )
    by_length = any(r.get("rope_type", r.get("type")) in ("longrope", "dynamic") for r in kinds)
    window, original = getattr(known, "sliding_window", None), 0
    if by_length:
        original = getattr(known, "original_max_position_embeddings", None) or next(
            (
                r["original_max_position_embeddings"]
                for r in kinds
                if r.get("original_max_position_embeddings")
            ),
            0,
        )
    real = sorted(
        {
            length
            for length in (window, original)
            if isinstance(length, int) and 0 < length < context
        }
    )
    near = 0
    found: list[tuple[int, int]] = []
    for length in real:
        near = length if length <= FAR else max(NEAR, near + 2 * BEYOND)
        found.append((length, near))
        if near == length:
            continue
        if length == window:
            inner["sliding_window"] = near
        if length == original:
            # The factor of LongRoPE is the share of the two.
            inner["max_position_embeddings"] = max(near * context // original, near + 2 * BEYOND)
            for part in (inner, *(rope for name in ROPES for rope in _nested(inner.get(name)))):
                if "original_max_position_embeddings" in part:
                    part["original_max_position_embeddings"] = near
    return tuple(found), by_length


def _nested(rope: object) -> Iterator[dict[str, Any]]:
    """What is said of rotary positions, and what of those of each kind of layer."""
    if isinstance(rope, dict):
        yield rope
        yield from (part for part in rope.values() if isinstance(part, dict))


def prove(
    mini: Miniature,
    scratch: Path,
    build: Callable[[Path, Path], None],
    precision: str,
    dtype: str,
    *,
    exact: bool,
) -> Proof:
    """Make the miniature with weights of that type, `build` it from a folder into another, and
    compare; `exact`: at all its lengths.

    Raises what `build` raises.
    """
    source, made = scratch / "source", scratch / "made"
    trees.delete(scratch.parent, scratch)
    source.mkdir(parents=True)
    made.mkdir()
    try:
        model = _write(mini, source, dtype)
        build(source, made)
        return (
            _lengths(mini, model, made) if exact else _judged(mini, model, made, LIMITS[precision])
        )
    except Untried as e:
        return Proof(untried=str(e))
    finally:
        trees.delete(scratch.parent, scratch)


@torch.no_grad()
def _write(mini: Miniature, folder: Path, dtype: str) -> Any:
    """The miniature in a folder; and as a model in float32, holding the same numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    names = ("pad", "bos", "eos")
    words = Tokenizer(
        models.WordLevel({**{f"<{name}>": i for i, name in enumerate(names)}, "a": 3})
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens: dict[str, Any] = {f"{name}_token": f"<{name}>" for name in names}
    PreTrainedTokenizerFast(tokenizer_object=words, **tokens).save_pretrained(folder)
    given = mini.config | {"torch_dtype": dtype, "dtype": dtype}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            auto: Any = AutoModelForCausalLM
            model = auto.from_config(
                _read(given), dtype=torch.float32, attn_implementation="eager"
            ).eval()
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
                else:
                    parameter.normal_(0 if name.endswith("bias") else float(parameter.mean()), 0.1)
                # What the folder will hold; buffers stay as they are.
                parameter.copy_(parameter.to(getattr(torch, dtype)))
            copy.deepcopy(model).to(getattr(torch, dtype)).save_pretrained(folder)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        IndexError,
        ZeroDivisionError,
        ImportError,
    ) as e:
        raise Untried(f"{type(e).__name__}: {first_line(e, 200)}") from None
    # As it is published, not as this version of transformers would write it.
    (folder / "config.json").write_text(json.dumps(given, indent=2), "utf-8")
    return model


class Try:
    """Prompts of given lengths, and a few tokens after each, by both."""

    def __init__(self, model: Any, folder: Path, by_length: bool) -> None:
        self._model = model
        self._by_length = by_length
        self._runner = Runner(folder)
        self._random = np.random.default_rng(0)

    def difference(self, prompt: int) -> Difference:
        """Raises RuntimeError when the runtime fails."""
        ids = self._random.integers(4, VOCABULARY, prompt + STEPS).tolist()
        found = self._runner.logits(ids, prompt)
        return compare(
            list(_expected(self._model, ids, prompt, self._by_length, len(found))), found
        )

    def fault(self, prompt: int, limit: Difference) -> str:
        """What goes wrong there, or nothing."""
        try:
            return self.difference(prompt).beyond(limit)
        except RuntimeError as e:
            return _failure(e)


def _judged(mini: Miniature, model: Any, folder: Path, limit: Difference) -> Proof:
    try:
        tries = Try(model, folder, mini.by_length)
    except RuntimeError as e:
        return Proof(wrong=_failure(e))
    return Proof(
        wrong=next(filter(None, (tries.fault(prompt, limit) for prompt in mini.short)), "")
    )


def _failure(error: RuntimeError) -> str:
    return f"onnxruntime-genai fails: {first_line(error)}"


def _lengths(mini: Miniature, model: Any, folder: Path) -> Proof:
    usual = 0.0
    try:
        tries = Try(model, folder, mini.by_length)
        short = [tries.difference(prompt) for prompt in mini.short]
    except RuntimeError as e:
        return Proof(wrong=_failure(e))
    for difference in short:
        if fault := difference.beyond(Difference(WRONG, WRONG)):
            return Proof(wrong=fault)
        usual = max(usual, difference.spread)
    inexact = usual > LIMITS["fp32"].spread
    # What a constant of the graph is rounded by shows at every length; what comes to it at a
    # boundary is something else.
    limit = Difference(max(LIMITS["fp32"].spread, 4 * usual), ANY)
    for real, length in mini.boundaries:
        if fault := tries.fault(length - STEPS, limit):
            return Proof(max(mini.short) + STEPS, fault, inexact=inexact)
        for prompt in (length - 1, length + BEYOND):
            if fault := tries.fault(prompt, limit):
                return Proof(real, fault, inexact=inexact)
    return Proof(inexact=inexact)


@torch.inference_mode()
def _expected(
    model: Any, ids: list[int], prompt: int, by_length: bool, count: int
) -> Iterator[np.ndarray]:
    """The logits of the last `count` tokens, as torch computes them of the whole text up to
    there.
    """

    def logits(end: int, keep: int) -> np.ndarray:
        out = model(input_ids=torch.tensor([ids[:end]]), use_cache=False, logits_to_keep=keep)
        return np.asarray(out.logits[0, -keep:].float().numpy())

    if not by_length:
        yield from logits(len(ids), count)
        return
    yield from logits(prompt, count - (len(ids) - prompt))
    for end in range(prompt + 1, len(ids) + 1):
        yield from logits(end, 1)
