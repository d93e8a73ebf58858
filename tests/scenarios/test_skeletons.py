"""ONNX models made from a skeleton are those of the model builder, byte for byte, or it is said why
they can't be.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.store import Store
from olivebuild.core.host import installed
from olivebuild.formats import onnx_folder
from olivebuild.ml.onnx.builder import canonical, run_builder
from olivebuild.ml.onnx.skeleton_cache import no_skeleton
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.steps.onnx import OnnxFields
from tests.scenarios.steps import by_builder, files_in, job_in, weights_in
from tests.support.require import require
from tests.support.tiny_models import ARCHITECTURES, make

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "blocks of 64": {"block_size": 64},
    "asymmetric": {"block_size": 32, "symmetric": False},
    "accuracy level": {"accuracy_level": 4},
    "int8": {"precision": "int8"},
    "mixed": {"mixed_precision": "mixed_layers:int8"},
    "k_quant": {"algorithm": "k_quant"},
    "k_quant, mixed": {"algorithm": "k_quant_mixed", "accuracy_level": 4},
    "overrides": {
        "overrides": {
            "/model/layers.0/attn/o_proj/MatMul": "int4",
            "/model/layers.*/attn/o_proj/MatMul": "int8",
        }
    },
    "cuda": {"provider": "cuda"},
    "dml": {"provider": "dml"},
    "webgpu": {"provider": "webgpu"},
    "not fused": {"fuse_qkv": False},
    "fp32": {"precision": "fp32"},
    "fp16": {"precision": "fp16", "provider": "cuda"},
    "bf16": {"precision": "bf16", "provider": "cuda"},
}
TIED = "lm_head.MatMul.weight is quantised in an unknown way"
UNPROVEN = {("qwen2", "asymmetric"): TIED, ("gemma", "asymmetric"): TIED}
"""What the model builder has to make itself, and why: its embedding reads the quantised tensor of
the head.
"""


@pytest.fixture(autouse=True)
def hollow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the tensors of real models: none is computed that need not be."""
    monkeypatch.setattr("olivebuild.ml.onnx.op_recorder.SMALL", 1)


def by_tensors(
    folder: Path, store: Store, fields: OnnxFields, traced: Path, model: Path
) -> dict[str, bytes]:
    """Files from the skeleton of the model `traced` and the weights of `model`."""
    from olivebuild.ml.onnx.assemble import assemble
    from olivebuild.ml.onnx.builder_trace import trace

    job, hollow, done = job_in(folder, store), folder / "hollow", folder / "done"
    hollow.mkdir()
    done.mkdir()
    skeleton = trace(
        hollow,
        job.out,
        weights_in(store, traced),
        lambda: run_builder(job, fields, hollow, job.out, trust=False),
    )
    canonical(job.out, hollow)
    manifest, _ = assemble(store, folder, job.out, skeleton, weights_in(store, model))
    store.restore(manifest, done)
    return files_in(done)


def test_the_commit_of_a_repository_around_the_libraries_is_not_in_the_graph(
    llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a project holds its own virtual environment."""
    require("git", shutil.which("git"), "needs git")
    import onnx

    words = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for more in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*words, *more], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    made = by_builder(
        tmp_path / "job",
        store,
        OnnxFields.model_validate({"model": "base", "precision": "fp32"}),
        llama,
    )
    commit = subprocess.run(
        ["git", "-C", str(tmp_path), "rev-parse", "HEAD"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    version = onnx.load_from_string(made["model.onnx"]).producer_version
    assert version.startswith(str(installed("onnxruntime-genai")))
    assert commit[:7] not in version
    assert os.environ["GIT_DIR"] == str(tmp_path / ".git")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_skeleton_with_other_weights_is_what_the_builder_makes_of_them(
    architecture: str, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    for seed in (0, 1):
        make(architecture, tmp_path / f"model{seed}", tiny_model, seed=seed)
    first, second = (weights_in(store, tmp_path / f"model{seed}") for seed in (0, 1))
    assert first.structure() == second.structure()
    assert not {w.digest for w in first.by_name.values()} & {
        w.digest for w in second.by_name.values()
    }
    unproven, odd = {}, {}
    for name, options in OPTIONS.items():
        fields = OnnxFields.model_validate({"model": "base"} | options)
        assert no_skeleton(fields, False) == ""
        place = tmp_path / name
        try:
            ours = by_tensors(
                place / "ours", store, fields, tmp_path / "model0", tmp_path / "model1"
            )
        except NotProvenEqual as e:
            unproven[architecture, name] = str(e)
            continue
        theirs = by_builder(place / "theirs", store, fields, tmp_path / "model1")
        # What is made here needs no trust to be used, whatever the provider.
        assert list(onnx_folder.faults(place / "theirs/out")) == []
        odd[name] = sorted(
            file for file in ours.keys() | theirs.keys() if ours.get(file) != theirs.get(file)
        )
        shutil.rmtree(place)
    assert unproven == {which: why for which, why in UNPROVEN.items() if which[0] == architecture}
    assert {name: files for name, files in odd.items() if files} == {}


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "rtn"},
        {"algorithm": "rtn_last"},
        {"qdq": True},
        {"op_types": ["MatMul", "Gather"]},
    ],
)
def test_options_without_a_skeleton_are_told_before_anything_is_run(
    options: dict[str, Any],
) -> None:
    why = no_skeleton(OnnxFields.model_validate({"model": "base"} | options), False)
    assert why.startswith(next(iter(options)))
    assert "not quantised tensor by tensor" in why


def test_a_model_with_code_has_no_skeleton() -> None:
    assert no_skeleton(OnnxFields(), True) == "the model brings code of its own"


def without_biases(folder: Path, copy: Path) -> None:
    """A copy with zeros for biases."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("bias"):
            tensor.zero_()
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})


