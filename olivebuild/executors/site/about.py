"""What decides whether a site's results are those of this machine's code: versions on both sides.

`python -m olivebuild.executors.site.about LIBRARY ...` prints it, as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from msgspec import Struct, structs, to_builtins

import olivebuild
from olivebuild.core import code_version, hashing, host, numerics
from olivebuild.core.errors import StepError
from olivebuild.executors.site.portable import PROTOCOL

MISSING = "not installed"


class About(Struct, frozen=True, kw_only=True):
    """A Python with olivebuild: who may read it, decides whether it may work for him."""

    protocol: int
    version: str
    code: str
    python: str
    system: str
    libraries: dict[str, str]
    numerics: dict[str, str]
    gpus: tuple[str, ...] = ()


@cache
def code() -> str:
    """Return a stamp of the content of the package's source, the same wherever it is installed.

    What only shows things does not count.
    """
    root = code_version.ROOT
    lines = []
    for folder in code_version.folders_below(root):
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".py"))
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as f:
                text = f.read().replace(b"\r\n", b"\n")
            lines.append(f"{os.path.relpath(path, root)} {hashing.of_bytes(text)}")
    return hashing.of_json(sorted(line.replace(os.sep, "/") for line in lines))[:16]


def here(libraries: Iterable[str] = ()) -> About:
    """Return what this process is."""
    return About(
        protocol=PROTOCOL,
        version=olivebuild.__version__,
        code=code(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        libraries={name: host.installed(name) or MISSING for name in libraries},
        numerics=numerics.here(),
        gpus=host.gpu_names(),
    )


def check(
    where: str,
    about: About,
    *,
    code: str,
    libraries: Mapping[str, str],
    numerics: Mapping[str, str] | None = None,
) -> StepError | None:
    """Return what makes results made there others than the key says; None where nothing does.

    `numerics` are those of the key, where it has any.
    """
    if about.protocol != PROTOCOL or about.code != code:
        return StepError(
            f"{where} has another olivebuild ({about.version}, code {about.code[:8]}) than this "
            f"machine ({olivebuild.__version__}, code {code[:8]})",
            hint="install the same wheel on both: keys stand for results of equal code",
        )
    wrong = [
        f"{name} is {version} here and {there} there"
        for name, version in libraries.items()
        if (there := about.libraries.get(name, MISSING)) != version
    ]
    if wrong:
        return StepError(
            f"{where} has other libraries: {', '.join(wrong)}",
            hint="install the versions of this machine there, or those of there here: they are "
            "part of the keys",
        )
    differing = [
        f"{name} is {value} here and {about.numerics.get(name) or 'not set'} there"
        for name, value in (numerics or {}).items()
        if about.numerics.get(name, "") != value
    ]
    if differing:
        return StepError(
            f"{where} computes otherwise, and the recipe says `numerics: strict`: "
            + ", ".join(differing)[:400],
            hint="leave `numerics: strict` out, or make it where the numerics are equal",
        )
    return None


def with_numerics(about: About, numerics: Mapping[str, str]) -> About:
    return structs.replace(about, numerics=dict(numerics))


def to_json(about: About) -> dict[str, Any]:
    return dict(to_builtins(about))


if __name__ == "__main__":
    print(json.dumps(to_json(here(sys.argv[1:]))))
