"""Places of `--push`."""

from __future__ import annotations

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.exporters.push import place
from olivebuild.exporters.push.place import AzurePlace, HubPlace, parse
from olivebuild.formats.urls.azureml_uri import Workspace

WORK = "azureml://subscriptions/s-1/resourceGroups/g/workspaces/w"


@pytest.fixture(autouse=True)
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_check_library", lambda *_: None)


def test_places_of_the_hub() -> None:
    assert parse("hf:me/tone") == HubPlace(text="hf:me/tone", repository="me/tone")
    named = parse("hf:me/tone@v/1", public=True)
    assert named == HubPlace(text="hf:me/tone@v/1", repository="me/tone", branch="v/1", public=True)


@pytest.mark.parametrize("version", ["", "7"])
def test_places_of_azure(version: str) -> None:
    text = f"{WORK}/models/tone" + (f"/versions/{version}" if version else "")
    workspace = Workspace(subscription="s-1", group="g", name="w")
    assert parse(text) == AzurePlace(text=text, workspace=workspace, name="tone", version=version)


@pytest.mark.parametrize(
    "text",
    [
        "hf:tone",
        "hf:me/../x",
        "hf:me/tone/x",
        "me/tone",
        "",
        "s3://bucket/x",
        f"{WORK}/models/tone@latest",
        f"{WORK}/models/a/b",
        f"{WORK}/datastores/d/paths/p",
        "azureml://registries/r/models/tone/versions/1",
    ],
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert caught.value.where
    assert caught.value.where.file == "--push"
    assert caught.value.exit_code == 2


def test_who_may_read_a_workspace_is_not_said_here() -> None:
    with pytest.raises(RecipeError, match="--public is for the hub"):
        parse(f"{WORK}/models/tone", public=True)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(place, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="needs the library huggingface_hub") as caught:
        parse("hf:me/tone")
    assert "olivebuild[steps]" in caught.value.hint
    with pytest.raises(RecipeError, match="needs the library azure-ai-ml") as caught:
        parse(f"{WORK}/models/tone")
    assert "olivebuild[azureml]" in caught.value.hint
