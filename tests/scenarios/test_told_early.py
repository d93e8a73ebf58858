"""What the model builder refuses or fails on is told as what it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.ml.models.load import load_model
from olivebuild.ml.onnx.builder import BuilderFailed, run_builder
from olivebuild.steps.onnx import OnnxFields
from tests.scenarios.steps import job_in

CONFIG: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 32,
    "max_position_embeddings": 512, "head_dim": 32, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = job_in(
        tmp_path / "job",
        Store(tmp_path / "cache"),
        places={"": ["olivebuild.yaml", 7, 3, ""], "model": ["olivebuild.yaml", 7, 22, ""]},
    )
    assert job.result == Result()
    return job


def configured(folder: Path, tiny_model: Path, **changes: Any) -> Path:
    """A folder with a configuration and a tokenizer, and no weights."""
    folder.mkdir()
    for path in tiny_model.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def test_an_exception_of_the_builder_is_told_as_what_it_means(
    tmp_path: Path, tiny_model: Path, job: Job
) -> None:
    folder = configured(
        tmp_path / "hollow",
        tiny_model,
        architectures=["Gemma3ForCausalLM"],
        model_type="gemma3_text",
    )
    with pytest.raises(BuilderFailed) as caught:
        run_builder(job, OnnxFields.model_validate({"model": "base"}), folder, job.out, trust=False)
    fact = caught.value.fact
    assert (
        "fails on Gemma3ForCausalLM: it looks for 'rope_type', which is not there "
        "(models/builders/base.py, line " in fact
    )
    assert "hollow" not in fact
    assert "KeyError" not in fact
    assert "onnxruntime-genai 0.13.2" in caught.value.hint
    assert str(caught.value.where) == "olivebuild.yaml:7:22"
    # It is the configuration that it fails on, so it would fail again without being watched.
    assert not caught.value.watched


def test_a_refusal_of_the_builder_names_the_architecture(
    tmp_path: Path, tiny_model: Path, job: Job
) -> None:
    folder = configured(
        tmp_path / "hollow", tiny_model, architectures=["Olmo2ForCausalLM"], model_type="olmo2"
    )
    with pytest.raises(
        InputError, match=r"^the model builder refuses: Olmo2ForCausalLM is not currently supported"
    ):
        run_builder(job, OnnxFields.model_validate({"model": "base"}), folder, job.out, trust=False)


def test_code_of_the_model_s_own_is_refused_with_the_field_that_allows_it(
    tmp_path: Path, tiny_model: Path
) -> None:
    import torch

    own = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    folder = configured(
        tmp_path / "own",
        tiny_model,
        architectures=["OwnForCausalLM"],
        model_type="own",
        auto_map=own,
    )
    (folder / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes())
    with pytest.raises(InputError) as caught:
        load_model(folder, torch.float32)
    assert caught.value.hint.startswith(
        "trust_remote_code: true on the model would let it run its own code"
    )
