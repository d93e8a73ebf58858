"""graph and status from the command line."""

from __future__ import annotations

import json

import pytest

from olivebuild.cli.queries import graph, status
from tests.conftest import Place
from tests.support.sites import CHAIN


@pytest.fixture
def chain(place: Place) -> Place:
    place.recipe.write_text(CHAIN)
    (place.folder / "in.txt").write_text("content")
    return place


def test_the_graph_is_drawn_in_three_forms(chain: Place) -> None:
    assert chain.run("graph", "--dot").out.startswith("digraph")
    assert chain.run("graph", "--mermaid").out.startswith("graph")
    tree = chain.run("graph").out
    assert all(name in tree for name in "abc")


def test_the_status_of_each_target_is_told(chain: Place) -> None:
    targets = json.loads(chain.run("status", "--json").out)["targets"]
    assert [(row["target"], row["verdict"], row["size"]) for row in targets] == [
        ("a", "stale", None),
        ("b", "waiting", None),
        ("c", "waiting", None),
    ]
    assert (graph.name, status.name) == ("graph", "status")
