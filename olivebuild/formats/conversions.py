"""Conversions that are known to fail, or to be wrong, by a model's configuration.

`plan` reports them before an hour of training.

Each was found by converting a miniature of the architecture (ml/onnx/miniature_proof.py), and holds
for the versions that are named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from olivebuild.core.host import installed
from olivebuild.formats.model_config import (
    Config,
    ModelFinding,
    architecture_of,
    quantised_by,
    text_config,
)


class Known(NamedTuple):
    """An architecture that versions of the model builder can't convert.

    `applies`: to which configurations; `builder`: versions that were tried.
    """

    architectures: tuple[str, ...]
    builder: tuple[str, ...]
    applies: Callable[[Config], bool]
    happens: str
    because: str
    works: str
    precisions: tuple[str, ...] = ()
    """Which of the conversions; all, if none is named."""


def _has_layers_without_rope(config: Config) -> bool:
    text = text_config(config)
    layers = text.get("no_rope_layers")
    if isinstance(layers, list):
        return not all(layers)
    # What transformers makes of it: each layer of that number has no rotary positions.
    every, count = text.get("no_rope_layer_interval", 4), text.get("num_hidden_layers", 36)
    return isinstance(every, int) and isinstance(count, int) and 0 < every <= count


def _has_state_layers(config: Config) -> bool:
    return "mamba" in (text_config(config).get("layer_types") or ())


def _is_stored_in_16_bits(config: Config) -> bool:
    inner = text_config(config)
    return (inner.get("dtype") or inner.get("torch_dtype")) in ("bfloat16", "float16")


def _rounds_its_width(config: Config) -> bool:
    """The square root of the width is what Gemma's embeddings are multiplied with."""
    width = text_config(config).get("hidden_size")
    return isinstance(width, int) and width > 0 and round(math.sqrt(width), 2) ** 2 != width


def rope_of(config: Config) -> dict[str, Any]:
    """Return what is said of rotary positions, all layers alike."""
    text = text_config(config)
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    return rope if isinstance(rope, dict) else {}


def rope_type_of(config: Config) -> str:
    rope = rope_of(config)
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _scales_positions(config: Config) -> bool:
    return rope_type_of(config) in ("linear", "yarn", *LONG)


def _scales_in_a_way_of_its_own(config: Config) -> bool:
    return rope_type_of(config) in ("dynamic", "llama3", *LONG)


def _rounds_yarn(config: Config) -> bool:
    """Return whether the builder and transformers would differ in YaRN.

    The builder takes the dimensions between which YaRN changes over as they are; transformers
    rounds them, unless told not to.
    """
    rope = rope_of(config)
    plain = (
        rope.get("truncate") is False
        and rope.get("beta_fast")
        and rope.get("beta_slow")
        and not rope.get("attention_factor")
    )
    return rope_type_of(config) == "yarn" and not plain


def _lengths_differ(config: Config) -> bool:
    text = text_config(config)
    return bool(
        text.get("max_position_embeddings", 4096)
        != text.get("original_max_position_embeddings", 4096)
    )


LONG = ("longrope", "su")
ROTARY = (
    "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GraniteForCausalLM",
    "GraniteMoeHybridForCausalLM", "Ernie4_5ForCausalLM",
    "GemmaForCausalLM", "Gemma2ForCausalLM", "GptOssForCausalLM", "PhiForCausalLM",
    "PhiMoEForCausalLM", "OlmoForCausalLM", "Lfm2ForCausalLM",
    "Lfm2MoeForCausalLM",
)  # fmt: skip
"""Those whose rotary positions the builder makes in the same way (models/builders/base.py,
make_rope_init).
"""
NONE = "none that was tried; a merge of it can be used with transformers"


