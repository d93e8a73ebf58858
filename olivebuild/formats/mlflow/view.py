"""MLflow folders that a recipe names as models, each shown as the folder that loaders look for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from olivebuild.core.errors import Where
from olivebuild.core.fs import links
from olivebuild.formats.mlflow import mlmodel, plain_folder


def plain(
    folder: Path,
    parent: Path,
    *,
    trust: bool,
    where: Where,
    note: Callable[[Path], None],
) -> Path:
    """Return a folder in `parent` with links to the files of an MLflow model, or `folder` itself.

    `note` is called with each file and folder that the answer depends on, before it is read. Raises
    InputError, at `where` for a link that leaves the MLflow folder.
    """
    root = mlmodel.find(folder)
    if root is None:
        return folder
    file = root / mlmodel.MLMODEL
    for path in (folder, root, file):
        note(path)
    layout = mlmodel.layout_of(mlmodel.read(file), str(file), trust=trust)
    paths = mlmodel.listed(root, layout)
    links.check(root, paths, where)
    for path in paths:
        note(path)
    names = [path.relative_to(root).as_posix() for path in paths]
    files = mlmodel.files_of(layout, names, str(file))
    # From the folder that is named, since who may enter that may read the model.
    start = root.relative_to(folder)
    below = {name: (start / path).as_posix() for name, path in files.items()}
    return plain_folder.of_links(folder, below, parent)
