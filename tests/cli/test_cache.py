"""clean and gc from the command line, on a cache with one result."""

from __future__ import annotations

import json

import click
import pytest

from olivebuild.cli.caches.local import quantity
from tests.conftest import Place

RECIPE = """\
targets:
  a: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
"""


@pytest.fixture
def built(place: Place) -> Place:
    place.recipe.write_text(RECIPE)
    (place.folder / "in.txt").write_text("content")
    assert place.build().ran == ["a"]
    return place


def test_clean_tells_and_deletes_what_is_of_this_recipe(built: Place) -> None:
    told = built.run("clean", "--dry-run").out.splitlines()
    assert "would delete build/" in told
    assert (built.folder / "build/a/x.txt").exists()
    assert built.run("clean").out == "\n".join(told).replace("would delete", "deleted") + "\n"
    assert not (built.folder / "build").exists()
    assert built.build().end["restored"] == ["a"]


def test_what_a_recipe_has_is_no_garbage(built: Place) -> None:
    sweep = json.loads(built.run("gc", "--json", "--older-than", "0h", "--delete").out)
    assert (sweep["deleted"], sweep["freed"], sweep["results"]) == (True, 0, [])
    assert sweep["needed"] == sweep["size"] > 0
    assert built.run("gc").out.splitlines()[-1].startswith("0 B of ")


def test_an_amount_that_is_none_is_an_error_of_usage() -> None:
    context, option = click.Context(click.Command("gc")), click.Option(["--max-size"])
    assert quantity("size_of")(context, option, "2GB") == 2_000_000_000
    assert quantity("span_of")(context, option, None) is None
    with pytest.raises(click.BadParameter):
        quantity("span_of")(context, option, "soon")
