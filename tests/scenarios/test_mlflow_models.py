"""MLflow folders as models: what is made of them is what is made of the plain folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RECIPE, Place, rows, write_rows
from tests.support.hub import serving
from tests.support.mlflow_folders import LAYOUTS, TRANSFORMERS, transformers, write_mlmodel

pytestmark = pytest.mark.scenario
FRESH = {"base", "tone", "adapter", "merged", "onnx-int4"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_of_the_plain_folder_are_taken(copied: Place, layout: str) -> None:
    LAYOUTS[layout](copied.folder / "tiny", copied.folder / "catalogue/mlflow_model_folder")
    copied.edit("source: tiny", "source: catalogue")
    assert copied.verdicts() == dict.fromkeys(FRESH, "fresh")
    assert copied.build().ran == []
    # Nothing is copied: what lies side by side are links.
    view = next((copied.folder / ".olivebuild/mlflow").iterdir())
    assert all(path.is_symlink() for path in view.iterdir())


@pytest.mark.slow
def test_what_mlflow_itself_saves_is_read(copied: Place) -> None:
    tiny, script = copied.folder / "tiny", Path(__file__).parents[1] / "support/save_with_mlflow.py"
    for folder, adapter in (("phi", []), ("both", [copied.folder / "build/adapter"])):
        paths = [str(path) for path in (script, tiny, copied.folder / folder, *adapter)]
        subprocess.run([sys.executable, *paths], check=True, capture_output=True)
    copied.edit("source: tiny", "source: phi")
    # The tokenizer that it saves has another configuration than the one that it was given.
    assert copied.verdicts()["base"] == "fresh"
    view = next((copied.folder / ".olivebuild/mlflow").iterdir())
    assert (view / "model.safetensors").samefile(copied.folder / "phi/model/model.safetensors")
    assert (view / "tokenizer.json").is_file()
    copied.edit("source: phi", "source: both")
    done = copied.build()
    assert done.code == 1
    assert "the MLflow model is an adapter of " in done.err
    assert "name its folder peft/ as the `source`" in done.err


def test_an_adapter_is_trained_and_an_edit_is_seen(copied: Place) -> None:
    folder = transformers(copied.folder / "tiny", copied.folder / "phi")
    shutil.rmtree(copied.folder / "tiny")
    copied.edit("source: tiny", "source: phi")
    copied.edit("alpha: 8", "alpha: 16")
    assert copied.build("adapter").ran == ["adapter"]
    assert copied.build("adapter").ran == []
    config = json.loads(copied.built("adapter", "adapter_config.json"))
    assert config["lora_alpha"] == 16
    template = folder / "components/tokenizer/chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert copied.verdicts("adapter")["adapter"] == "stale"


def test_a_deleted_view_is_made_again(copied: Place) -> None:
    transformers(copied.folder / "tiny", copied.folder / "phi")
    copied.edit("source: tiny", "source: phi")
    assert copied.build().ran == []
    shutil.rmtree(copied.folder / ".olivebuild/mlflow")
    copied.edit("lr: 1e-3", "lr: 2e-3")
    assert copied.build("adapter").ran == ["adapter"]


def test_a_repository_of_the_hub_may_be_one(copied: Place, tmp_path: Path) -> None:
    theirs = LAYOUTS["hftransformersv2"](copied.folder / "tiny", tmp_path / "theirs")
    shutil.rmtree(copied.folder / "tiny")
    copied.edit("source: tiny", "source: hf:own/tiny")
    with serving(theirs) as (address, asked):
        home = tmp_path / "hf"
        copied.environment |= {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        done = copied.build()
        assert done.code == 0, done.err
        # The content is the one the adapter was made from, so nothing below runs.
        assert done.ran == ["base"]
        asked.clear()
        assert copied.build().ran == []
        assert asked == []


def recipe_with(place: Place, tiny_model: Path) -> Path:
    write_rows(place.folder / "data/tone.jsonl", rows())
    place.recipe.write_text(RECIPE.replace("source: tiny", "source: phi"))
    return transformers(tiny_model, place.folder / "phi")


def problem(place: Place) -> str:
    """Return the one error of a plan, which stops the build, too."""
    plan, build = place.run("plan", "--check"), place.build("adapter")
    assert build.code == 1
    assert not (place.folder / "build").exists()
    assert build.err in plan.err + plan.out or build.err
    return build.err


def test_the_inner_configuration_is_judged(place: Place, tiny_model: Path) -> None:
    folder = recipe_with(place, tiny_model)
    file = folder / "model/config.json"
    config = json.loads(file.read_text()) | {"architectures": ["BertForMaskedLM"]}
    file.write_text(json.dumps(config | {"model_type": "bert"}))
    assert "BertForMaskedLM" in problem(place)


def test_a_python_function_is_refused_by_name(place: Place, tiny_model: Path) -> None:
    folder = recipe_with(place, tiny_model)
    write_mlmodel(folder, {"python_function": {"loader_module": "evil", "code": "code"}})
    (folder / "evil.py").write_text("open('ran', 'w')")
    text = problem(place)
    assert "olivebuild.yaml:3" in text
    assert "python_function (loaded by evil)" in text
    assert not any(place.folder.rglob("ran"))


def test_pickled_weights_are_refused(place: Place, tiny_model: Path) -> None:
    folder = recipe_with(place, tiny_model)
    (folder / "model/model.safetensors").rename(folder / "model/pytorch_model.bin")
    assert "only pickled weights (pytorch_model.bin)" in problem(place)


def test_a_link_that_leaves_the_folder_is_refused(place: Place, tiny_model: Path) -> None:
    folder = recipe_with(place, tiny_model)
    (place.folder / "secret").write_text("{}")
    os.symlink(place.folder / "secret", folder / "components/tokenizer/vocab.json")
    assert "the link components/tokenizer/vocab.json in phi leads out of it" in problem(place)


def test_a_missing_tokenizer_is_told_with_its_folder(place: Place, tiny_model: Path) -> None:
    folder = recipe_with(place, tiny_model)
    shutil.rmtree(folder / "components")
    assert "phi/MLmodel: components/tokenizer/ is missing" in problem(place)
    write_mlmodel(folder, {"transformers": TRANSFORMERS | {"code": "code"}})
    assert "names code of the model's own (code: code)" in problem(place)
