"""Adapters that can't become part of a base, and names and sizes that do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.ml.peft_merge import reason_of, tensors_in
from olivebuild.ml.weights.merge_proof import wrong_weight
from tests.scenarios.merging import LIMITS, adapt, bring, merged_in, refused, spreads
from tests.scenarios.test_merges import change_tensors
from tests.support.tiny_models import make

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]


def _odd_weight(base: Path, adapter: Path, merged: Path) -> str:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    wide = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter)
    ).merge_and_unload()
    before, found = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        for folder in (base, merged)
    )
    return wrong_weight(wide, before, found, torch.bfloat16)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "lora_bias": (
        {"target_modules": ["o_proj"], "lora_bias": True},
        "has a bias for model.layers.0.self_attn.o_proj (lora_bias)",
    ),
    "layer_replication": (
        {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 2]]},
        "repeats layers of the base",
    ),
    "alora": (
        {"target_modules": ["q_proj"], "alora_invocation_tokens": [5, 6]},
        "acts only after its invocation tokens",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_become_part_of_the_base_is_refused(
    kind: str, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    make("llama", tmp_path / "base", tiny_model)
    adapt(tmp_path / "base", tmp_path / "adapter", **REFUSED[kind][0])
    assert (
        REFUSED[kind][1]
        in refused(tmp_path / "merged", store, tmp_path / "base", tmp_path / "adapter").fact
    )


def test_a_grown_vocabulary_and_another_model_are_told_by_their_sizes(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, other = tmp_path / "base", tmp_path / "other"
    make("llama", base, tiny_model)
    make("llama", other, tiny_model, hidden_size=32)
    grown = AutoModelForCausalLM.from_pretrained(base)
    grown.resize_token_embeddings(386)
    get_peft_model(
        grown, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    ).save_pretrained(str(tmp_path / "grown"))
    error = refused(tmp_path / "a", store, base, tmp_path / "grown")
    assert "has 386 rows, the base's 384: tokens were added before training" in error.fact
    error = refused(
        tmp_path / "b",
        store,
        other,
        adapt(base, tmp_path / "adapter", target_modules=["q_proj"], use_dora=True),
    )
    assert (
        "torch.Size([8, 64]) from checkpoint, the shape in current model is torch.Size([8, 32])"
        in error.fact
    )


def test_an_adapter_for_added_tokens_is_merged_into_a_base_that_has_them(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    """As peft saves it: the embeddings' own weights, the original ones and the trained ones, a name
    each.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    make("llama", tmp_path / "base", tiny_model)
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    grown.resize_token_embeddings(386, mean_resizing=False)
    grown.save_pretrained(tmp_path / "big")
    for path in tiny_model.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            shutil.copyfile(path, tmp_path / "big" / path.name)
    trained = get_peft_model(
        grown,
        LoraConfig(
            task_type="CAUSAL_LM",
            target_modules=["q_proj"],
            modules_to_save=["embed_tokens", "lm_head"],
        ),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    trained.save_pretrained(str(tmp_path / "adapter"))
    assert any(".original_module." in name for name in tensors_in(tmp_path / "adapter"))
    merged, _ = merged_in(tmp_path / "merged", store, tmp_path / "big", tmp_path / "adapter")
    ids = torch.arange(340, 386)[None]
    with torch.no_grad():
        right, found = (
            trained.eval()(input_ids=ids).logits.float(),
            AutoModelForCausalLM.from_pretrained(merged)(input_ids=ids).logits.float(),
        )
    assert float((found - right).abs().max() / right.std()) < 0.02


@pytest.mark.parametrize(
    ("rename", "fact"),
    [
        (
            lambda n: n.replace("base_model.model.", "base_model.model._orig_mod."),
            "a compiled model was saved",
        ),
        (
            lambda n: n.replace(".weight", ".default.weight"),
            "the adapter's own name, default, stands in it",
        ),
        (lambda n: n.removeprefix("base_model.model."), "base_model.model. is missing before it"),
        (
            lambda n: n.replace("model.layers", "model.language_model.layers"),
            "the base has model.layers.0.self_attn.q_proj.weight",
        ),
    ],
)
def test_odd_names_of_tensors_are_refused_with_what_is_odd(
    rename: Callable[[str], str], fact: str, llama: Path, tmp_path: Path, store: Store
) -> None:
    adapter = adapt(llama, tmp_path / "adapter", target_modules=["q_proj"])
    change_tensors(adapter, lambda tensors: {rename(n): t for n, t in tensors.items()})
    assert fact in refused(tmp_path / "merged", store, llama, adapter).fact


def test_the_reason_of_an_error_is_shown_whole() -> None:
    heading = "Error(s) in loading state_dict for X:"
    reason = "size mismatch for a: " + "copying " * 60
    assert reason_of(RuntimeError(f"{heading}\n\t{reason}")) == reason.strip()
    assert reason_of(RuntimeError(f"{heading}\n\t{reason}\n\tsize mismatch for b")).endswith(
        "(and 1 more)"
    )
    assert reason_of(KeyError("base_model.x")) == "'base_model.x'"
    assert reason_of(ValueError()) == "ValueError"


OTHER_METHODS: dict[str, dict[str, Any]] = {
    "IA3": {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []},
    "LOHA": {"target_modules": ["q_proj"]},
    "LOKR": {"target_modules": ["q_proj"]},
    "OFT": {"target_modules": ["q_proj"]},
    "VERA": {"target_modules": ["q_proj"]},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [5, 7]},
}


def test_adapters_of_other_types_are_merged_and_compared_or_refused_at_once(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    base = tmp_path / "base"
    make("llama", base, tiny_model, dtype="float32")
    for method, options in OTHER_METHODS.items():
        adapter = bring(
            tmp_path / f"brought {method}",
            store,
            adapt(base, tmp_path / method, method=method, **options),
        )
        merged, job = merged_in(tmp_path / f"merged {method}", store, base, adapter)
        assert spreads(base, adapter, merged)[0] < LIMITS["float32"], method
        metrics: Any = job.result.metrics
        assert 0 <= metrics["merge_spread"] <= metrics["merge_spread_allowed"]
    prompt = adapt_by_prompt(base, tmp_path / "prompt")
    with pytest.raises(InputError, match="a PROMPT_TUNING adapter can't be merged"):
        bring(tmp_path / "brought prompt", store, prompt)


def adapt_by_prompt(base: Path, folder: Path) -> Path:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ).save_pretrained(str(folder))
    return folder
