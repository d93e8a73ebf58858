"""Whoever made a merge, it does what base and adapter do, or it is refused with the cause.

OLIVEBUILD_FUZZ multiplies the number of drawn configurations, OLIVEBUILD_SEED draws others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.ml.peft_merge import check_written, merge_with_peft
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.lora import changes, open_input
from olivebuild.ml.weights.merge_proof import HIDES
from olivebuild.ml.weights.placement import check_places, find_plain
from tests.scenarios.merging import LIMITS, adapt, bring, logits, merged_in, refused, spreads, told
from tests.scenarios.steps import given, job_in, weights_in
from tests.scenarios.test_merges import change_config, change_tensors, stored_adapter
from tests.scenarios.test_refused_adapters import _odd_weight
from tests.support.tiny_models import make

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]

TIED: dict[str, dict[str, Any]] = {
    "the head": {"target_modules": ["q_proj", "lm_head"]},
    "the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "both as one": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "the head, saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 7, 9]},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tied_ends_come_apart_where_their_adapters_differ(
    dtype: str, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    from safetensors import safe_open

    base = tmp_path / "base"
    make("qwen2", base, tiny_model, dtype=dtype, tie_word_embeddings=True)
    for name, options in TIED.items():
        adapter = adapt(base, tmp_path / name, r=4, lora_alpha=8, **options)
        merged, _ = merged_in(tmp_path / f"merged {name}", store, base, adapter)
        spread, effect = spreads(base, adapter, merged)
        assert spread < LIMITS[dtype] < effect / 10, name
        with safe_open(merged / "model.safetensors", "pt") as file:
            apart = "lm_head.weight" in file.keys()  # noqa: SIM118
        assert (
            json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is not apart
        ), name
        if name != "both as one" or dtype == "float32":
            # In a short format the two products may differ in a last bit.
            assert apart is (name not in ("both as one", "some tokens")), name


def test_ends_that_are_stored_apart_though_the_configuration_ties_them(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    base = tmp_path / "base"
    make("llama", base, tiny_model, dtype="float32", tie_word_embeddings=False)
    config = json.loads((base / "config.json").read_text())
    for equal in (True, False):
        if equal:
            _change_model(
                base, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()}
            )
        else:
            _change_model(base, lambda t: t | {"lm_head.weight": t["lm_head.weight"] * 1.5})
        (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
        adapter = adapt(base, tmp_path / f"adapter {equal}", target_modules=["lm_head", "v_proj"])
        # Without the head's own weight, which peft saves along, nothing but the tie keeps this from
        # being merged one by one.
        change_tensors(adapter, lambda t: {n: v for n, v in t.items() if "lora_" in n})
        model = weights_in(store, base)
        with pytest.raises(NotProvenEqual, match="tied"):
            changes(open_input(store, stored_adapter(store, adapter)), model)
        merged, _ = merged_in(tmp_path / f"merged {equal}", store, base, adapter)
        assert spreads(base, adapter, merged)[0] < LIMITS["float32"]
        assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is False


def _change_model(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def test_a_head_that_came_apart_is_converted(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    import numpy as np
    import onnxruntime_genai as og

    from olivebuild.steps.onnx import OnnxFields
    from tests.scenarios.steps import by_builder

    base = tmp_path / "base"
    make("qwen2", base, tiny_model, dtype="float32", tie_word_embeddings=True)
    adapter = adapt(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    merged, _ = merged_in(tmp_path / "merged", store, base, adapter)
    fields = OnnxFields.model_validate({"model": "base", "precision": "fp32"})
    by_builder(tmp_path / "onnx", store, fields, merged)
    model = og.Model(str(tmp_path / "onnx/out"))
    generator = og.Generator(model, og.GeneratorParams(model))
    generator.append_tokens(np.arange(3, 43, dtype=np.int32))
    found = np.asarray(generator.get_output("logits"))[0, -1]
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    wanted = logits(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    )[0, -1].numpy()
    assert np.abs(found - wanted).max() / wanted.std() < 1e-4


def test_what_was_written_is_compared_with_base_and_adapter(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    from olivebuild.ml.models import load
    from olivebuild.ml.peft_merge import wrap
    from olivebuild.ml.weights import merge_proof

    base = tmp_path / "base"
    make("llama", base, tiny_model)
    adapter = adapt(base, tmp_path / "adapter", target_modules=["q_proj"], use_dora=True)
    job = job_in(
        tmp_path / "job",
        store,
        {"model": given(store, base), "adapter": stored_adapter(store, adapter)},
    )
    merge_with_peft(job, base, adapter)
    import torch

    wrapped = wrap(job, load.load_model(base, torch.bfloat16), adapter)
    expected = merge_proof.reference(
        wrapped, torch.bfloat16, merge_proof.prompts_for(wrapped.config, [])
    )
    held = merge_proof.in_memory(load.load_model(job.out, torch.bfloat16))
    check_written(job, False, held, expected)
    # An eighth of the base's weights in one layer, off by one in the third place.
    _change_model(
        job.out,
        lambda t: (
            t | {n: v * 1.05 for n, v in t.items() if n.endswith("layers.1.mlp.up_proj.weight")}
        ),
    )
    with pytest.raises(InputError, match="is loaded otherwise than it was written"):
        check_written(job, False, held, expected)
    held = merge_proof.in_memory(load.load_model(job.out, torch.bfloat16))
    with pytest.raises(InputError, match="the merge does not do what its adapter does"):
        check_written(job, False, held, expected)


def test_weights_are_as_they_were_after_computing_with_wide_ones(
    tiny_model: Path, tmp_path: Path
) -> None:
    import torch

    from olivebuild.ml.models import load
    from olivebuild.ml.weights import merge_proof

    make("qwen2", tmp_path / "base", tiny_model, tie_word_embeddings=True)
    model = load.load_model(tmp_path / "base", torch.bfloat16)
    before, prompts = merge_proof.in_memory(model), merge_proof.prompts_for(model.config, [5])
    narrow = model(input_ids=prompts).logits
    wide = merge_proof.compute(model, prompts)
    assert wide.dtype == torch.float32
    assert narrow.dtype == torch.bfloat16
    assert merge_proof.in_memory(model) == before
    full = load.load_model(tmp_path / "base", torch.float32)
    assert torch.equal(wide, full(input_ids=prompts).logits)


def test_only_weights_of_one_linear_layer_are_merged_one_by_one(tmp_path: Path) -> None:
    import transformers as t

    small: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 32,
    }
    configs = {
        "untied": t.LlamaConfig(**small, tie_word_embeddings=False),
        "tied": t.LlamaConfig(**small, tie_word_embeddings=True),
        "transposed": t.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4),
        "experts": t.MixtralConfig(**small, num_local_experts=2),
    }
    linear = {f"model.layers.0.self_attn.{x}_proj.weight" for x in "qkvo"}
    mlp = {f"model.layers.0.mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
    wanted = {
        "untied": linear | mlp | {"lm_head.weight"},
        "tied": linear | mlp,
        "transposed": set(),
        "experts": linear | {"lm_head.weight"},
    }
    for name, config in configs.items():
        folder = tmp_path / name
        t.AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
        from olivebuild.formats.safetensors import tensors_of

        shapes = {x.name: x.shape for x in tensors_of(folder / "model.safetensors")}
        assert find_plain((folder / "config.json").read_bytes(), shapes) == wanted[name], name


def test_a_square_weight_that_is_stored_transposed_is_left_to_peft(
    tmp_path: Path, store: Store
) -> None:
    import transformers as t

    base = tmp_path / "base"
    t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    ).save_pretrained(base)
    adapter = adapt(base, tmp_path / "adapter", target_modules=["attn.c_proj"])
    change_config(adapter, fan_in_fan_out=False)
    model = weights_in(store, base)
    changed = changes(open_input(store, stored_adapter(store, adapter)), model)
    with pytest.raises(
        NotProvenEqual,
        match=r"transformer\.h\.0\.attn\.c_proj\.weight is not the weight of one linear layer",
    ):
        check_places(store, model, changed)
    merged, _ = merged_in(tmp_path / "merged", store, base, adapter)
    assert spreads(base, adapter, merged)[0] < LIMITS["float32"]


def test_initialisations_that_a_load_repeats_are_exact_and_drawn_ones_refused(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    base = tmp_path / "base"
    make("llama", base, tiny_model, dtype="float32")
    for start in ("pissa", "olora", "orthogonal"):
        adapter = adapt(
            base, tmp_path / start, r=4, target_modules=["q_proj"], init_lora_weights=start
        )
        merged, job = merged_in(tmp_path / f"merged {start}", store, base, adapter)
        assert spreads(base, adapter, merged)[0] < LIMITS["float32"], start
        assert job.result.provenance["by"] == ("tensors" if start == "orthogonal" else "peft")
    for start, fact in {
        "pissa_niter_4": "is drawn at random at each load",
        "corda": "in a way that the adapter does not tell",
        "loftq": "in a way that the adapter does not tell",
        "lora_ga": "in a way that the adapter does not tell",
        "tomorrow": "init_lora_weights: tomorrow is not known",
    }.items():
        change_config(tmp_path / "orthogonal", init_lora_weights=start)
        assert (
            fact
            in refused(tmp_path / f"refused {start}", store, base, tmp_path / "orthogonal").fact
        )
        with pytest.raises(InputError, match=fact):
            bring(tmp_path / f"bring {start}", store, tmp_path / "orthogonal")


def test_something_drawn_at_random_is_found_by_loading_twice(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    base = tmp_path / "base"
    make("llama", base, tiny_model, dtype="float32")
    adapter = adapt(
        base,
        tmp_path / "adapter",
        r=4,
        target_modules=["q_proj"],
        init_lora_weights="pissa_niter_2",
    )
    job = job_in(
        tmp_path / "job",
        store,
        {"model": given(store, base), "adapter": stored_adapter(store, adapter)},
    )
    with pytest.raises(InputError, match="the adapter is another one each time it is loaded"):
        merge_with_peft(job, base, adapter)


@pytest.mark.parametrize("times", [1, 40])
def test_an_adapter_that_makes_rounding_matter_is_told_with_the_figure(
    times: int, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    make("llama", base, tiny_model)
    adapter = adapt(
        base,
        tmp_path / "adapter",
        target_modules=["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
        bias="all",
    )
    change_tensors(
        adapter, lambda tensors: {n: t * times if "lora_B" in n else t for n, t in tensors.items()}
    )
    merged, job = merged_in(tmp_path / "merged", store, base, adapter)
    metrics: Any = job.result.metrics
    spread = metrics["merge_spread"]
    assert (
        (f"logits differ by {spread:.2g} of their spread" in told(job))
        == (spread > 0.02)
        == (times > 1)
    )
    if times > 1:
        # So much that what is wrong with one weight might hide behind it.
        assert metrics["merge_spread_allowed"] > HIDES
        assert _odd_weight(base, adapter, merged) == ""
        name = "model.layers.1.self_attn.v_proj.weight"
        tensors = load_file(merged / "model.safetensors")
        save_file(
            tensors | {name: tensors[name] * 1.02}, merged / "model.safetensors", {"format": "pt"}
        )
        assert _odd_weight(base, adapter, merged) == name


def test_a_merge_has_the_same_bytes_in_two_caches(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make("qwen2", base, tiny_model, tie_word_embeddings=True)
    methods: dict[str, dict[str, Any]] = {
        "tensors": {},
        "peft": {"use_dora": True},
        "pissa": {"init_lora_weights": "pissa"},
    }
    for name, options in methods.items():
        adapter = adapt(base, tmp_path / name, target_modules=["q_proj", "down_proj"], **options)
        found = []
        for n in (1, 2):
            import torch

            torch.manual_seed(n)
            folder, _ = merged_in(
                tmp_path / f"{name}{n}", Store(tmp_path / f"cache {name}{n}"), base, adapter
            )
            found.append(
                {
                    p.relative_to(folder).as_posix(): p.read_bytes()
                    for p in folder.rglob("*")
                    if p.is_file()
                }
            )
        assert found[0] == found[1], name
