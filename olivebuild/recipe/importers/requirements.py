"""A requirement of another tool's environment: what becomes of it in one for olivebuild.

Requirements are those of PEP 508, as pip takes them, and conda's `name=version=build`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

Outcome = Literal["mapped", "ignored", "differs", "refused"]
"""Mapped; without effect here; meant something else than it says; refused."""

NEEDED = {
    name: SpecifierSet(specifier)
    for name, specifier in {
        "bitsandbytes": ">=0.50",
        "click": ">=8.1",
        "datasets": ">=5",
        "diskcache": ">=5.6",
        "gguf": ">=0.19",
        "huggingface-hub": ">=1",
        "jinja2": ">=3.1",
        "jsonschema": ">=4.20",
        "msgspec": ">=0.19",
        "numpy": ">=2",
        "onnx": ">=1.20",
        "onnx-ir": ">=1",
        "packaging": ">=24",
        "peft": ">=0.21",
        "platformdirs": ">=4",
        "portalocker": ">=3",
        "pyarrow": ">=20",
        "pydantic": ">=2.10",
        "pyyaml": ">=6",
        "rich": ">=13",
        "safetensors": ">=0.6",
        "scikit-learn": ">=1.5",
        "scipy": ">=1.14",
        "torch": ">=2.8",
        "transformers": ">=5.20",
        "watchfiles": ">=1",
        "xxhash": ">=3.5",
    }.items()
}
"""What olivebuild's steps need, as pyproject.toml says; the packages of the runtimes apart."""
RUNTIMES = {
    "onnxruntime": "cpu",
    "onnxruntime-genai": "cpu",
    "ort-nightly": "cpu",
    "onnxruntime-gpu": "cuda",
    "onnxruntime-genai-cuda": "cuda",
    "ort-nightly-gpu": "cuda",
    "onnxruntime-directml": "directml",
    "onnxruntime-genai-directml": "directml",
    "ort-nightly-directml": "directml",
}
"""The packages of onnxruntime and onnxruntime-genai, and the extra that has them."""
RUNTIME_VERSIONS = {
    "onnxruntime": SpecifierSet(">=1.27"),
    "onnxruntime-genai": SpecifierSet(">=0.18"),
    "onnxruntime-gpu": SpecifierSet(">=1.31"),
    "onnxruntime-genai-cuda": SpecifierSet(">=0.18"),
    "onnxruntime-directml": SpecifierSet(">=1.24"),
    "onnxruntime-genai-directml": SpecifierSet(">=0.13,<0.14"),
}
OTHER_RUNTIMES = {
    "onnxruntime-qnn": "QNN",
    "ort-nightly-qnn": "QNN",
    "onnxruntime-openvino": "OpenVINO",
    "onnxruntime-rocm": "ROCm",
    "onnxruntime-migraphx": "MIGraphX",
    "onnxruntime-vitisai": "Vitis AI",
    "onnxruntime-trt-rtx": "TensorRT for RTX",
    "onnxruntime-training": "onnxruntime's training",
}
"""Packages that would overwrite onnxruntime's files, and what for."""
OLIVE_EXTRAS = {
    "gpu": "cuda",
    "cpu": "cpu",
    "directml": "directml",
    "azureml": "azure",
}
OF_CUDA = {"cudatoolkit", "cudnn", "cuda", "cuda-toolkit", "cuda-runtime", "pytorch-cuda", "nccl"}
CONDA_NAMES = {"pytorch": "torch", "pytorch-gpu": "torch", "pytorch-cpu": "torch"}
"""Names of conda-forge and of PyTorch's channel -> those of PyPI."""
AZURE = {"azure-identity"}
WITHOUT_EFFECT = {
    "accelerate": "peft brings the version that it needs",
    "tokenizers": "transformers brings the version that it needs",
    "einops": "only code that comes with a model imports it, and native architectures have none",
    "sentencepiece": "tokenizers are read from tokenizer.json",
    "optimum": "models are converted by onnxruntime-genai's model builder",
    "azure-keyvault-secrets": "a token is read from the environment or the hub's login",
    "azure-ai-ml": "Azure Machine Learning is asked by its REST interface",
    "deepspeed": "training is by olivebuild's own loop",
    "auto-gptq": "transformers no longer uses it",
    "autoawq": "transformers no longer uses it",
    "setuptools": "pip needs none to install wheels",
    "wheel": "pip needs none to install wheels",
}
NOT_IMPORTED = "nothing here imports it"
INDEXES = ("--extra-index-url", "--index-url", "-i", "--find-links", "-f")
OTHER_OPTIONS = {
    "--pre": "the releases that are needed are final ones",
    "--trusted-host": "no host is excused from its certificate",
    "--no-cache-dir": "a setting of pip, which a user makes",
    "--upgrade": "an environment is made anew",
    "-U": "an environment is made anew",
    "--no-index": "packages come from PyPI",
    "--prefer-binary": "a setting of pip, which a user makes",
    "--no-binary": "packages come as wheels",
    "--only-binary": "packages come as wheels",
    "--require-hashes": "other versions are installed, which have other hashes",
}
PRIVATE = "aiinfra.pkgs.visualstudio.com"
OLD_PIP = Version("23.2")
"""pip before it can't run on Python 3.12."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict on a requirement: what becomes of it.

    `to` is what stands for it, `keep` the line for the new environment's list of pip, if any, and
    `extras` the extras of olivebuild that it asks for.
    """

    outcome: Outcome
    to: str = ""
    because: str = ""
    hint: str = ""
    keep: str = ""
    extras: tuple[str, ...] = ()


