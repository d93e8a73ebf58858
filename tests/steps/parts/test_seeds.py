"""Copies of what is trained, with other seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.recipe.file import load
from olivebuild.steps.parts.seeds import Retraining, part
from tests.support.sites import Site

RECIPE = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: rows.jsonl, text: "{a}"}
  adapter: {kind: adapter, model: base, data: tone.train, training: {lr: 1e-3, steps: 4, seed: 7}}
  brought: {kind: adapter, source: brought}
  merged: {kind: merged, model: base, adapter: adapter}
  plain: {kind: merged, model: base, adapter: brought}
"""


@pytest.fixture
def retraining(tmp_path: Path) -> Retraining:
    site = Site(tmp_path, RECIPE)
    targets = load(site.folder / "olivebuild.yaml").targets
    return Retraining("bench", ["merged", "plain", "base", "nothing"], targets)


def test_only_what_training_has_a_part_in_is_copied(retraining: Retraining) -> None:
    assert list(retraining.trained) == ["adapter", "merged"]


def test_copies_are_nodes_of_the_owner_with_seeds_of_their_own(retraining: Retraining) -> None:
    nodes = {node.name: node for node in retraining.nodes(2)}
    assert list(nodes) == ["bench:adapter.seed2", "bench:merged.seed2"]
    assert {node.target for node in nodes.values()} == {"bench"}
    assert nodes["bench:adapter.seed2"].fields["training"]["seed"] == 9
    # A copy is made from copies where there are any, and from the recipe's own targets else.
    edges = {edge.role: edge for edge in nodes["bench:merged.seed2"].edges}
    assert edges["adapter"].ref.target == "bench"
    assert edges["adapter"].sibling == part("adapter", 2)
    assert edges["model"].ref.target == "base"
