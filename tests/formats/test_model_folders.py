"""Model folders as they are found, with one fault each: `plan` says it in one error, with the line
of the recipe, before anything is made.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.formats.test_safetensors import index, write
from tests.planner.test_findings import found
from tests.support.bases import LLAMA, RECIPE, make_base, tokenizer
from tests.support.sites import Site

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid "
    "sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize "
    "4937253216\n"
)
PAGE = (
    "<!DOCTYPE html>\n<html><head><title>401 Unauthorized</title></head><body>Access to this "
    "model is restricted.</body></html>"
)
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.2-1B", "r": 8}
WHERE = "olivebuild.yaml:3:23"
Weights = dict[str, tuple[str, list[int], bytes]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path, RECIPE)
    made.write("rows.jsonl", '{"phrase": "a", "tone": "b"}\n')
    make_base(made.folder / "base")
    return made


def configured(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "config.json").write_text(
            json.dumps({k: v for k, v in (LLAMA | changes).items() if v != "left out"})
        )

    return damage


def written(name: str, text: str | bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)

    return damage


def renamed(name: str, *others: str) -> Callable[[Path], None]:
    """The weights under other names: none of them model.safetensors."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / name)
        for other in others:
            shutil.copy(folder / name, folder / other)

    return damage


def left(*names: str, **more: str) -> Callable[[Path], None]:
    """A folder of which only these names are left."""

    def damage(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(more.get(name.partition(".")[0], "{}"))

    return damage


def sharded(*there: int, absent: int = 0, of: int = 2) -> Callable[[Path], None]:
    """Shards and their index, of which some are not there."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        shards: list[Weights] = [
            {f"model.layers.{i}.w.weight": ("F32", [1], b"1234")} for i in range(of)
        ]
        names = [f"model-{i + 1:05}-of-{of:05}.safetensors" for i in range(of)]
        for i in there:
            write(folder / names[i], shards[i])
        index(
            folder,
            {name: file for file, shard in zip(names, shards, strict=True) for name in shard},
            *shards,
        )

    return damage


def stored(weights: Weights, **changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        write(folder / "model.safetensors", weights)
        configured(**changes)(folder)

    return damage


def linked(to: str, *names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()
            (folder / name).symlink_to(to)

    return damage


def without(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


NOT_SAFETENSORS = "base/model.safetensors: not a safetensors file: it is "
PACKED: Weights = {"model.layers.0.mlp.up_proj.qweight": ("I32", [1, 1], b"1234")}
EIGHT: Weights = {"model.layers.0.mlp.up_proj.weight": ("F8_E4M3", [2, 2], b"1234")}
FOUR: Weights = {"model.layers.0.mlp.up_proj.weight": ("U8", [4, 1], b"1234")}


@pytest.mark.parametrize(
    ("damage", "fact", "hint"),
    [
        # What came instead of a file.
        (written("model.safetensors", POINTER),
         f"{NOT_SAFETENSORS}a Git LFS pointer, not the file itself", "`git lfs pull`"),
        (written("model.safetensors", PAGE), f"{NOT_SAFETENSORS}a web page, not the file itself",
         "download it again"),
        (written("model.safetensors", '{"error":"Repository not found"}'),
         f"{NOT_SAFETENSORS}JSON text, perhaps what a server said", "download it"),
        (written("model.safetensors", b"GGUF\3\0\0\0" + bytes(64)), f"{NOT_SAFETENSORS}a GGUF file",
         "name it with its scheme, gguf:FILE"),
        (written("model.safetensors", b"PK\3\4" + bytes(64)),
         f"{NOT_SAFETENSORS}pickled weights under another name", "convert them to safetensors"),
        (written("model.safetensors", b""), f"{NOT_SAFETENSORS}empty", "download it again"),
        (written("tokenizer.json", POINTER),
         "tokenizer.json can't be read: it is a Git LFS pointer, not the file itself",
         "`git lfs pull`"),
        (written("tokenizer.model", POINTER),
         "tokenizer.model can't be read: it is a Git LFS pointer, not the file itself",
         "`git lfs pull`"),
        (written("config.json", PAGE),
         "config.json can't be read: it is a web page, not the file itself", "download it again"),
        (written("config.json", "[1]"), "config.json can't be read: it is not a JSON object",
         "is the download complete?"),
        # What is missing.
        (sharded(0),
         "base/model.safetensors.index.json: model-00002-of-00002.safetensors is missing, "
         "where the index has model.layers.1.w.we", "is"),
        (sharded(),
         "base/model.safetensors.index.json: model-00001-of-00002.safetensors is missing, "
         "where the index has model.layers.0.w.wei", "is"),
        (linked("gone", "model.safetensors"), "base: model.safetensors links to what is not there",
         "is the download complete?"),
        (linked("model.safetensors", "model.safetensors"),
         "base: model.safetensors links to what is not there", "is the download complete?"),
        (without("tokenizer.json"), "the model's folder has no tokenizer",
         "take tokenizer.json and tokenizer_config.json from where the model came"),
        # Weights that are others.
        (renamed("pytorch_model.bin"),
         "base: only pickled weights (pytorch_model.bin) in the model folder",
         "olivebuild reads safetensors and GGUF"),
        (renamed("pytorch_model-00001-of-00002.bin"),
         "base: only pickled weights (pytorch_model-00001-of-00002.bin) in",
         "olivebuild reads safeten"),
        (renamed("model-Q4_K_M.gguf"),
         "base: no weights but GGUF (model-Q4_K_M.gguf) in the model folder",
         "name the file with its scheme: gguf:"),
        (renamed("consolidated.safetensors"),
         "base: only consolidated.safetensors in the model folder, which is in the format of",
         "its tensors ha"),
        (renamed("consolidated.00.safetensors", "consolidated.01.safetensors"),
         "base: only consolidated.00.safetensors in the model", "its tensors"),
        (renamed("adapter_model.safetensors"),
         "base: no weights but an adapter's in the model folder",
         "name the model it was trained on here"),
        (renamed("weights.safetensors"),
         "base: no model.safetensors and no index of shards in the model folder; transformers "
         "would not l", "is the"),
        # Folders that are no model.
        (left("adapter_config.json", "adapter_model.safetensors",
              adapter_config=json.dumps(ADAPTER)),
         "base: not a Hugging Face model folder: it is an adapter, of meta-llama/Llama-3.2-1B, not "
         "a model", "name it as the `source` of a target o"),
        (left("model_index.json"),
         "base: not a Hugging Face model folder: it is a pipeline of several models "
         "(model_index.json)", "name a folder w"),
        (left("llama-Q8_0.gguf"), "base: not a Hugging Face model folder: it has GGUF files alone",
         "name the file with its scheme: gguf:llama-Q8_0"),
        (left("genai_config.json", "model.onnx"),
         "base: not a Hugging Face model folder: it is an ONNX model",
         "name it as the `source` of a targe"),
        (left("params.json", "consolidated.00.pth"),
         "base: not a Hugging Face model folder: its model is in the format of its makers",
         "take the f"),
        (left("checkpoint-500/config.json"),
         "base: not a Hugging Face model folder: config.json is missing",
         "checkpoint-500/ in it has one: name"),
        (left("README.md"), "base: not a Hugging Face model folder: config.json is missing",
         "name the folder that holds config.json and the weight"),
        # Models that are others than they seem.
        (configured(architectures=None), "config.json names no `architectures`",
         "add the class that the model was saved from"),
        (configured(architectures=[]), "config.json names no `architectures`",
         "add the class that the model was saved from"),
        (configured(vocab_size=8),
         "config.json says vocab_size 8, and the model's embedding has 12 rows",
         "one of the two was changed"),
        (written("tokenizer.json", tokenizer("<|im_end|>")),
         "the tokenizer has 13 tokens, the model's embedding 12", "'<|im_end|>' has no embeddin"),
        (configured(architectures=["CLIPModel"], model_type="clip"),
         "CLIPModel (model_type clip) is not a causal language model of trans", "name a"),
        (configured(architectures=["T5ForConditionalGeneration"], model_type="t5"),
         "T5ForConditionalGeneration (model_type t5) is not a", "name a"),
        (configured(architectures=["BertModel"], model_type="bert"),
         "config.json says that the model was saved as BertModel, which doe", "name the"),
        (configured(architectures=["LlamaForSequenceClassification"]),
         "config.json says that the model was saved as LlamaForSequenceClass", "name"),
        (configured(architectures=["MistralModel"], model_type="mistral"),
         "config.json says that the model was saved as MistralModel, whic", "name"),
        (configured(architectures=["Gemma3TextModel"], model_type="gemma3_text",
                    tie_word_embeddings=True, use_bidirectional_attention=True),
         "config.json says that the model was saved as Gemma3TextModel, which does not continue "
         "text", "name the model that it was made from"),
        (configured(architectures=["OwnForCausalLM"], model_type="own",
                    auto_map={"AutoModelForCausalLM": "own.OwnForCausalLM"}),
         "transformers ", "trust_remote_code: true on the model would let it run its own code"),
        # Weights that are quantised, whatever config.json says.
        (stored(PACKED),
         "the weights are quantised (model.layers.0.mlp.up_proj.qweight in model.safetensors), and "
         "config.json has no", "name the f"),
        (stored(EIGHT),
         "the weights are quantised (model.layers.0.mlp.up_proj.weight in model.safetensors), and "
         "config.json has no", "name the ful"),
        (stored(FOUR),
         "the weights are quantised (model.layers.0.mlp.up_proj.weight in model.safetensors), and "
         "config.json has no", "name the full"),
        (stored(EIGHT, quantization_config={"quant_method": "modelopt"}),
         "the model is quantised (modelopt), which transformers ", "name the full-"),
        (stored(PACKED, quantization_config={"bits": 4, "group_size": 64}),
         "the model is quantised, and config.json does not say by which", "name"),
    ],
)  # fmt: skip
def test_a_fault_is_one_error_at_the_line_of_the_model(
    site: Site, damage: Callable[[Path], None], fact: str, hint: str
) -> None:
    damage(site.folder / "base")
    problems, _ = found(site, "onnx", "bench")
    (problem,) = [p for p in problems if p.fails]
    assert problem.fact.startswith(fact), problem.fact
    assert problem.hint.startswith(hint), problem.hint
    assert str(problem.where) == WHERE


METHODS = {
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "version": "gemm",
        "zero_point": True,
    },
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_8bit": True, "_load_in_8bit": True},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {},
    },
    "fp8": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
    "fbgemm_fp8": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    "torchao": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}},
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_base_is_told_where_it_can_be_merged_into_nothing(
    site: Site, method: str
) -> None:
    stored(PACKED, quantization_config=METHODS[method])(site.folder / "base")
    first, *_ = [p for p in found(site, "merged")[0] if p.fails]
    assert first.fact.startswith(f"the base model is quantised ({method})")
    assert first.where.line in (5, 6)
    assert first.hint.startswith("name the full-precision model")


def test_files_that_are_links_are_read_as_the_hub_s_cache_has_them(site: Site) -> None:
    repository = site.folder / "models--own--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for i, path in enumerate((site.folder / "base").iterdir()):
        os.replace(path, repository / "blobs" / f"{i:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{i:040x}")
    site.edit("source: base}", f"source: {snapshot.relative_to(site.folder)}}}")
    assert found(site, "onnx", "bench")[0] == []


@pytest.mark.parametrize(
    ("weights", "changes"),
    [
        # Masks of GPT-2's kind, and an expert's weights: whole numbers or more dimensions, and
        # nothing is quantised.
        ({"h.0.attn.bias": ("U8", [1, 1, 2, 2], b"1234"), "x.weight": ("F32", [1], b"1234")}, {}),
        ({"layers.0.mask.weight": ("BOOL", [2, 2], b"1234")}, {}),
        (
            {"layers.0.inv_freq": ("F32", [1], b"1234"), "position_ids": ("I64", [1], b"12345678")},
            {},
        ),
    ],
)
def test_whole_numbers_alone_make_no_quantised_model(
    site: Site, weights: Weights, changes: dict[str, Any]
) -> None:
    stored(weights, **changes)(site.folder / "base")
    assert found(site, "merged")[0] == []


def test_a_checkpoint_without_a_head_whose_embeddings_are_tied_is_a_note(site: Site) -> None:
    configured(architectures=["GPT2Model"], model_type="gpt2")(site.folder / "base")
    (problem,) = found(site, "merged")[0]
    assert (
        problem.fails,
        problem.fact.startswith("config.json says that the model was saved as GPT2Model"),
    ) == (False, True)


def test_shards_of_which_none_has_an_embedding_by_a_known_name_are_no_fault(site: Site) -> None:
    sharded(0, 1)(site.folder / "base")
    assert found(site, "merged")[0] == []
