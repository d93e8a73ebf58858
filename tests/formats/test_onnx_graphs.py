"""Graphs of ONNX folders from elsewhere: what they lead to, and which of their files are taken."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from olivebuild.formats import onnx_file, onnx_folder
from tests.formats.test_genai_config import WRITTEN, folder_with, told


def graph_file(place: Path, change: Callable[[Any, Any], None] | None = None) -> Path:
    """A model of one node whose weight lies beside it; `change` gets the model and onnx.helper."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = helper.make_tensor("w", kinds.FLOAT, [2], [1.0, 2.0])
    value = [helper.make_tensor_value_info(name, kinds.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    )
    outside(model.graph.initializer[0], "model.onnx.data")
    if change:
        change(model, helper)
    place.mkdir(exist_ok=True)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    return place / "model.onnx"


def outside(tensor: Any, location: str) -> None:
    tensor.ClearField("float_data")
    tensor.data_location = 1
    for key, value in (("offset", "0"), ("location", location), ("length", "8")):
        tensor.external_data.add(key=key, value=value)


def in_a_branch(model: Any, helper: Any) -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "v"], ["z"])],
        "inner",
        [],
        [],
        [helper.make_tensor("v", 1, [2], [0.0, 0.0])],
    )
    outside(inner.initializer[0], "/etc/passwd")
    model.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    )


def in_a_function(model: Any, helper: Any) -> None:
    made = [helper.make_node("Op", ["a"], ["b"], domain="evil")]
    model.functions.append(
        helper.make_function("mine", "F", ["a"], ["b"], made, [helper.make_opsetid("evil", 1)])
    )


def own_function(model: Any, helper: Any) -> None:
    model.functions.append(
        helper.make_function(
            "mine",
            "F",
            ["a"],
            ["b"],
            [helper.make_node("Relu", ["a"], ["b"])],
            [helper.make_opsetid("", 21)],
        )
    )
    model.graph.node.append(helper.make_node("F", ["y"], ["z"], domain="mine"))


def constant(location: str) -> Callable[[Any, Any], None]:
    def change(model: Any, helper: Any) -> None:
        tensor = helper.make_tensor("c", 1, [2], [0.0, 0.0])
        outside(tensor, location)
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))

    return change


def node(kind: str, domain: str) -> Callable[[Any, Any], None]:
    return lambda model, helper: model.graph.node.append(
        helper.make_node(kind, ["x"], ["z"], domain=domain)
    )


GRAPHS: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "above": (
        lambda model, _: outside(model.graph.initializer[0], "../../../etc/passwd"),
        "its weights lie in '../../../etc/passwd', outside",
    ),
    "in a branch": (in_a_branch, "its weights lie in '/etc/passwd', outside"),
    "in an attribute": (constant("a/../../b"), "its weights lie in 'a/../../b'"),
    "in memory": (constant("*/_ORT_MEM_ADDR_/*"), "outside the folder"),
    "on Windows": (constant("..\\b"), "outside the folder"),
    "sparse": (
        lambda model, _: outside(model.graph.sparse_initializer.add().values, "/b"),
        "its weights lie in '/b'",
    ),
    "while training": (
        lambda model, _: outside(model.training_info.add().algorithm.initializer.add(), "/b"),
        "its weights lie in '/b'",
    ),
    "compiled": (
        node("EPContext", "com.microsoft"),
        "it holds compiled code for a device (EPContext)",
    ),
    "extensions": (
        node("PyOp", "ai.onnx.contrib"),
        "it calls ai.onnx.contrib:PyOp, which only a library",
    ),
    "torch": (node("ATen", "org.pytorch.aten"), "it calls org.pytorch.aten:ATen"),
    "in a function": (in_a_function, "it calls evil:Op"),
}


@pytest.mark.parametrize(("change", "says"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_leads_out_of_its_folder_takes_trust(
    change: Callable[[Any, Any], None], says: str, tmp_path: Path
) -> None:
    graph_file(tmp_path, change)
    (found,) = told(tmp_path)
    assert found.startswith("model.onnx: ")
    assert says in found


def test_a_graph_with_functions_of_its_own_and_the_runtimes_operators_needs_none(
    tmp_path: Path,
) -> None:
    def change(model: Any, helper: Any) -> None:
        own_function(model, helper)
        node("MatMulNBits", "com.microsoft")(model, helper)

    file = graph_file(tmp_path, change)
    assert told(tmp_path) == []
    found = onnx_file.named_in(file)
    assert found.files == {"model.onnx.data"}
    assert found.operators == {("", "Add"), ("", "Relu"), ("com.microsoft", "MatMulNBits")}


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[:-1],
        lambda d: d + b"\x3a\xff",
        lambda _: b"",
        lambda _: b"\xff" * 40,
        lambda d: b"\x3b" + d,
    ],
)
def test_a_graph_that_ends_early_or_is_none_is_told(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    file = graph_file(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    (found,) = told(tmp_path)
    assert found.startswith("model.onnx: can't be read: ")


def test_graphs_within_graphs_without_end_are_told(tmp_path: Path) -> None:
    data = b""
    for _ in range(3000):
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            data = tag + onnx_varint(len(data)) + data
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + onnx_varint(len(data)) + data)
    assert told(tmp_path) == ["model.onnx: can't be read: graphs lie too deep in one another"]


def onnx_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_the_weights_of_published_folders_are_fetched_with_the_graphs() -> None:
    names = (
        "phi3-mini-4k-instruct-cpu-int4-rtn-block-32.onnx.data",
        "onnx/model.onnx_data",
        "onnx/model.onnx_data_1",
        "cpu/model.data",
    )
    assert all(any(fnmatch(name, pattern) for pattern in onnx_folder.DATA) for name in names)


def test_only_what_the_runtime_reads_is_taken(tmp_path: Path) -> None:
    graph_file(folder_with(tmp_path, WRITTEN), constant("more/weights.bin"))
    for name in (
        "model.onnx.data",
        "more/weights.bin",
        "tokenizer.json",
        "LICENSE",
        "evil.so",
        "configuration_phi3.py",
        "w.pkl",
        ".git/x",
        "README.md",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    kept = [
        "LICENSE",
        "genai_config.json",
        "model.onnx",
        "model.onnx.data",
        "more/weights.bin",
        "tokenizer.json",
    ]
    assert onnx_folder.taken(tmp_path) == (kept, ["configuration_phi3.py", "evil.so", "w.pkl"])
    assert onnx_folder.taken(tmp_path, everything=True) == (
        sorted([*kept, "configuration_phi3.py", "evil.so", "w.pkl"]),
        [],
    )
