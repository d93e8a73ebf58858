"""A hub's model is judged by its small files before its weights are fetched, and of those only what
is loaded is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Place
from tests.formats.test_model_folders import (
    PACKED,
    configured,
    renamed,
    sharded,
    stored,
    without,
    written,
)
from tests.support.bases import make_base, tokenizer
from tests.support.hub import COMMIT, serving

RECIPE = """\
targets:
  rows: {kind: dataset, source: rows.jsonl, user: "{q}", assistant: "{a}"}
  base: {kind: model, source: "hf:own/tiny"}
  adapter: {kind: adapter, model: base, data: rows.train}
  merged: {kind: merged, model: base, adapter: adapter}
  int4: {kind: onnx, model: merged}
"""
SMALL = ["chat_template.jinja", "config.json", "tokenizer.json"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    make_base(tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def asked(place: Place, repository: Path, tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """The files that were asked for since it was asked last."""
    place.recipe.write_text(RECIPE)
    (place.folder / "rows.jsonl").write_text(
        "".join(json.dumps({"q": f"what is {i}", "a": str(i)}) + "\n" for i in range(9))
    )
    with serving(repository) as (address, paths):
        place.environment |= {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
        }

        def since() -> list[str]:
            found = sorted(
                {path.partition(f"/resolve/{COMMIT}/")[2] for path in paths if "/resolve/" in path}
            )
            paths.clear()
            return found

        yield since


def several(folder: Path) -> None:
    """Two shards and their index; and beside them what other programs load, of which nothing is
    needed.
    """
    sharded(0, 1)(folder)
    for name in (
        "consolidated.safetensors",
        "model.fp16.safetensors",
        "original/model.safetensors",
        "onnx/model.onnx",
        "pytorch_model.bin",
        "x.gguf",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not to be fetched")


@pytest.mark.parametrize(
    ("make", "weights"),
    [
        (lambda _: None, ["model.safetensors"]),
        (several, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
    ],
)
def test_what_is_small_comes_first_and_of_the_weights_what_is_loaded(
    place: Place,
    repository: Path,
    asked: Callable[[], list[str]],
    make: Callable[[Path], None],
    weights: list[str],
) -> None:
    make(repository)
    indices = ["model.safetensors.index.json"] if len(weights) > 1 else []
    done = place.build("base")
    assert done.ran == ["base"], done.err
    assert asked() == sorted([*SMALL, *indices, *weights])
    assert place.build("base").ran == []
    assert asked() == []


FAULTS: list[tuple[Callable[[Path], None], str, str, str]] = [
    (configured(architectures=["Olmo2ForCausalLM"], model_type="olmo2"),
     "the model builder (onnxruntime-genai ", "6:22", "a merge of it can be"),
    (configured(architectures=["OwnForCausalLM"], model_type="own",
                auto_map={"AutoModelForCausalLM": "own.Own"}), "and code that comes with", "3:23",
     "trust_remote_code: true on the model would let it run its own code"),
    (stored(PACKED, quantization_config={"quant_method": "gptq", "bits": 4}),
     "the base model is quantised (gptq)", "5:26", "name the full"),
    (written("tokenizer.json", tokenizer("<|im_end|>")),
     "the tokenizer has 13 tokens, the model's embedding 12", "3:23", "'<|im_end|>' has no"),
    (without("chat_template.jinja"),
     "the model has no chat template, by which the rows of rows are rendered", "4:41",
     "write the turns out"),
    # What only the list of the repository's files tells.
    (without("config.json"), "hf:own/tiny is no Hugging Face model: config.json is missing", "3:23",
     "name the folder that holds"),
    (renamed("pytorch_model.bin"),
     "hf:own/tiny: only pickled weights (pytorch_model.bin) in the model folder", "3:23",
     "olivebuild reads"),
    (sharded(0), "hf:own/tiny, model.safetensors.index.json: model-00002-of-00002.safetensors is",
     "3:23", "is"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "fact", "where", "hint"), FAULTS)
def test_what_is_wrong_is_said_before_weights_are_fetched_or_rows_are_read(
    place: Place,
    repository: Path,
    asked: Callable[[], list[str]],
    damage: Callable[[Path], None],
    fact: str,
    where: str,
    hint: str,
) -> None:
    damage(repository)
    done = place.build("int4")
    assert (done.code, done.events[-1]["ran"]) == (1, []), done.err
    assert f"olivebuild.yaml:{where}: error: " in done.err
    assert fact in done.err
    assert f"hint: {hint}" in done.err
    assert [name for name in asked() if name.endswith((".safetensors", ".bin"))] == []
    # What is here now, `plan` tells, too, and asks nobody; but for what only the hub knows.
    told = place.run("plan", "int4")
    assert told.code == (0 if "hf:own" in fact else 1)
    assert fact in told.err or "hf:own" in fact
    assert asked() == []


def test_other_targets_are_made_all_the_same(
    place: Place, repository: Path, asked: Callable[[], list[str]]
) -> None:
    renamed("pytorch_model.bin")(repository)
    done = place.build("-k", "int4", "rows")
    assert (done.code, done.events[-1]["ran"], done.events[-1]["failed"]) == (1, ["rows"], ["base"])


def test_small_files_that_are_not_all_here_tell_nothing(
    place: Place, repository: Path, asked: Callable[[], list[str]]
) -> None:
    configured(architectures=["NewForCausalLM"], model_type="new")(repository)
    assert place.build("merged").code == 1
    shutil.rmtree(next(Path(place.environment["HF_HOME"]).glob("hub/*/trees")))
    assert place.run("plan", "merged").code == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_in_the_hubs_cache_is_not_waited_for(tmp_path: Path) -> None:
    from olivebuild.ml.models.remotes.hub import _damaged

    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / COMMIT
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name, digest in (("config.json", "a" * 40), ("model.safetensors", "b" * 64)):
        os.mkfifo(blobs / digest)
        (snapshot / name).symlink_to(f"../../blobs/{digest}")
    assert _damaged(snapshot, None) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("of", ["file", "pipe", "link to a file"])
def test_a_snapshot_that_is_no_folder_is_one_error(
    place: Place, repository: Path, asked: Callable[[], list[str]], of: str
) -> None:
    configured(architectures=["NewForCausalLM"], model_type="new")(repository)
    assert place.build("merged").code == 1
    place.environment["HF_HUB_OFFLINE"] = "1"
    snapshot = next(Path(place.environment["HF_HOME"]).glob("hub/*/snapshots/*"))
    shutil.rmtree(snapshot)
    # As an older version of the hub's client leaves its cache.
    shutil.rmtree(snapshot.parent.parent / "trees")
    if of == "pipe":
        os.mkfifo(snapshot)
    elif of == "file":
        snapshot.write_text("{}")
    else:
        snapshot.symlink_to(place.recipe)
    done = place.build("merged")
    assert done.code == 1
    assert "olivebuild.yaml:3:" in done.err
    assert "is not a folder" in done.err, done.err
    assert "hint: delete it, and it is fetched again" in done.err
