"""Repositories of the Hugging Face hub: pinned to a commit, fetched into the hub's own cache."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError, first_line
from olivebuild.core.fs import opening
from olivebuild.core.hashing import THREADS
from olivebuild.formats import hub_cache, imported
from olivebuild.formats.hub_cache import SMALL
from olivebuild.formats.mlflow import plain_folder
from olivebuild.formats.not_a_model import folder_like
from olivebuild.formats.source import Source
from olivebuild.formats.weight_files import chosen_of, files_of_index
from olivebuild.ml.models.remotes.downloads import Downloads
from olivebuild.ml.models.remotes.mlflow_files import is_mlflow, plain
from olivebuild.ml.models.remotes.sha256 import sha256_of
from olivebuild.ml.models.remotes.wanted import Wanted


def pin(job: Job, source: Source) -> str:
    """Return the commit that the revision stands for. Raises InputError."""
    from huggingface_hub import HfApi

    kind = "dataset" if job.action.kind == "dataset" else "model"
    try:
        info = HfApi().repo_info(source.name, repo_type=kind, revision=source.version)
    except Exception as e:  # noqa: BLE001
        # The hub's client passes on errors of whatever transport library it uses.
        raise _unreachable(source, e, job) from None
    return str(info.sha)


def look(job: Job, source: Source) -> Path:
    """Fetch the small files of a model alone.

    Raises InputError also where the repository lacks the weights that would be loaded.
    """
    folder = _downloaded(job, source, "model", SMALL)
    files = _mlflow_files(job, source, folder)
    if files:
        folder = _plain(job, source, files, SMALL)
    imported.check(
        folder,
        job.action.kind,
        job.where("source"),
        trust=bool(job.action.fields.get("trust_remote_code")),
    )
    _weights_in(job, source, folder, files)
    return folder


def fetch(job: Job, source: Source, wanted: Wanted) -> Path:
    """Fetch a repository; of a model the small files first, which name the others needed."""
    job.note(f"fetching {source.text} at {job.action.pin[:12]}")
    if wanted.dataset:
        return _downloaded(job, source, "dataset", None)
    folder = _downloaded(job, source, "model", SMALL)
    files = _mlflow_files(job, source, folder)
    if files:
        folder = _plain(job, source, files, SMALL)
    if wanted.look:
        # Before hours of download.
        wanted.look(folder)
    weights: Sequence[str] = ("*.safetensors",)
    if job.action.kind in ("adapter", "onnx-adapter"):
        weights = ("adapter_model.safetensors",)
    elif job.action.kind in ("model", "merged"):
        weights = [glob.escape(name) for name in _weights_in(job, source, folder, files)]
    patterns = (*SMALL, *weights, *wanted.also)
    folder = (
        _plain(job, source, files, patterns)
        if files
        else _downloaded(job, source, "model", patterns)
    )
    if wanted.look:
        wanted.look(folder)
    return folder


def _mlflow_files(job: Job, source: Source, folder: Path) -> dict[str, str]:
    """Return plain name -> name in the repository, of one with an MLflow model; else nothing.

    Raises InputError.
    """
    names = _listed(job, source, folder)
    if job.action.kind not in ("model", "merged") or not is_mlflow(names):
        return {}

    def bring(name: str) -> Path:
        return _downloaded(job, source, "model", [glob.escape(name)]) / name

    return plain(job, source.text, {name: name for name in names}, bring)


def _plain(job: Job, source: Source, files: Mapping[str, str], wanted: Sequence[str]) -> Path:
    """Return a folder with those of an MLflow model's files whose plain names fit."""
    chosen = {n: path for n, path in files.items() if any(fnmatch(n, p) for p in wanted)}
    folder = _downloaded(job, source, "model", [glob.escape(path) for path in chosen.values()])
    parent = Downloads.of(job, source, job.action.pin).root
    return plain_folder.of_files(folder, chosen, parent)


