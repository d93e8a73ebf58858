"""Adapters in the slots of ONNX models, beside the merged model that they stand for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.api.action import ActionInput
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.formats.structure import adapter_slots
from olivebuild.ml.kinds import onnx as onnx_kind
from olivebuild.ml.kinds import onnx_adapter as onnx_adapter_kind
from tests.conftest import Place, rows, write_rows
from tests.scenarios.merging import adapt
from tests.scenarios.steps import given, job_in
from tests.support.tiny_models import make

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]
IDS = list(range(3, 23))


def converted(folder: Path, store: Store, model: Path, **options: Any) -> Path:
    fields = {"model": "base", "precision": "fp32", "slots": "all-linear"} | options
    fields = {name: value for name, value in fields.items() if value is not None}
    job = job_in(folder, store, {"model": given(store, model)}, kind="onnx", fields=fields)
    onnx_kind.run(job)
    assert job.result.provenance["by"] == "tensors"
    out = folder / "onnx"
    out.mkdir()
    store.restore(store.manifest(job.result.manifest), out)
    return out


def apart(folder: Path, store: Store, base: Path, adapter: Path, **options: Any) -> Path:
    """Make an adapter's file from a folder, as a target of kind onnx-adapter does."""
    slots = ActionInput(str(base), str(base / adapter_slots.NAME), "onnx", "int4")
    fields = {"base": "int4", "source": str(adapter)} | options
    job = job_in(folder, store, {"slots": slots}, kind="onnx-adapter", fields=fields)
    onnx_adapter_kind.run(job)
    return job.out


def logits(runtime: Any) -> np.ndarray:
    generator = runtime.generator(64)
    generator.append_tokens(np.array(IDS, dtype=np.int32))
    return np.asarray(generator.get_logits(), dtype=np.float32).ravel().copy()


def by_peft(base: Path, adapter: Path) -> np.ndarray:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.inference_mode():
        wrapped = PeftModel.from_pretrained(model, str(adapter)).eval()
        return np.asarray(wrapped(input_ids=torch.tensor([IDS])).logits[0, -1].numpy())


def spread(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / a.std())


# Llama's query, key and value are one product; Phi-3's gate and up are one weight in two products.
@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_an_adapter_in_slots_gives_what_it_gives_beside_its_base(
    name: str, tmp_path: Path, tiny_model: Path, store: Store
) -> None:
    from olivebuild.ml.inference.generate import open_model
    from olivebuild.ml.inference.onnx_runtime import OnnxRuntime

    base = tmp_path / "base"
    make(name, base, tiny_model, dtype="float32")
    all_linear = adapt(base, tmp_path / "all", r=4, lora_alpha=8, target_modules="all-linear")
    some = adapt(
        base,
        tmp_path / "some",
        r=16,
        lora_alpha=4,
        use_rslora=True,
        target_modules=["o_proj", "down_proj"],
        rank_pattern={"o_proj": 2},
    )
    with_slots = converted(tmp_path / "slots", store, base)
    plain = converted(tmp_path / "plain", store, base, slots=None)
    runtime = open_model(str(with_slots), "", trust_remote_code=False)
    assert isinstance(runtime, OnnxRuntime)
    before = logits(open_model(str(plain), "", trust_remote_code=False))
    assert np.array_equal(logits(runtime), before)
    others = {}
    for number, adapter in enumerate((all_linear, some)):
        folder = apart(tmp_path / f"apart{number}", store, with_slots, adapter)
        others[adapter] = runtime.adapted(folder)
    # In turns: what answers is asked, and no state of the model.
    for adapter in (all_linear, some, all_linear):
        expected = by_peft(base, adapter)
        assert spread(expected, before) > 0.1
        assert spread(expected, logits(others[adapter])) < 1e-4
    assert np.array_equal(logits(runtime), before)


def test_int4_with_an_adapter_apart_is_as_near_as_int4_of_the_merge(
    tmp_path: Path, llama: Path, store: Store
) -> None:
    from olivebuild.ml.inference.generate import open_model

    adapter = adapt(llama, tmp_path / "adapter", r=4, lora_alpha=8, target_modules=["q_proj"])
    base = converted(tmp_path / "base", store, llama, precision="int4", slots=["q_proj"])
    folder = apart(tmp_path / "apart", store, base, adapter)
    runtime = open_model(str(base), str(folder), trust_remote_code=False)
    merge(llama, adapter, tmp_path / "merged")
    of_merge = converted(
        tmp_path / "int4", store, tmp_path / "merged", precision="int4", slots=None
    )
    expected = by_peft(llama, adapter)
    far = [
        float(np.square(found - expected).mean() ** 0.5)
        for found in (
            logits(runtime),
            logits(open_model(str(of_merge), "", trust_remote_code=False)),
        )
    ]
    assert far[0] < 1.5 * far[1]
    # One product holds query, key and value, so that all three have a slot.
    slots = adapter_slots.read(base / adapter_slots.NAME)
    ends = {module.rpartition(".")[2] for module in slots.modules}
    assert ends == {"q_proj", "k_proj", "v_proj"}


