"""Objects of Azure containers, S3 and Google Cloud Storage: pinned by entity tags, and downloaded.

A plain build asks nobody once the files are here. `olivebuild update` asks for the tags alone.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.data.readers import kind_of
from olivebuild.formats import imported, object_urls
from olivebuild.formats.hub_cache import SMALL
from olivebuild.formats.mlflow.mlmodel import MLMODEL
from olivebuild.formats.not_a_model import folder_like
from olivebuild.formats.source import WILD, Source
from olivebuild.formats.weight_files import chosen_of, files_of_index
from olivebuild.ml.models.remotes.downloads import Downloads
from olivebuild.ml.models.remotes.mlflow_files import is_mlflow, of_model, plain
from olivebuild.ml.models.remotes.objects import pins
from olivebuild.ml.models.remotes.objects.download import download
from olivebuild.ml.models.remotes.objects.listing import File, files_of
from olivebuild.ml.models.remotes.objects.opened import EXTRAS, LOGINS, Opened, shown
from olivebuild.ml.models.remotes.wanted import Wanted

MOST_DIGESTS = 100
"""Files of a source whose digests are kept in olivebuild.lock."""
CARD = "README.md"
"""Names the files of subsets and splits."""


def pin(job: Job, source: Source) -> str:
    """Return the entity tags and sizes of the objects that are there now. Raises InputError."""
    opened, path = _open(job, source, pinned="")
    return _pin(opened, _of_kind(job, opened, files_of(opened, path), path), path)


def _pin(opened: Opened, files: Sequence[File], path: str) -> str:
    """Return what fixes the files, after the version of what they belong to."""
    return ", ".join(filter(None, (opened.identity, pins.text_of(files, path))))


def look(job: Job, source: Source) -> Path:
    """Fetch the small files of a model alone. Raises InputError."""
    downloads = Downloads.of(job, source, job.action.pin)
    with downloads.in_use():
        opened, files = _listed(job, source)
        files = _plain(job, source, opened, files, downloads)
        _small(job, opened, files, downloads)
        trust = bool(job.action.fields.get("trust_remote_code"))
        imported.check(downloads.files, job.action.kind, job.where("source"), trust=trust)
        _weights_in(source, job, files, downloads.files)
    return downloads.files


def fetch(job: Job, source: Source, wanted: Wanted) -> Path:
    """Return the pinned object, or the folder of the pinned objects. Raises InputError."""
    downloads = Downloads.of(job, source, job.action.pin)
    with downloads.in_use():
        if here := _complete(job, downloads):
            return here
        opened, files = _listed(job, source)
        chosen = files
        if not wanted.dataset:
            files = _plain(job, source, opened, files, downloads)
            _small(job, opened, files, downloads)
            if wanted.look:
                # Before hours of download.
                wanted.look(downloads.files)
            chosen = _chosen(job, source, files, downloads.files, wanted)
        total = sum(file.size for file in chosen.values())
        job.note(f"fetching {source.text}: {len(chosen)} files, {total >> 20} MiB")
        download(job, opened, chosen, downloads)
        downloads.finish({name: file.size for name, file in chosen.items()})
        if wanted.look:
            wanted.look(downloads.files)
        here = _complete(job, downloads)
        assert here
    return here


def _complete(job: Job, downloads: Downloads) -> Path | None:
    """Return what was fetched before, if it is whole and as it was. Asks nobody."""
    sizes = downloads.finished()
    if not sizes or downloads.lacking(sizes, job):
        return None
    if len(sizes) <= MOST_DIGESTS:
        job.fetched = {name: downloads.digests()[name] for name in sizes}
    if _is_folder(job):
        return downloads.files
    (name,) = sizes
    return downloads.files / name


def _is_folder(job: Job) -> bool:
    """Return whether the pin is of a folder, though it has one file."""
    return " files, " in job.action.pin or job.action.kind != "dataset"


def _open(job: Job, source: Source, *, pinned: str) -> tuple[Opened, str]:
    """Return the store, and the path in it. Raises InputError."""
    try:
        if source.scheme in ("azureml", "azureml-model"):
            from olivebuild.ml.models.remotes.azureml import opening

            return opening.opened(job, source, pinned=pinned)
        store, signed, path = _store_of(source)
    except ModuleNotFoundError as e:
        extra = EXTRAS[source.scheme]
        raise InputError(
            f"{source.text} needs the library {(e.name or '').partition('.')[0]}, which is not "
            "installed",
            where=job.where("source"),
            hint=f"pip install 'olivebuild[{extra}]'",
        ) from None
    except InputError as e:
        e.where = e.where or job.where("source")
        raise
    except Exception as e:  # noqa: BLE001
        # Each library has errors of its own for settings that it can't read.
        raise InputError(
            f"{source.text}: the settings of the environment are no use: {shown(e)}",
            where=job.where("source"),
            hint=LOGINS.get(source.scheme, LOGINS["az"]),
        ) from None
    opened = Opened(
        store=store,
        scheme=source.scheme,
        text=source.text,
        where=job.where("source"),
        signed=signed,
        target=job.action.target,
    )
    return opened, path


def _store_of(source: Source) -> tuple[object, bool, str]:
    """Return (store, whether there are credentials, path in it). Raises ModuleNotFoundError."""
    if source.scheme == "az":
        from olivebuild.ml.models.remotes.objects import azure

        place = object_urls.blobs_of(source.name)
        endpoint = f"https://{place.host}"
        store, signed = azure.open_container(place.account, place.container, endpoint=endpoint)
        return store, signed, place.path
    from olivebuild.ml.models.remotes.objects import buckets

    bucket, _, path = source.name.partition("/")
    opens = buckets.open_s3 if source.scheme == "s3" else buckets.open_gs
    store, signed = opens(bucket)
    return store, signed, path


def _of_kind(job: Job, opened: Opened, files: Sequence[File], path: str) -> list[File]:
    """Return the files that a target of this kind reads. Raises InputError where there are none."""
    if job.action.kind in ("model", "merged") and is_mlflow([file.name for file in files]):
        names = set(of_model([file.name for file in files]))
        chosen = [file for file in files if file.name in names]
    elif job.action.kind != "dataset":
        chosen = [file for file in files if "/" not in file.name]
    elif files[0].path == path or any(c in path for c in WILD):
        return list(files)
    else:
        chosen = [f for f in files if kind_of(Path(f.name)) or f.name == CARD]
    if not chosen:
        raise InputError(
            f"{opened.text}: none of its {len(files)} files is of a {job.action.kind}",
            where=opened.where,
            hint=f"the first is {files[0].name}",
        )
    return chosen


def _listed(job: Job, source: Source) -> tuple[Opened, dict[str, File]]:
    """Return name -> object as pinned. Raises InputError where they are no longer so."""
    pinned = job.action.pin
    opened, path = _open(job, source, pinned=pinned)
    if pins.version_of(pinned):
        # The version that is pinned stays, whatever came after it.
        file = pins.file_of(pinned, path)
        return opened, {file.name: file}
    files = _of_kind(job, opened, files_of(opened, path), path)
    now = _pin(opened, files, path)
    if now != pinned:
        fact, hint = opened.changed()
        raise InputError(
            f"{source.text}: {fact} (pinned: {_short(pinned)}; now: {_short(now)})",
            where=opened.where,
            hint=hint,
        )
    return opened, {file.name: file for file in files}


def _short(pin: str) -> str:
    return pin if len(pin) <= 80 else pin[:77] + "..."


def _plain(
    job: Job, source: Source, opened: Opened, files: Mapping[str, File], downloads: Downloads
) -> dict[str, File]:
    """Return plain name -> object: of an MLflow model as its `MLmodel` says, else as they are."""
    if job.action.kind not in ("model", "merged") or not is_mlflow(files):
        return dict(files)

    def bring(name: str) -> Path:
        download(job, opened, {MLMODEL: files[name]}, downloads)
        return downloads.files / MLMODEL

    return plain(job, source.text, files, bring)


def _small(job: Job, opened: Opened, files: Mapping[str, File], downloads: Downloads) -> None:
    """Fetch the small files of a model."""
    small = {name: f for name, f in files.items() if any(fnmatch(name, p) for p in SMALL)}
    download(job, opened, small, downloads)


def _chosen(
    job: Job, source: Source, files: Mapping[str, File], folder: Path, wanted: Wanted
) -> dict[str, File]:
    """Return the small files, the weights that would be loaded, and what is wanted besides."""
    weights: Sequence[str] = ("*.safetensors",)
    if job.action.kind in ("adapter", "onnx-adapter"):
        weights = ("adapter_model.safetensors",)
    elif job.action.kind in ("model", "merged"):
        weights = [glob.escape(name) for name in _weights_in(source, job, files, folder)]
    patterns = (*SMALL, *weights, *wanted.also)
    return {
        name: file
        for name, file in files.items()
        if any(fnmatch(PurePosixPath(name).name, pattern) for pattern in patterns)
    }


def _weights_in(source: Source, job: Job, files: Mapping[str, File], folder: Path) -> Sequence[str]:
    """Return the weight files that a loader would take from the folder. Raises InputError."""
    where = job.where("source")
    if "config.json" not in files:
        fact, hint = folder_like(folder, set(files))
        raise InputError(f"{source.text} is no Hugging Face model: {fact}", where=where, hint=hint)
    try:
        chosen = chosen_of(set(files), folder)
        if not chosen.endswith(".index.json"):
            return [chosen]
        return sorted(set(files_of_index(folder, chosen, set(files)).values()))
    except InputError as e:
        raise InputError(f"{source.text}: {e.fact}", where=where, hint=e.hint) from None
