"""A model is opened before anything is made of it: what is missing, odd or not finite is one error,
and is looked for once.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.api.action import ActionInput
from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError, Where
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.kinds.model import _convert
from olivebuild.ml.models import opened as _opened
from tests.scenarios.steps import given, job_in, weights_in
from tests.support.families import FAMILIES, write

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]
SMALL: dict[str, Any] = {
    "vocab_size": 384, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
OTHERWISE = ("GPTQ", "4-bit", "InternLM2")
EXPERTS = {"num_experts_per_tok": 2, "head_dim": 32}
CLASSES: dict[str, dict[str, Any]] = {
    "Phi3": {},
    "Qwen2": {"tie_word_embeddings": True},
    # Classes that fuse or rename what is stored.
    "Qwen3Moe": {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 32},
    "GptOss": {**EXPERTS, "num_local_experts": 4},
    "Mixtral": {"num_local_experts": 4},
    "GraniteMoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def made(folder: Path, name: str) -> Path:
    import torch
    import transformers

    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(
        **SMALL | CLASSES[name]
    )
    torch.manual_seed(0)
    getattr(transformers, f"{name}ForCausalLM")(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def changed(folder: Path, **tensors: Any) -> None:
    """Store other tensors under these names; None takes one away."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    held = load_file(file) | {name: t for name, t in tensors.items() if t is not None}
    save_file(
        {name: t for name, t in held.items() if name not in tensors or tensors[name] is not None},
        file,
        {"format": "pt"},
    )


def edit(file: Path, **changes: Any) -> None:
    """Set fields of a JSON file; None takes one away."""
    data = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


@pytest.fixture
def job(tmp_path: Path, store: Store) -> Job:
    return job_in(tmp_path / "job", store)


def opened(job: Job, store: Store, folder: Path) -> list[str]:
    """What is told of a model."""
    job._stream = io.StringIO()
    _opened.check(job, weights_in(store, folder), "base", None)
    return [json.loads(line)["text"] for line in job._stream.getvalue().splitlines()]


@pytest.mark.parametrize("name", CLASSES)
def test_each_tensor_that_a_class_expects_must_be_there(
    name: str, tmp_path: Path, job: Job, store: Store
) -> None:
    import torch

    folder = made(tmp_path / "m", name)
    weights = weights_in(store, folder).by_name
    assert opened(job, store, folder) == []
    shutil.copytree(folder, tmp_path / "odd")
    changed(tmp_path / "odd", **{"model.odd.weight": torch.zeros(2)})
    assert opened(job, store, tmp_path / "odd") == [
        f"base: model.odd.weight ignored: {name}ForCausalLM has no such tensors"
    ]
    for gone in (
        "model.norm.weight",
        "model.embed_tokens.weight",
        next(n for n in sorted(weights) if "layers.1.self_attn" in n),
    ):
        shutil.copytree(folder, tmp_path / gone)
        changed(tmp_path / gone, **{gone: None})
        with pytest.raises(InputError, match=rf"base: the weights lack (lm_head.weight, )?{gone}"):
            opened(job, store, tmp_path / gone)
    changed(folder, **{"model.norm.weight": torch.zeros(63, dtype=torch.bfloat16)})
    with pytest.raises(
        InputError,
        match=r"model.norm.weight has the shape \[63\], where config.json makes it \[64\]",
    ):
        opened(job, store, folder)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in OTHERWISE])
def test_a_model_of_each_family_is_opened_without_a_word(
    name: str, tmp_path: Path, job: Job, store: Store
) -> None:
    folder = write(name, tmp_path / "m")
    assert opened(job, store, folder) == []
    weights = weights_in(store, folder).by_name
    gone = max(n for n in weights if ".1." in n)
    changed(folder, **{gone: None})
    with pytest.raises(
        InputError, match=r"base: (the weights lack|model\.layers\.1\..* has the shape)"
    ):
        opened(job, store, folder)


@pytest.mark.parametrize("name", ["GPTQ", "4-bit"])
def test_a_quantised_model_is_left_to_who_loads_it(
    name: str, tmp_path: Path, job: Job, store: Store
) -> None:
    assert opened(job, store, write(name, tmp_path / "m")) == []


def test_a_model_with_code_of_its_own_is_told_how_to_be_opened(
    tmp_path: Path, job: Job, store: Store
) -> None:
    with pytest.raises(InputError, match="base: transformers can't open the model") as caught:
        opened(job, store, write("InternLM2", tmp_path / "m"))
    assert "trust_remote_code" in str(caught.value.hint)
    assert str(tmp_path) not in caught.value.fact


