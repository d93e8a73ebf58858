"""Merges made tensor by tensor are those of peft, byte for byte, or it is said why they can't
be.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from olivebuild.api.action import ActionInput
from olivebuild.cache.store import Store
from olivebuild.core.errors import Damaged, InputError
from olivebuild.ml.kinds import onnx as onnx_kind
from olivebuild.ml.kinds.merged import merge_by_tensors
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.lora import (
    MergedWeight,
    changes,
    multiplication,
    open_input,
)
from olivebuild.ml.weights.merge import GroupSink, HoldingSink, MergeSink, merge_all
from olivebuild.ml.weights.view import Weight, write_folder
from olivebuild.steps.onnx import OnnxFields
from tests.scenarios.steps import LORA, by_builder, files_in, given, job_in, weights_in
from tests.support.tiny_models import ARCHITECTURES, make, make_adapter

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]
KINDS: dict[str, dict[str, Any]] = {
    "plain": LORA,
    "rslora": LORA | {"use_rslora": True},
    "patterns": LORA
    | {
        "rank_pattern": {"o_proj": 3, r"layers\.1\..*down_proj": 16},
        "alpha_pattern": {"o_proj": 7, "layers.0.mlp.down_proj": 5},
    },
}


def by_peft(model: Path, adapter: Path) -> dict[str, bytes]:
    """The tensors of peft's `merge_and_unload`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    merged = PeftModel.from_pretrained(
        base, str(adapter), autocast_adapter_dtype=True
    ).merge_and_unload()
    return {
        name: t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for name, t in merged.state_dict().items()
    }


def stored_adapter(store: Store, folder: Path) -> ActionInput:
    return ActionInput("", "", "adapter", "adapter", manifest=store.put_folder(folder)[1])


def merge(
    folder: Path,
    store: Store,
    model: ActionInput,
    adapter: Path,
    *,
    reproducible: bool = False,
    publish: bool = False,
    **more: Any,
) -> ActionInput:
    """The merged model as an input for other steps; with `publish` it is written, else computed
    when it is read.
    """
    job = job_in(
        folder,
        store,
        {"model": model, "adapter": stored_adapter(store, adapter)},
        publish=publish,
        **more,
    )
    opened = open_input(store, model)
    merge_by_tensors(
        job,
        opened,
        changes(open_input(store, job.input("adapter")), opened),
        reproducible=reproducible,
    )
    return ActionInput(
        "",
        "",
        "merged",
        "merged",
        digest=job.result.digests[""],
        manifest=job.result.manifest or "",
    )


def values_of(store: Store, model: ActionInput) -> dict[str, bytes]:
    return {name: w.read() for name, w in open_input(store, model).by_name.items()}


def lazy_in(store: Store, model: ActionInput) -> list[MergedWeight]:
    return [w for w in open_input(store, model).by_name.values() if isinstance(w, MergedWeight)]


