"""Azure ML's URIs of data and models."""

from __future__ import annotations

import pytest

from olivebuild.core.errors import InvalidValue
from olivebuild.formats.source import Source
from olivebuild.formats.urls.azureml_uri import DatastorePath, Model, Workspace, parse

WORK = "azureml://subscriptions/0-1/resourcegroups/my-rg_(x)/workspaces/my-work"
WORKSPACE = Workspace(subscription="0-1", group="my-rg_(x)", name="my-work")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/11",
            Model(registry="azureml", name="Phi-3-mini-4k-instruct", version="11"),
        ),
        (
            "azureml://registries/r/models/microsoft/Phi-3-mini-4k-instruct/versions/11",
            Model(registry="r", name="microsoft/Phi-3-mini-4k-instruct", version="11"),
        ),
        (
            "azureml://registries/azureml-meta/models/Llama-2-7b/labels/latest",
            Model(registry="azureml-meta", name="Llama-2-7b", label="latest"),
        ),
        (
            "azureml://registries/azureml/models/phi@latest",
            Model(registry="azureml", name="phi", label="latest"),
        ),
        (
            "azureml://registries/house/models/acme/tiny-4k-instruct/versions/11",
            Model(registry="house", name="acme/tiny-4k-instruct", version="11"),
        ),
        (
            f"{WORK}/models/tone/versions/v1.2",
            Model(workspace=WORKSPACE, name="tone", version="v1.2"),
        ),
        (
            f"{WORK}/models/tone@latest".replace("resourcegroups", "resourceGroups"),
            Model(workspace=WORKSPACE, name="tone", label="latest"),
        ),
        (
            f"{WORK}/datastores/workspaceblobstore/paths/datasets/tiny codes.jsonl",
            DatastorePath(
                workspace=WORKSPACE,
                datastore="workspaceblobstore",
                path="datasets/tiny codes.jsonl",
            ),
        ),
    ],
)
def test_parse(text: str, value: Model | DatastorePath) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("azureml://registries/r/models/m/versions/1", {"model", "merged", "adapter", "onnx"}),
        (f"{WORK}/datastores/d/paths/p", {"model", "merged", "adapter", "onnx", "dataset"}),
    ],
)
def test_kinds_that_may_come_from_it(text: str, kinds: set[str]) -> None:
    every = ("model", "merged", "adapter", "onnx", "dataset", "benchmark")
    assert {kind for kind in every if Source.parse(text).may_be(kind)} == kinds


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("azureml://registries/azureml/models/phi", "azureml://registries/R/models/N/versions/V"),
        ("azureml://registries/azureml/models/../versions/1", "or azureml://subscriptions"),
        ("azureml://registries/azureml/models/phi/versions/1/x", "models/N/versions/V"),
        ("azureml://registries/azureml/environments/e/versions/1", "models/N/versions/V"),
        ("azureml://datastores/store/paths/x", "workspaces/W/datastores/D/paths/P"),
        ("azureml://registries/azureml/models/phi@best", "known is latest"),
        (f"{WORK}/datastores/store/paths/../../x", "without .."),
    ],
)
def test_other_forms_are_refused(text: str, hint: str) -> None:
    with pytest.raises(InvalidValue, match="azureml") as e:
        parse(text)
    assert hint in e.value.problem.hint
