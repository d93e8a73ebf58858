"""MLflow models that lie elsewhere: which files come, and by which names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.ml.models.remotes.mlflow_files import is_mlflow, of_model, plain
from tests.ml.remotes.asking import Asking
from tests.support.mlflow_folders import PYTHON, TRANSFORMERS, write_mlmodel

INNER = (
    "MLmodel",
    "model/config.json",
    "model/model.safetensors",
    "components/tokenizer/tokenizer.json",
)


@pytest.mark.parametrize("root", ["", "m/"])
def test_the_files_below_mlmodel_are_the_models(root: str) -> None:
    names = [f"{root}{name}" for name in INNER]
    assert is_mlflow([*names, "README.md"])
    assert of_model([*names, "x/other.json"])[: len(names)] == names
    assert ("x/other.json" in of_model([*names, "x/other.json"])) is (root == "")


def test_without_mlmodel_there_is_no_mlflow() -> None:
    assert not is_mlflow(["config.json", "mlmodel", "MLmodel.txt"])
    assert not is_mlflow([])


def brought(folder: Path, flavours: dict[str, Any], names: tuple[str, ...], **fields: Any) -> Any:
    """Return the plain files of a model below m/, and what was fetched to know them."""
    write_mlmodel(folder / "m", flavours)
    asking = Asking(folder, "s3://bucket/m/", kind="model")
    job = asking.job()
    job.action.fields.update(fields)
    fetched: list[str] = []

    def bring(name: str) -> Path:
        fetched.append(name)
        return folder / name

    files = {f"m/{name}": f"<{name}>" for name in names} | {"other": "<other>"}
    return plain(job, "s3://bucket/m/", files, bring), fetched


def test_files_get_the_names_that_loaders_look_for(tmp_path: Path) -> None:
    flavours = {"python_function": PYTHON, "transformers": TRANSFORMERS}
    files, fetched = brought(tmp_path, flavours, INNER)
    assert files == {
        "config.json": "<model/config.json>",
        "model.safetensors": "<model/model.safetensors>",
        "tokenizer.json": "<components/tokenizer/tokenizer.json>",
    }
    assert fetched == ["m/MLmodel"]


@pytest.mark.parametrize(
    "flavours",
    [
        {"python_function": PYTHON},
        {"sklearn": {"pickled_model": "model.pkl"}},
        {"transformers": {**TRANSFORMERS, "model_binary": "../../elsewhere"}},
        {"transformers": {**TRANSFORMERS, "code": "code"}},
    ],
)
def test_what_is_no_model_here_is_one_error_with_its_place(
    tmp_path: Path, flavours: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as caught:
        brought(tmp_path, flavours, INNER)
    assert caught.value.fact.startswith("s3://bucket/m/: ")
    assert str(caught.value.where) == "olivebuild.yaml:2:5"
    assert caught.value.hint