def judge_option(text: str, *, trust_index: bool) -> Judged:
    """Return what becomes of an option of pip: an index, `--pre`, `-e .`."""
    name, value = _option(text)
    if name in ("--index-url", "-i", "--extra-index-url", "--find-links", "-f"):
        return _judge_index(name, value, trust_index=trust_index)
    if name in ("-e", "--editable"):
        return _judge_location(value)
    if name in ("-c", "--constraint"):
        return Judged(
            outcome="ignored", because="other versions are installed: see constraints.txt"
        )
    if because := OTHER_OPTIONS.get(name):
        return Judged(outcome="ignored", because=because)
    hint = f"options that are read: {', '.join(INDEXES)}, -r, -c, -e"
    return Judged(outcome="refused", because=f"{name} is an option that is not known", hint=hint)


def is_secret(url: str) -> bool:
    """Return whether an address holds a user's name or password, which is never shown."""
    try:
        return "@" in urlsplit(url).netloc
    except ValueError:
        return "@" in url


def _judge_index(name: str, value: str, *, trust_index: bool) -> Judged:
    if not value:
        return Judged(outcome="refused", because=f"{name} has no address", hint="name one")
    if is_secret(value):
        because = "its address holds a name or password, which is not copied"
        hint = "give it to pip where the environment is made, by ~/.netrc or keyring"
        return Judged(outcome="refused", because=because, hint=hint)
    if len(value.split()) > 1:
        because = f"{name} has more than an address"
        return Judged(
            outcome="refused", because=because, hint="write what follows it on a line of its own"
        )
    if trust_index:
        return Judged(outcome="mapped", to="environment.yaml", keep=f"{name} {value}")
    because = "no index but PyPI is taken over without --trust-index"
    if PRIVATE in value:
        because += "; it held nightly builds of 2024, and the releases since then are on PyPI"
    return Judged(outcome="ignored", because=because)


def _option(text: str) -> tuple[str, str]:
    """Return the name and value of `--name value`, `--name=value` or `-fvalue`."""
    match = re.match(r"(--[\w-]+|-[A-Za-z])(?:\s+|\s*=\s*)?(.*)", text)
    return (match[1], match[2].strip().strip("'\"")) if match else (text, "")


def judge(text: str, python: Version) -> Judged:
    """Return what becomes of a requirement as pip takes it."""
    text = re.split(r"\s--[a-z]", text, maxsplit=1)[0].strip()
    if re.match(r"(git|hg|svn|bzr)\+|https?://|file:|\.{0,2}/|~|[A-Za-z]:\\", text) or re.search(
        r"\.(whl|zip|tar\.gz)$", text
    ):
        return _judge_location(text)
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        because = f"{text!r} is no requirement that pip takes"
        return Judged(outcome="refused", because=because, hint="for example transformers>=5.20")
    if requirement.url:
        return _judge_location(text)
    if requirement.marker and not _holds(requirement.marker, python):
        because = f"its condition {requirement.marker} does not hold here"
        return Judged(outcome="ignored", because=because)
    return _judge_package(requirement)


