"""Weights that arrive on a device beforehand make the model that the files make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from olivebuild.formats.safetensors import tensors_of  # noqa: E402
from olivebuild.ml.models import load, streamed  # noqa: E402
from tests.support.tiny_models import make  # noqa: E402

pytestmark = [pytest.mark.scenario, pytest.mark.filterwarnings("ignore")]
CPU = torch.device("cpu")


def arrived(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stream to the processor where a GPU would be asked for; return the folders streamed."""
    folders: list[str] = []

    def taken(folder: Any, dtype: Any, device: Any) -> streamed.Streamed:
        streamed.check_dtype(folder, dtype)
        folders.append(str(folder))
        return streamed.stream(folder, device)

    monkeypatch.setattr(streamed, "taken", taken)
    monkeypatch.setattr(streamed, "PIECE", 1000)
    return folders


@pytest.mark.parametrize("architecture", ["phi3", "qwen2", "gemma"])
def test_a_model_of_streamed_weights_is_that_of_its_files(
    architecture: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    make(architecture, folder, tiny_model, seed=0)
    tensors = [t for file in folder.glob("*.safetensors") for t in tensors_of(file)]
    names = [tensor.name for tensor in tensors]
    (dtype,) = {getattr(torch, streamed.TORCH_NAMES[tensor.dtype]) for tensor in tensors}
    plain = load.load_model(folder, dtype)
    folders = arrived(monkeypatch)
    asked: list[str] = []

    def get_slice(self: Any, name: str) -> Any:
        asked.append(name)
        return self.get_tensor(name)

    monkeypatch.setattr(streamed._Arrived, "get_slice", get_slice)
    other = load.load_model(folder, dtype)
    assert folders == [str(folder)]
    assert sorted(asked) == sorted(names)
    expected, actual = plain.state_dict(), other.state_dict()
    assert list(expected) == list(actual)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert plain.generation_config == other.generation_config
    assert other.training is False


def test_weights_of_another_type_are_loaded_as_ever(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = arrived(monkeypatch)
    model = load.load_model(tiny_model, torch.float16)
    assert folders == []
    assert next(iter(model.parameters())).dtype == torch.float16


def test_files_that_end_early_are_refused_as_ever(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> int:
        return 0

    monkeypatch.setattr(os, "preadv", cut)
    with pytest.raises(OSError, match="the file ends early"):
        streamed.stream(tiny_model, CPU)


def test_what_is_begun_without_a_gpu_is_no_error(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    streamed.begin(tiny_model, "auto")
    future = streamed._begun[str(tiny_model)]
    assert isinstance(future.exception(60), streamed.Unstreamed)
    assert load.load_model(tiny_model, torch.float32) is not None
    del streamed._begun[str(tiny_model)]
