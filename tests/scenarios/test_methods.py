"""Adapters of each method: trained, written as peft has them, merged as peft does, and asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.action import ActionInput
from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.ml.kinds import adapter as adapter_kind
from olivebuild.ml.kinds import merged as merged_kind
from tests.conftest import Place
from tests.scenarios.steps import files_in, given, job_in
from tests.scenarios.test_merges import by_peft, stored_adapter
from tests.scenarios.training import fit, token_rows
from tests.support.families import FAMILIES, write
from tests.support.tiny_models import make

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]
TRAINING = {"steps": 4, "lr": 3e-2}


def trained(
    folder: Path, base: Path, rows: list[Any] | None = None, **fields: Any
) -> tuple[Path, Any]:
    """The folder of an adapter that was trained for some steps, and the loop."""
    from olivebuild.ml.nn import loftq, qlora
    from olivebuild.ml.training import train
    from olivebuild.steps.adapter import Quantisation

    loop, _ = fit(folder, base, rows or token_rows(3, 8), TRAINING, **fields)
    saved = folder / "adapter"
    saved.mkdir()
    train.save_adapter(loop.runner.forward.model, saved, "base")
    if fields.get("method") == "loftq":
        options = Quantisation.model_validate(fields.get("quantisation", {}))
        qlora.note(saved, options, fields.get("loftq_iter", 1))
        loftq.save(loop.runner.forward.subtracted, saved)
    return saved, loop


def merged_in(
    folder: Path, store: Store, base: Path, adapter: ActionInput | Path, **fields: Any
) -> tuple[Path, Job]:
    """The merge as a folder, by the step itself."""
    brought = stored_adapter(store, adapter) if isinstance(adapter, Path) else adapter
    inputs = {"model": given(store, base), "adapter": brought}
    said = {"model": "base", "adapter": "adapter"} | fields
    job = job_in(folder, store, inputs, fields=said, publish=True)
    merged_kind.run(job)
    if not job.result.manifest:
        return job.out, job
    done = folder / "done"
    done.mkdir()
    store.restore(store.manifest(job.result.manifest), done)
    return done, job


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def logits(model: Any) -> Any:
    import torch

    ids = torch.arange(3, 43)[None]
    # A model that was trained here would want its rows end to end.
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits.float()


def loaded(folder: Path) -> Any:
    import torch

    from olivebuild.ml.models import load

    return load.load_model(folder, torch.float32)


METHODS: dict[str, tuple[dict[str, Any], set[str], str]] = {
    "loha": ({"method": "loha", "rank_dropout": 0.1, "module_dropout": 0.1},
             {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, "peft"),
    "lokr": ({"method": "lokr", "r": 2}, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}, "peft"),
    "lokr of two low ranks": (
        {"method": "lokr", "r": 1, "decompose_both": True, "decompose_factor": 8,
         "init_weights": "lycoris", "rank_dropout": 0.1, "rank_dropout_scale": True},
        {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"}, "peft"),
    "loha from a random change": (
        {"method": "loha", "init_weights": False, "alpha": 1, "modules": "peft-default",
         "alpha_pattern": {"v_proj": 3}},
        {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, "peft"),
    "lora in some layers": (
        {"exclude": ["o_proj", "layers.1.self_attn.q_proj"], "layers": [1],
         "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"up_proj": 5, "down_proj": 7}},
        {"lora_A", "lora_B"}, "tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_merge_is_that_of_peft(name: str, llama: Path, tmp_path: Path, store: Store) -> None:
    import torch

    options, kinds, by = METHODS[name]
    adapter, loop = trained(tmp_path / "trained", llama, **options)
    assert loop.progress.losses[-1] < loop.progress.losses[0]
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["peft_type"] == options.get("method", "lora").upper()
    written = (files_in(adapter))["adapter_model.safetensors"].decode("latin-1")
    assert {kind for kind in kinds if f".{kind}" in written} == kinds
    merged, job = merged_in(tmp_path / "merged", store, llama, adapter)
    assert job.result.provenance["by"] == by
    ours, theirs, base = tensors_of(merged), by_peft(llama, adapter), tensors_of(llama)
    for key, tensor in ours.items():
        assert tensor.flatten().view(torch.uint8).numpy().tobytes() == theirs[key], key
    changed = {key for key, tensor in ours.items() if not torch.equal(tensor, base[key])}
    if by == "tensors":
        layer = "model.layers.1."
        assert changed == {
            f"{layer}{part}.weight"
            for part in ("self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj",
                         "mlp.gate_proj")
        }  # fmt: skip
    else:
        assert len(changed) == (4 if options.get("modules") else 14)
        metrics: Any = job.result.metrics
        assert 0 < metrics["merge_spread"] <= metrics["merge_spread_allowed"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"exclude": ["w_proj"]}, "the model has no module w_proj to exclude"),
        ({"layers": [0, 2]}, "the model has no layer 2"),
        ({"rank_pattern": {"lm_head": 4}}, "rank_pattern: 'lm_head' fits no layer that gets an"),
        ({"alpha_pattern": {"(a+)+": 4}}, "alpha_pattern: '(a+)+' fits no layer that gets an"),
        ({"method": "loha", "modules": ["embed_tokens"]}, "no adapter for these modules"),
    ],
)
def test_layers_that_are_not_there_end_the_training_at_once(
    fields: dict[str, Any], told: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        fit(tmp_path, llama, token_rows(3, 8), TRAINING, **fields)
    assert told in caught.value.fact
    assert caught.value.hint


def test_a_module_that_the_model_does_not_have_is_told(llama: Path, tmp_path: Path) -> None:
    _, notes = fit(tmp_path, llama, token_rows(3, 8), {"steps": 1}, modules=["qkv_proj", "o_proj"])
    told = "the model has no module qkv_proj, so that none gets an adapter"
    assert [note["text"] for note in notes if "no module" in str(note.get("text"))] == [told]


def test_layers_that_go_without_their_adapter_keep_a_state(llama: Path, tmp_path: Path) -> None:
    """Also in a step in which all do."""
    from tests.scenarios.training import Stopped, bytes_of

    fields: dict[str, Any] = {"method": "lokr", "module_dropout": 0.7, "modules": ["q_proj"]}
    whole, _ = fit(tmp_path / "whole", llama, token_rows(3, 8), TRAINING, **fields)
    with pytest.raises(Stopped):
        fit(tmp_path / "cut", llama, token_rows(3, 8), TRAINING, stop_at=3, **fields)
    again, notes = fit(tmp_path / "cut", llama, token_rows(3, 8), TRAINING, **fields)
    assert any("resuming from step" in str(note.get("text")) for note in notes)
    assert bytes_of(again) == bytes_of(whole)


# LoftQ


def distances(folder: Path, base: Path, iterations: int, **fields: Any) -> list[float]:
    """How far base and adapter are from the base in full precision before the first step, layer by
    layer, in units of what 4 bits alone lose.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    loop, _ = fit(
        folder, base, token_rows(3, 8), {"steps": 1, "lr": 1e-30},
        method="loftq", loftq_iter=iterations, **fields,
    )  # fmt: skip
    model, exact = loop.runner.forward.model, dict(loaded(base).named_modules())
    shares = []
    for name, layer in model.get_base_model().named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        weight, stored = exact[name].weight.detach(), layer.get_base_layer().weight
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        ours = dequantize_4bit(stored.data, stored.quant_state) + layer.scaling["default"] * b @ a
        data, state = quantize_4bit(
            weight, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        lost = torch.linalg.norm(dequantize_4bit(data, state) - weight)
        shares.append(float(torch.linalg.norm(ours - weight) / lost))
    assert len(shares) == 14
    return shares


def test_loftq_begins_nearer_to_the_base_with_each_iteration(llama: Path, tmp_path: Path) -> None:
    once = distances(tmp_path / "1", llama, 1, r=8, alpha=2)
    assert max(once) < 0.95
    thrice = distances(tmp_path / "3", llama, 3, r=8, alpha=2)
    assert sum(thrice) < sum(once)
    # A rank beyond the weights' own leaves nothing over, at any scale.
    assert max(distances(tmp_path / "full", llama, 1, r=96, rslora=True)) < 1e-4


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_what_4_bits_lose_is_decomposed_as_well_as_a_rank_allows(shape: tuple[int, int]) -> None:
    import torch

    from olivebuild.ml.nn.loftq import _decomposed

    torch.manual_seed(0)
    full, low = torch.randn(shape), torch.randn(shape[0], 3) @ torch.randn(3, shape[1])
    left, values, right = torch.linalg.svd(full, full_matrices=False)
    for matrix, rank, best in (
        (full, 5, (left[:, :5] * values[:5]) @ right[:5]),
        (full, 99, full),
        (low, 8, low),
        (torch.zeros(shape), 4, torch.zeros(shape)),
    ):
        ours = _decomposed(matrix, rank)
        assert torch.allclose(ours[0] @ ours[1], best, atol=1e-4)
        assert torch.allclose(ours[0].norm(), ours[1].norm(), rtol=1e-4)


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_merge_of_loftq_is_what_was_trained(
    iterations: int, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    from olivebuild.ml.inference.generate import open_model

    base = tmp_path / "base"
    make("llama", base, tiny_model, dtype="float32")
    adapter, loop = trained(tmp_path / "trained", base, method="loftq", loftq_iter=iterations)
    wanted = logits(loop.runner.forward.model)
    far = float((logits(loaded(base)) - wanted).abs().max())
    # As an adapter from elsewhere, which brings along what LoftQ did to its base.
    brought = job_in(tmp_path / "brought", store, fields={"source": str(adapter)})
    adapter_kind.run(brought)
    stored = ActionInput("", "", "adapter", "adapter", manifest=brought.result.manifest or "")
    merged, job = merged_in(tmp_path / "merged", store, base, stored, onto="dequantised")
    assert job.result.provenance["by"] == "peft"
    assert float((logits(loaded(merged)) - wanted).abs().max()) < 1e-4 < far
    # Asked beside its base, it stands on what it was trained on, too.
    asked: Any = open_model(str(base), str(adapter), trust_remote_code=False)
    assert float((logits(asked.model) - wanted).abs().max()) < 1e-4
    with pytest.raises(InputError, match="trained by LoftQ, which changes the base"):
        merged_in(tmp_path / "wrong", store, base, stored)


def test_files_of_loftq_that_are_lost_or_of_another_model_are_told(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from olivebuild.ml.nn.qlora import dequantise

    adapter, _ = trained(tmp_path / "trained", llama, method="loftq", loftq_iter=2)
    file = adapter / "loftq.safetensors"
    tensors = load_file(file)
    for change, told in (
        ({f"x.{n}": t for n, t in tensors.items()}, "which the model does not have"),
        ({n: t[:-1].clone() for n, t in tensors.items()}, "holds no two factors"),
        ({n: t for n, t in tensors.items() if "left" in n}, "can't be read"),
        ({n: torch.zeros(3, 3) for n in tensors}, "is not the model's"),
    ):
        save_file(change, file)
        with pytest.raises(InputError, match=told):
            dequantise(loaded(llama), adapter)
    file.unlink()
    with pytest.raises(InputError, match=r"loftq\.safetensors is missing"):
        adapter_kind.run(job_in(tmp_path / "lost", store, fields={"source": str(adapter)}))
    (adapter / "quantisation.json").write_text('{"loftq_iter": 1, "type": "nf5"}')
    with pytest.raises(InputError, match="does not say how the base was quantised"):
        dequantise(loaded(llama), adapter)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["loha", "lokr", "loftq"])
@pytest.mark.parametrize("family", [name for name, f in FAMILIES.items() if not f.stored])
def test_each_family_is_trained_and_merged_by_each_method(
    family: str, method: str, tmp_path: Path, store: Store
) -> None:
    """What docs/support.md says of them."""
    # Their vocabulary is small.
    rows = [replace(row, ids=row.ids % 300 + 8) for row in token_rows(3, 8)]
    base = write(family, tmp_path / "base")
    adapter, loop = trained(tmp_path / "trained", base, rows, method=method)
    assert loop.progress.losses[-1] < loop.progress.losses[0]
    onto = {"onto": "dequantised"} if method == "loftq" else {}
    _, job = merged_in(tmp_path / "merged", store, base, adapter, **onto)
    metrics: Any = job.result.metrics
    assert 0 < metrics["merge_spread"] <= metrics["merge_spread_allowed"]


# The whole way


def test_each_method_goes_through_to_int4(copied: Place) -> None:
    adapters = "[adapter-loha, adapter-lokr, adapter-loftq]"
    copied.edit("kind: adapter\n", "kind: adapter\n    matrix: {method: [loha, lokr, loftq]}\n")
    copied.edit("base, adapter: adapter}", f"base, matrix: {{adapter: {adapters}}}}}")
    models = adapters.replace("adapter-", "merged-adapter-")
    copied.edit("onnx, model: merged", f"onnx, matrix: {{model: {models}}}")
    done = copied.build("onnx-int4")
    assert done.code == 0, done.err
    methods = ("loha", "lokr", "loftq")
    assert {name for name in done.ran if name.startswith("onnx")} == {
        f"onnx-int4-merged-adapter-{method}" for method in methods
    }
    weights = {
        copied.built(f"onnx-int4-merged-adapter-{method}", "model.onnx.data") for method in methods
    }
    assert len(weights) == len(methods)
    # What was said of the merges says where they went.
    assert "dequantised" in copied.run("why", "merged-adapter-loftq").out