def _holds(marker: Marker, python: Version) -> bool:
    """Return whether a condition holds with a version of Python on this system."""
    release = f"{python.major}.{python.minor}"
    facts = {"python_version": release, "python_full_version": f"{release}.0", "extra": ""}
    try:
        return marker.evaluate(facts)
    except (UndefinedComparison, UndefinedEnvironmentName):
        return False


def judge_conda(name: str, version: str) -> Judged:
    """Return what becomes of a package of conda's, whose version may be `3.8.*` or `>=2,<3`."""
    plain = canonicalize_name(name)
    if plain in OF_CUDA or plain.startswith(("cuda-", "libcu")):
        because = "pip's torch and onnxruntime-gpu bring CUDA's libraries"
        return Judged(outcome="ignored", because=because, extras=("cuda",))
    try:
        specifier = as_specifier(version)
    except InvalidSpecifier:
        because = f"{version!r} is no version that can be compared"
        return Judged(outcome="refused", because=because, hint="for example numpy>=2")
    try:
        requirement = Requirement(f"{CONDA_NAMES.get(plain, name)}{specifier}")
    except InvalidRequirement:
        because = f"{name!r} is no name of a package"
        return Judged(outcome="refused", because=because, hint="for example numpy>=2")
    judged = _judge_package(requirement)
    return replace(judged, extras=("cuda",)) if plain == "pytorch-gpu" else judged


def as_specifier(version: str) -> SpecifierSet:
    """Return conda's version as pip's. `=3.8` is any 3.8, `==3.8` and `3.8` are 3.8 alone.

    Raises InvalidSpecifier for `|`, which pip has not.
    """
    parts = []
    for part in filter(None, (p.strip() for p in version.split(","))):
        exact = re.fullmatch(r"(={0,2})\s*([0-9][\w.+!]*?)(\.\*|\*)?", part)
        if exact and (exact[1] == "=" or exact[3]):
            parts.append(f"=={exact[2]}.*")
        elif exact:
            parts.append(f"=={exact[2]}")
        elif part != "*":
            parts.append(part)
    return SpecifierSet(",".join(parts))


def _judge_package(requirement: Requirement) -> Judged:
    name = canonicalize_name(requirement.name)
    if name == "olive-ai":
        return _judge_olive(requirement.extras)
    if extra := RUNTIMES.get(name):
        return _judge_runtime(requirement, extra)
    if what := OTHER_RUNTIMES.get(name):
        because = f"it would overwrite onnxruntime's files, and {what} is not used here"
        hint = "onnx targets run on cpu, cuda, dml and webgpu"
        return Judged(outcome="refused", because=because, hint=hint)
    if name in NEEDED:
        return _judge_needed(requirement, NEEDED[name])
    if name in AZURE:
        return Judged(outcome="mapped", to="olivebuild[azure]", extras=("azure",))
    return Judged(outcome="ignored", because=_why_ignored(name))


def _why_ignored(name: str) -> str:
    if because := WITHOUT_EFFECT.get(name):
        return because
    return f"{NOT_IMPORTED}; if your own code does, add it to environment.yaml"


def _judge_olive(extras: Iterable[str]) -> Judged:
    own_extras = {OLIVE_EXTRAS[extra.lower()] for extra in extras if extra.lower() in OLIVE_EXTRAS}
    left = [extra for extra in extras if extra.lower() not in OLIVE_EXTRAS]
    because = "olivebuild stands in for Olive"
    if left:
        because += f"; {', '.join(left)} has nothing like it here"
    to = f"olivebuild[{','.join(sorted(own_extras)) or 'build'}]"
    outcome: Outcome = "differs" if left else "mapped"
    return Judged(outcome=outcome, to=to, because=because, extras=tuple(sorted(own_extras)))


