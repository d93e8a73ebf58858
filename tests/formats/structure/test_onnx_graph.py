"""The digest of a graph: blind to weights, and to nothing else that is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.formats.structure.onnx_graph import graph_digest
from tests.formats.test_onnx_graphs import graph_file, in_a_branch

FLOAT, INT64 = 1, 7


def digest(path: Path, change: Any = None) -> str:
    return graph_digest(graph_file(path, change))[0]


def weight(name: str, kind: int, shape: list[int], values: list[float]) -> Any:
    """Return a change that adds an initialiser."""

    def add(model: Any, helper: Any) -> None:
        model.graph.initializer.append(helper.make_tensor(name, kind, shape, values))

    return add


def raw(values: bytes) -> Any:
    def add(model: Any, helper: Any) -> None:
        model.graph.initializer.append(helper.make_tensor("r", FLOAT, [2], values, raw=True))

    return add


def test_values_of_weights_are_not_in_it(tmp_path: Path) -> None:
    first = digest(tmp_path / "a", weight("v", FLOAT, [2], [1.0, 2.0]))
    assert digest(tmp_path / "b", weight("v", FLOAT, [2], [3.0, 4.0])) == first
    assert digest(tmp_path / "c", raw(b"\1" * 8)) == digest(tmp_path / "d", raw(b"\2" * 8))

    def moved(model: Any, helper: Any) -> None:
        entries = model.graph.initializer[0].external_data
        next(e for e in entries if e.key == "offset").value = "4096"

    assert digest(tmp_path / "e", moved) == digest(tmp_path / "f")


@pytest.mark.parametrize(
    "change",
    [
        weight("v", FLOAT, [2], [1.0, 2.0]),
        weight("v", FLOAT, [1, 2], [1.0, 2.0]),
        weight("w2", FLOAT, [2], [1.0, 2.0]),
        weight("v", 10, [2], [1.0, 2.0]),
        # Where a graph reshapes, the numbers are the shape.
        weight("s", INT64, [2], [0, 64]),
        weight("s", INT64, [2], [0, 32]),
        lambda model, helper: model.graph.node.append(helper.make_node("Neg", ["y"], ["z"])),
        lambda model, helper: model.graph.node.append(helper.make_node("Abs", ["y"], ["z"])),
        in_a_branch,
    ],
)
def test_all_else_is(tmp_path: Path, change: Any) -> None:
    assert digest(tmp_path / "a", change) != digest(tmp_path / "b")


def test_numbers_of_a_shape_are_in_it(tmp_path: Path) -> None:
    changes = [weight("s", INT64, [2], [0, n]) for n in (1, 2)]
    assert len({digest(tmp_path / str(i), change) for i, change in enumerate(changes)}) == 2


def test_weights_of_a_branch_are_blind_too(tmp_path: Path) -> None:
    def branch(value: float) -> Any:
        def add(model: Any, helper: Any) -> None:
            inner = helper.make_graph(
                [helper.make_node("Add", ["x", "v"], ["z"])],
                "inner",
                [],
                [],
                [helper.make_tensor("v", FLOAT, [2], [value, value])],
            )
            model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner))

        return add

    first, operators = graph_digest(graph_file(tmp_path / "a", branch(1.0)))
    assert digest(tmp_path / "b", branch(2.0)) == first
    assert operators == {("", "Add"), ("", "If")}


def test_what_is_no_file_of_onnx_is_refused(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("cut", b"\x3a\x7f"), ("wire", b"\x3b\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"empty|longer|wire"):
            graph_digest(tmp_path / name)
