"""A conda file -> an environment for olivebuild, with what became of each entry.

The file is what `conda env create -f` takes: name, channels, dependencies with a list for pip,
variables, prefix (conda's user guide, "Creating an environment file manually"). No index is asked,
and nothing is installed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from olivebuild.core.errors import RecipeError
from olivebuild.recipe import document
from olivebuild.recipe.document import Document
from olivebuild.recipe.importers.conda_dependencies import (
    choose_python,
    entry_of,
    read_dependencies,
)
from olivebuild.recipe.importers.conda_environment import to_text
from olivebuild.recipe.importers.conda_lines import Line, Reading, text_of
from olivebuild.recipe.importers.requirements import RUNTIMES, Judged, is_secret

CHANNELS = ("conda-forge", "defaults", "nodefaults")
OLD_CHANNELS = {
    "pytorch": "PyTorch no longer publishes there, and torch comes from PyPI",
    "pytorch-nightly": "PyTorch no longer publishes there, and torch comes from PyPI",
    "nvidia": "pip's torch and onnxruntime-gpu bring CUDA's libraries",
    "huggingface": "its packages come from PyPI",
}
SECRET = re.compile(r"token|secret|passw|credential|_key$|^key|(^|_)(sas|pat)(_|$)", re.IGNORECASE)
LOADS_CODE = re.compile(r"(LD|DYLD)_\w+|PYTHON(PATH|STARTUP|HOME|BREAKPOINT|INSPECT)|BASH_ENV|PATH")
INDEX = re.compile(r"(PIP|UV|CONDA)_\w*(INDEX|CHANNEL|FIND_LINKS|TRUSTED_HOST|CONFIG)\w*", re.I)
OF_PROVIDER = {"cuda": "cuda", "dml": "directml"}
"""The extra that a provider's models run with, if not `cpu`."""


@dataclass(frozen=True, kw_only=True)
class Conda:
    """A conda file that was read: olivebuild's extras, each entry, the text of environment.yaml."""

    extras: tuple[str, ...]
    lines: tuple[Line, ...]
    environment: str


def read_conda(
    file: Path,
    *,
    shown: str,
    provider: str = "cpu",
    extras: Collection[str] = (),
    trust_index: bool = False,
) -> Conda:
    """Return what becomes of a conda file, which is called `shown`.

    `provider` is what the recipe's models are built for, `extras` what else the recipe needs.
    `trust_index` takes over the indexes and channels that the file names. Raises RecipeError for
    malformed YAML and what is no conda file, with the line; OSError for a file that can't be read.
    """
    try:
        text = text_of(file)
    except ValueError as e:
        hint = "a conda file is short, and YAML in UTF-8"
        raise RecipeError(str(e), where=shown, hint=hint) from None
    read = document.parse(text, shown)
    if not isinstance(read.value, dict):
        raise _wrong(read, (), "a conda file is a mapping with `dependencies`")
    reading = Reading(folder=file.parent, trust_index=trust_index)
    choose_python(reading, read.value.get("dependencies"))
    for key, value in read.value.items():
        _read_field(reading, read, key, value)
    runtime = _settle_runtime(reading, OF_PROVIDER.get(provider, "cpu"))
    others = {extra for extra, _ in reading.extras} - set(RUNTIMES.values())
    chosen = sorted({runtime, *extras, *others})
    environment = to_text(reading, shown, chosen)
    return Conda(extras=tuple(chosen), lines=tuple(reading.lines), environment=environment)


def _wrong(read: Document, path: tuple[str | int, ...], fact: str) -> RecipeError:
    return RecipeError(fact, where=read.where(path), hint="see `conda env export`")


def _read_field(reading: Reading, read: Document, key: str, value: object) -> None:
    if key == "dependencies":
        if not isinstance(value, list):
            raise _wrong(read, (key,), "`dependencies` is a list of packages")
        read_dependencies(reading, read, value)
        if not value:
            _ignore(reading, read, (key,), value, "it is empty")
    elif key == "channels":
        _read_channels(reading, read, value)
    elif key == "variables":
        _read_variables(reading, read, value)
    elif key == "name":
        _read_name(reading, read, value)
    elif key == "prefix":
        _ignore(reading, read, (key,), value, "the folder of a machine where the file was written")
    else:
        _ignore_all(reading, read, (key,), value, f"conda has no field {key}")


