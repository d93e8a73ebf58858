"""What a benchmark's checks and an audit are there to find is found: a merge that is another one's,
other tokens, a lost stop token, wrong bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diskcache
import pytest

from olivebuild.api.action import ActionInput
from olivebuild.cache.index import JsonDisk
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError, StepError
from olivebuild.ml.kinds.measurements import check as benchmark_check_kind
from tests.conftest import Place
from tests.scenarios.steps import job_in

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]


def folder(place: Place, *parts: str) -> ActionInput:
    path = str(place.folder.joinpath(*parts))
    return ActionInput(path, path, parts[-1], parts[-1])


def check(
    place: Place, root: Path, what: str, *, precision: str = "int4", **inputs: ActionInput
) -> dict[str, Any]:
    """The figures of a check on the built recipe, with some inputs replaced."""
    built = {
        "base": folder(place, "tiny"), "adapter": folder(place, "build", "adapter"),
        "source": folder(place, "build", "merged"),
        "model": folder(place, "build", "merged" if what == "merge" else "onnx-int4"),
    }  # fmt: skip
    data = folder(place, "build", "tone")._replace(
        path=str(place.folder / "build/tone/test.parquet")
    )
    job = job_in(
        root,
        Store(place.cache),
        {**built, "data[0]": data, **inputs},
        fields={"what": what} | ({"precision": precision} if what == "onnx" else {}),
    )
    benchmark_check_kind.run(job)
    return dict(job.result.metrics)


def test_what_was_built_passes(copied: Place, tmp_path: Path) -> None:
    merge = check(copied, tmp_path / "a", "merge")
    assert merge["rows"] == 4
    assert merge["rms"] < 0.02
    assert merge["top1_agreement"] > 0.95
    onnx = check(copied, tmp_path / "b", "onnx")
    assert onnx["prompts"] == 8
    assert onnx["rms"] < 0.5


def test_a_model_without_a_chat_template_is_checked_on_prompts(
    copied: Place, tmp_path: Path
) -> None:
    inputs: dict[str, Any] = {}
    for role, name in (("source", "merged"), ("model", "onnx-int4")):
        plain = shutil.copytree(copied.folder / "build" / name, copied.folder / f"plain-{name}")
        (plain / "chat_template.jinja").unlink(missing_ok=True)
        config = json.loads((plain / "tokenizer_config.json").read_text())
        config.pop("chat_template", None)
        (plain / "tokenizer_config.json").unlink()
        (plain / "tokenizer_config.json").write_text(json.dumps(config))
        inputs[role] = folder(copied, plain.name)
    assert check(copied, tmp_path / "job", "onnx", **inputs)["prompts"] == 8


def test_a_merge_that_lacks_its_adapter_fails(copied: Place, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    loud = copied.folder / "loud"
    shutil.copytree(copied.folder / "build/adapter", loud)
    file = loud / "adapter_model.safetensors"
    # The adapter of four steps hardly does anything; this one does.
    save_file(
        {name: tensor + 0.3 for name, tensor in load_file(file).items()}, file, {"format": "pt"}
    )
    with pytest.raises(StepError, match="does not do what its adapter does"):
        check(copied, tmp_path / "job", "merge", adapter=folder(copied, "loud"))


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_a_tokenizer_that_makes_other_tokens_fails(copied: Place, tmp_path: Path) -> None:
    def swap(data: dict[str, Any]) -> None:
        words = data["model"]["vocab"]
        words["I"], words["Q"] = words["Q"], words["I"]

    change_json(copied.folder / "build/onnx-int4/tokenizer.json", swap)
    with pytest.raises(InputError, match="onnxruntime-genai makes other tokens of a prompt: token"):
        check(copied, tmp_path / "job", "onnx")


def test_a_stop_token_that_is_lost_fails(copied: Place, tmp_path: Path) -> None:
    change_json(
        copied.folder / "build/onnx-int4/genai_config.json",
        lambda data: data["model"].update(eos_token_id=3),
    )
    with pytest.raises(InputError, match=r"the stop token 2 is missing from genai_config.json"):
        check(copied, tmp_path / "job", "onnx")


def test_a_conversion_further_from_its_source_than_its_precision_explains_fails(
    copied: Place, tmp_path: Path
) -> None:
    # What int4 explains, fp32 does not.
    with pytest.raises(
        StepError,
        match=r"onnx-int4 is not what its source is in fp32: logits differ by \d.* rounding "
        r"explains "
        r"0\.0001; .* is the same for",
    ):
        check(copied, tmp_path / "a", "onnx", precision="fp32")
    data = copied.folder / "build/onnx-int4/model.onnx.data"
    half = data.stat().st_size // 2
    data.write_bytes(data.read_bytes()[:half][::-1].ljust(2 * half, b"\x11"))
    with pytest.raises(StepError, match="onnx-int4 is not what its source is in int4: logits"):
        check(copied, tmp_path / "b", "onnx")


def test_an_audit_finds_wrong_bytes(copied: Place) -> None:
    # Two tensors of one size change places in what is remembered of them, as if a kernel were
    # wrong.
    index = diskcache.Cache(str(copied.cache / "derived"), disk=JsonDisk, eviction_policy="none")
    rows = {key: json.loads(index[key]) for key in index}
    sizes = {key: [size for _, size in row] for key, row in rows.items()}
    first, second = next(
        (a, b) for a in rows for b in rows if a < b and rows[a] != rows[b] and sizes[a] == sizes[b]
    )
    index.set(first, json.dumps(rows[second]))
    index.set(second, json.dumps(rows[first]))
    index.close()
    shutil.rmtree(copied.cache / "traces")
    for file in copied.cache.glob("blobs/??/*.trace"):
        if json.loads(file.read_text().partition("\n")[2])["kind"] == "onnx":
            file.unlink()
    copied.environment["OLIVEBUILD_AUDIT"] = "1"
    done = copied.run("onnx-int4")
    assert done.code == 1
    assert "built tensor by tensor, model.onnx.data is not what the model builder makes" in done.err
    shutil.rmtree(copied.cache / "derived")
    assert copied.run("onnx-int4").code == 0
    copied.environment["OLIVEBUILD_AUDIT"] = "often"
    copied.edit("block_size: 32", "block_size: 16")
    assert "OLIVEBUILD_AUDIT is 'often', not a share" in copied.run("onnx-int4").err