def merge(base: Path, adapter: Path, out: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(out)
    for path in base.glob("tokenizer*"):
        shutil.copyfile(path, out / path.name)


def test_what_does_not_fit_the_slots_is_refused(
    tmp_path: Path, llama: Path, tiny_model: Path, store: Store
) -> None:
    from olivebuild.ml.inference.generate import open_model

    base = converted(tmp_path / "base", store, llama, precision="int4", slots=["o_proj"])
    more = adapt(llama, tmp_path / "more", r=4, target_modules=["o_proj", "down_proj"])
    with pytest.raises(InputError, match=r"mlp.down_proj, for which int4 has no slot") as caught:
        apart(tmp_path / "1", store, base, more)
    assert "down_proj" in caught.value.hint
    dora = adapt(llama, tmp_path / "dora", r=4, target_modules=["o_proj"], use_dora=True)
    with pytest.raises(InputError, match="can't be kept apart"):
        apart(tmp_path / "2", store, base, dora)
    wide = tmp_path / "wide"
    make("llama", wide, tiny_model, hidden_size=128)
    other = adapt(wide, tmp_path / "other", r=4, target_modules=["o_proj"])
    with pytest.raises(InputError, match="is for a weight of 128 x 128"):
        apart(tmp_path / "3", store, base, other)
    good = adapt(llama, tmp_path / "good", r=4, target_modules=["o_proj"])
    folder = apart(tmp_path / "4", store, base, good)
    plain = converted(tmp_path / "plain", store, llama, precision="int4", slots=None)
    with pytest.raises(InputError, match="the model has no slots"):
        open_model(str(plain), str(folder), trust_remote_code=False)
    with pytest.raises(InputError, match="no adapter for an ONNX model"):
        open_model(str(base), str(good), trust_remote_code=False)


@pytest.mark.parametrize("text", ["{", '{"version": 2}', None])
def test_a_damaged_list_of_slots_is_told_with_its_place(
    text: str | None, tmp_path: Path, store: Store
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    if text is None:
        (base / adapter_slots.NAME).mkdir()
    else:
        (base / adapter_slots.NAME).write_text(text)
    with pytest.raises(InputError, match="slots can't be read") as caught:
        apart(tmp_path / "apart", store, base, tmp_path / "adapter")
    assert str(base) in caught.value.fact
    assert caught.value.hint == "build the model again"


def test_slots_for_a_module_that_is_not_there_are_refused(
    tmp_path: Path, llama: Path, store: Store
) -> None:
    with pytest.raises(InputError, match="of the module 'wqkv'") as caught:
        converted(tmp_path / "base", store, llama, slots=["wqkv"])
    assert "o_proj" in caught.value.hint


MORE = """\
  slotted: {kind: onnx, model: base, block_size: 32, slots: all-linear}
  apart: {kind: onnx-adapter, base: slotted, adapter: adapter}
"""
SWITCHED = """\
I am glad
/adapter brought
I am glad
/adapter slotted
I am glad
/adapter apart
I am glad
/adapter
"""
BROUGHT = "  brought: {kind: onnx-adapter, base: slotted, source: lora}\n"


def test_adapters_are_built_asked_switched_and_exported(copied: Place) -> None:
    # So much that it answers otherwise than its base.
    copied.edit("{lr: 1e-3, steps: 4, batch: 4}", "{lr: 2e-2, steps: 20, batch: 8}")
    with open(copied.recipe, "a") as recipe:
        recipe.write(MORE)
    first = copied.build("apart")
    assert sorted(first.ran) == ["adapter", "apart", "slotted"], first.err
    # Another adapter costs itself alone.
    shutil.copytree(copied.folder / "build/adapter", copied.folder / "lora")
    with open(copied.recipe, "a") as recipe:
        recipe.write(BROUGHT)
    second = copied.build("brought")
    assert second.ran == ["brought"], second.err
    assert copied.built("brought", "adapter.onnx_adapter") == copied.built(
        "apart", "adapter.onnx_adapter"
    )
    write_rows(copied.folder / "few.jsonl", rows()[:2])
    asked = ["--in", "few.jsonl", "--max-tokens", "6"]
    by_name = copied.run("predict", "slotted", "--adapter", "brought", *asked)
    alone = copied.run("predict", "apart", *asked)
    assert (by_name.code, len(by_name.out.splitlines())) == (0, 2), by_name.err
    assert by_name.out == alone.out
    base = copied.run("predict", "slotted", *asked)
    assert (base.code, len(base.out.splitlines())) == (0, 2), base.err
    assert base.out != alone.out
    words = [sys.executable, "-m", "olivebuild", "chat", "slotted", "--max-tokens", "6"]
    chat = subprocess.run(
        # One template for all, so that answers differ by who gives them alone.
        [*words, "--chat-template", "--adapter", "apart", "--adapter", "brought"],
        input=SWITCHED,
        cwd=copied.folder,
        env=os.environ | {"OLIVEBUILD_CACHE": str(copied.cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    answers = re.split(r"(?:\w+) answers from here on\n", chat.stdout)
    assert len(answers) == 4
    told = "there are slotted, apart (now), brought\n"
    assert answers[3].endswith(told)
    apart_, brought, slotted, again = [*answers[:3], answers[3].removesuffix(told)]
    # The same numbers under another name, and the model itself between the two.
    assert apart_ == brought == again
    assert slotted != apart_
    done = copied.run("export", "apart", "out", "--force")
    assert done.code == 0, done.err
    out = copied.folder / "out"
    assert (out / "adapters/apart/adapter.onnx_adapter").is_file()
    assert (out / "model.onnx").read_bytes() == copied.built("slotted", "model.onnx")
    listed = json.loads((out / "olivebuild-export.json").read_text())["files"]
    assert "adapters/apart/adapter.onnx_adapter" in {file["name"] for file in listed}
