"""The key of an action: what is in it, what never is, and how two lists of parts are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.api.node import flatten
from olivebuild.cache.key import Part, Reason, compare, key_of
from olivebuild.planner.parts import parts_of
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.graph import build_graph

ADAPTER = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: tone.jsonl, text: "{text}"}
  adapter:
    kind: adapter
    model: base
    data: tone.train
    r: 8
    training:
      lr: 1e-4
      steps: 3
"""


def parts(
    folder: Path,
    text: str,
    target: str,
    inputs: dict[str, str] | None = None,
    libraries: dict[str, str] | None = None,
) -> tuple[Part, ...]:
    """The parts of a target whose inputs all have made-up digests."""
    folder.mkdir(exist_ok=True)
    (folder / FILE_NAME).write_text(text)
    graph = build_graph(load(folder / FILE_NAME))
    node = graph.nodes[target]
    found = [
        (edge.role, (inputs or {}).get(edge.role, "digest of " + edge.role), str(edge.ref))
        for edge, _, _ in graph.inputs[target]
    ]
    return parts_of(
        node, found, [], None, {"torch": "2.9.0"} if libraries is None else libraries, {}
    )


def key(folder: Path, text: str, target: str = "adapter") -> str:
    return key_of(parts(folder, text, target))


def test_equal_recipes_have_equal_keys_wherever_they_lie(tmp_path: Path) -> None:
    assert key(tmp_path / "here", ADAPTER) == key(tmp_path / "there", ADAPTER)


def test_names_of_targets_are_not_in_the_key(tmp_path: Path) -> None:
    renamed = (
        ADAPTER.replace("base:", "phi:")
        .replace("model: base", "model: phi")
        .replace("tone", "mood")
        .replace("adapter:", "lora:")
    )
    assert key(tmp_path, ADAPTER) == key(
        tmp_path, renamed.replace("source: mood.jsonl", "source: tone.jsonl"), "lora"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    r: 8\n", "    r: 8   # the rank\n"),
        (
            "    model: base\n    data: tone.train\n    r: 8\n",
            "    r: 8\n    data: tone.train\n    model: base\n",
        ),
        ("      lr: 1e-4\n      steps: 3\n", "      steps: 3\n      lr: 0.0001\n"),
        ("    data: tone.train\n", "    data: tone\n"),
        ("    r: 8\n", ""),
        ("    r: 8\n", "    r: 8\n    alpha: 16\n"),
        ("    r: 8\n", "    r: 8\n    alpha: 16.0\n"),
        ("    r: 8\n", "    r: 0x8\n"),
        ("source: base", "source: ./elsewhere"),
    ],
)
def test_what_changes_nothing_keeps_the_key(tmp_path: Path, old: str, new: str) -> None:
    assert old in ADAPTER
    assert key(tmp_path, ADAPTER) == key(tmp_path, ADAPTER.replace(old, new))


def test_the_order_of_modules_is_not_in_the_key(tmp_path: Path) -> None:
    one, other = (
        ADAPTER.replace("r: 8", f"modules: {m}")
        for m in ("[q_proj, o_proj]", "[o_proj, q_proj, q_proj]")
    )
    assert key(tmp_path, one) == key(tmp_path, other)


@pytest.mark.parametrize(
    ("label", "line"),
    [
        ("r", "    r: 9\n"),
        ("alpha", "    r: 8\n    alpha: 17\n"),
        ("dropout", "    r: 8\n    dropout: 0.1\n"),
        ("modules", "    r: 8\n    modules: [q_proj]\n"),
        *(
            (f"training.{field.partition(':')[0]}",
             f"    r: 8\n    training: {{lr: 1e-4, steps: 3, {field}}}\n")
            for field in (
                "warmup: 1", "scheduler: cosine", "batch: 4", "max_length: 9", "weight_decay: 0.1",
                "beta2: 0.9", "max_grad_norm: 2", "data_seed: 1", "dtype: float32",
            )
        ),
        ("training.lr", "    r: 8\n    training: {lr: 2e-4, steps: 3}\n"),
        ("training.steps", "    r: 8\n    training: {lr: 1e-4, steps: 4}\n"),
    ],
)  # fmt: skip
def test_every_parameter_is_in_the_key(tmp_path: Path, label: str, line: str) -> None:
    changed = ADAPTER.partition("    r: 8\n")[0] + line
    if "training" not in line:
        changed += "    training: {lr: 1e-4, steps: 3}\n"
    old, new = parts(tmp_path, ADAPTER, "adapter"), parts(tmp_path, changed, "adapter")
    assert key_of(old) != key_of(new)
    assert [(r.cause, r.what) for r in compare(old, new)] == [("parameter", label)]


