"""The text of `environment.yaml`: what conda or mamba makes an environment for olivebuild from."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import yaml

from olivebuild import __version__
from olivebuild.recipe.importers.conda_lines import Line, Reading


def to_text(reading: Reading, source: str, extras: list[str]) -> str:
    """Return the environment as YAML, with comments that say where each line comes from."""
    lines = [
        f"# From {source}: an environment for olivebuild.",
        "# conda env create -f environment.yaml",
        f"name: {scalar(reading.name or 'olivebuild')}",
        "channels:",
        *(f"  - {scalar(channel)}" for channel in reading.channels or ["conda-forge"]),
        "dependencies:",
        f"  - {reading.python_text}",
        f"  - {reading.pip_text}",
        "  - pip:",
    ]
    for text, comment in _pip(reading, extras):
        lines.append(f"      - {scalar(text)}{f'  # {comment}' if comment else ''}")
    if reading.variables:
        lines.append("variables:")
        lines += [f"  {scalar(n)}: {scalar(v)}" for n, v in reading.variables.items()]
    left = [line for line in reading.lines if _is_left_out(line)]
    if left:
        lines += ["# Left out:", *(f"#   {_on_one_line(line)}" for line in left)]
    return "\n".join(lines) + "\n"


def _pip(reading: Reading, extras: list[str]) -> list[tuple[str, str]]:
    """Return the requirements with their comments: options first, as pip wants them."""
    options = [kept for kept in reading.kept if kept.text.startswith("-")]
    others = [kept for kept in reading.kept if not kept.text.startswith("-")]
    return [
        *((kept.text, f"{kept.file}, line {kept.line}") for kept in options),
        (this_package(extras), "the olivebuild that wrote this file"),
        *((kept.text, f"{kept.file}, line {kept.line}") for kept in others),
    ]


def _is_left_out(line: Line) -> bool:
    return line.outcome in ("ignored", "refused") and line.path[0] not in ("prefix", "variables")


def _on_one_line(line: Line) -> str:
    text = " ".join(f"{line.text} ({line.file}, line {line.line}): {line.because}".split())
    return "".join(c if c.isprintable() else "?" for c in text)


def this_package(extras: list[str]) -> str:
    """Return the requirement that installs the olivebuild at hand.

    It is a checkout, what it was installed from (PEP 610), or a release.
    """
    name = f"olivebuild[{','.join(extras)}]"
    checkout = Path(__file__).parents[3]
    if (checkout / "pyproject.toml").is_file():
        return f"{name} @ {checkout.as_uri()}"
    try:
        record = metadata.distribution("olivebuild").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        record = None
    if not record:
        return f"{name}=={__version__}"
    origin = json.loads(record)
    url = str(origin["url"])
    if vcs := origin.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f"{name} @ {url}"


def scalar(text: str) -> str:
    """Return a text as YAML: plain where that is read as the same text, else quoted."""
    plain = f"- {text}"
    try:
        if text.isprintable() and yaml.safe_load(plain) == [text]:
            return text
    except yaml.YAMLError:
        pass
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(c: str) -> str:
    """Return a character inside double quotes. JSON's surrogate pairs are two for YAML."""
    return json.dumps(c)[1:-1] if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
