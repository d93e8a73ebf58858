"""Dependencies of a conda file: packages of conda's, pip's list, files of requirements."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from olivebuild.recipe import document
from olivebuild.recipe.importers.conda_dependencies import (
    MAX_FILES,
    choose_python,
    read_dependencies,
    split,
)
from olivebuild.recipe.importers.conda_lines import Reading


def reading_of(folder: Path, text: str) -> Reading:
    """Return what is read of a conda file's list of dependencies."""
    read = document.parse(f"dependencies:\n{text}", "conda.yaml")
    assert isinstance(read.value, dict)
    dependencies = read.value["dependencies"]
    assert isinstance(dependencies, list)
    reading = Reading(folder=folder, trust_index=False)
    choose_python(reading, dependencies)
    read_dependencies(reading, read, dependencies)
    return reading


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("numpy", ("numpy", "", "")),
        ("NumPy=1.26", ("numpy", "=1.26", "")),
        ("numpy==1.26=py311_0", ("numpy", "==1.26", "py311_0")),
        ("conda-forge::numpy >=1.26, <3", ("numpy", ">=1.26,<3", "")),
        ("numpy 1.26 py311_0", ("numpy", "1.26", "py311_0")),
        ("pytorch[version='>=2', build=cuda*]", ("pytorch", ">=2", "cuda*")),
        ("numpy=1.26  # as before", ("numpy", "=1.26", "")),
        ("*", ("", "", "")),
        ("", ("", "", "")),
    ],
)
def test_a_package_of_conda_has_three_parts(text: str, parts: tuple[str, str, str]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize(
    ("entry", "version", "text"),
    [
        ("python=3.12.4", "3.12", "python=3.12.4"),
        ("python>=3.9,<3.13", "3.11", "python=3.11"),
        ("python=3.8", "3.11", "python=3.11"),
        ("python", "3.11", "python=3.11"),
        ("python=three", "3.11", "python=3.11"),
        ("python>=3.13", "3.13", "python=3.13"),
    ],
)
def test_python_is_chosen_before_anything_is_read(entry: str, version: str, text: str) -> None:
    reading = Reading(folder=Path(), trust_index=False)
    choose_python(reading, [{"pip": []}, entry, 3])
    assert (reading.python, reading.python_text) == (Version(version), text)
    assert not reading.lines


@pytest.mark.parametrize("dependencies", [None, "python=3.12", {"python": "3.12"}])
def test_what_is_no_list_chooses_nothing(dependencies: object) -> None:
    reading = Reading(folder=Path(), trust_index=False)
    choose_python(reading, dependencies)
    assert reading.python_text == "python=3.11"


@pytest.mark.parametrize(
    ("text", "outcomes"),
    [
        ("  - ''\n  - \n", ["ignored", "ignored"]),
        ("  - 3\n  - [a, 4]\n  - nümpy\n", ["refused"] * 4),
        ("  - {npm: [a, b]}\n", ["refused", "refused"]),
        ("  - {pip: }\n  - {pip: []}\n", ["ignored", "ignored"]),
        ("  - pip:\n      - {a: b}\n      -\n", ["refused", "ignored"]),
        ("  - sel(win): torch\n", ["mapped"]),
        ("  - sel(win): [torch]\n", ["refused"]),
    ],
)
def test_each_value_is_one_line_with_its_place(
    tmp_path: Path, text: str, outcomes: list[str]
) -> None:
    reading = reading_of(tmp_path, text)
    assert [line.outcome for line in reading.lines] == outcomes
    assert all(line.because or line.outcome == "mapped" for line in reading.lines)
    assert all(line.file == "conda.yaml" and line.line > 1 for line in reading.lines)
    assert len({line.path for line in reading.lines}) == len(outcomes)


def test_a_selector_counts_everywhere_and_says_so(tmp_path: Path) -> None:
    (line,) = reading_of(tmp_path, "  - sel(linux): torch\n").lines
    assert line.because.endswith(
        "sel(linux) is a selector of mamba, and the line counts on every system here"
    )


@pytest.mark.parametrize(
    ("version", "outcome", "text"),
    [("=24.0", "mapped", "pip=24.0"), ("=22.1", "differs", "pip"), (">=20", "mapped", "pip")],
)
def test_pip_is_one_that_runs(tmp_path: Path, version: str, outcome: str, text: str) -> None:
    reading = reading_of(tmp_path, f"  - 'pip{version}'\n")
    assert (reading.lines[0].outcome, reading.pip_text) == (outcome, text)


def test_a_file_of_requirements_names_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "a.txt").write_text("# first\n\ntorch \\\n  >=2\n-r more/b.txt\nnumpy\\", "utf-8")
    (tmp_path / "more" / "b.txt").write_text("-r ../a.txt\nnumpy>=2  # new\n", "utf-8")
    lines = reading_of(tmp_path, "  - pip:\n      - -r a.txt\n").lines
    assert [(line.file, line.line, line.outcome) for line in lines] == [
        ("conda.yaml", 3, "mapped"),
        ("a.txt", 3, "mapped"),
        ("a.txt", 5, "mapped"),
        ("more/b.txt", 1, "refused"),
        ("more/b.txt", 2, "mapped"),
        ("a.txt", 6, "mapped"),
    ]
    assert lines[0].to == "the 3 lines of a.txt"
    assert lines[3].because == "../a.txt is read by itself"


def test_a_chain_of_files_has_an_end(tmp_path: Path) -> None:
    for i in range(MAX_FILES + 5):
        (tmp_path / f"{i}.txt").write_text(f"-r {i + 1}.txt\n", "utf-8")
    lines = reading_of(tmp_path, "  - pip:\n      - -r 0.txt\n").lines
    assert [line.outcome for line in lines] == ["mapped"] * MAX_FILES + ["refused"]


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("", "-r is no file on this disk"),
        ("https://h.example/a.txt", "https://h.example/a.txt is no file on this disk"),
        ("../a.txt", "../a.txt is not below the conda file's folder"),
        ("gone.txt", "there is no gone.txt beside the conda file"),
        (".", "there is no . beside the conda file"),
        ("bytes.txt", "bytes.txt can't be read: it is not UTF-8 text"),
    ],
)
def test_a_file_that_is_not_read_is_told(tmp_path: Path, name: str, because: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "a.txt").write_text("torch\n", "utf-8")
    (folder / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    (line,) = reading_of(folder, f"  - pip:\n      - '-r {name}'\n").lines
    assert (line.outcome, line.because) == ("refused", because)
    assert line.hint


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "a.txt").write_text("torch\n", "utf-8")
    (folder / "link.txt").symlink_to(tmp_path / "a.txt")
    (line,) = reading_of(folder, "  - pip:\n      - -r link.txt\n").lines
    assert line.because == "link.txt is not below the conda file's folder"
