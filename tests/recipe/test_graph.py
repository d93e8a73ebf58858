"""The order of targets, and what edges may not be: cycles, unknown inputs, wrong kinds and
outputs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.api import step
from olivebuild.api.node import is_builtin
from olivebuild.core.errors import RecipeError, Where
from olivebuild.planner.invalidation import graph_stamp
from olivebuild.recipe import graph_cache
from olivebuild.recipe.file import FILE_NAME, Recipe, load, read
from olivebuild.recipe.graph import Graph, build_graph


def graph_of(folder: Path, text: str) -> Graph:
    (folder / FILE_NAME).write_text(text)
    return build_graph(load(folder / FILE_NAME))


def fault(folder: Path, text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        graph_of(folder, text)
    return caught.value


def chain(**inputs: str) -> str:
    """Command targets; `a="b c"` means that a needs b and c."""
    lines = [
        f"  {name}: {{kind: command, run: x, outputs: [y.txt], inputs: "
        f"[{', '.join(needs.split())}]}}"
        for name, needs in inputs.items()
    ]
    return "targets:\n" + "\n".join(lines) + "\n"


MODELS = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: tone.jsonl, text: "{text}"}
"""


def test_inputs_come_first(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, chain(d="b c", b="a", c="a", a="", e=""))
    assert list(graph.nodes) == ["a", "b", "c", "d", "e"]


def test_a_chain_of_thousands_needs_no_recursion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "entry_points", lambda **which: [])
    graph = graph_of(tmp_path, chain(**{f"t{i}": f"t{i + 1}" for i in range(2000)}, t2000=""))
    assert list(graph.nodes) == [f"t{i}" for i in range(2000, -1, -1)]


def test_closure_holds_what_the_goals_need_and_nothing_else(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, chain(a="", b="a", c="b", other=""))
    assert [node.name for node in graph.closure(["b"])] == ["a", "b"]
    assert graph.targets_below(["c", "other"]) == ["a", "b", "c", "other"]


def test_goals_are_what_was_asked_for(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, "default: c\n" + chain(a="", b="a", c="b"))
    assert graph.goals(["a", "b"]) == ["a", "b"]


def test_goals_fall_back_to_the_default(tmp_path: Path) -> None:
    assert graph_of(tmp_path, "default: [b]\n" + chain(a="", b="a", c="b")).goals([]) == ["b"]


def test_goals_without_a_default_are_what_nothing_needs(tmp_path: Path) -> None:
    assert graph_of(tmp_path, chain(a="", b="a", c="a", d="")).goals([]) == ["b", "c", "d"]


def test_a_misspelt_goal_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        graph_of(tmp_path, chain(adapter="")).goals(["adpter"])
    error = caught.value
    assert (str(error.where), error.fact, error.hint) == (
        FILE_NAME,
        "there is no target 'adpter'",
        "did you mean adapter?",
    )


def test_an_unknown_input_is_told_with_its_place(tmp_path: Path) -> None:
    error = fault(tmp_path, MODELS + "  adapter: {kind: adapter, model: bass, data: tone}\n")
    line = "  adapter: {kind: adapter, model: bass, data: tone}"
    assert (error.where, error.fact, error.hint) == (
        Where(FILE_NAME, 4, 28, line),
        "adapter needs 'bass', which is not a target",
        "did you mean base?",
    )


@pytest.mark.parametrize(
    ("line", "column", "fact", "hint"),
    [
        (
            "  x: {kind: adapter, model: tone, data: tone}",
            22,
            "tone is of kind dataset, which is not what x takes here",
            "it takes model or merged",
        ),
        (
            "  x: {kind: adapter, model: base, data: base}",
            35,
            "base is of kind model, which is not what x takes here",
            "it takes dataset",
        ),
        (
            "  x: {kind: adapter, model: base, data: tone.tset}",
            35,
            "tone has no output 'tset'",
            "its outputs are tone.train, tone.test",
        ),
        (
            "  x: {kind: adapter, model: base.big, data: tone}",
            22,
            "base has no output 'big'",
            "write base",
        ),
        (
            "  x: {kind: onnx, model: tone}",
            19,
            "tone is of kind dataset, which is not what x takes here",
            "it takes model or merged",
        ),
        (
            "  x: {kind: command, run: x, outputs: [y], inputs: [base, tone.y]}",
            59,
            "tone has no output 'y'",
            "its outputs are tone.train, tone.test",
        ),
        (
            "  x: {kind: command, run: x, outputs: [y], inputs: {q: nope}}",
            53,
            "x needs 'nope', which is not a target",
            "known are: base, tone, x",
        ),
    ],
)
def test_an_input_of_the_wrong_kind_or_output(
    tmp_path: Path, line: str, column: int, fact: str, hint: str
) -> None:
    error = fault(tmp_path, MODELS + line + "\n")
    assert (error.where, error.fact, error.hint) == (Where(FILE_NAME, 4, column, line), fact, hint)


