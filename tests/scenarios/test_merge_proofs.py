"""Whoever made a merge, it does what base and adapter do, or it is refused with the cause.

OLIVEBUILD_FUZZ multiplies the number of drawn configurations, OLIVEBUILD_SEED draws others.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.ml.kinds import adapter as adapter_kind
from olivebuild.ml.kinds.merged import merge
from olivebuild.ml.peft_merge import check_written, merge_with_peft, reason_of, tensors_in
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.lora import changes, open_input
from olivebuild.ml.weights.merge_proof import HIDES, wrong_weight
from olivebuild.ml.weights.placement import check_places, find_plain
from olivebuild.steps.merged import MergedFields
from tests.scenarios.steps import given, job_in, weights_in
from tests.scenarios.test_merges import change_config, change_tensors, stored_adapter
from tests.support.tiny_models import make

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]
FUZZ, SEED = (
    int(os.environ.get("OLIVEBUILD_FUZZ", "1")),
    int(os.environ.get("OLIVEBUILD_SEED", "0")),
)
LIMITS = {"float32": 1e-5, "bfloat16": 0.05}
"""Two layers with adapters of about twenty times the usual size; what the step itself allows is
measured, and less.
"""


def adapt(base: Path, folder: Path, *, method: str = "LORA", **options: Any) -> Path:
    """An adapter as if trained: everything that it trains is moved at random, saved whole heads and
    embeddings, too.
    """
    import torch
    from peft import PeftType, get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)](task_type="CAUSAL_LM", **options)
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config
    )
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    wrapped.save_pretrained(str(folder))
    return folder


def logits(model: Any) -> Any:
    import torch

    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        return model.float().eval()(input_ids=ids).logits


def spreads(base: Path, adapter: Path, merged: Path) -> tuple[float, float]:
    """How far the merge is from base and adapter, and how far the base is: of a path of its own, by
    plain peft and transformers.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = logits(plain)
    wanted = logits(PeftModel.from_pretrained(plain, str(adapter)))
    found = logits(AutoModelForCausalLM.from_pretrained(merged))
    of_merged, of_base = (float((x - wanted).abs().max() / wanted.std()) for x in (found, before))
    return of_merged, of_base


def merged_in(folder: Path, store: Store, base: Path, adapter: Path) -> tuple[Path, Job]:
    """The merge as a folder, by the step itself."""
    inputs = {"model": given(store, base), "adapter": stored_adapter(store, adapter)}
    job = job_in(folder, store, inputs, publish=True)
    merge(job, MergedFields.model_validate({"model": "base", "adapter": "adapter"}))
    if not job.result.manifest:
        return job.out, job
    done = folder / "done"
    done.mkdir()
    store.restore(store.manifest(job.result.manifest), done)
    return done, job


def told(job: Job) -> str:
    return str(job._stream.getvalue())


