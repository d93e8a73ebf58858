"""The inputs of an action as folders, for libraries that read nothing else."""

from __future__ import annotations

from pathlib import Path

from olivebuild.api.job import Job
from olivebuild.ml.weights.lora import open_input
from olivebuild.ml.weights.view import write_folder


def as_folder(job: Job, role: str) -> Path:
    """Return an input's folder; one that is in the store alone is written out beside the action."""
    source = job.input(role)
    if source.folder:
        return Path(source.folder)
    folder = job.out.parent / "inputs" / role
    if not folder.exists():
        folder.mkdir(parents=True)
        manifest = job.store.manifest(source.manifest)
        if manifest.merges:
            write_folder(open_input(job.store, source), folder)
        else:
            job.store.restore(manifest, folder)
    return folder