def test_an_expert_that_is_missing_is_told(tmp_path: Path, job: Job, store: Store) -> None:
    folder = made(tmp_path / "m", "Qwen3Moe")
    gone = "model.layers.1.mlp.experts.2.down_proj.weight"
    assert gone in weights_in(store, folder).by_name
    changed(folder, **{gone: None})
    with pytest.raises(InputError, match="experts"):
        opened(job, store, folder)


def test_what_was_proven_needs_no_library(
    tmp_path: Path, job: Job, store: Store, llama: Path
) -> None:
    import torch

    opened(job, store, llama)
    # Another adapter merged into it has the same structure.
    shutil.copytree(llama, tmp_path / "other")
    changed(tmp_path / "other", **{"model.norm.weight": torch.ones(64, dtype=torch.bfloat16)})
    edit(tmp_path / "other" / "generation_config.json", eos_token_id=[2, 3])
    script = """if True:
    import io, sys
    from pathlib import Path
    from olivebuild.api.action import Action, ActionInput
    from olivebuild.api.job import Job
    from olivebuild.ml.models import opened
    cache, out, folder, found = sys.argv[1:]
    given = ActionInput(folder, folder, "model", "base", digest=found)
    action = Action("t", "t", "merged", "0" * 32, {}, {"model": given}, {}, out, out, cache)
    job = Job(action, io.StringIO())
    opened.check_inputs(job)
    print(sorted({"torch", "transformers"} & set(sys.modules)))
    """
    arguments = [
        str(store.root),
        str(job.out),
        str(tmp_path / "other"),
        given(store, tmp_path / "other").digest,
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_config_without_architectures_is_told(
    llama: Path, tmp_path: Path, job: Job, store: Store
) -> None:
    folder = shutil.copytree(llama, tmp_path / "m")
    edit(folder / "config.json", architectures=None)
    with pytest.raises(InputError, match=r"base: config.json names no architectures"):
        opened(job, store, folder)


def test_a_model_that_transformers_does_not_know_is_told(
    llama: Path, tmp_path: Path, job: Job, store: Store
) -> None:
    folder = shutil.copytree(llama, tmp_path / "m")
    edit(folder / "config.json", model_type="tomorrow")
    with pytest.raises(InputError, match="base: transformers can't open the model"):
        opened(job, store, folder)


# Tokens


def grown(folder: Path, *tokens: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.save_pretrained(folder)


def with_vocabulary(model: Path, folder: Path) -> Path:
    """A copy of a model whose embedding has as many rows as its tokenizer has tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(model, folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    loaded.resize_token_embeddings(len(AutoTokenizer.from_pretrained(folder)))
    loaded.save_pretrained(folder)
    return folder


def test_a_tokenizer_larger_than_the_embedding_is_told(
    llama: Path, tmp_path: Path, job: Job, store: Store
) -> None:
    folder = with_vocabulary(llama, tmp_path / "m")
    assert opened(job, store, folder) == []
    grown(folder, "<|tone|>", "<|end_of_turn|>")
    rows = weights_in(store, folder).by_name["model.embed_tokens.weight"].shape[0]
    with pytest.raises(
        InputError,
        match=(
            rf"the tokenizer has {rows + 2} tokens, the model's embedding {rows}; '<|tone|>' has "
            r"no "
            r"place"
        ).replace("|", r"\|"),
    ):
        opened(job, store, folder)


def test_a_token_for_images_may_have_no_place(
    llama: Path, tmp_path: Path, job: Job, store: Store
) -> None:
    folder = with_vocabulary(llama, tmp_path / "m")
    grown(folder, "<image_soft_token>")
    edit(folder / "tokenizer_config.json", image_token="<image_soft_token>")
    (told,) = opened(job, store, folder)
    assert told == (
        "base: the tokens <image_soft_token> have no place in the embedding; texts that hold them "
        "fail"
    )


# Values

KINDS = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


@pytest.mark.parametrize("dtype", [*KINDS, "BF16"])
def test_numbers_that_are_not_finite_are_found(dtype: str) -> None:
    def stored(value: float) -> bytes:
        values = np.array([0.0, -0.0, -1.5, 1e-40, value, 3.0])
        if dtype == "BF16":
            return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        return values.astype(KINDS[dtype]).tobytes()

    largest = 65504.0 if dtype == "F16" else 3.3e38
    assert all(blockwise.is_finite(stored(v), dtype) for v in (0.0, largest, -largest))
    assert not any(
        blockwise.is_finite(stored(v), dtype)
        for v in (float("nan"), -float("nan"), float("inf"), -float("inf"))
    )
    assert blockwise.is_finite(b"", dtype)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_base_that_is_not_finite_is_refused(
    value: float, llama: Path, tmp_path: Path, store: Store
) -> None:
    import torch

    from olivebuild.ml.models.load import load_model

    folder = shutil.copytree(llama, tmp_path / "m")
    norm = torch.ones(64, dtype=torch.bfloat16)
    norm[5] = value
    changed(folder, **{"model.norm.weight": norm})
    with pytest.raises(
        InputError, match=r"model.norm.weight holds NaN or infinite numbers"
    ) as caught:
        load_model(folder, torch.float32, where=Where("olivebuild.yaml", 3, 5))
    assert (str(caught.value.where), str(folder) in caught.value.fact) == (
        "olivebuild.yaml:3:5",
        True,
    )
    inputs = {"model": given(store, folder)}
    with pytest.raises(InputError, match=r"base: model.norm.weight holds NaN or infinite numbers"):
        _opened.check_inputs(job_in(tmp_path / "merge", store, inputs, kind="merged"))


def test_weights_are_looked_at_once(llama: Path, tmp_path: Path, store: Store) -> None:
    inputs = {"model": given(store, llama)}
    _opened.check_inputs(job_in(tmp_path / "one", store, inputs, kind="merged"))
    assert _opened._read(store, _opened.finite_key(inputs["model"].digest))


# Loading


def test_a_model_is_never_loaded_with_tensors_made_up(llama: Path, tmp_path: Path) -> None:
    import torch

    from olivebuild.ml.models.load import load_model

    folder = shutil.copytree(llama, tmp_path / "m")
    changed(folder, **{"model.norm.weight": None})
    with pytest.raises(InputError, match=r"the weights lack model.norm.weight"):
        load_model(folder, torch.float32)
    changed(folder, **{"model.norm.weight": torch.ones(63)})
    with pytest.raises(InputError, match=r"model.norm.weight has the shape \[63\]"):
        load_model(folder, torch.float32)


def test_other_weight_files_are_told(llama: Path, tmp_path: Path, store: Store) -> None:
    folder = shutil.copytree(llama, tmp_path / "m")
    shutil.copyfile(folder / "model.safetensors", folder / "model_before.safetensors")
    job = job_in(tmp_path / "job", store, {"model": given(store, folder)}, kind="merged")
    _opened.check_inputs(job)
    assert (
        "base: model_before.safetensors ignored: loaders read model.safetensors"
        in job._stream.getvalue()
    )


def test_only_models_are_opened(tmp_path: Path, store: Store) -> None:
    inputs = {"data": ActionInput("nowhere", "nowhere", "dataset", "rows")}
    _opened.check_inputs(job_in(tmp_path / "a", store, inputs, kind="adapter"))


# GGUF

LLAMA_SHAPES = {
    "token_embd.weight": (32, 64), "output.weight": (32, 64), "output_norm.weight": (64,),
    "blk.0.attn_norm.weight": (64,),
    "blk.0.ffn_norm.weight": (64,), "blk.0.attn_q.weight": (64, 64),
    "blk.0.attn_k.weight": (32, 64), "blk.0.attn_v.weight": (32, 64),
    "blk.0.attn_output.weight": (64, 64), "blk.0.ffn_gate.weight": (128, 64),
    "blk.0.ffn_up.weight": (128, 64), "blk.0.ffn_down.weight": (64, 128),
}  # fmt: skip


def write_gguf(file: Path, *left_out: str) -> Path:
    """A Llama of one layer, as llama.cpp stores it."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(29))])
    writer.add_token_scores([0.0] * 32)
    writer.add_token_types([2, 3, 3] + [6] * 29)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    random = np.random.default_rng(0)
    for name, shape in LLAMA_SHAPES.items():
        if name not in left_out:
            writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize("left_out", [(), ("output.weight",)])
def test_a_gguf_file_becomes_a_folder_that_is_whole(
    left_out: tuple[str, ...], job: Job, store: Store, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    _convert(job, write_gguf(tmp_path / "m.gguf", *left_out), "float32")
    # Its type tells of a model alone, whatever is asked for.
    load: Any = AutoModelForCausalLM.from_pretrained
    loaded, info = load(job.out, output_loading_info=True)
    assert [info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")] == [
        set()
    ] * 3
    # Without an output of its own, the head is the embedding.
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == bool(left_out)


def test_a_gguf_file_that_lacks_a_tensor_is_refused(job: Job, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"m.gguf: the weights lack model.layers.0.mlp.up_proj.weight"
    ):
        _convert(job, write_gguf(tmp_path / "m.gguf", "blk.0.ffn_up.weight"), "float32")
