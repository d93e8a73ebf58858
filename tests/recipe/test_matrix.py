"""`matrix:`: members, their names and places, where a matrix's name stands for them, and what is
wrong with one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.graph import Graph, build_graph

BASE = """\
default: int4
targets:
  base: {kind: model, source: "hf:a/b"}
  tone: {kind: dataset, source: t.jsonl, text: "{t}"}
  adapter:
    kind: adapter
    model: base
    data: tone
    matrix: {r: [8, 16], training.lr: [1e-4, 0.002]}
    training: {steps: 10}
  int4:
    kind: onnx
    model: base
    matrix: {block_size: [32, 64], provider: [cpu, cuda]}
  bench: {kind: benchmark, models: [base, int4], data: tone}
"""


def graph_of(folder: Path, text: str, *settings: str) -> Graph:
    (folder / FILE_NAME).write_text(text)
    return build_graph(load(folder / FILE_NAME, settings))


def fault(folder: Path, text: str, *settings: str) -> tuple[str, str, str]:
    with pytest.raises(RecipeError) as caught:
        graph_of(folder, text, *settings)
    return str(caught.value.where), caught.value.fact, caught.value.hint


MEMBERS = ["int4-32-cpu", "int4-32-cuda", "int4-64-cpu", "int4-64-cuda"]


def test_each_combination_is_a_target(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, BASE)
    lora = ["adapter-8-0_0001", "adapter-8-0_002", "adapter-16-0_0001", "adapter-16-0_002"]
    assert list(graph.targets) == ["base", "tone", *lora, *MEMBERS, "bench"]
    assert graph.nodes["int4-64-cuda"].fields == {
        "model": "base",
        "block_size": 64,
        "provider": "cuda",
    }
    assert graph.nodes["adapter-16-0_002"].fields["training"] == {"steps": 10, "lr": 0.002}


def test_a_matrix_is_named_as_a_goal_as_default_and_where_a_list_stands(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, BASE)
    assert graph.goals(["int4", "tone"]) == [*MEMBERS, "tone"]
    assert graph.goals([]) == MEMBERS
    assert graph.goals(["int4-32-cpu"]) == ["int4-32-cpu"]
    assert graph.nodes["bench"].fields["models"] == ["base", *MEMBERS]


def test_a_single_name_becomes_a_list_where_one_may_stand(tmp_path: Path) -> None:
    text = BASE + '  c: {kind: command, run: "x", outputs: [o], inputs: [int4, adapter-8-0_002]}\n'
    graph = graph_of(
        tmp_path,
        text.replace("data: tone}", "data: sets}")
        + '  sets: {kind: dataset, text: "{t}", matrix: {source: [a.jsonl, b.jsonl]}}\n',
    )
    assert graph.nodes["bench"].fields["data"] == ["sets-a_jsonl", "sets-b_jsonl"]
    assert graph.nodes["c"].fields["inputs"] == [*MEMBERS, "adapter-8-0_002"]


def test_an_axis_may_be_a_matrix(tmp_path: Path) -> None:
    graph = graph_of(
        tmp_path, BASE + "  merged: {kind: merged, model: base, matrix: {adapter: [adapter]}}\n"
    )
    assert graph.matrices["merged"][0] == "merged-adapter-8-0_0001"
    assert graph.nodes["merged-adapter-8-0_0001"].fields == {
        "model": "base",
        "adapter": "adapter-8-0_0001",
    }


def test_members_have_the_keys_of_targets_written_out(tmp_path: Path) -> None:
    matrix = graph_of(tmp_path, BASE).nodes["int4-64-cuda"]
    written = graph_of(
        tmp_path, BASE + "  one: {kind: onnx, model: base, block_size: 64, provider: cuda}\n"
    ).nodes["one"]
    assert (matrix.parameters, matrix.edges, matrix.libraries) == (
        written.parameters,
        written.edges,
        written.libraries,
    )


def test_a_field_is_overridden_for_all_members_or_for_one(tmp_path: Path) -> None:
    graph = graph_of(
        tmp_path,
        BASE,
        "int4.symmetric=false",
        "int4-64-cpu.accuracy_level=1",
        "int4.matrix.provider=[cpu]",
    )
    assert [n for n in graph.targets if n.startswith("int4")] == ["int4-32-cpu", "int4-64-cpu"]
    assert [
        graph.nodes[n].fields.get("accuracy_level") for n in ("int4-32-cpu", "int4-64-cpu")
    ] == [None, 1]
    assert {graph.nodes[n].fields["symmetric"] for n in ("int4-32-cpu", "int4-64-cpu")} == {False}


def test_errors_of_members_point_at_the_matrix(tmp_path: Path) -> None:
    text = BASE.replace("block_size: [32, 64]", "blok_size: [32, 64]")
    assert fault(tmp_path, text) == (
        f"{FILE_NAME}:14:14",
        "unknown key 'blok_size' in int4-32-cpu",
        "did you mean block_size?",
    )
    text = BASE.replace("provider: [cpu, cuda]", "provider: [cpu, tpu]")
    assert fault(tmp_path, text)[0] == f"{FILE_NAME}:14:36"
    assert (
        fault(tmp_path, BASE.replace("    model: base\n    matrix", "    model: bse\n    matrix"))[
            0
        ]
        == f"{FILE_NAME}:13:5"
    )


@pytest.mark.parametrize(
    ("old", "new", "fact"),
    [
        (
            "matrix: {block_size: [32, 64], provider: [cpu, cuda]}",
            "matrix: []",
            "the matrix of int4 must name fields, each with a list of values",
        ),
        ("[32, 64]", "32", "the axis block_size of int4 must be a list of values"),
        ("[32, 64]", "[]", "the axis block_size of int4 must be a list of values"),
        ("[32, 64]", "[32, 32]", "two members of int4 would be called int4-32-cpu"),
        ("block_size: [32, 64]", "kind: [onnx]", "'kind' can't be an axis of a matrix"),
        (
            "block_size: [32, 64]",
            "model: [base]",
            "model is a field of int4 and an axis of its matrix",
        ),
        (
            "  bench:",
            "  int4-32-cpu: {kind: onnx, model: base}\n  bench:",
            "int4 has a member of the name int4-32-cpu, which there is already",
        ),
        (
            "block_size: [32, 64]",
            "model: [int4]",
            "matrices that are made of each other: int4 -> int4",
        ),
        (
            "provider: [cpu, cuda]",
            f"accuracy_level: {list(range(6000))}",
            "int4 would be 12000 targets",
        ),
        (
            "training.lr: [1e-4",
            "training: [{}], training.lr: [1e-4",
            "the axis training of adapter must be a list of values",
        ),
        (
            "data: tone}",
            "data: int4}",
            "int4-32-cpu is of kind onnx, which is not what bench takes here",
        ),
    ],
)
def test_what_is_wrong_with_a_matrix_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, fact: str
) -> None:
    text = BASE.replace(old, new)
    if old.startswith("block") and new.startswith("model: [int4]"):
        text = text.replace("    kind: onnx\n    model: base\n", "    kind: onnx\n")
    where, said, hint = fault(tmp_path, text)
    assert said == fact
    assert where.startswith(f"{FILE_NAME}:")
    assert hint


def test_one_target_is_wanted_where_a_matrix_is_named(tmp_path: Path) -> None:
    where, fact, hint = fault(
        tmp_path, BASE + "  m: {kind: merged, model: base, adapter: adapter}\n"
    )
    assert (where, fact) == (
        f"{FILE_NAME}:16:34",
        "m needs one target here, and adapter is a matrix",
    )
    assert hint.startswith("name one of them, such as adapter-8-0_0001")
    with pytest.raises(RecipeError, match="int4 is a matrix of 4 targets"):
        graph_of(tmp_path, BASE).one("int4")