def test_a_bias_of_zeros_is_another_structure_with_a_skeleton_of_its_own(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    make("qwen2", tmp_path / "model", tiny_model)
    without_biases(tmp_path / "model", tmp_path / "zeros")
    assert (
        weights_in(store, tmp_path / "model").structure()
        != weights_in(store, tmp_path / "zeros").structure()
    )
    fields = OnnxFields(block_size=32)
    ours = by_tensors(tmp_path / "ours", store, fields, tmp_path / "zeros", tmp_path / "zeros")
    assert ours == by_builder(tmp_path / "theirs", store, fields, tmp_path / "zeros")
    assert (
        ours["model.onnx"]
        != by_builder(tmp_path / "biased", store, fields, tmp_path / "model")["model.onnx"]
    )


# A builder that is not the one that is known


def builder() -> Any:
    """The class of the model builder that is leant on."""
    import sys

    import onnxruntime_genai.models.builder  # noqa: F401

    return sys.modules["builders.base"].Model


def refusal(folder: Path, store: Store, model: Path, **options: Any) -> str:
    with pytest.raises(NotProvenEqual) as caught:
        by_tensors(folder, store, OnnxFields(**options), model, model)
    return str(caught.value)


@pytest.mark.parametrize("name", ["make_initializer", "save_model", "to_nbits"])
def test_a_private_part_of_the_builder_with_another_signature(
    name: str, llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = getattr(builder(), name)
    monkeypatch.setattr(
        builder(), name, lambda self, *given, **named: before(self, *given, **named)
    )
    assert (
        refusal(tmp_path / "ours", store, llama)
        == f"the model builder's {name} is not the one that is known: (self, *given, **named)"
    )


@pytest.mark.parametrize("name", ["make_initializer", "save_model", "to_nbits"])
def test_a_private_part_of_the_builder_that_is_gone(
    name: str, llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(builder(), name)
    assert (
        refusal(tmp_path / "ours", store, llama)
        == f"the model builder's {name} is not the one that is known: nothing"
    )


@pytest.mark.parametrize("name", ["quantize_matmul_4bits", "quantize_matmul_8bits"])
def test_a_kernel_of_the_quantiser_that_is_gone(
    name: str, llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime.quantization.matmul_nbits_quantizer as quantizer

    monkeypatch.delattr(quantizer, name)
    assert refusal(tmp_path / "ours", store, llama) == f"ONNX Runtime's quantiser has no {name}"


def changed_norms(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """The builder passes on what `change` makes of each norm's weight."""
    import torch

    before = builder().make_layernorm

    def make_layernorm(self: Any, layer: Any, norm: Any, *given: Any, **named: Any) -> Any:
        norm.weight = torch.nn.Parameter(change(norm.weight), requires_grad=False)
        return before(self, layer, norm, *given, **named)

    monkeypatch.setattr(builder(), "make_layernorm", make_layernorm)


def test_a_builder_that_computes_in_an_unknown_way(
    llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_norms(monkeypatch, lambda weight: weight * 2)
    assert refusal(tmp_path / "ours", store, llama) == "the builder computes with aten.mul.Tensor"


def test_a_builder_that_changes_weights_in_place(
    llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(llama)
    changed_norms(monkeypatch, lambda weight: weight.mul_(2))
    assert refusal(tmp_path / "ours", store, llama) == "the builder computes with aten.mul_.Tensor"
    assert files_in(llama) == before


def test_a_builder_that_looks_at_values(
    llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_norms(monkeypatch, lambda weight: weight + (1.0 if weight[0].item() > 99 else 0.0))
    assert refusal(tmp_path / "ours", store, llama).startswith(
        "the builder reads values of weights"
    )


def test_a_builder_that_counts_in_more_than_biases(
    llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_norms(monkeypatch, lambda weight: weight + (1.0 if weight.count_nonzero() > 0 else 0.0))
    assert (
        refusal(tmp_path / "ours", store, llama) == "the builder counts in more than whole biases"
    )


def test_a_builder_that_goes_through_numpy(
    llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    changed_norms(monkeypatch, lambda weight: torch.from_numpy(weight.detach().float().numpy() * 2))
    # Nothing is seen of that: it counts as a constant of the graph, unless it is as large as a
    # weight.
    assert refusal(tmp_path / "ours", store, llama).startswith("nothing tells where")


def test_a_quantiser_that_gives_other_bits(
    llama: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantizer

    before = DefaultWeightOnlyQuantizer.qbits_block_quant

    def other(self: Any, weight: Any) -> Any:
        packed, scales, zeros = before(self, weight)
        return packed ^ 1, scales, zeros

    monkeypatch.setattr(DefaultWeightOnlyQuantizer, "qbits_block_quant", other)
    assert refusal(tmp_path / "ours", store, llama, block_size=32).endswith(
        "is quantised in another way than known here"
    )