def test_a_bare_dataset_means_train_for_an_adapter_and_test_for_a_benchmark(tmp_path: Path) -> None:
    text = MODELS + (
        "  adapter: {kind: adapter, model: base, data: tone}\n  bench: {kind: benchmark, models: "
        "[base], data: tone}\n"
    )
    graph = graph_of(tmp_path, text)
    assert [
        (edge.role, source.name, output) for edge, source, output in graph.inputs["adapter"]
    ] == [
        ("model", "base", ""),
        ("data", "tone", "train"),
    ]
    read = {
        output
        for edges in (graph.inputs[n] for n in graph.nodes if n.startswith("bench"))
        for _, s, output in edges
        if s.name == "tone"
    }
    assert read == {"test"}


def test_outputs_of_a_command_can_be_read_one_by_one(tmp_path: Path) -> None:
    user = "  b: {kind: command, run: x, outputs: [y], inputs: {q: a.right}}\n"
    graph = graph_of(
        tmp_path,
        "targets:\n  a: {kind: command, run: x, outputs: {left: l.txt, right: r.txt}}\n" + user,
    )
    assert [(edge.role, source.name, output) for edge, source, output in graph.inputs["b"]] == [
        ("q", "a", "right")
    ]


def test_a_cycle_is_told_with_its_path(tmp_path: Path) -> None:
    error = fault(tmp_path, chain(z="", a="b", b="c", c="a"))
    line = "  c: {kind: command, run: x, outputs: [y.txt], inputs: [a]}"
    assert (error.where, error.fact) == (Where(FILE_NAME, 5, 57, line), "a cycle: a -> b -> c -> a")
    assert error.hint == "a target can't be made from itself; remove one of these edges"


def test_only_the_targets_of_the_cycle_are_named(tmp_path: Path) -> None:
    assert fault(tmp_path, chain(start="a", a="b", b="a")).fact == "a cycle: a -> b -> a"


def test_a_target_that_needs_itself_is_a_cycle(tmp_path: Path) -> None:
    assert fault(tmp_path, chain(a="a")).fact == "a cycle: a -> a"


def test_a_diamond_is_no_cycle(tmp_path: Path) -> None:
    assert list(graph_of(tmp_path, chain(a="", b="a", c="a", d="b c a")).nodes) == [
        "a",
        "b",
        "c",
        "d",
    ]


def cached(recipe: Recipe, folder: Path) -> Graph:
    return graph_cache.graph_of(recipe, folder, graph_stamp(recipe))


