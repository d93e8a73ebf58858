"""Tiny models with random weights of the families that people fine-tune, configured as they are
published.

A `config.json` here has the names and the kinds of values of the one on the hub (as its authors
wrote it, for the transformers of their day); only sizes are small, so that windows and original
context lengths are passed within some dozen tokens. `python -m tests.support.families --write FILE`
writes the table of what was measured on them (tests/scenarios/test_families.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.family_weights import (
    TURN,
    VOCABULARY,
    dump,
    in_4_bits,
    make_weights,
    save_gptq,
    save_plain,
    write_tokenizer,
)

WINDOW, ORIGINAL = 48, 72
"""Where windows end, and where the original context does, in these models."""


TEMPLATE = (
    "{% for m in messages %}"
    + TURN
    + "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 7,
    "torch_dtype": "bfloat16", "initializer_range": 0.02,
    "attention_dropout": 0.0, "use_cache": True, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """`published`: a repository whose configuration has this style.

    `config`: what it says beside COMMON; None leaves a name out.

    `stored`: how its weights lie, where that is not as transformers saves them.
    """

    published: str
    architecture: str
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    stored: str = ""
    bos: bool = False
    """Whether the tokenizer begins texts with its BOS."""

    def settings(self) -> dict[str, Any]:
        merged = (
            {"architectures": [self.architecture], "model_type": self.model_type}
            | COMMON
            | self.config
        )
        return {
            name: value
            for name, value in merged.items()
            if value is not None or name in ("rope_scaling", "sliding_window", "layer_types")
        }


def _longrope(pairs: int) -> dict[str, Any]:
    return {
        "short_factor": [1.0 + k / 50 for k in range(pairs)],
        "long_factor": [1.0 + k for k in range(pairs)],
        "type": "longrope",
    }


LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": ORIGINAL,
    "rope_type": "llama3",
}


RMS = {"rms_norm_eps": 1e-05, "rope_theta": 10000.0}


QWEN = {
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "max_window_layers": 2,
}


PHI3 = RMS | {
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "original_max_position_embeddings": ORIGINAL,
    "attention_bias": False,
}


REMOTE_PHI = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
}


LLAMA = ("LlamaForCausalLM", "llama")


GRANITE4 = RMS | {
    "attention_bias": False, "attention_multiplier": 0.0625, "embedding_multiplier": 12,
    "logits_scaling": 3, "residual_multiplier": 0.22,
    "num_experts_per_tok": 0, "num_local_experts": 0, "shared_intermediate_size": 128,
    "normalization_function": "rmsnorm",
    "output_router_logits": False,
    "mamba_chunk_size": 16, "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_head": 16,
    "mamba_d_state": 16, "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 8, "mamba_proj_bias": False, "router_aux_loss_coef": 0.01,
    "rope_scaling": None, "tie_word_embeddings": True,
}  # fmt: skip


FAMILIES: dict[str, Family] = {
    "Phi-3-mini": Family(
        "microsoft/Phi-3-mini-4k-instruct", "Phi3ForCausalLM", "phi3",
        # The same number of both lengths: other ones mean LongRoPE to the model builder.
        PHI3 | {"auto_map": REMOTE_PHI, "num_key_value_heads": 4, "rope_scaling": None,
                "sliding_window": WINDOW - 1,
                "original_max_position_embeddings": 2048}, bos=True,
    ),
    "Phi-3.5": Family(
        "microsoft/Phi-3.5-mini-instruct", "Phi3ForCausalLM", "phi3",
        PHI3 | {"auto_map": REMOTE_PHI, "num_key_value_heads": 4, "rope_scaling": _longrope(8),
                "sliding_window": 262144},
    ),
    "Phi-4-mini": Family(
        "microsoft/Phi-4-mini-instruct", "Phi3ForCausalLM", "phi3",
        PHI3 | {"auto_map": REMOTE_PHI, "rope_scaling": _longrope(24),
                "partial_rotary_factor": 0.75, "hidden_size": 128, "num_attention_heads": 2,
                "num_key_value_heads": 1, "sliding_window": 262144, "tie_word_embeddings": True,
                "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False,
                "mlp_bias": False},
    ),
    "Phi-2": Family(
        "microsoft/phi-2", "PhiForCausalLM", "phi",
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-05, "partial_rotary_factor": 0.4,
         "qk_layernorm": False, "rope_scaling": None, "rope_theta": 10000.0, "embd_pdrop": 0.0,
         "resid_pdrop": 0.0, "hidden_size": 160, "num_attention_heads": 2, "num_key_value_heads": 2,
         "pad_token_id": None},
    ),
    "Llama-3.2": Family(
        "meta-llama/Llama-3.2-1B-Instruct", *LLAMA,
        RMS | {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "head_dim": 16, "mlp_bias": False,
               "pretraining_tp": 1, "tie_word_embeddings": True, "attention_bias": False,
               "eos_token_id": [2, 6], "pad_token_id": None}, bos=True,
    ),
    "DeepSeek-R1-Distill-Llama": Family(
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", *LLAMA,
        RMS | {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "attention_bias": False,
               "pad_token_id": None}, bos=True,
    ),
    "DeepSeek-R1-Distill-Qwen": Family(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "Qwen2ForCausalLM", "qwen2",
        QWEN | {"use_mrope": False, "sliding_window": WINDOW, "rope_theta": 10000,
                "pad_token_id": None}, bos=True,
    ),
    "Mistral": Family(
        "mistralai/Mistral-7B-v0.1", "MistralForCausalLM", "mistral",
        RMS | {"sliding_window": WINDOW, "pad_token_id": None}, bos=True,
    ),
    "Ministral": Family(
        "mistralai/Ministral-8B-Instruct-2410", "MistralForCausalLM", "mistral",
        RMS | {"sliding_window": WINDOW + 8, "head_dim": 32, "rope_theta": 100000000.0,
               "pad_token_id": None}, bos=True,
    ),
    "Falcon3": Family(
        "tiiuae/Falcon3-1B-Instruct", *LLAMA,
        {"rms_norm_eps": 1e-06, "rope_theta": 1000042, "head_dim": 32, "rope_scaling": None,
         "attention_bias": False, "mlp_bias": False, "bos_token_id": None},
    ),
    "Qwen2.5": Family(
        "Qwen/Qwen2.5-0.5B-Instruct", "Qwen2ForCausalLM", "qwen2",
        QWEN | {"sliding_window": WINDOW, "tie_word_embeddings": True, "pad_token_id": None},
    ),
    "Qwen3": Family(
        "Qwen/Qwen3-0.6B", "Qwen3ForCausalLM", "qwen3",
        QWEN | {"head_dim": 32, "attention_bias": False, "rope_scaling": None,
                "sliding_window": None, "tie_word_embeddings": True, "pad_token_id": None},
    ),
    "Qwen3-MoE": Family(
        "Qwen/Qwen3-30B-A3B", "Qwen3MoeForCausalLM", "qwen3_moe",
        QWEN | {"head_dim": 32, "attention_bias": False, "rope_scaling": None,
                "sliding_window": None, "decoder_sparse_step": 1, "mlp_only_layers": [],
                "moe_intermediate_size": 64, "norm_topk_prob": True, "num_experts": 4,
                "num_experts_per_tok": 2, "output_router_logits": False,
                "router_aux_loss_coef": 0.001, "pad_token_id": None},
    ),
    "Gemma-2": Family(
        "google/gemma-2-2b-it", "Gemma2ForCausalLM", "gemma2",
        {"attention_bias": False, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
         "cache_implementation": "hybrid", "head_dim": 32, "hidden_act": "gelu_pytorch_tanh",
         "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32,
         "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": WINDOW,
         "tie_word_embeddings": None}, bos=True,
    ),
    "Gemma-3": Family(
        "google/gemma-3-1b-it", "Gemma3ForCausalLM", "gemma3_text",
        {"attention_bias": False, "attn_logit_softcapping": None, "final_logit_softcapping": None,
         "cache_implementation": "hybrid", "head_dim": 32, "hidden_act": None,
         "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32,
         "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": None,
         "rope_theta": 1000000, "sliding_window": WINDOW, "sliding_window_pattern": 6,
         "num_hidden_layers": 6, "num_key_value_heads": 1, "tie_word_embeddings": None,
         "eos_token_id": [2, 6]}, bos=True,
    ),
    "SmolLM3": Family(
        "HuggingFaceTB/SmolLM3-3B", "SmolLM3ForCausalLM", "smollm3",
        {"attention_bias": False, "layer_types": ["full_attention"] * 4, "max_window_layers": 2,
         "mlp_bias": False, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0],
         "num_hidden_layers": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": None,
         "rope_theta": 5000000.0, "sliding_window": None, "use_sliding_window": False,
         "tie_word_embeddings": None},
    ),
    "Granite-3.3": Family(
        "ibm-granite/granite-3.3-2b-instruct", "GraniteForCausalLM", "granite",
        RMS | {"attention_bias": False, "attention_multiplier": 0.0625,
               "embedding_multiplier": 12.0, "logits_scaling": 8.0, "mlp_bias": False,
               "residual_multiplier": 0.22, "rope_scaling": None, "rope_theta": 10000000.0,
               "tie_word_embeddings": True},
    ),
    "Granite-4": Family(
        "ibm-granite/granite-4.0-micro", "GraniteMoeHybridForCausalLM", "granitemoehybrid",
        GRANITE4 | {"layer_types": ["attention"] * 2, "position_embedding_type": "rope"},
    ),
    "Granite-4-H": Family(
        "ibm-granite/granite-4.0-h-micro", "GraniteMoeHybridForCausalLM", "granitemoehybrid",
        GRANITE4 | {"layer_types": ["mamba", "mamba", "attention"], "num_hidden_layers": 3,
                    "position_embedding_type": "nope"},
    ),
    "OLMo-1": Family(
        "allenai/OLMo-1B-hf", "OlmoForCausalLM", "olmo",
        {"attention_bias": False, "clip_qkv": None, "num_key_value_heads": 4, "rope_scaling": None,
         "rope_theta": 10000.0, "tie_word_embeddings": True},
    ),
    "OLMo-2": Family(
        "allenai/OLMo-2-0425-1B-Instruct", "Olmo2ForCausalLM", "olmo2",
        {"attention_bias": False, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
         "rope_scaling": None, "rope_theta": 500000},
    ),
    "ERNIE-4.5": Family(
        "baidu/ERNIE-4.5-0.3B-PT", "Ernie4_5ForCausalLM", "ernie4_5",
        {"rms_norm_eps": 1e-05, "rope_theta": 500000.0, "head_dim": 32, "use_bias": False,
         "tie_word_embeddings": True, "rope_scaling": None},
    ),
    "HunYuan": Family(
        "tencent/Hunyuan-0.5B-Instruct", "HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense",
        {"attention_bias": False, "attention_head_dim": 32, "head_dim": 32, "use_qk_norm": True,
         "use_cla": False, "mlp_bias": False, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
         "tie_word_embeddings": True, "eod_token_id": 2, "org_vocab_size": VOCABULARY,
         "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0,
                          "mscale": 1.0, "mscale_all_dim": 1.0, "type": "dynamic"}},
    ),
    "LFM2": Family(
        "LiquidAI/LFM2-350M", "Lfm2ForCausalLM", "lfm2",
        {"block_auto_adjust_ff_dim": False, "block_dim": 64, "block_ff_dim": 128,
         "block_ffn_dim_multiplier": 1.0, "block_mlp_init_scale": 1.0, "block_multiple_of": 32,
         "block_norm_eps": 1e-05, "block_out_init_scale": 1.0, "block_use_swiglu": True,
         "block_use_xavier_init": True, "conv_L_cache": 3, "conv_bias": False, "conv_dim": 64,
         "conv_use_xavier_init": True, "full_attn_idxs": [2], "num_hidden_layers": 3,
         "norm_eps": 1e-05, "rope_theta": 1000000.0, "use_pos_enc": True,
         "tie_word_embeddings": None, "hidden_act": None},
    ),
    "Nemotron": Family(
        "nvidia/Nemotron-Mini-4B-Instruct", "NemotronForCausalLM", "nemotron",
        {"attention_bias": False, "hidden_size": 128, "head_dim": 32, "hidden_act": "relu2",
         "mlp_bias": False, "norm_eps": 1e-05, "partial_rotary_factor": 0.5, "rope_theta": 10000.0,
         "pad_token_id": None},
    ),
    "gpt-oss": Family(
        "unsloth/gpt-oss-20b-BF16", "GptOssForCausalLM", "gpt_oss",
        {"attention_bias": True, "experts_per_token": 2, "head_dim": 32,
         "initial_context_length": 4096, "max_position_embeddings": 131072,
         "num_experts_per_tok": 2, "num_local_experts": 4,
         "layer_types": ["sliding_attention", "full_attention"], "output_router_logits": False,
         "rms_norm_eps": 1e-05, "rope_theta": 150000,
         "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                          "original_max_position_embeddings": 4096, "rope_type": "yarn",
                          "truncate": False}, "router_aux_loss_coef": 0.9, "sliding_window": WINDOW,
         "swiglu_limit": 7.0, "intermediate_size": 64},
    ),
    "InternLM2": Family(
        "internlm/internlm2-chat-1_8b", "InternLM2ForCausalLM", "internlm2",
        RMS | {"auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config",
                            "AutoModel": "modeling_internlm2.InternLM2ForCausalLM",
                            "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
               "bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0},
               "attn_implementation": "eager"}, stored="remote",
    ),
    "GPTQ": Family(
        "Qwen/Qwen2.5-0.5B-Instruct-GPTQ-Int4", "Qwen2ForCausalLM", "qwen2",
        QWEN | {"sliding_window": WINDOW,
                "quantization_config": {"bits": 4, "damp_percent": 0.01, "desc_act": False,
                                        "group_size": 32, "quant_method": "gptq",
                                        "static_groups": False, "sym": True,
                                        "true_sequential": True}}, stored="gptq",
    ),
    "4-bit": Family(
        "unsloth/Llama-3.2-1B-Instruct-bnb-4bit", *LLAMA,
        RMS | {"rope_scaling": LLAMA3,
               "quantization_config": {"_load_in_4bit": True, "_load_in_8bit": False,
                                       "bnb_4bit_compute_dtype": "bfloat16",
                                       "bnb_4bit_quant_storage": "uint8",
                                       "bnb_4bit_quant_type": "nf4",
                                       "bnb_4bit_use_double_quant": True,
                                       "llm_int8_enable_fp32_cpu_offload": False,
                                       "llm_int8_has_fp16_weight": False,
                                       "llm_int8_skip_modules": None, "llm_int8_threshold": 6.0,
                                       "load_in_4bit": True, "load_in_8bit": False,
                                       "quant_method": "bitsandbytes"}}, stored="bnb",
    ),
}  # fmt: skip


def write(
    name: str,
    folder: Path,
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    template: str = TEMPLATE,
    **changes: Any,
) -> Path:
    """Make a folder as a hub repository of that family is: config.json, generation_config.json,
    tokenizer, model.safetensors.
    """
    family = FAMILIES[name]
    folder.mkdir(parents=True)
    settings = json.loads(json.dumps(family.settings() | {"torch_dtype": dtype} | changes))
    ends = settings["eos_token_id"]
    dump(folder / "config.json", settings)
    dump(
        folder / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": ends, "pad_token_id": 7},
    )
    write_tokenizer(folder, template, bos=family.bos)
    if family.stored == "remote":
        for file in ("configuration_internlm2.py", "modeling_internlm2.py"):
            (folder / file).write_text("raise SystemExit('remote code ran')\n", "utf-8")
        save_plain(
            folder,
            {"model.tok_embeddings.weight": (VOCABULARY, 64), "output.weight": (VOCABULARY, 64)},
        )
        return folder
    made = make_weights(folder, settings, seed)
    import torch

    if family.stored == "bnb":
        if dtype == "float32":
            settings["quantization_config"] |= {"bnb_4bit_compute_dtype": dtype}
        made = in_4_bits(made, settings["quantization_config"])
    if family.stored == "gptq":
        save_gptq(folder, made)
    else:
        (made if family.stored else made.to(getattr(torch, dtype))).save_pretrained(folder)
    # As it was published, not as this transformers writes it.
    dump(folder / "config.json", settings)
    dump(
        folder / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": ends, "pad_token_id": 7},
    )
    return folder


if __name__ == "__main__":
    from tests.scenarios.support import main

    main()