def _judge_runtime(requirement: Requirement, extra: str) -> Judged:
    name = canonicalize_name(requirement.name)
    to, extras = f"olivebuild[{extra}]", (extra,)
    if name.startswith("ort-nightly"):
        because = "a nightly build, which is not kept for long; the release stands in for it"
        return Judged(outcome="differs", to=to, because=because, extras=extras)
    judged = _judge_needed(requirement, RUNTIME_VERSIONS[name])
    return replace(judged, to=to, extras=extras)


def _judge_needed(requirement: Requirement, ours: SpecifierSet) -> Judged:
    """Return what becomes of a package that olivebuild needs as well, in `ours`."""
    name = requirement.name
    to = f"olivebuild needs {name}{ours}"
    if not allows_both(requirement.specifier, ours):
        because = f"olivebuild needs {name}{ours}, and {name}{requirement.specifier} is left out"
        return Judged(outcome="differs", to=to, because=because)
    bounded = any(s.operator not in (">", ">=") for s in requirement.specifier)
    plain = f"{name}{requirement.specifier}"
    return Judged(outcome="mapped", to=to, keep=plain if bounded else "")


def allows_both(theirs: SpecifierSet, ours: SpecifierSet) -> bool:
    """Return whether some version is in both sets; looked for at their bounds and beside them."""
    bounds = [_bound(s.version) for s in (*theirs, *ours)]
    candidates = [Version("99999")]
    for bound in filter(None, bounds):
        parts = list(bound.release)
        beside = ".".join(map(str, [*parts, 1]))
        candidates += [bound, Version(beside), *_below(parts)]
    return any(
        theirs.contains(v, prereleases=True) and ours.contains(v, prereleases=True)
        for v in candidates
    )


def _below(release: list[int]) -> list[Version]:
    """Return a version just below: 2.7.99999 for 2.8, 4.99999 for 5.0."""
    while release and release[-1] == 0:
        release = release[:-1]
    if not release:
        return []
    return [Version(".".join(map(str, [*release[:-1], release[-1] - 1, 99999])))]


def _bound(text: str) -> Version | None:
    try:
        return Version(text.removesuffix(".*"))
    except InvalidVersion:
        return None


def _judge_location(text: str) -> Judged:
    """Return what becomes of a package that comes from a repository, an address or a folder."""
    name, extras = _name_of_location(text)
    if name == "olive-ai":
        judged = _judge_olive(extras)
        because = "olivebuild stands in for Olive, whose branches come and go"
        return replace(judged, because=because)
    if name in RUNTIMES:
        because = "the release on PyPI stands in for a build of someone's own"
        extra = RUNTIMES[name]
        return Judged(
            outcome="differs", to=f"olivebuild[{extra}]", because=because, extras=(extra,)
        )
    if name in NEEDED:
        to = f"olivebuild needs {name}{NEEDED[name]}"
        because = "the release on PyPI stands in for what a repository or an address holds"
        return Judged(outcome="differs", to=to, because=because)
    because = "code from a repository, an address or a folder is not taken over"
    hint = "install it yourself once the environment is there, or name a release on PyPI"
    return Judged(outcome="refused", because=because, hint=hint)


def _name_of_location(text: str) -> tuple[str, list[str]]:
    """Return the package that an address names, by `#egg=`, `NAME @` or its last part; else ""."""
    egg = re.search(r"[#&]egg=([\w.-]+)(?:\[([\w,. -]*)\])?", text)
    before = re.match(r"([\w.-]+)\s*(?:\[([\w,. -]*)\])?\s*@", text)
    match = egg or before
    if match:
        extras = [part.strip() for part in (match[2] or "").split(",") if part.strip()]
        return canonicalize_name(match[1]), extras
    path = re.sub(r"[#?].*", "", text).rstrip("/")
    last = re.sub(r"(\.git)?(@[^/]*(/[^/]*)?)?$", "", path.partition("://")[2] or path)
    stem = last.rpartition("/")[2].removesuffix(".git").partition("-")[0]
    repository = canonicalize_name(stem) if stem else ""
    return ("olive-ai" if repository == "olive" else repository), []