def _ignore(
    reading: Reading, read: Document, path: tuple[str | int, ...], value: object, because: str
) -> None:
    reading.add(entry_of(read, path, value), Judged(outcome="ignored", because=because))


def _ignore_all(
    reading: Reading, read: Document, path: tuple[str | int, ...], value: object, because: str
) -> None:
    """Record every value below a path as without effect."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _ignore_all(reading, read, (*path, key), item, because)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            _ignore_all(reading, read, (*path, index), item, because)
    else:
        _ignore(reading, read, path, value, because)


def _read_name(reading: Reading, read: Document, value: object) -> None:
    entry = entry_of(read, ("name",), value)
    if isinstance(value, str) and re.fullmatch(r"[\w.-]+", value):
        reading.name = value
        reading.add(entry, Judged(outcome="mapped", to="environment.yaml"))
    else:
        because = "conda takes letters, digits, dots and dashes; the environment is `olivebuild`"
        reading.add(entry, Judged(outcome="differs", to="environment.yaml", because=because))


def _read_channels(reading: Reading, read: Document, value: object) -> None:
    if value is None or value == []:
        _ignore(reading, read, ("channels",), value, "it is empty")
        return
    if not isinstance(value, list):
        raise _wrong(read, ("channels",), "`channels` is a list of names")
    for index, item in enumerate(value):
        entry = entry_of(read, ("channels", index), item)
        judged = _judge_channel(item, trust_index=reading.trust_index)
        reading.add(entry, replace(judged, keep=""))
        if judged.keep and judged.keep not in reading.channels:
            reading.channels.append(judged.keep)


def _judge_channel(item: object, *, trust_index: bool) -> Judged:
    if not isinstance(item, str) or not item:
        hint = "for example conda-forge"
        return Judged(outcome="refused", because=f"{item!r} is no channel", hint=hint)
    if is_secret(item):
        because = "its address holds a name or password, which is not copied"
        return Judged(outcome="refused", because=because, hint="`conda config` keeps such")
    if item in CHANNELS or trust_index:
        return Judged(outcome="mapped", to="environment.yaml", keep=item)
    because = OLD_CHANNELS.get(item) or (
        f"no channel but {' and '.join(CHANNELS[:2])} is taken over without --trust-index"
    )
    return Judged(outcome="ignored", because=because)


def _read_variables(reading: Reading, read: Document, value: object) -> None:
    if value is None or value == {}:
        _ignore(reading, read, ("variables",), value, "it is empty")
        return
    if not isinstance(value, dict):
        raise _wrong(read, ("variables",), "`variables` is a mapping of names to values")
    for name, item in value.items():
        text = "" if item is None else str(item)
        judged = _judge_variable(reading, name, text)
        # A secret is not shown, and the name tells that it is there.
        shown = name if judged.outcome != "mapped" else f"{name}={text}"
        entry = entry_of(read, ("variables", name), shown)
        if judged.outcome == "mapped":
            reading.variables[name] = text
        reading.add(entry, judged)


def _judge_variable(reading: Reading, name: str, text: str) -> Judged:
    if SECRET.search(name) or is_secret(text):
        because = "a secret is not copied into a file"
        return Judged(outcome="ignored", because=because, hint="set it where you run olivebuild")
    if LOADS_CODE.fullmatch(name):
        return Judged(outcome="ignored", because="it decides which code programs load")
    if INDEX.fullmatch(name) and not reading.trust_index:
        because = "no index but PyPI is taken over without --trust-index"
        return Judged(outcome="ignored", because=because)
    return Judged(outcome="mapped", to="environment.yaml")


def _settle_runtime(reading: Reading, wanted: str) -> str:
    """Return the one extra with onnxruntime; what asks for another meant something else.

    Packages of onnxruntime overwrite each other's files, so that an environment has one.
    """
    asked = {extra for extra, _ in reading.extras} | {wanted}
    runtime = next((extra for extra in ("cuda", "directml") if extra in asked), "cpu")
    for extra, index in reading.extras:
        line = reading.lines[index]
        if extra in RUNTIMES.values() and extra != runtime and line.outcome != "ignored":
            because = "packages of onnxruntime overwrite each other's files, and one stays"
            to = f"olivebuild[{runtime}]"
            reading.lines[index] = replace(line, outcome="differs", to=to, because=because)
    return runtime
