"""Resource paths of Olive as sources: strings, and each type of resource."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.recipe.importers.olive.resources import joined, resource, source_of
from olivebuild.recipe.importers.positions import Placeholder
from tests.recipe.importers.olive.reading import Reading

CLIENT = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}


def source(value: Any, **more: Any) -> tuple[object, Reading]:
    reading = Reading({"model_path": value, **more})
    return resource(reading.workflow, reading.root, "model_path", "base.source"), reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/tiny", "hf:acme/tiny"),
        ("tiny", "hf:tiny"),
        ("acme/tiny/x", "acme/tiny/x"),
        ("./tiny", "./tiny"),
        ("hf://acme/tiny", "hf:acme/tiny"),
        ("hf://datasets/acme/rows", "hf:acme/rows"),
        ("acme/Tiny.GGUF", "gguf:acme/Tiny.GGUF"),
        ("https://h.example/a.csv", "https://h.example/a.csv"),
        (
            "azureml://registries/r/models/m/versions/1",
            "azureml://registries/r/models/m/versions/1",
        ),
        ("/models/tiny", "/models/tiny"),
    ],
)
def test_a_string_is_a_path_an_id_or_a_url(text: str, expected: str) -> None:
    reading = Reading({})
    assert source_of(reading.workflow, text) == expected


def test_what_lies_beside_the_file_is_no_id(tmp_path: Path) -> None:
    (tmp_path / "acme" / "tiny").mkdir(parents=True)
    out = tmp_path / "out"
    reading = Reading({}, folder=tmp_path, out=out)
    assert source_of(reading.workflow, "acme/tiny") == "../acme/tiny"
    assert source_of(reading.workflow, "acme/other") == "hf:acme/other"
    assert source_of(reading.workflow, "a" * 5000) == f"hf:{'a' * 5000}"


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        ("File", {"path": "a.csv"}, "a.csv"),
        ("folder", {"path": "acme/tiny"}, "acme/tiny"),
        ("string_name", {"name": "acme/tiny"}, "hf:acme/tiny"),
        (
            "azureml_registry_model",
            {"registry_name": "r", "name": "m", "version": 3},
            "azureml://registries/r/models/m/versions/3",
        ),
        (
            "azureml_model",
            {"azureml_client": CLIENT, "name": "m", "version": "3"},
            "azureml://subscriptions/s/resourcegroups/g/workspaces/w/models/m/versions/3",
        ),
        (
            "azureml_datastore",
            {"azureml_client": CLIENT, "datastore_name": "d", "relative_path": "a/b"},
            "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/a/b",
        ),
        ("azureml_datastore", {"datastore_url": "azureml://x"}, "azureml://x"),
    ],
)
@pytest.mark.parametrize("is_flat", [False, True])
def test_each_type_is_a_source(
    kind: str, config: dict[str, Any], expected: str, is_flat: bool
) -> None:
    value = {"type": kind} | (config if is_flat else {"config": config})
    result, reading = source(value)
    assert result == expected
    assert not reading.unclaimed()
    assert not reading.refusals()


def test_a_workspace_is_that_of_the_file_or_left_open() -> None:
    value = {"type": "azureml_model", "config": {"name": "m", "version": "3"}}
    shared, _ = source(value, azureml_client=CLIENT)
    assert str(shared).startswith("azureml://subscriptions/s/")
    open_, _ = source(value)
    assert isinstance(open_, Placeholder)
    assert "the file has no azureml_client" in open_.text
    half, _ = source(value, azureml_client={"aml_config_path": "ws.json", "workspace_name": "w"})
    assert isinstance(half, Placeholder)
    assert "/workspaces/w/" in half.text
    assert "subscription_id of ws.json" in half.text


def test_the_url_of_a_datastore_says_it_whole() -> None:
    config = {"datastore_url": "azureml://x", "azureml_client": CLIENT, "relative_path": "a"}
    result, reading = source({"type": "azureml_datastore", "config": config})
    assert result == "azureml://x"
    entry = reading.entries()["model_path.config.relative_path"]
    assert entry.text == "datastore_url says it whole"


@pytest.mark.parametrize(
    ("value", "path", "fact"),
    [
        (3, "model_path", "model_path is a number where text or a mapping must stand"),
        (["a"], "model_path[0]", "model_path is a list where text or a mapping must stand"),
        (" ", "model_path", "model_path is empty"),
        ({"type": "folder", "config": {"path": ""}}, "model_path.config.path", "no `path`"),
        ({"config": {"path": "a"}}, "model_path.config.path", "a resource without `type`"),
        (
            {"type": "fiel", "config": {"path": "a"}},
            "model_path.type",
            "fiel is no kind of resource that can be read here",
        ),
        ({"type": "file", "config": {}}, "model_path.config", "no `path`"),
        ({"type": "file", "config": {"path": None}}, "model_path.config.path", "no `path`"),
        (
            {"type": "file", "config": {"path": True}},
            "model_path.config.path",
            "path is true where text must stand",
        ),
        (
            {"type": "file", "config": {"path": "a", "pth": "b"}},
            "model_path.config.pth",
            "unknown field 'pth'",
        ),
        (
            {"type": "azureml_registry_model", "config": {"registry_name": "r", "name": "m"}},
            "model_path.config.registry_name",
            "no `version`",
        ),
        (
            {"type": "azureml_job_output", "config": {"job": "j"}},
            "model_path.type",
            "azureml_job_output is no kind of resource that can be read here",
        ),
    ],
)
def test_a_fault_is_refused_where_it_stands(value: Any, path: str, fact: str) -> None:
    _, reading = source(value)
    entries = reading.entries()
    assert reading.refusals() == {path: fact} | {
        p: f for p, f in reading.refusals().items() if p != path and f == fact
    }
    assert entries[path].hint


def test_a_placeholder_in_a_part_leaves_the_whole_open() -> None:
    assert joined(["a", "b"], "{}/{}") == "a/b"
    assert joined(["a", Placeholder("b")], "{}/{}") == Placeholder("a/b")
    result, reading = source("<model>")
    assert result == Placeholder("model")
    assert not reading.unclaimed()


def test_null_is_no_source() -> None:
    result, reading = source(None)
    assert result is None
    assert not reading.refusals()