def assert_merged_as_peft(folder: Path, store: Store, model: Path, adapter: Path) -> None:
    """As computed when read, and as written."""
    theirs = by_peft(model, adapter)
    lazy = merge(folder / "lazy", store, given(store, model), adapter)
    assert lazy_in(store, lazy)
    ours = values_of(store, lazy)
    assert sorted(name for name in ours if ours[name] != theirs[name]) == []
    # What is tied is stored once.
    assert theirs.keys() - ours.keys() <= {"lm_head.weight"}
    written = merge(folder / "written", store, given(store, model), adapter, publish=True)
    assert not lazy_in(store, written)
    assert values_of(store, written) == ours
    assert written.digest == lazy.digest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merge_has_the_bytes_of_peft(
    architecture: str, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    model = tmp_path / "model"
    make(architecture, model, tiny_model)
    for name, options in KINDS.items():
        make_adapter(model, tmp_path / f"adapter-{name}", **options)
        assert_merged_as_peft(tmp_path / name, store, model, tmp_path / f"adapter-{name}")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_merge_into_other_number_formats_has_the_bytes_of_peft(
    dtype: str, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    make("llama", tmp_path / "model", tiny_model, dtype=dtype)
    make_adapter(tmp_path / "model", tmp_path / "adapter", **LORA)
    assert_merged_as_peft(tmp_path / "merged", store, tmp_path / "model", tmp_path / "adapter")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_merge_of_an_adapter_in_a_short_format_has_the_bytes_of_peft(
    dtype: str, llama: Path, tmp_path: Path, store: Store
) -> None:
    import torch

    make_adapter(llama, tmp_path / "adapter", **LORA)
    change_tensors(
        tmp_path / "adapter",
        lambda tensors: {name: t.to(getattr(torch, dtype)) for name, t in tensors.items()},
    )
    assert_merged_as_peft(tmp_path / "merged", store, llama, tmp_path / "adapter")


@pytest.mark.parametrize("size", [600, 1024])
def test_a_merge_in_several_pieces_has_the_bytes_of_peft(
    size: int, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    make("llama", tmp_path / "model", tiny_model, intermediate_size=size)
    make_adapter(tmp_path / "model", tmp_path / "adapter", **LORA)
    assert_merged_as_peft(tmp_path / "merged", store, tmp_path / "model", tmp_path / "adapter")


@pytest.mark.parametrize("size", [257, 259, 522])
def test_a_merge_with_few_rows_in_its_last_piece_has_the_bytes_of_peft(
    size: int, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    # float32 keeps every bit of the product.
    make("llama", tmp_path / "model", tiny_model, intermediate_size=size, dtype="float32")
    make_adapter(tmp_path / "model", tmp_path / "adapter", **LORA)
    assert_merged_as_peft(tmp_path / "merged", store, tmp_path / "model", tmp_path / "adapter")


def test_a_merge_into_a_merge_has_the_bytes_of_peft(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_adapter(llama, first, **LORA)
    make_adapter(llama, second, seed=1, **LORA | {"target_modules": ["q_proj", "down_proj"]})
    once = merge(tmp_path / "once", store, given(store, llama), first)
    twice = merge(tmp_path / "twice", store, once, second)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(open_input(store, once), folder)
    assert values_of(store, twice) == by_peft(folder, second)


def onnx_by_step(
    folder: Path, store: Store, fields: dict[str, Any], model: ActionInput
) -> tuple[dict[str, bytes], Mapping[str, object]]:
    """The files, and the metrics."""
    job = job_in(folder, store, {"model": model}, fields=fields)
    onnx_kind.run(job)
    assert job.result.provenance["by"] == "tensors"
    (folder / "done").mkdir()
    store.restore(store.manifest(job.result.manifest or ""), folder / "done")
    return files_in(folder / "done"), job.result.metrics


@pytest.mark.parametrize("architecture", ["phi3", "llama", "qwen2"])
def test_tensors_that_are_quantised_with_the_merge_are_those_of_the_builder(
    architecture: str, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    model, fields = tmp_path / "model", {"model": "base", "block_size": 32}
    make(architecture, model, tiny_model)
    make_adapter(model, tmp_path / "adapter", **LORA)
    base = given(store, model)
    before, _ = onnx_by_step(tmp_path / "before", store, fields, base)
    merged = merge(
        tmp_path / "merged", store, base, tmp_path / "adapter", consumers=[["onnx", fields]]
    )
    ours, metrics = onnx_by_step(tmp_path / "ours", store, fields, merged)
    assert metrics["tensors_computed"] == 0
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(open_input(store, merged), folder)
    assert ours == by_builder(tmp_path / "theirs", store, OnnxFields.model_validate(fields), folder)
    assert ours["model.onnx"] == before["model.onnx"]
    assert ours["model.onnx.data"] != before["model.onnx.data"]


def test_a_reproducible_merge_is_read_as_it_is_written_and_near_to_peft(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    make_adapter(llama, tmp_path / "adapter", **LORA)
    lazy = merge(
        tmp_path / "lazy", store, given(store, llama), tmp_path / "adapter", reproducible=True
    )
    written = merge(
        tmp_path / "written",
        store,
        given(store, llama),
        tmp_path / "adapter",
        reproducible=True,
        publish=True,
    )
    ours, theirs = values_of(store, lazy), by_peft(llama, tmp_path / "adapter")
    assert values_of(store, written) == ours
    # bfloat16 hides most of the difference.
    differing = sum(a != b for name in ours for a, b in zip(ours[name], theirs[name], strict=True))
    assert differing < sum(map(len, ours.values())) / 1000


def test_any_part_of_a_merged_weight_can_be_read(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    make("llama", tmp_path / "model", tiny_model, intermediate_size=600)
    make_adapter(tmp_path / "model", tmp_path / "adapter", **LORA)
    lazy = lazy_in(
        store,
        merge(tmp_path / "merged", store, given(store, tmp_path / "model"), tmp_path / "adapter"),
    )
    weight = next(w for w in lazy if w.shape == (600, 64))
    held: list[Weight] = []

    class Holding(MergeSink):
        def open(self) -> GroupSink:
            return HoldingSink(None, held.extend)

    merge_all([weight.change], multiplication(store, reproducible=False), Holding())
    whole, row = weight.read(), 128
    for start, size in [
        (0, 1),
        (0, len(whole)),
        (5, 7),
        (255 * row, 2 * row),
        (256 * row, row),
        (100, 70_000),
        (len(whole) - 3, 3),
        (511 * row, None),
    ]:
        end = len(whole) if size is None else start + size
        assert weight.read(start, size) == held[0].read(start, size) == whole[start:end]


def test_a_merged_weight_that_comes_out_differently_is_damaged(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    make_adapter(llama, tmp_path / "adapter", **LORA)
    merged = merge(tmp_path / "merged", store, given(store, llama), tmp_path / "adapter")
    manifest = store.manifest(merged.manifest)
    (before,) = manifest.merges
    odd, *rest = before.tensors
    wrong = replace(odd, chunks=("0" * 32, *odd.chunks[1:]))
    changed = replace(manifest, merges=(replace(before, tensors=(wrong, *rest)),))
    weights = open_input(store, merged._replace(manifest=store.put_manifest(changed))).by_name
    with pytest.raises(Damaged, match="comes out differently on this machine"):
        weights[odd.name].read()
    assert weights[rest[0].name].read()


def test_a_merge_whose_adapter_is_gone_is_damaged(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    make_adapter(llama, tmp_path / "adapter", **LORA)
    merged = merge(tmp_path / "merged", store, given(store, llama), tmp_path / "adapter")
    store.path(store.manifest(merged.manifest).merges[0].adapter).unlink()
    with pytest.raises(Damaged, match="is missing"):
        open_input(store, merged)


def test_an_adapter_with_nan_is_refused(llama: Path, tmp_path: Path, store: Store) -> None:
    make_adapter(llama, tmp_path / "adapter", **LORA)
    change_tensors(
        tmp_path / "adapter",
        lambda tensors: {
            name: t * float("nan") if "layers.1.mlp.up" in name else t
            for name, t in tensors.items()
        },
    )
    with pytest.raises(InputError, match="is not what the adapter says"):
        merge(tmp_path / "merged", store, given(store, llama), tmp_path / "adapter")


# Adapters that are left to peft


def change_tensors(adapter: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def change_config(adapter: Path, **edits: Any) -> None:
    file = adapter / "adapter_config.json"
    config = {
        name: value
        for name, value in (json.loads(file.read_text()) | edits).items()
        if value is not ...
    }
    file.write_text(json.dumps(config))


def why_not(store: Store, model: Path, adapter: Path) -> str:
    with pytest.raises(NotProvenEqual) as caught:
        changes(open_input(store, stored_adapter(store, adapter)), weights_in(store, model))
    return str(caught.value)


DISAGREE = "the adapter's target_modules and its tensors disagree about model."
TRAINED_OTHERWISE: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "the adapter sets use_dora"),
    "a whole module": ({"modules_to_save": ["lm_head"]}, "the adapter sets modules_to_save"),
    "a bias of LoRA": ({"lora_bias": True}, "the adapter sets lora_bias"),
    "biases": ({"bias": "all"}, "the adapter has trained biases"),
    "the embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, DISAGREE),
    "the head, saved whole": (
        {"target_modules": ["q_proj", "lm_head"]},
        "is of a sort that is not merged one by one",
    ),
}


@pytest.mark.parametrize("kind", TRAINED_OTHERWISE)
def test_an_adapter_that_is_more_than_lora_is_left_to_peft(
    kind: str, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    make("qwen2", tmp_path / "model", tiny_model, tie_word_embeddings=False)
    options, reason = TRAINED_OTHERWISE[kind]
    make_adapter(tmp_path / "model", tmp_path / "adapter", **LORA | options)
    assert reason in why_not(store, tmp_path / "model", tmp_path / "adapter")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"use_tomorrow": {"x": 1}}, "the adapter sets use_tomorrow"),
        ({"fan_in_fan_out": True}, "the adapter sets fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa changes the base model"),
        ({"peft_type": "LOHA"}, "the adapter is of the type LOHA"),
        ({"r": 4}, "has the rank 8, where the configuration says 4"),
        (
            {"target_modules": ["q_proj"]},
            "target_modules and its tensors disagree about model.layers.0.mlp.down_proj.weight",
        ),
        (
            {"target_modules": r".*_proj", "exclude_modules": ["q_proj"]},
            "the adapter sets exclude_modules",
        ),
        ({"rank_pattern": {"up_proj": 2}}, "has the rank 8, where the configuration says 2"),
        ({"r": ...}, "lacks its rank or alpha"),
        ({"lora_alpha": ...}, "lacks its rank or alpha"),
    ],
)
def test_a_configuration_that_is_not_understood_is_left_to_peft(
    changed: dict[str, Any], reason: str, llama: Path, tmp_path: Path, store: Store
) -> None:
    make_adapter(llama, tmp_path / "adapter", **LORA)
    change_config(tmp_path / "adapter", **changed)
    assert reason in why_not(store, llama, tmp_path / "adapter")


def test_an_option_that_is_off_means_nothing(llama: Path, tmp_path: Path, store: Store) -> None:
    make_adapter(llama, tmp_path / "adapter", **LORA)
    change_config(tmp_path / "adapter", use_tomorrow=False, other_tomorrow=None)
    assert changes(
        open_input(store, stored_adapter(store, tmp_path / "adapter")), weights_in(store, llama)
    )


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t | {"base_model.model.extra": t[f"{Q}.lora_A.weight"].clone()},
         "the adapter's tensor base_model.model.extra is of a sort"),
        (lambda t: t | {f"{Q}.lora_magnitude_vector": t[f"{Q}.lora_A.weight"].clone()},
         f"the adapter's tensor {Q}.lora_magnitude_vector is of"),
        (lambda t: {n: v for n, v in t.items() if n != f"{Q}.lora_B.weight"},
         "has no plain weight of that name in the model"),
        (lambda t: {n: v for n, v in t.items() if n != f"{Q}.lora_A.weight"},
         f"{DISAGREE}layers.0.self_attn.q_proj.weight"),
        (lambda t: {n.replace("q_proj", "w_proj"): v for n, v in t.items()},
         "has no plain weight of that name in the model"),
        (lambda t: {n.removeprefix("base_model."): v for n, v in t.items()},
         "has no plain weight of that name in the model"),
        (lambda t: t | {f"{Q}.lora_B.weight": t[f"{Q}.lora_B.weight"][:-1].clone()},
         "don't go together"),
        (lambda t: {n: v.double() for n, v in t.items()},
         "the adapter's tensors are of the type F64"),
        (lambda t: {}, f"{DISAGREE}layers.0.mlp.down_proj.weight"),
    ],
)  # fmt: skip
def test_tensors_that_find_no_place_are_left_to_peft(
    change: Any, reason: str, llama: Path, tmp_path: Path, store: Store
) -> None:
    make_adapter(llama, tmp_path / "adapter", **LORA)
    change_tensors(tmp_path / "adapter", change)
    assert reason in why_not(store, llama, tmp_path / "adapter")


def test_a_model_of_mixed_number_formats_is_left_to_peft(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(llama, tmp_path / "model")
    make_adapter(llama, tmp_path / "adapter", **LORA)
    file = tmp_path / "model/model.safetensors"
    save_file(
        {name: t.float() if t.ndim == 1 else t for name, t in load_file(file).items()},
        file,
        {"format": "pt"},
    )
    assert why_not(store, tmp_path / "model", tmp_path / "adapter").startswith(
        "the model's weights are of the types BF16, F32"
    )
