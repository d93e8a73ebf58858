"""Pushes to Azure ML, by azure-ai-ml: a version of a model of a workspace.

Files go to the workspace's datastore first, and a version is made of them when all are there. It
has the SHA-256 of the export's manifest among its tags, so that the same export is pushed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError
from olivebuild.executors.launchers.azureml import asked, open_client, or_none
from olivebuild.exporters import manifest
from olivebuild.exporters.push.contents import contents_of
from olivebuild.exporters.push.place import AzurePlace
from olivebuild.exporters.push.records import Export, Pushed

TAG = "olivebuild.sha256"
"""The SHA-256 of an export's manifest, which names all its files by theirs."""
IGNORING = (".amlignore", ".gitignore")
"""Files by which azure-ai-ml leaves others out."""


class AzureModels:
    """A model of a workspace."""

    def __init__(self, place: AzurePlace) -> None:
        workspace = place.workspace
        self._place = place
        self._client = open_client(workspace.subscription, workspace.group, workspace.name)

    def check(self) -> None:
        """Raise InputError where the workspace can't be asked.

        Who may read it may not have a right to make models in it: Azure tells when one is made.
        """
        place = self._place
        self._ask(lambda: self._client.workspaces.get(place.workspace.name))

    def push(self, export: Export) -> Pushed:
        """Raises BuildError."""
        from azure.ai.ml.entities import Model

        place, folder = self._place, Path(export.folder)
        contents = contents_of(folder)
        for name in contents:
            if name.rpartition("/")[2] in IGNORING:
                fact = f"the export has a {name}, by which Azure ML would leave files out"
                raise InputError(fact, hint="leave it out of the target")
        digest = contents[manifest.NAME].sha256
        for version, tags in self._versions():
            if tags.get(TAG) == digest and place.version in ("", version):
                return self._pushed(version, new=False)
            if version == place.version:
                fact = f"{place.text} is there already, with other files"
                raise InputError(fact, hint="leave /versions/... out, and it gets the next number")
        model = Model(
            path=str(folder),
            name=place.name,
            version=place.version or None,
            type="mlflow_model" if (folder / "MLmodel").is_file() else "custom_model",
            description=f"{export.target} {export.digest[:12]}, by olivebuild {export.version}",
            tags={TAG: digest, "olivebuild.target": export.target},
        )
        made = self._ask(lambda: self._client.models.create_or_update(model))
        return self._pushed(str(made.version), new=True)

    def _versions(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the versions that are there, with their tags."""
        models = self._client.models
        listed = self._ask(lambda: or_none(lambda: list(models.list(name=self._place.name))))
        for model in listed or ():
            yield str(model.version), dict(model.tags or {})

    def _ask(self, work: Any) -> Any:
        return asked(work, self._place.text)

    def _pushed(self, version: str, *, new: bool) -> Pushed:
        place, at = self._place, self._place.workspace
        where = f"subscriptions/{at.subscription}/resourcegroups/{at.group}/workspaces/{at.name}"
        return Pushed(
            text=f"azureml://{where}/models/{place.name}/versions/{version}",
            url=f"https://ml.azure.com/model/{place.name}:{version}/overview?wsid=/{where}",
            new=new,
        )
