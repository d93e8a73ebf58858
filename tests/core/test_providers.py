"""Which providers can run here, and packages that are installed over each other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from olivebuild.core import host
from olivebuild.core.providers import FAMILIES, PROVIDERS, load_cuda, overlaps, reason_against
from olivebuild.steps.parts.conversion_options import PRECISIONS


def install(folder: Path, package: str, *files: str) -> None:
    """Write files and a record of them, as pip does."""
    record = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (record / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that packages can be installed into, and the only one that is looked at."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for family in FAMILIES:
        # What another test has imported is found before any folder is looked at.
        monkeypatch.delitem(sys.modules, family, raising=False)
    host.gpu_names.cache_clear()
    return tmp_path


def test_every_provider_of_onnx_targets_is_known() -> None:
    assert set(PROVIDERS) == set(PRECISIONS)


def test_packages_that_share_files_are_told_with_a_way_out(site: Path) -> None:
    shared = ("onnxruntime/__init__.py", "onnxruntime/capi/libonnxruntime.so")
    install(site, "onnxruntime", *shared)
    install(site, "onnxruntime-gpu", *shared, "onnxruntime/capi/libonnxruntime_providers_cuda.so")
    install(site, "onnxruntime-genai", "onnxruntime_genai/__init__.py")
    (overlap,) = overlaps()
    assert overlap.packages == ("onnxruntime", "onnxruntime-gpu")
    assert overlap.files == 2
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in overlap.hint
    assert "olivebuild[cuda]" in overlap.hint


def test_both_families_are_looked_at(site: Path) -> None:
    for package in ("onnxruntime-genai", "onnxruntime-genai-directml"):
        install(site, package, "onnxruntime_genai/__init__.py")
    for package in ("ort-nightly", "onnxruntime"):
        install(site, package, "onnxruntime/__init__.py")
    told = {overlap.folder: overlap.extra for overlap in overlaps()}
    assert told == {"onnxruntime": "build", "onnxruntime_genai": "directml"}


def test_packages_with_folders_of_their_own_are_no_overlap(site: Path) -> None:
    install(site, "onnxruntime-extensions", "onnxruntime_extensions/__init__.py")
    install(site, "onnxruntime", "onnxruntime/__init__.py", "onnxruntime/a.pyc")
    install(site, "onnxruntime-gpu", "onnxruntime/b.py", "onnxruntime/a.pyc")
    assert overlaps() == []


def test_packages_in_two_folders_are_no_overlap(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, name in (("onnxruntime", "one"), ("onnxruntime-gpu", "two")):
        install(site / name, package, "onnxruntime/__init__.py")
    monkeypatch.setattr(sys, "path", [str(site / "one"), str(site / "two")])
    assert overlaps() == []


def test_cuda_takes_two_libraries_and_a_gpu(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fact() -> str:
        problem = reason_against("cuda")
        return problem.fact if problem else ""

    assert fact() == "onnxruntime-genai is not installed"
    install(site, "onnxruntime-genai", "onnxruntime_genai/__init__.py")
    assert fact() == "the installed onnxruntime-genai has no CUDA"
    (site / "onnxruntime_genai/libonnxruntime-genai-cuda.so").touch()
    install(site, "onnxruntime", "onnxruntime/__init__.py", "onnxruntime/capi/x.py")
    assert fact() == "the installed onnxruntime has no CUDA"
    (site / "onnxruntime/capi/libonnxruntime_providers_cuda.so").touch()
    monkeypatch.setattr(host, "gpu_names", lambda: ())
    assert fact() == "no NVIDIA GPU is to be seen here"
    monkeypatch.setattr(host, "gpu_names", lambda: ("a GPU",))
    assert reason_against("cuda") is None


@pytest.mark.parametrize(("beside", "asked"), [(True, False), (False, True)])
def test_cudas_libraries_are_looked_for_where_packages_are(
    site: Path, monkeypatch: pytest.MonkeyPatch, beside: bool, asked: bool
) -> None:
    runtime, below = site / "venv", site / "below"
    library = (runtime if beside else below) / "nvidia/cu13/lib/libcublas.so.13"
    library.parent.mkdir(parents=True)
    library.touch()
    (library.parents[2] / "cudnn/lib").mkdir(parents=True)
    (runtime / "onnxruntime").mkdir(parents=True)
    (runtime / "onnxruntime/__init__.py").write_text(
        "asked = []\ndef preload_dlls(directory): print('said'); asked.append(directory)\n"
    )
    monkeypatch.setattr(sys, "path", [str(runtime), str(below)])
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    load_cuda()
    # Out of the way of the real one, and of what looks for it.
    module = sys.modules.pop("onnxruntime")
    assert module.asked == [str(library.parent) if asked else None]


def test_directml_is_a_part_of_windows(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    problem = reason_against("dml")
    assert problem
    assert "Windows" in problem.fact
    monkeypatch.setattr("platform.system", lambda: "Windows")
    install(site, "onnxruntime-directml", "onnxruntime/__init__.py", "onnxruntime/capi/x.py")
    assert reason_against("dml")
    (site / "onnxruntime/capi/DirectML.dll").touch()
    assert reason_against("dml") is None


def test_webgpu_takes_a_package_of_its_own(site: Path) -> None:
    install(site, "onnxruntime", "onnxruntime/__init__.py")
    assert reason_against("webgpu")
    install(site, "onnxruntime-webgpu", "onnxruntime/__init__.py")
    assert reason_against("webgpu") is None


def test_the_processor_needs_nothing_and_others_are_unknown(site: Path) -> None:
    assert reason_against("cpu") is None
    assert reason_against("NvTensorRtRtx")
