"""The inputs of an action as folders, for libraries that read nothing else."""

from __future__ import annotations

from pathlib import Path

from olivebuild.api.job import Job
from olivebuild.ml.weights.lora import open_input
from olivebuild.ml.weights.view import write_folder


def as_folder(job: Job, role: str) -> Path:
    """An input as a folder; one that lies in the store alone is written out beside the action."""
    given = job.input(role)
    if given.folder:
        return Path(given.folder)
    folder = job.out.parent / "inputs" / role
    if not folder.exists():
        folder.mkdir(parents=True)
        manifest = job.store.manifest(given.manifest)
        if manifest.merges:
            write_folder(open_input(job.store, given), folder)
        else:
            job.store.restore(manifest, folder)
    return folder
