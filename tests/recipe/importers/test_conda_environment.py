"""The text of environment.yaml: read back as the same values, whatever the file said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from olivebuild.recipe.importers.conda_environment import scalar, this_package, to_text
from olivebuild.recipe.importers.conda_lines import Kept, Line, Reading


def reading_of(**fields: object) -> Reading:
    reading = Reading(folder=Path(), trust_index=False)
    for name, value in fields.items():
        setattr(reading, name, value)
    return reading


def line(**fields: object) -> Line:
    values: dict[str, object] = {
        "file": "conda.yaml",
        "line": 4,
        "path": ("dependencies", 0),
        "text": "einops",
        "outcome": "ignored",
        "because": "nothing imports it",
    }
    return Line(**(values | fields))  # type: ignore[arg-type]


def test_an_empty_file_still_makes_an_environment() -> None:
    text = to_text(reading_of(), "conda.yaml", ["cpu"])
    assert yaml.safe_load(text) == {
        "name": "olivebuild",
        "channels": ["conda-forge"],
        "dependencies": ["python=3.11", "pip", {"pip": [this_package(["cpu"])]}],
    }
    assert text.startswith("# From conda.yaml: ")
    assert "Left out" not in text


def test_options_come_before_packages_and_each_says_its_line() -> None:
    kept = [
        Kept(text="torch>=2", file="conda.yaml", line=5),
        Kept(text="--extra-index-url https://h.example/s", file="more.txt", line=2),
    ]
    text = to_text(reading_of(kept=kept), "conda.yaml", ["cuda"])
    pip = yaml.safe_load(text)["dependencies"][-1]["pip"]
    assert pip == [kept[1].text, this_package(["cuda"]), kept[0].text]
    assert "torch>=2  # conda.yaml, line 5\n" in text
    assert "  # more.txt, line 2\n" in text


def test_only_what_is_left_out_is_listed_so() -> None:
    lines = [
        line(),
        line(text="torch", outcome="mapped"),
        line(text="-e .", outcome="refused", because="a folder"),
        line(text="TOKEN", path=("variables", "TOKEN")),
        line(text="/home/me", path=("prefix",)),
    ]
    text = to_text(reading_of(lines=lines), "conda.yaml", [])
    assert text.endswith(
        "# Left out:\n"
        "#   einops (conda.yaml, line 4): nothing imports it\n"
        "#   -e . (conda.yaml, line 4): a folder\n"
    )


@given(st.text())
def test_a_line_that_is_left_out_stays_a_comment(entry: str) -> None:
    text = to_text(reading_of(lines=[line(text=entry)]), "conda.yaml", [])
    assert yaml.safe_load(text) == yaml.safe_load(to_text(reading_of(), "conda.yaml", []))


@pytest.mark.parametrize(
    "text", ["no", "1.0", "a: b", "a #b", "- x", "", "null", "'", "\x07", "~", "2024-01-01"]
)
def test_what_yaml_would_read_otherwise_is_quoted(text: str) -> None:
    assert scalar(text).startswith('"')
    assert yaml.safe_load(scalar(text)) == text


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text(), max_size=3))
def test_texts_are_read_back(name: str, variables: dict[str, str]) -> None:
    assert yaml.safe_load(f"- {scalar(name)}") == [name]
    text = to_text(reading_of(variables=variables), "conda.yaml", [])
    assert yaml.safe_load(text).get("variables", {}) == variables


def test_the_package_at_hand_is_a_requirement_that_pip_takes() -> None:
    requirement = Requirement(this_package(["cpu", "azure"]))
    assert (requirement.name, requirement.extras) == ("olivebuild", {"cpu", "azure"})
    assert requirement.url or str(requirement.specifier).startswith("==")