KNOWN_TO_FAIL = (
    Known(
        (
            "LlamaForCausalLM",
            "NemotronForCausalLM",
            "SmolLM3ForCausalLM",
            "HunYuanDenseV1ForCausalLM",
        ),
        ("0.18.0",),
        _scales_positions,
        "writes a model of other answers",
        "for this architecture it leaves out what its `rope_scaling` says",
        NONE,
    ),
    Known(
        ROTARY,
        ("0.18.0",),
        _scales_in_a_way_of_its_own,
        "does not take its `rope_scaling` (models/builders/base.py, make_rope_init)",
        "it knows that type for a few other architectures alone",
        NONE,
    ),
    Known(
        ("Phi3ForCausalLM",),
        ("0.18.0",),
        lambda config: rope_type_of(config) in LONG and not _lengths_differ(config),
        "does not take its `rope_scaling` (models/builders/base.py, make_rope_init)",
        "it looks for LongRoPE where max_position_embeddings is more than "
        "original_max_position_embeddings",
        NONE,
    ),
    Known(
        (*ROTARY, "Phi3ForCausalLM"),
        ("0.18.0",),
        _rounds_yarn,
        "ends in ZeroDivisionError, or writes a model of other answers (models/builders/base.py, "
        "make_inv_freq_rescaled_with_ntk)",
        "it computes YaRN as gpt-oss has it, with `truncate: false` and both betas given, and "
        "this one has it otherwise",
        NONE,
    ),
    Known(
        ("Phi3ForCausalLM",),
        ("0.18.0",),
        lambda config: _lengths_differ(config) and rope_type_of(config) not in ("yarn", *LONG),
        "looks for 'multi_cache', which is not there (models/builders/base.py)",
        "it takes a Phi-3 for one with LongRoPE where max_position_embeddings and "
        "original_max_position_embeddings (4096 if not given) differ",
        "this one, once both are the same number in the base's config.json, which changes nothing "
        "else; a merge can be used with transformers",
    ),
    Known(
        ("PhiForCausalLM",),
        ("0.18.0",),
        lambda config: bool(config.get("qk_layernorm")),
        "writes a model of other answers",
        "it leaves the norms of queries and keys out (`qk_layernorm`)",
        NONE,
    ),
    Known(
        ("GemmaForCausalLM", "Gemma2ForCausalLM", "NemotronForCausalLM"),
        ("0.18.0",),
        _is_stored_in_16_bits,
        "rounds what it should not (logits differ by a thousandth of their spread)",
        "their norms multiply with 1 + weight, and the builder keeps that sum in 16 bits",
        "onnxruntime-genai 0.18.0 with precision: int4, where that is below what 4 bits cost",
        ("fp32",),
    ),
    Known(
        ("GemmaForCausalLM", "Gemma2ForCausalLM"),
        ("0.18.0",),
        _rounds_its_width,
        "rounds what it should not (logits differ by a hundredth of their spread)",
        "it keeps two decimals of the factor of the embeddings (models/builders/gemma.py)",
        "onnxruntime-genai 0.18.0 with precision: int4, where that is below what 4 bits cost",
        ("fp32",),
    ),
    Known(
        ("GptOssForCausalLM",),
        ("0.18.0",),
        lambda config: quantised_by(config) != "mxfp4",
        "ends in RuntimeError: Original GPT-OSS MXFP4 tensor ... was not found "
        "(models/builders/gptoss.py)",
        "for 4 bits the builder takes the experts' weights as they were published, in MXFP4, and "
        "a merge has them in full precision",
        "onnxruntime-genai 0.18.0 with precision: fp32; "
        "a merge of it can be used with transformers",
        ("int4",),
    ),
    Known(
        ("GraniteMoeHybridForCausalLM",),
        ("0.17.1", "0.18.0"),
        _has_state_layers,
        "ends in AttributeError: 'NoneType' object has no attribute 'q_proj' "
        "(models/builders/granite.py)",
        "it has Mamba layers, and the builder knows those with attention alone",
        NONE,
    ),
    Known(
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        ("0.17.1", "0.18.0"),
        lambda _: True,
        "looks for 'rope_type', which is not there (models/builders/base.py, make_rope_init)",
        "transformers from 5.0 on keeps the rotary parameters of Gemma-3 by the type of layer, "
        "and the builder looks for those of all layers",
        "onnxruntime-genai 0.13.2 with transformers 4.57.6, in an environment of its own; a merge "
        "of it can be used with transformers",
    ),
    Known(
        ("SmolLM3ForCausalLM",),
        ("0.17.1", "0.18.0"),
        _has_layers_without_rope,
        "looks for 'position_ids', which is not there (models/builders/base.py, "
        "make_attention_qk_rope), and for dml rotates what must not be",
        "it has layers without rotary positions, and the builder gives these a rotation of their "
        "own",
        "none that was tried (0.10.0 converts it without complaint, and wrongly); a merge of it "
        "can be used with transformers",
    ),
    Known(
        ("OlmoForCausalLM",),
        ("0.18.0",),
        lambda _: True,
        "writes a model of other answers (logits differ by a tenth of their spread in fp32)",
        "the layer norms of OLMo-1 subtract the mean, and the builder writes them as RMS norms "
        "(models/builders/olmo.py)",
        NONE,
    ),
)


def known_to_fail(config: Config, precision: object) -> ModelFinding | None:
    """Return what the installed model builder is known to do wrong with such a model.

    None if nothing.
    """
    architecture, version = architecture_of(config), installed("onnxruntime-genai")
    for failure in KNOWN_TO_FAIL:
        meant = not failure.precisions or precision in failure.precisions
        if (
            meant
            and architecture in failure.architectures
            and version in failure.builder
            and failure.applies(config)
        ):
            fact = (
                f"the model builder (onnxruntime-genai {version}, transformers "
                f"{installed('transformers')}) can't convert {architecture}"
            )
            return ModelFinding(
                f"{fact}: it {failure.happens}, because {failure.because}",
                f"versions that work: {failure.works}",
            )
    return None
