"""MLflow model folders: the files that make the model, or why they can't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olivebuild.core.errors import InputError
from olivebuild.formats.mlflow import mlmodel
from tests.support import mlflow_folders
from tests.support.mlflow_folders import AZURE, LAYOUTS, PYTHON, TRANSFORMERS

PLAIN = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in PLAIN:
        (folder / name).write_text(name)
    return folder


def names_below(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]


def files_of(folder: Path, *, trust: bool = False) -> dict[str, str]:
    layout = mlmodel.layout_of(mlmodel.read(folder / "MLmodel"), "MLmodel", trust=trust)
    return mlmodel.files_of(layout, names_below(folder), "MLmodel")


def refused(flavours: dict[str, Any], **files: str) -> tuple[str, str]:
    """Return the fact and hint for a model with these flavours."""

    def look() -> None:
        layout = mlmodel.layout_of({"flavors": flavours}, "MLmodel", trust=False)
        mlmodel.files_of(layout, list(files.values()), "MLmodel")

    with pytest.raises(InputError) as e:
        look()
    assert str(e.value.where) == "MLmodel"
    return e.value.fact, e.value.hint


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_files_of_the_model_lie_side_by_side(plain: Path, tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](plain, tmp_path / "mlflow")
    assert mlmodel.find(folder) == folder
    files = files_of(folder)
    assert {name: (folder / path).read_text() for name, path in files.items()} == {
        name: name for name in PLAIN
    }


def test_folders_that_are_listed_hold_all_files(plain: Path, tmp_path: Path) -> None:
    folder = mlflow_folders.azure(plain, tmp_path / "mlflow")
    layout = mlmodel.layout_of(mlmodel.read(folder / "MLmodel"), "", trust=False)
    paths = {p.relative_to(folder).as_posix() for p in mlmodel.listed(folder, layout)}
    assert paths >= set(files_of(folder).values()) | {"data/model", "data/config"}
    assert "conda.yaml" not in paths


def test_a_template_of_its_own_folder_is_found(plain: Path, tmp_path: Path) -> None:
    folder = mlflow_folders.transformers(plain, tmp_path / "mlflow")
    extra = folder / "components/tokenizer/additional_chat_templates"
    extra.mkdir()
    (extra / "tools.jinja").write_text("")
    name = "additional_chat_templates/tools.jinja"
    assert files_of(folder)[name] == f"components/tokenizer/{name}"


def test_the_tokenizers_folder_does_not_replace_the_models_configuration(
    plain: Path, tmp_path: Path
) -> None:
    folder = mlflow_folders.transformers(plain, tmp_path / "mlflow")
    (folder / "components/tokenizer/config.json").write_text("another")
    assert files_of(folder)["config.json"] == "model/config.json"


def test_find(plain: Path, tmp_path: Path) -> None:
    assert mlmodel.find(plain) is None
    inner = mlflow_folders.transformers(plain, tmp_path / "download/mlflow_model_folder")
    assert mlmodel.find(inner.parent) == inner
    (inner.parent / "another").mkdir()
    (inner.parent / "another/MLmodel").write_text("")
    assert mlmodel.find(inner.parent) is None
    (inner / "config.json").write_text("{}")
    assert mlmodel.find(inner) is None


@pytest.mark.parametrize(
    ("names", "root"),
    [
        (["MLmodel", "model/config.json"], ""),
        (["m/MLmodel", "m/model/config.json"], "m"),
        (["config.json", "MLmodel"], None),
        (["a/b/MLmodel"], None),
        (["a/MLmodel", "b/MLmodel"], None),
        (["model/config.json"], None),
        (["xMLmodel"], None),
    ],
)
def test_root_of(names: list[str], root: str | None) -> None:
    assert mlmodel.root_of(names) == root


def test_other_flavours_are_named() -> None:
    fact, hint = refused({"sklearn": {"pickled_model": "model.pkl"}, "python_function": PYTHON})
    assert "sklearn, python_function (loaded by mlflow.transformers)" in fact
    assert "is code, which is not run" in hint
    fact, hint = refused({"onnx": {}})
    assert fact.endswith("its flavours are onnx")
    assert "hftransformersv2" in hint
    assert refused({})[0].endswith("none")


@pytest.mark.parametrize("flavour", [TRANSFORMERS, AZURE])
def test_code_of_the_models_own_takes_trust(flavour: dict[str, Any]) -> None:
    name = "transformers" if flavour is TRANSFORMERS else "hftransformersv2"
    fact, hint = refused({name: flavour | {"code": "code"}})
    assert fact == "MLmodel names code of the model's own (code: code)"
    assert "trust_remote_code: true" in hint
    mlmodel.layout_of({"flavors": {name: flavour | {"code": "code"}}}, "", trust=True)


@pytest.mark.parametrize(
    ("changes", "fact", "hint"),
    [
        (
            {"peft_adaptor": "peft"},
            "is an adapter of own/tiny",
            "its folder peft/ as the `source` of a target of kind adapter, and the model it was "
            "trained on as its `model`: model/, with the files of components/tokenizer/",
        ),
        (
            {"peft_adaptor": "peft", "model_binary": None},
            "is an adapter of own/tiny",
            "trained on as its `model`",
        ),
        (
            {"model_binary": None, "local_base_model_path": "/mnt/base"},
            "they lay at /mnt/base",
            "name the folder",
        ),
        (
            {"model_binary": None, "source_model_revision": "abc123"},
            "holds no weights",
            "hf:own/tiny@abc123",
        ),
        ({"model_binary": "../other"}, "'../other'", "beside MLmodel"),
        ({"model_binary": "/etc"}, "'/etc'", "beside MLmodel"),
        ({"model_binary": ["model"]}, "a list", "beside MLmodel"),
        ({}, "model/ is missing", "complete"),
    ],
)
def test_a_model_that_is_not_there(changes: dict[str, Any], fact: str, hint: str) -> None:
    given = refused({"transformers": TRANSFORMERS | changes})
    assert fact in given[0]
    assert hint in given[1]


def test_missing_parts_are_named() -> None:
    flavours = {"transformers": TRANSFORMERS}
    assert refused(flavours, a="model/model.safetensors")[0] == "model/config.json is missing"
    fact, _ = refused(flavours, a="model/config.json")
    assert fact == "components/tokenizer/ is missing, which MLmodel names as the tokenizer"
    fact, _ = refused({"hftransformersv2": AZURE}, a="data/model/model.safetensors")
    assert fact == "data/config/config.json is missing"


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    "write",
    [
        lambda f: f.write_text("flavors: ["),
        lambda f: f.write_text("flavors: !!python/object/apply:os.system ['touch ran']"),
        lambda f: f.write_text("- transformers"),
        lambda f: f.write_text("flavors: transformers"),
        lambda f: f.write_bytes(b"\xff\xfe"),
        lambda f: f.write_text("[" * 5000),
        lambda f: f.write_text("x" * (2 << 20)),
        lambda f: f.mkdir(),
    ],
)
def test_a_broken_mlmodel_is_one_error(tmp_path: Path, write: Break) -> None:
    write(tmp_path / "MLmodel")
    with pytest.raises(InputError, match="MLmodel") as e:
        mlmodel.read(tmp_path / "MLmodel")
    assert "mlflow wrote" in e.value.hint
    assert "\n" not in e.value.fact


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("../x"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*TRANSFORMERS, *AZURE, "tokenizer"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(
    max_examples=200,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    st.dictionaries(
        st.sampled_from(["transformers", "hftransformersv2", "python_function", "x"]),
        st.dictionaries(
            st.sampled_from([*TRANSFORMERS, *AZURE, "peft_adaptor", "source_model_revision"]),
            VALUES,
        )
        | VALUES,
    ),
    st.lists(st.sampled_from(["model/config.json", "data/config/config.json", "x", "../x"])),
)
def test_whatever_it_says_is_read_or_one_error(flavours: dict[str, Any], names: list[str]) -> None:
    fault, files = None, dict[str, str]()
    try:
        layout = mlmodel.layout_of({"flavors": flavours}, "MLmodel", trust=False)
        files = mlmodel.files_of(layout, names, "MLmodel")
    except InputError as e:
        fault = e
    assert str(fault.where) == "MLmodel" if fault else "config.json" in files
    assert not any(".." in path for path in files.values())