def test_a_graph_that_was_kept_is_the_graph_that_was_made(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(KEPT)
    recipe = read(tmp_path / FILE_NAME)
    made, again = (
        cached(recipe, tmp_path),
        cached(read(tmp_path / FILE_NAME), tmp_path),
    )
    assert (again.targets, again.default, again.nodes, again.inputs) == (
        made.targets,
        made.default,
        made.nodes,
        made.inputs,
    )
    assert "_checked" in vars(recipe)
    assert "_checked" not in vars(again.recipe)


def test_a_kept_graph_of_another_text_or_with_a_flipped_bit_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(KEPT)
    cached(read(tmp_path / FILE_NAME), tmp_path)
    file = tmp_path / graph_cache.FILE_NAME
    good = file.read_bytes()
    file.write_bytes(good.replace(b"onnx", b"onyx"))
    assert "onnx" in cached(read(tmp_path / FILE_NAME), tmp_path).targets
    assert file.read_bytes() == good
    (tmp_path / FILE_NAME).write_text(KEPT.replace("copy:", "other:"))
    assert "other" in cached(read(tmp_path / FILE_NAME), tmp_path).targets


def test_built_in_kinds_are_told_from_others() -> None:
    for kind in (*step.KINDS, "benchmark-latency", "benchmark-check"):
        assert is_builtin(kind), kind
    for kind in ("echo", "onnx.py", "Onnx", "_train", "", "steps", "adapter.x", "../step"):
        assert not is_builtin(kind), kind


def test_overrides_of_one_call_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(KEPT)
    assert (
        cached(read(tmp_path / FILE_NAME, ["onnx.precision=int8"]), tmp_path)
        .nodes["onnx"]
        .fields["precision"]
        == "int8"
    )
    assert not (tmp_path / graph_cache.FILE_NAME).exists()


KEPT = """\
default: [onnx]
targets:
  base: {kind: model, source: "hf:a/b"}
  tone: {kind: dataset, source: "x/*.jsonl", text: "{t}"}
  adapter: {kind: adapter, model: base, data: tone}
  onnx: {kind: onnx, model: base, adapter: adapter}
  bench: {kind: benchmark, models: [base, onnx], data: tone.test, gates: ["accuracy >= 0.5"]}
  copy: {kind: command, run: "cp {inputs.a} {outputs.b}", inputs: {a: onnx}, outputs: {b: b.txt}}
"""


def test_an_adapter_in_a_benchmark_is_judged_on_its_base_and_not_timed(tmp_path: Path) -> None:
    text = MODELS + (
        "  adapter: {kind: adapter, model: base, data: tone}\n  bench: {kind: benchmark, models: "
        "[base, adapter], data: tone}\n"
    )
    graph = graph_of(tmp_path, text)
    judged = [
        (edge.role, source.name) for edge, source, _ in graph.inputs["bench:accuracy.adapter"]
    ]
    assert judged == [("model", "base"), ("adapter", "adapter"), ("data[0]", "tone")]
    assert [
        (edge.role, source.name, edge.keyed) for edge, source, _ in graph.inputs["bench:latency"]
    ] == [("structure", "bench:structure", True), ("model[0]", "base", False)]
    loose = MODELS + (
        "  adapter: {kind: adapter, source: there}\n  bench: {kind: benchmark, models: [adapter], "
        "data: tone}\n"
    )
    assert fault(tmp_path, loose).fact == "the base of adapter is not known"


def test_seeds_are_copies_of_what_is_trained_and_of_what_is_made_from_it(tmp_path: Path) -> None:
    text = MODELS + (
        "  adapter: {kind: adapter, model: base, data: tone, training: {seed: 5}, resources: "
        "{gpu: 2}}\n"
        "  int4: {kind: onnx, model: base, adapter: adapter, precision: int4}\n"
        "  bench: {kind: benchmark, models: [base, adapter, int4], data: tone, seeds: 2}\n"
    )
    graph = graph_of(tmp_path, text)
    copies = {
        name: {edge.role: source.name for edge, source, _ in graph.inputs[name]}
        for name in graph.nodes
        if name.endswith(".seed1")
    }
    assert copies == {
        "bench:adapter.seed1": {"model": "base", "data": "tone"},
        "bench:int4.merged.seed1": {"model": "base", "adapter": "bench:adapter.seed1"},
        "bench:int4.seed1": {"model": "bench:int4.merged.seed1"},
        "bench:accuracy.adapter.seed1": {
            "model": "base",
            "adapter": "bench:adapter.seed1",
            "data[0]": "tone",
        },
        "bench:accuracy.int4.seed1": {"model": "bench:int4.seed1", "data[0]": "tone"},
    }
    own, copy = graph.nodes["adapter"], graph.nodes["bench:adapter.seed1"]
    assert (own.fields["training"]["seed"], copy.fields["training"]["seed"], copy.resources) == (
        5,
        6,
        {"gpu": 2.0},
    )
    assert [part for part in own.parameters if part not in copy.parameters] == [
        ("training.data_seed", "5"),
        ("training.seed", "5"),
    ]
    assert [
        output for edge, _, output in graph.inputs["bench:adapter.seed1"] if edge.role == "data"
    ] == ["train"]


def test_a_gate_on_a_figure_over_seeds_needs_seeds(tmp_path: Path) -> None:
    found = fault(
        tmp_path,
        MODELS
        + (
            '  bench: {kind: benchmark, models: [base], data: tone, gates: ["accuracy_mean '
            '>= 0.9"]}\n'
        ),
    )
    assert (found.fact, found.hint) == (
        "bench: the gate 'accuracy_mean >= 0.9' asks for a mean over seeds",
        "set `seeds: 3`",
    )
