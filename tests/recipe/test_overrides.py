"""Fields that --set changes, and those that it drops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.api.step import KINDS, Fields, step_of
from olivebuild.core.errors import RecipeError
from olivebuild.recipe.validate import Checked, check
from tests.conftest import RECIPE, Place
from tests.recipe.test_file import ADAPTER, ONE, SCHEMA, fault, read


def test_overrides_change_one_field(tmp_path: Path) -> None:
    fields = (
        read(tmp_path, ADAPTER, "adapter.training.lr=2e-4", "adapter.modules=[q, k]")
        .targets["adapter"]
        .fields
    )
    assert fields.training.lr == 0.0002  # type: ignore[attr-defined]
    assert fields.training.steps == 3  # type: ignore[attr-defined]
    assert fields.modules == ["k", "q"]  # type: ignore[attr-defined]


def test_an_override_makes_the_mappings_it_needs(tmp_path: Path) -> None:
    assert read(tmp_path, ONE, "a.environment.X='1'").targets["a"].fields.environment == {"X": "1"}  # type: ignore[attr-defined]


def test_an_override_may_hold_equals_signs(tmp_path: Path) -> None:
    assert read(tmp_path, ONE, "a.run=x --y=z").targets["a"].fields.run == "x --y=z"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("setting", "fact", "hint"),
    [
        ("a", "--set takes TARGET.FIELD=VALUE", "for example --set adapter.training.lr=2e-4"),
        ("a=1", "--set takes TARGET.FIELD=VALUE", "for example --set adapter.training.lr=2e-4"),
        ("aa.run=1", "unknown target 'aa'", "did you mean a?"),
        ("a.run.x=1", "run has no fields of its own", SCHEMA),
        ("a.shel=true", "unknown key 'shel' in a", "did you mean shell?"),
        ("a.run=false", "a.run: input should be a valid string", SCHEMA),
        ("a.kind=comand", "unknown kind 'comand'", "did you mean command?"),
        ("a.environment.X=1", "a.environment.X: input should be a valid string", SCHEMA),
    ],
)
def test_a_wrong_override_is_told_as_it_was_written(
    tmp_path: Path, setting: str, fact: str, hint: str
) -> None:
    error = fault(tmp_path, ONE, setting)
    assert (str(error.where), error.fact, error.hint) == (f"--set {setting}", fact, hint)


def test_an_override_that_is_not_yaml_is_a_fault_of_the_command_line(tmp_path: Path) -> None:
    error = fault(tmp_path, ONE, "a.run=*x")
    assert error.fact == "not valid YAML: found undefined alias"
    assert str(error.where).startswith("--set")


def checked(text: str, *settings: str) -> Checked:
    return check(text, "olivebuild.yaml", settings)


def recipe_with(old: str, new: str) -> str:
    assert old in RECIPE
    return RECIPE.replace(old, new)


FINISHED = "  adapter: {kind: adapter, model: base, source: there, trust: true}\n"
ONTO = RECIPE[: RECIPE.index("  adapter:")].replace("onnx-int4", "adapter") + FINISHED
SOURCED = RECIPE.replace(
    "{kind: merged, model: base, adapter: adapter}", "{kind: merged, source: m}"
)
SETS = [
    (RECIPE, "adapter.training.epochs=1", ["training.steps"]),
    (recipe_with("steps: 4", "epochs: 4"), "adapter.training.steps=1", ["training.epochs"]),
    (
        recipe_with("steps: 4", "steps: 4, warmup: 2"),
        "adapter.training.warmup_ratio=0.1",
        ["training.warmup"],
    ),
    (
        recipe_with("steps: 4", "warmup_ratio: 0.1"),
        "adapter.training.warmup=1",
        ["training.warmup_ratio"],
    ),
    (RECIPE, "tone.text='{phrase}'", ["prompt", "completion"]),
    (RECIPE, "tone.messages=phrase", ["prompt", "completion"]),
    (RECIPE, "tone.test=data/other.jsonl", ["holdout"]),
    (
        recipe_with("    r: 4", "    sequences: {form: blocks, holdout: 0.1}\n    r: 4"),
        "adapter.eval={data: tone.test}",
        ["sequences.holdout"],
    ),
    (RECIPE, "adapter.source=there", ["data", "r", "alpha", "training"]),
    (ONTO, "adapter.data=tone.train", ["source", "trust"]),
    (RECIPE, "merged.source=there", ["model", "adapter"]),
    (SOURCED, "merged.model=base", ["source"]),
    (
        RECIPE,
        "onnx-int4.source=there",
        ["model", "precision", "provider", "block_size"],
    ),
    (
        recipe_with("block_size: 32", "op_types: [MatMul]"),
        "onnx-int4.overrides={a: int8}",
        ["op_types"],
    ),
]


@pytest.mark.parametrize(("recipe", "setting", "dropped"), SETS, ids=[s[1] for s in SETS])
def test_one_of_a_pair_drops_the_other_with_its_place(
    recipe: str, setting: str, dropped: list[str]
) -> None:
    complete = {"merged.model=base": ["merged.adapter=adapter"]}
    notes = checked(recipe, setting, *complete.get(setting, ())).notes
    assert len(notes) == 1
    head, _, told = notes[0].partition(": ")
    assert head == f"--set {setting} leaves out what does not go with it" or setting in notes[0]
    assert [word for word in told.replace(",", "").split() if not word.startswith("(")][
        -len(dropped) :
    ] == dropped
    assert told.count("olivebuild.yaml:") == len(dropped)


def test_fields_that_go_together_stay() -> None:
    assert checked(RECIPE, "adapter.training.lr=2e-4", "adapter.r=8", "tone.seed=1").notes == ()
    # No value chooses nothing.
    assert checked(RECIPE, "adapter.training.epochs=null").notes == ()


def test_two_overrides_that_do_not_go_together_are_an_error() -> None:
    for first in ("adapter.training.steps=2", "adapter.training={steps: 2}"):
        with pytest.raises(RecipeError, match="`epochs` or `steps`, not both"):
            checked(RECIPE, first, "adapter.training.epochs=1")


def test_a_recipe_that_has_both_is_an_error() -> None:
    with pytest.raises(RecipeError, match="`epochs` or `steps`, not both"):
        checked(recipe_with("steps: 4", "steps: 4, epochs: 1"))


def test_a_member_of_a_matrix_is_overridden_alike() -> None:
    text = recipe_with("    r: 4\n", "    matrix: {r: [2, 4]}\n")
    text = text.replace("adapter: adapter}", "adapter: adapter-2}")
    result = checked(text, "adapter-2.training.epochs=1")
    assert "training.steps" in result.notes[0]
    assert result.targets["adapter-2"].fields.training.steps is None  # type: ignore[attr-defined]
    assert result.targets["adapter-4"].fields.training.steps == 4  # type: ignore[attr-defined]


def paths(model: type[Fields], prefix: str = "") -> Iterator[str]:
    """Yield the paths of the fields of a kind, two levels deep."""
    from olivebuild.recipe.field_errors import types_of

    for name, info in model.model_fields.items():
        yield f"{prefix}{info.alias or name}"
        for type_ in types_of(info.annotation):
            if isinstance(type_, type) and issubclass(type_, Fields) and not prefix:
                yield from paths(type_, f"{name}.")


@pytest.mark.parametrize("kind", KINDS)
def test_alternatives_name_fields_of_their_kind(kind: str) -> None:
    step = step_of(kind)
    assert step
    names = set(paths(step.fields))
    for alternatives in step.alternatives:
        used = [n for group in alternatives.groups for n in group]
        used += [n for others in alternatives.only_with.values() for n in others]
        assert set(used) <= names


def test_the_command_says_what_it_drops_also_when_nothing_is_to_do(
    place: Place, tmp_path: Path
) -> None:
    (place.folder / "m").mkdir()
    place.recipe.write_text(
        "targets:\n  a: {kind: dataset, source: in.jsonl, text: '{x}', holdout: 0.5}\n"
    )
    (place.folder / "in.jsonl").write_text('{"x": "one"}\n{"x": "two two"}\n')
    (place.folder / "test.jsonl").write_text('{"x": "three of them"}\n')
    note = (
        "note: --set a.test=test.jsonl leaves out what does not go with it: "
        "holdout (olivebuild.yaml:2:53)\n"
    )
    for words in (["plan"], ["build"], ["build"], ["build"], ["why", "a"]):
        done = place.run(*words, "--set", "a.test=test.jsonl")
        assert (done.code, done.err) == (0, note), words
