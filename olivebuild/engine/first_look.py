"""A look at a remote source before there is a recipe: it is pinned, and fetched as a build would.

Of a model the small files come, of a data set all files.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from olivebuild.api.event import Listener
from olivebuild.api.executor import Executor
from olivebuild.engine import pin
from olivebuild.formats.source import Source
from olivebuild.planner.project import open_project
from olivebuild.recipe.file import FILE_NAME
from olivebuild.recipe.lockfile import Lockfile

NAME = "source"
TARGETS = {"model": "{kind: model, source: %s}", "dataset": "{kind: dataset, source: %s, text: x}"}
"""Kind -> a target of that kind which holds a source."""


@contextmanager
def recipe_of(text: str) -> Iterator[Path]:
    """Yield a folder that this recipe is in until the end."""
    with tempfile.TemporaryDirectory(prefix="olivebuild-init-") as name:
        folder = Path(name)
        (folder / FILE_NAME).write_text(text, "utf-8")
        yield folder


def fetched(
    source: Source, kind: str, lock: Lockfile, executor: Executor, listen: Listener
) -> Path:
    """Return the file or folder that a remote source of a kind names, and note its pin in `lock`.

    Raises BuildError.
    """
    target = TARGETS[kind] % json.dumps(source.text, ensure_ascii=False)
    with recipe_of(f"targets:\n  {NAME}: {target}\n") as folder:
        project = open_project(folder, None)
        (node,) = project.graph.closure([NAME])
        if pinned := lock.sources.get(source.text):
            project.lock.pin(source.text, pinned)
        else:
            lock.pin(source.text, pin.pin(project.planner, executor, node, listen))
        return pin.look(project.planner, executor, node, listen)
