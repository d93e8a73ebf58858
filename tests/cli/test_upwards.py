"""Commands in a folder below that of the recipe."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Place
from tests.support.sites import CHAIN


@pytest.fixture
def below(place: Place) -> Place:
    """A folder below a recipe, in a repository."""
    place.recipe.write_text(CHAIN.replace("cp {outputs.x}", "cp in.txt {outputs.x}"))
    (place.folder / "in.txt").write_text("one")
    (place.folder / ".git").mkdir()
    folder = place.folder / "data/raw"
    folder.mkdir(parents=True)
    return replace(place, folder=folder)


NOTE = f"note: the recipe is {os.path.join('..', '..', 'olivebuild.yaml')}\n"


def test_a_build_below_is_that_of_the_recipe_above(below: Place) -> None:
    top = replace(below, folder=below.folder.parents[1])
    done = below.run()
    assert (done.code, done.err) == (0, NOTE)
    assert done.out.splitlines()[-1].startswith("3 built in")
    assert top.built("c", "z.txt") == b"one"
    assert list(below.folder.iterdir()) == []
    for _ in range(2):
        again = below.run()
        assert (again.out, again.err) == ("nothing to do: c is fresh\n", NOTE)
        assert top.run().err == ""
        assert top.run().out == "nothing to do: c is fresh\n"
    (top.folder / "in.txt").write_text("two")
    assert below.build().ran == ["a", "b", "c"]


@pytest.mark.parametrize(
    "words", [["plan"], ["status"], ["why", "b"], ["graph"], ["history"], ["gc"], ["clean"]]
)
def test_commands_that_read_a_recipe_name_the_one_above_once(
    below: Place, words: list[str]
) -> None:
    done = below.run(*words)
    assert (done.code, done.err) == (0, NOTE)


def test_paths_on_the_command_line_begin_where_the_user_stands(below: Place) -> None:
    done = below.run("report", "--out", "page.html")
    assert done.code == 0, done.err
    assert (below.folder / "page.html").is_file()


def test_what_is_named_is_not_searched_for(below: Place) -> None:
    for words in (["-C", "."], ["-f", "olivebuild.yaml"], ["-C", "..", "plan"]):
        done = below.run(*words)
        assert done.code == 2
        assert "there is no recipe here" in done.err
    assert below.run("-C", "../..", "plan").err == ""


def test_init_writes_into_the_folder_at_hand(below: Place) -> None:
    (below.folder / "rows.jsonl").write_text(
        "".join(f'{{"prompt": "text {n}", "completion": "b{n}"}}\n' for n in range(20))
    )
    done = below.run("init", "--model", "hf:some/model", "--data", "rows.jsonl")
    assert done.code == 0, done.err
    assert Path(below.folder / "olivebuild.yaml").is_file()


def test_help_names_no_recipe(below: Place) -> None:
    for words in (["help"], ["version"], ["help", "plan"]):
        assert below.run(*words).err == ""
