"""Models, adapters and folders with code in them: whatever is asked, none of it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.ml.onnx.builder import run_builder
from olivebuild.ml.weights import patterns
from olivebuild.steps.onnx import OnnxFields
from tests.conftest import Place, rows, write_rows
from tests.scenarios.steps import job_in

RECIPE = """\
targets:
  tone: {kind: dataset, source: tone.jsonl, prompt: "{phrase}", completion: " {tone}", label: tone}
  base: {kind: model, source: ./base}
  onnx: {kind: onnx, model: base, precision: fp32}
  bench: {kind: benchmark, models: [base, onnx], data: tone.test}
"""
VERBS = ["plan", "build bench", "predict base --in one.jsonl --data tone --max-tokens 2"]
VERBS += ["chat base --data tone --max-tokens 2", "doctor", "verify", "report"]
CODE = ["modeling_evil", "configuration_evil", "tokenization_evil", "custom_generate/generate"]
PICKLES = ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin", "a.pkl"]
MODULES = ["json", "torch", "transformers", "sitecustomize", "usercustomize", "click", "yaml"]


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.canary), "w")


def spoil(folder: Path, canary: Path) -> None:
    """Give a model's folder all that some loader would run."""
    code = f"open({str(canary)!r}, 'w').close()\n"
    (folder / "custom_generate").mkdir()
    for name in CODE:
        (folder / f"{name}.py").write_text(code)
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Evil(canary)))
    edit(
        folder / "config.json",
        auto_map={
            "AutoConfig": "configuration_evil.EvilConfig",
            "AutoModelForCausalLM": "modeling_evil.EvilModel",
        },
    )
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "tokenization_evil.EvilTokenizer"]},
    )


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_no_code_of_a_model_or_of_the_folder_runs(place: Place, tiny_model: Path) -> None:
    canary = place.folder.parent / "ran"
    shutil.copytree(tiny_model, place.folder / "base")
    spoil(place.folder / "base", canary)
    for name in MODULES:
        (place.folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    write_rows(place.folder / "tone.jsonl", rows())
    write_rows(place.folder / "one.jsonl", rows()[:1])
    place.recipe.write_text(RECIPE)
    # They do it where they are let.
    assert pickle.loads((place.folder / "base/a.pkl").read_bytes()).close() is None
    assert canary.exists()
    canary.unlink()
    for verb in VERBS:
        done = subprocess.run(
            # As the installed program does: `python -m` alone would look for modules here.
            [sys.executable, "-P", "-m", "olivebuild", *verb.split()],
            cwd=place.folder,
            env=os.environ | {"OLIVEBUILD_CACHE": str(place.cache), "HF_HUB_OFFLINE": "1"},
            input="I am glad\n",
            capture_output=True,
            check=False,
            text=True,
        )
        assert (done.returncode, canary.exists()) == (0, False), (verb, done.stderr)
    assert not [*(place.folder / "build").rglob("*.py"), *(place.folder / "build").rglob("*.bin")]


def test_an_adapter_is_looked_at_again_before_it_is_loaded(tmp_path: Path) -> None:
    class Model:
        def named_modules(self) -> list[tuple[str, object]]:
            return [("layers.0.q_proj", None)]

    mapping = {"base_model_class": "M", "parent_library": "evil"}
    config = {"peft_type": "LORA", "target_modules": ["q_proj"], "auto_mapping": mapping}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="auto_mapping names the package 'evil'"):
        patterns.check_adapter(tmp_path, Model(), trust=False)
    patterns.check_adapter(tmp_path, Model(), trust=True)


@pytest.mark.parametrize(
    "text", ['{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "{", "[]"]
)
def test_a_tokenizer_that_its_library_refuses_is_an_error_of_the_folder(
    tmp_path: Path, tiny_model: Path, text: str
) -> None:
    from olivebuild.ml.models.load import load_tokenizer

    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base/tokenizer.json").write_text(text)
    with pytest.raises(InputError, match="the tokenizer can't be loaded: ") as caught:
        load_tokenizer(tmp_path / "base")
    assert str(caught.value.where) == str(tmp_path / "base")


def test_a_tokenizer_that_the_model_builder_can_not_load_is_an_error_of_the_folder(
    tmp_path: Path, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    file = tmp_path / "base/tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"pre_tokenizer": []}))
    job = job_in(tmp_path / "job", Store(tmp_path / "cache"))
    fields = OnnxFields.model_validate({"model": "base", "precision": "fp32"})
    with pytest.raises(InputError, match="the tokenizer can't be loaded: ") as caught:
        run_builder(job, fields, tmp_path / "base", job.out, trust=False)
    assert str(caught.value.where) == str(tmp_path / "base")


def gguf(*parts: bytes | int, tensors: int = 0, pairs: int = 0) -> bytes:
    """A GGUF file: numbers are of 8 bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)
    return head + b"".join(struct.pack("<Q", p) if isinstance(p, int) else p for p in parts)


ARCHITECTURE = (20, b"general.architecture", b"\x08\0\0\0")
LLAMA = (*ARCHITECTURE, 5, b"llama")


@pytest.mark.parametrize(
    "data",
    [
        gguf(pairs=1 << 40),
        gguf(tensors=1 << 40),
        gguf(*ARCHITECTURE, 1 << 50, b"llama", pairs=1),
        gguf(*LLAMA, 17, b"general.alignment", b"\x04\0\0\0\0\0\0\0", pairs=2),
        gguf(
            *LLAMA, 7, b"../../x", b"\x01\0\0\0", 1 << 40, b"\0\0\0\0", 1 << 60, tensors=1, pairs=1
        ),
    ],
    ids=["pairs", "tensors", "text", "alignment", "tensor"],
)
def test_a_gguf_that_lies_is_one_error(tmp_path: Path, data: bytes) -> None:
    from olivebuild.ml.kinds.model import _convert

    (tmp_path / "m.gguf").write_bytes(data)
    (tmp_path / "out").mkdir()
    action = Action("a", "a", "model", "0" * 32, {}, {}, {}, str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"m\.gguf can't be read"):
        _convert(Job(action, io.StringIO()), tmp_path / "m.gguf", "float32")