def test_the_seed_counts_for_the_order_of_the_rows_too(tmp_path: Path) -> None:
    seeded = ADAPTER.replace("steps: 3", "steps: 3\n      seed: 1")
    reasons = compare(parts(tmp_path, ADAPTER, "adapter"), parts(tmp_path, seeded, "adapter"))
    assert [(r.what, r.old, r.new) for r in reasons] == [
        ("training.data_seed", "0", "1"),
        ("training.seed", "0", "1"),
    ]


@pytest.mark.parametrize("role", ["model", "data"])
def test_the_content_of_every_input_is_in_the_key(tmp_path: Path, role: str) -> None:
    old, new = (
        parts(tmp_path, ADAPTER, "adapter"),
        parts(tmp_path, ADAPTER, "adapter", {role: "another"}),
    )
    assert key_of(old) != key_of(new)
    assert [(r.cause, r.old, r.new) for r in compare(old, new)] == [
        ("input", f"digest of {role}", "another")
    ]


def test_two_inputs_that_change_places_change_the_key(tmp_path: Path) -> None:
    text = (
        "targets:\n  a: {kind: command, run: x, outputs: [y]}\n  b: {kind: command, run: x, "
        "outputs: [y], inputs: {one: a, two: a.y}}\n"
    )
    straight = parts(tmp_path, text, "b", {"one": "1", "two": "2"})
    assert key_of(straight) != key_of(parts(tmp_path, text, "b", {"one": "2", "two": "1"}))


def test_the_version_of_a_library_is_in_the_key(tmp_path: Path) -> None:
    old, new = (
        parts(tmp_path, ADAPTER, "adapter"),
        parts(tmp_path, ADAPTER, "adapter", libraries={"torch": "2.9.1"}),
    )
    assert key_of(old) != key_of(new)
    assert compare(old, new) == [Reason("library", "torch", "2.9.0", "2.9.1")]


def test_the_version_of_the_step_is_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.steps.adapter import Adapter

    old = parts(tmp_path, ADAPTER, "adapter")
    monkeypatch.setattr(Adapter, "version", 99)
    new = parts(tmp_path, ADAPTER, "adapter")
    assert key_of(old) != key_of(new)
    assert [(r.cause, r.what, r.new) for r in compare(old, new)] == [
        ("step", "the adapter step's version", "99")
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("run: x", "run: z"),
        ("outputs: [y]", "outputs: [z]"),
        ("run: x", "run: x, shell: true"),
        ("run: x", "run: x, environment: {A: b}"),
    ],
)
def test_the_key_of_a_command(tmp_path: Path, old: str, new: str) -> None:
    text = "targets:\n  a: {kind: command, run: x, outputs: [y]}\n"
    assert key(tmp_path, text, "a") != key(tmp_path, text.replace(old, new), "a")


def test_gates_are_not_in_the_key(tmp_path: Path) -> None:
    text = ADAPTER + "  bench: {kind: benchmark, models: [base], data: tone}\n"
    assert key(tmp_path, text, "bench") == key(
        tmp_path, text.replace("data: tone}", "data: tone, gates: ['accuracy > 0.9']}"), "bench"
    )


def test_what_is_shown_is_not_hashed() -> None:
    assert key_of([Part("file", "source.0[0]", "abc", "data/a.csv")]) == key_of(
        [Part("file", "source.0[0]", "abc", "b.csv")]
    )


@pytest.mark.parametrize(
    "part", [Part("input", "a", "b"), Part("file", "x", "b"), Part("file", "a", "y")]
)
def test_cause_label_and_value_are_hashed(part: Part) -> None:
    assert key_of([part]) != key_of([Part("file", "a", "b")])


def test_the_key_is_stable_between_releases() -> None:
    """Whoever changes this changes every key that exists: raise FORMAT and say so."""
    assert (
        key_of([Part("step", "kind", "command"), Part("parameter", "run", '"x"')])
        == "d2bfd5ad1c45fd2692b7bc2e059f14af"
    )


def test_flatten_sorts_and_leaves_out_what_is_not_given() -> None:
    assert flatten({"b": {"y": 1e-4, "x": None}, "a": [1, "t"], "c": "é"}) == [
        ("a", '[1,"t"]'),
        ("b.y", "0.0001"),
        ("c", '"é"'),
    ]


def test_compare_tells_changed_new_and_gone() -> None:
    old = [
        Part("parameter", "r", "8"),
        Part("parameter", "alpha", "16"),
        Part("file", "source.0[0]", "1", "a.csv"),
    ]
    new = [
        Part("file", "source.0[0]", "2", "b.csv"),
        Part("parameter", "r", "8"),
        Part("library", "torch", "2.9"),
    ]
    assert compare(old, new) == [
        Reason("file", "b.csv", "1", "2"),
        Reason("library", "torch", None, "2.9"),
        Reason("parameter", "alpha", "16", None),
    ]


def test_compare_of_equal_parts_is_empty() -> None:
    same = [Part("parameter", "r", "8", "one"), Part("input", "model", "x")]
    assert compare(same, [Part("input", "model", "x"), Part("parameter", "r", "8", "other")]) == []