def _weights_in(job: Job, source: Source, folder: Path, files: Collection[str] = ()) -> list[str]:
    """Return the weight files that a loader would take from the repository, or from `files`.

    They follow from its list of files and its small files. Raises InputError.
    """
    names = {name for name in files or _listed(job, source, folder) if "/" not in name}
    where = job.where("source")
    if "config.json" not in names:
        fact, hint = folder_like(folder, names)
        raise InputError(f"{source.text} is no Hugging Face model: {fact}", where=where, hint=hint)
    try:
        chosen = chosen_of(names, folder)
        return (
            sorted(set(files_of_index(folder, chosen, names).values()))
            if chosen.endswith(".index.json")
            else [chosen]
        )
    except InputError as e:
        place = (
            f"{source.text}, {Path(e.where.file).name}"
            if e.where and Path(e.where.file) != folder
            else source.text
        )
        raise InputError(f"{place}: {e.fact}", where=where, hint=e.hint) from None


def _listed(job: Job, source: Source, folder: Path) -> set[str]:
    """Return the names of the repository's files."""
    if names := hub_cache.listed(source, job.action.pin):
        return names
    from huggingface_hub import HfApi

    try:
        return set(HfApi().list_repo_files(source.name, revision=job.action.pin))
    except Exception:  # noqa: BLE001
        # Without the hub what was fetched earlier must do.
        return {p.name for p in folder.iterdir()}


def _downloaded(job: Job, source: Source, kind: str, wanted: Sequence[str] | None) -> Path:
    """Return the repository's folder in the hub's cache, with whole files of these patterns."""
    from huggingface_hub import snapshot_download

    patterns = None if wanted is None else list(wanted)
    try:
        folder = Path(
            snapshot_download(
                source.name, repo_type=kind, revision=job.action.pin, allow_patterns=patterns
            )
        )
        if folder.is_dir() and (damaged := _damaged(folder, wanted)):
            # The hub's client takes what lies in its own cache for right.
            job.note(
                f"damaged in the hub's cache, so fetched again: {', '.join(damaged[:3])}"
                + (" ..." if len(damaged) > 3 else "")
            )
            again = [glob.escape(name) for name in damaged]
            snapshot_download(
                source.name,
                repo_type=kind,
                revision=job.action.pin,
                allow_patterns=again,
                force_download=True,
            )
    except Exception as e:  # noqa: BLE001
        # The hub's client passes on errors of its transport library.
        raise _unreachable(source, e, job) from None
    if not folder.is_dir():
        # The client passes on what lies there.
        raise InputError(
            f"{source.text}: in the hub's cache {folder} is not a folder",
            where=job.where("source"),
            hint="delete it, and it is fetched again",
        )
    return folder


def _damaged(folder: Path, wanted: Sequence[str] | None) -> list[str]:
    """Return the files of a snapshot, of those patterns, whose digests are not their names.

    The hub's cache names files by SHA-256, small ones by Git's SHA-1. Where the cache has no links
    (Windows without the right to make them), files have no such names and are not checked.
    """
    links = [p for p in sorted(folder.rglob("*")) if p.is_symlink()]
    files = [
        p
        for p in links
        if wanted is None
        or any(fnmatch(p.relative_to(folder).as_posix(), pattern) for pattern in wanted)
    ]

    def is_wrong(path: Path) -> bool:
        name = path.resolve().name
        if not path.exists() or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name):
            return False
        try:
            if len(name) == 64:
                return sha256_of(path) != name
            data = opening.read(path)
        except OSError:
            # A pipe, a device, or a file of another user's.
            return True
        return (
            hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() != name
        )

    with ThreadPoolExecutor(THREADS) as pool:
        return [
            p.relative_to(folder).as_posix()
            for p, wrong in zip(files, pool.map(is_wrong, files), strict=True)
            if wrong
        ]


def _unreachable(source: Source, error: Exception, job: Job) -> InputError:
    """Return what the hub's client says, as an error; no token is in what it says."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    fact = f"{source.text}: {first_line(error, 200)}"
    hint = (
        "is the hub reachable, the name right, and, for a gated repository, `hf auth login` done?"
    )
    sign_in = "`hf auth login` signs you in, or the variable HF_TOKEN"
    if isinstance(error, GatedRepoError):
        who = "the account that you are signed in with" if get_token() else "who is not signed in"
        fact = f"{source.text} is gated, and {who} may not read it"
        hint = f"ask for access on the page of {source.name}; {sign_in}"
    elif isinstance(error, RepositoryNotFoundError):
        fact = f"{source.text} {hub_cache.NOT_THERE}"
        hint = f"is the name right? {sign_in}"
    return InputError(fact, where=job.where("source"), hint=hint)
