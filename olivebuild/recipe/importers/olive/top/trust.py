"""Trust that a workflow asks for: none is granted, and a model that needs it is told."""

from __future__ import annotations

from pathlib import Path as File

from olivebuild.core.fs.small_files import read_json
from olivebuild.formats.model_config import unknown_to_transformers
from olivebuild.recipe.importers.olive.workflow import State, Workflow
from olivebuild.recipe.importers.positions import Path

WORD = "trust_remote_code"


def refuse_trust(workflow: Workflow, start: State) -> None:
    """Refuse the trust that a local input model would need to load code of its own.

    A recipe is written without it. Of a model that is elsewhere, the plan tells.
    """
    asked = [path for path in _asked(workflow) if path[0] == "input_model"]
    source = workflow.draft.targets[start.model].get("source")
    if not asked or not isinstance(source, str):
        return
    try:
        config = read_json(workflow.out / File(source) / "config.json")
    except (OSError, ValueError):
        return
    finding = unknown_to_transformers(config) if isinstance(config, dict) else None
    if finding is None:
        return
    for path in asked:
        hint = f"read its .py files, and write {WORD}: true below {start.model} if you trust them"
        workflow.ledger.refused(path, finding.fact, hint, fatal=False)


def _asked(workflow: Workflow) -> list[Path]:
    """Return the leaves that ask for trust."""
    return [
        path
        for path, value in workflow.document.leaves().items()
        if path and path[-1] == WORD and value is True
    ]
