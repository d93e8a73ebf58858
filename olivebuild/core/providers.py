"""Execution providers that can run here, by what is installed and the system.

onnxruntime is not imported. Packages are named whose files overwrite each other's.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from olivebuild.core import host
from olivebuild.core.errors import Problem

PROVIDERS = ("cpu", "cuda", "dml", "webgpu")
FAMILIES = ("onnxruntime", "onnxruntime_genai")
"""The folders in site-packages that several packages write to."""
CUDA_EXTRA = "an environment with olivebuild[cuda] has it, in place of olivebuild[build]"
DIRECTML_EXTRA = "an environment with olivebuild[directml] has it, in place of olivebuild[build]"


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Packages that are installed over each other: `files` stand in the records of all of them.

    `extra` is the extra of olivebuild that has the one to keep.
    """

    folder: str
    packages: tuple[str, ...]
    files: int
    extra: str

    @property
    def fact(self) -> str:
        names = " and ".join(self.packages)
        return f"{names} overwrite each other: {self.files} files of {self.folder}/ are in both"

    @property
    def hint(self) -> str:
        """The way out. What is uninstalled takes the other's files with it, so that both go."""
        names = " ".join(self.packages)
        return f"pip uninstall -y {names}, then pip install 'olivebuild[{self.extra}]' again"


def reason_against(provider: str) -> Problem | None:
    """Return why models for a provider can't run here, as far as files and the system tell."""
    if provider == "cuda":
        return _against_cuda()
    if provider == "dml":
        return _against_directml()
    if provider == "webgpu":
        return _against_webgpu()
    if provider not in PROVIDERS:
        return Problem(f"nothing here runs {provider}", f"provider: one of {', '.join(PROVIDERS)}")
    return None


def _against_cuda() -> Problem | None:
    for folder, pattern in (
        ("onnxruntime_genai", "*onnxruntime-genai-cuda*"),
        ("onnxruntime", "*onnxruntime_providers_cuda*"),
    ):
        if not _libraries(folder, pattern):
            return _lacks(folder, "CUDA", CUDA_EXTRA)
    if not host.gpu_names():
        hint = "build it here and run it where one is; CUDA_VISIBLE_DEVICES may hide it"
        return Problem("no NVIDIA GPU is to be seen here", hint)
    return None


def _against_directml() -> Problem | None:
    if platform.system() != "Windows":
        return Problem("DirectML is a part of Windows", "build it here and run it there")
    if not _libraries("onnxruntime", "DirectML.dll"):
        return _lacks("onnxruntime", "DirectML", DIRECTML_EXTRA)
    return None


def _against_webgpu() -> Problem | None:
    try:
        # It is compiled into the one library, whose name tells nothing.
        host.version("onnxruntime-webgpu")
    except ModuleNotFoundError:
        return _lacks("onnxruntime", "WebGPU", "onnxruntime-webgpu has it, in place of onnxruntime")
    return None


def _lacks(folder: str, what: str, hint: str) -> Problem:
    package = folder.replace("_", "-")
    fact = (
        f"the installed {package} has no {what}"
        if find_spec(folder)
        else f"{package} is not installed"
    )
    return Problem(fact, hint)


def _libraries(folder: str, pattern: str) -> list[Path]:
    """Return the files of an installed package that match, without importing it."""
    spec = find_spec(folder)
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    return [
        file for place in places for inner in ("", "capi") for file in (place / inner).glob(pattern)
    ]


def load_cuda() -> None:
    """Load CUDA's libraries from the packages that pip installed, as torch does for its own.

    Without that, ONNX Runtime looks for them where the system has libraries. For a process that
    runs models: onnxruntime is imported.
    """
    import onnxruntime

    # What is missing is printed, and told by the runtime once it needs it.
    with contextlib.redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls(directory=_cuda_elsewhere(Path(onnxruntime.__file__).parents[1]))


def _cuda_elsewhere(site: Path) -> str | None:
    """Return the folder of CUDA's libraries where they are not beside onnxruntime.

    They may be in the environment that a virtual one stands on.
    """
    spec = None if (site / "nvidia").is_dir() else find_spec("nvidia")
    places = (spec.submodule_search_locations or ()) if spec else ()
    folders = (lib for place in places for lib in sorted(Path(place).glob("*/lib")))
    return next((str(lib) for lib in folders if any(lib.glob("libcublas.so.*"))), None)


def overlaps() -> list[Overlap]:
    """Return the packages that are installed over each other, by the records of their files."""
    return [overlap for folder in FAMILIES if (overlap := _overlap_in(folder))]


def _overlap_in(folder: str) -> Overlap | None:
    owners: dict[str, list[str]] = {}
    for name, file in _files_in(folder):
        owners.setdefault(file, []).append(name)
    shared = [names for names in owners.values() if len(set(names)) > 1]
    if not shared:
        return None
    packages = tuple(sorted({name for names in shared for name in names}))
    return Overlap(folder=folder, packages=packages, files=len(shared), extra=_extra_of(packages))


def _files_in(folder: str) -> Iterator[tuple[str, str]]:
    """Yield (package, file) of what packages have written into a folder, as their records say."""
    prefix = folder.replace("_", "-").partition("-")[0]
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if not name.lower().replace("_", "-").startswith((prefix, "ort-nightly")):
            continue
        for file in distribution.files or ():
            if file.parts[:1] == (folder,) and file.suffix != ".pyc":
                # The same name in two folders of packages is no overlap: the first one is imported.
                yield name, str(distribution.locate_file(file))


def _extra_of(packages: tuple[str, ...]) -> str:
    """Return the extra to keep: the one that runs on more hardware than a processor."""
    names = " ".join(packages).lower()
    if "gpu" in names or "cuda" in names:
        return "cuda"
    return "directml" if "directml" in names else "build"
