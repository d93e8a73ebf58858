"""MLflow models: what mlflow itself loads and what those answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from olivebuild.exporters import manifest
from tests.conftest import Place

SCRIPT = Path(__file__).parents[2] / "support/load_with_mlflow.py"
PROMPT = "<|user|>\nI am glad about a letter today<|end|>\n<|assistant|>\n"

pytestmark = pytest.mark.scenario


def greedy(folder: Path, prompt: str, count: int) -> str:
    """Return what onnxruntime-genai answers, asked plainly."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    tokens = tokenizer.encode(prompt)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(tokens) + count, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    return str(tokenizer.decode(generator.get_sequence(0)[len(tokens) :]))


@pytest.fixture
def exported(copied: Place, tmp_path: Path) -> Path:
    """A folder with MLflow models of both kinds, each twice."""
    for target in ("onnx-int4", "merged"):
        for out in (tmp_path / target, tmp_path / f"{target}-again"):
            done = copied.run("export", target, str(out), "--format", "mlflow")
            assert done.code == 0, done.err
    return tmp_path


def test_models_are_whole_and_equal(copied: Place, exported: Path) -> None:
    for target, flavours in (
        ("onnx-int4", {"python_function"}),
        ("merged", {"python_function", "transformers"}),
    ):
        for file in manifest.read(exported / target).files:
            assert manifest.sha256_of(exported / f"{target}-again" / file.name) == file.sha256
        said = yaml.safe_load((exported / target / "MLmodel").read_text())
        assert set(said["flavors"]) == flavours
    # Its loader, as mlflow calls it; a test that is slow has mlflow itself do so.
    code = f"""
import sys; sys.path.insert(0, {str(exported / "onnx-int4/code")!r})
import mlflow_genai
model = mlflow_genai._load_pyfunc({str(exported / "onnx-int4/model")!r})
print(model.predict([{PROMPT!r}], {{"max_new_tokens": 8}}), model.predict({PROMPT!r}) != [])
"""
    words = [sys.executable, "-I", "-c", code]
    told = subprocess.run(words, capture_output=True, text=True, check=True, cwd=exported)
    assert told.stdout == f"{[greedy(copied.folder / 'build/onnx-int4', PROMPT, 8)]} True\n"


@pytest.mark.slow
def test_mlflow_loads_them(copied: Place, exported: Path) -> None:
    folders = [str(exported / target) for target in ("onnx-int4", "merged")]
    # Without olivebuild: what a machine with mlflow alone has.
    words = [sys.executable, "-P", str(SCRIPT), PROMPT, *folders]
    told = subprocess.run(words, capture_output=True, text=True, check=True, cwd=exported)
    onnx, merged = json.loads(told.stdout)
    assert onnx["inputs"] == merged["inputs"] == ["prompt"]
    assert onnx["answer"] == [greedy(copied.folder / "build/onnx-int4", PROMPT, 8)]
    assert (merged["network"], len(merged["answer"])) == ("Phi3ForCausalLM", 1)


def test_an_adapter_is_no_model_of_mlflow(copied: Place, tmp_path: Path) -> None:
    done = copied.run("export", "adapter", str(tmp_path / "out"), "--format", "mlflow")
    assert done.code == 2
    assert "adapter is of the kind adapter, and the format mlflow is for" in done.err
    assert not (tmp_path / "out").exists()
