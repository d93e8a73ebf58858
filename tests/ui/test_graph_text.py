"""The graph as text: a tree, Graphviz, Mermaid."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.api import step
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.graph import Graph, build_graph
from olivebuild.ui.graph_text import dot, edges, mermaid, tree

RECIPE = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: tone.jsonl, text: "{text}"}
  adapter: {kind: adapter, model: base, data: tone}
  merged: {kind: merged, model: base, adapter: adapter}
  bench: {kind: benchmark, models: [base, merged], data: tone}
  alone: {kind: command, run: x, outputs: [y]}
"""


def graph_of(folder: Path, text: str) -> Graph:
    (folder / FILE_NAME).write_text(text)
    return build_graph(load(folder / FILE_NAME))


def test_edges_between_targets_are_listed_once(tmp_path: Path) -> None:
    assert sorted(edges(graph_of(tmp_path, RECIPE))) == [
        ("adapter", "base", ""),
        ("adapter", "tone", "train"),
        # To check the merge against it.
        ("bench", "adapter", ""),
        ("bench", "base", ""),
        ("bench", "merged", ""),
        ("bench", "tone", "test"),
        ("merged", "adapter", ""),
        ("merged", "base", ""),
    ]


SMALL = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: tone.jsonl, text: "{text}"}
  adapter: {kind: adapter, model: base, data: tone}
  merged: {kind: merged, model: base, adapter: adapter}
  onnx: {kind: onnx, model: merged}
  again: {kind: onnx, model: merged}
  alone: {kind: command, run: x, outputs: [y]}
"""


def test_a_tree_opens_each_target_once(tmp_path: Path) -> None:
    assert tree(graph_of(tmp_path, SMALL)) == (
        "onnx (onnx)\n"
        "`-- merged (merged)\n"
        "    |-- base (model)\n"
        "    `-- adapter (adapter)\n"
        "        |-- base (model)\n"
        "        `-- tone.train (dataset)\n"
        "again (onnx)\n"
        "`-- merged (merged) ...\n"
        "alone (command)"
    )


def test_graphviz(tmp_path: Path) -> None:
    text = (
        "targets:\n  a: {kind: command, run: x, outputs: [y]}\n  b: {kind: command, run: x, "
        "outputs: [z], inputs: [a, a.y]}\n"
    )
    assert dot(graph_of(tmp_path, text)) == (
        "digraph olivebuild {\n"
        "  rankdir=LR; node [shape=box];\n"
        '  "a" [label="a\\ncommand"];\n'
        '  "b" [label="b\\ncommand"];\n'
        '  "a" -> "b";\n'
        '  "a" -> "b" [label="y"];\n'
        "}"
    )


def test_mermaid(tmp_path: Path) -> None:
    text = (
        "targets:\n  end: {kind: command, run: x, outputs: [y]}\n  b: {kind: command, run: x, "
        "outputs: [z], inputs: [end, end.y]}\n"
    )
    assert (
        mermaid(graph_of(tmp_path, text))
        == 'graph LR\n  t0["end (command)"]\n  t1["b (command)"]\n  t0 --> t1\n  t0 -->|y| t1'
    )


def test_a_chain_of_thousands_is_drawn_without_recursion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "entry_points", lambda **which: [])
    lines = [
        f"  t{i}: {{kind: command, run: x, outputs: [y], inputs: "
        f"[{f't{i + 1}' if i < 1500 else ''}]}}"
        for i in range(1501)
    ]
    drawn = tree(graph_of(tmp_path, "targets:\n" + "\n".join(lines))).splitlines()
    assert len(drawn) == 1501
    assert drawn[2] == "    `-- t2 (command)"