def refused(folder: Path, store: Store, base: Path, adapter: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        merged_in(folder, store, base, adapter)
    assert caught.value.hint
    return caught.value


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


# Placement


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


# What is refused, and what is not


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


def bring(folder: Path, store: Store, source: Path) -> Path:
    """An adapter from elsewhere, as it is stored."""
    job = job_in(folder, store, fields={"source": str(source)}, recipe_folder=str(source.parent))
    adapter_kind.run(job)
    done = folder / "done"
    done.mkdir()
    store.restore(store.manifest(job.result.manifest or ""), done)
    return done


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


# The adapter's own tokenizer


def dress(
    folder: Path, tokenizer: Path, *, end: str | None = None, template: str = "", more: int = 0
) -> None:
    """Save a tokenizer beside an adapter, as trainers do."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(tokenizer)
    if more:
        found.add_special_tokens(
            {"additional_special_tokens": [f"<|more{i}|>" for i in range(more)]}
        )
    if end:
        found.eos_token = end
    if template:
        found.chat_template = template
    found.save_pretrained(str(folder))


TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"


@pytest.mark.parametrize("by", ["tensors", "peft"])
def test_the_tokenizer_of_an_adapter_goes_into_the_merge_as_a_set(
    by: str, llama: Path, tmp_path: Path, store: Store
) -> None:
    from transformers import AutoTokenizer

    source = adapt(llama, tmp_path / "source", target_modules=["q_proj"], use_dora=by == "peft")
    base = tmp_path / "base"
    shutil.copytree(llama, base)
    (base / "added_tokens.json").write_text('{"<|of the base alone|>": 7}')
    plain, _ = merged_in(
        tmp_path / "plain", store, base, bring(tmp_path / "bring plain", store, source)
    )
    assert (plain / "added_tokens.json").exists()
    dress(
        source,
        llama,
        end=str(AutoTokenizer.from_pretrained(llama).convert_ids_to_tokens(9)),
        template=TEMPLATE,
    )
    adapter = bring(tmp_path / "bring", store, source)
    assert (adapter / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    merged, job = merged_in(tmp_path / "merged", store, base, adapter)
    assert job.result.provenance["by"] == by
    assert "the adapter's own tokenizer goes into the merge" in told(job)
    assert not (merged / "added_tokens.json").exists()
    ours, theirs = AutoTokenizer.from_pretrained(merged), AutoTokenizer.from_pretrained(source)
    assert (ours.eos_token, ours.chat_template) == (theirs.eos_token, TEMPLATE)
    names = {
        p.name for p in (source).iterdir() if p.name.startswith(("tokenizer", "chat_template"))
    }
    assert all((merged / name).read_bytes() == (source / name).read_bytes() for name in names)


def test_a_tokenizer_that_says_the_same_changes_nothing(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    source = adapt(llama, tmp_path / "source", target_modules=["q_proj"])
    for path in llama.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            text = path.read_text("utf-8")
            (source / path.name).write_text(
                json.dumps(json.loads(text)) if path.suffix == ".json" else text, "utf-8"
            )
    merged, job = merged_in(
        tmp_path / "merged", store, llama, bring(tmp_path / "bring", store, source)
    )
    assert "tokenizer" not in told(job)
    assert (merged / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()


def test_a_template_alone_replaces_the_template(llama: Path, tmp_path: Path, store: Store) -> None:
    source = adapt(llama, tmp_path / "source", target_modules=["q_proj"])
    (source / "chat_template.jinja").write_text(TEMPLATE)
    merged, job = merged_in(
        tmp_path / "merged", store, llama, bring(tmp_path / "bring", store, source)
    )
    assert (merged / "chat_template.jinja").read_text() == TEMPLATE
    assert (merged / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    assert "the adapter's own tokenizer goes into the merge" in told(job)


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    source = adapt(llama, tmp_path / "source", target_modules=["q_proj"])
    dress(source, llama, more=300)
    error = refused(tmp_path / "merged", store, llama, bring(tmp_path / "bring", store, source))
    assert "tokens, the base's embedding 384 rows" in error.fact


# Drawn configurations


def drawn(draw: random.Random, name: str) -> dict[str, Any]:
    """A LoRA configuration such as people publish."""
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    if name == "phi3":
        modules = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    targets: Any = draw.sample(modules, draw.randint(1, 3)) + draw.choice(
        [[], [], ["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"]]
    )
    targets = draw.choice(
        [
            targets,
            targets,
            "all-linear",
            rf".*layers\.[01]\..*({'|'.join(draw.sample(modules, 2))})",
        ]
    )
    options: dict[str, Any] = {
        "target_modules": targets,
        "r": draw.choice([1, 2, 4, 8]),
        "lora_alpha": draw.choice([1, 4, 8]),
    }
    extra: list[dict[str, Any]] = [
        {"use_rslora": True}, {"use_dora": True},
        {"rank_pattern": {"o_proj": 3}, "alpha_pattern": {r"layers\.1\..*": 2}}, {"bias": "all"},
        {"exclude_modules": r".*layers\.0.*"}, {"layers_to_transform": [1]},
        {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["norm"]}, {"lora_bias": True}, {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "gaussian"}, {"fan_in_fan_out": True},
        {"trainable_token_indices": [3, 9, 11]},
        {"target_parameters": ["down_proj.weight"]}, {"ensure_weight_tying": True},
    ]  # fmt: skip
    for more in draw.sample(extra, draw.choice([0, 1, 1, 2])):
        options |= more
    return options


def test_drawn_configurations_are_merged_right_or_refused(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    draw = random.Random(SEED)
    bases: dict[tuple[str, bool, str], Path] = {}
    done = 0
    for number in range(16 * FUZZ):
        key = (
            draw.choice(["llama", "qwen2", "gemma", "phi3"]),
            draw.random() < 0.5,
            draw.choice(["float32", "bfloat16"]),
        )
        name, tied, dtype = key
        if key not in bases:
            bases[key] = tmp_path / "-".join(map(str, key))
            make(name, bases[key], tiny_model, dtype=dtype, tie_word_embeddings=tied)
        options, adapter = drawn(draw, name), tmp_path / f"adapter {number}"
        try:
            adapt(bases[key], adapter, **options)
        except (AssertionError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
            # Nothing that peft could have trained.
            continue
        try:
            merged, _ = merged_in(tmp_path / f"merged {number}", store, bases[key], adapter)
        except InputError:
            continue
        done += 1
        spread, _ = spreads(bases[key], adapter, merged)
        assert spread < LIMITS[dtype], (key, options)
    assert done >= 8 * FUZZ
