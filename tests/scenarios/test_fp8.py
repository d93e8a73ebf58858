"""Trainings on a base in FP8: close to those on the base itself, merged into its own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.training import bytes_of, fit, token_rows

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]
FP8 = {"base": "fp8"}


def in_fp8(loop: Any) -> dict[str, Any]:
    from olivebuild.ml.nn.frozen.fp8 import Fp8Linear

    model = loop.runner.forward.model
    return {name: m for name, m in model.named_modules() if isinstance(m, Fp8Linear)}


def test_it_learns_nearly_the_same(llama: Path, tmp_path: Path) -> None:
    import torch

    batch, training = token_rows(5, 20), {"steps": 12}
    plain, _ = fit(tmp_path / "a", llama, batch, training)
    loop, said = fit(tmp_path / "b", llama, batch, training | FP8)
    assert loop.progress.losses != plain.progress.losses
    assert loop.progress.losses == pytest.approx(plain.progress.losses, rel=2e-2)
    layers = in_fp8(loop)
    # Seven in each of two layers, and not the head.
    assert len(layers) == 14
    # Twelve steps end on a second rounding.
    assert {m.turn for m in layers.values()} == {loop.runner.forward.turn} == {1}
    assert plain.runner.forward.turn == 0
    assert all(m.weight.dtype == torch.float8_e4m3fn for m in layers.values())
    assert any("14 frozen linear layers are in FP8" in str(e.get("text")) for e in said)
    again, _ = fit(tmp_path / "c", llama, batch, training | FP8)
    assert bytes_of(again) == bytes_of(loop)


def test_its_rows_are_packed_as_those_of_the_base_itself_are(llama: Path, tmp_path: Path) -> None:
    """Rounded inputs go to other numbers by the last bit; that is no other attention."""
    batch, training = token_rows(8, 20), {"steps": 2}
    plain, _ = fit(tmp_path / "a", llama, batch, training)
    loop, said = fit(tmp_path / "b", llama, batch, training | FP8)
    assert plain.runner.forward.setup.packed
    assert loop.runner.forward.setup == plain.runner.forward.setup
    assert not any("can't be used" in str(e.get("text")) for e in said)
    assert all(layer.rounds_inputs for layer in in_fp8(loop).values())


def test_layers_without_an_adapter_are_in_fp8_too(llama: Path, tmp_path: Path) -> None:
    batch, training = token_rows(5, 20), {"steps": 2}
    loop, _ = fit(tmp_path, llama, batch, training | FP8, modules=["q_proj", "down_proj"])
    assert len(in_fp8(loop)) == 14


def test_the_adapter_is_plain_lora_of_the_bases_own_weights(llama: Path, tmp_path: Path) -> None:
    """So a merge adds it to those, as to any other adapter's."""
    from olivebuild.ml.training.train import save_adapter

    batch, training = token_rows(5, 20), {"steps": 2}
    folders = []
    for name, more in (("plain", {}), ("fp8", FP8)):
        loop, _ = fit(tmp_path / name, llama, batch, training | more)
        folders.append(tmp_path / name / "adapter")
        folders[-1].mkdir()
        save_adapter(loop.runner.forward.model, folders[-1], "base")
    plain, rounded = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert plain.keys() == rounded.keys()
    assert plain["adapter_config.json"] == rounded["adapter_config.json"]
    assert len(plain["adapter_model.safetensors"]) == len(rounded["adapter_model.safetensors"])


@pytest.mark.parametrize("capability", [(8, 0), (8, 6)])
def test_a_card_without_its_products_is_told_before_the_model_is_loaded(
    capability: tuple[int, int], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from olivebuild.cache.store import Store
    from olivebuild.core.errors import InputError
    from olivebuild.ml.nn.frozen import base as frozen_base
    from olivebuild.steps.adapter import AdapterFields
    from tests.scenarios.steps import job_in

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    fields = AdapterFields.model_validate({"model": "base", "data": "tone", "training": FP8})
    job = job_in(tmp_path / "job", Store(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"compute capability 8\.9 or later"):
        frozen_base.load_base(job, fields, torch.device("cuda"), torch.bfloat16)
