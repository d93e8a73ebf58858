"""Recipes: every fault is told with its place, the offending line and a hint; `--set` overrides one
field for one call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.api import step
from olivebuild.api.step import Ref
from olivebuild.core.errors import Problem, RecipeError, Where
from olivebuild.core.text import did_you_mean
from olivebuild.metrics.gates import METRICS
from olivebuild.recipe import validate
from olivebuild.recipe.file import FILE_NAME, Recipe, find, load
from olivebuild.steps.command import Command

SCHEMA = "`olivebuild schema` tells what each field takes"
ONE = """\
targets:
  a: {kind: command, run: cp x y, outputs: [y.txt]}
"""
ADAPTER = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: tone.jsonl, text: "{text}"}
  adapter:
    kind: adapter
    model: base
    data: tone.train
    training:
      lr: 1e-4
      steps: 3
"""


def read(folder: Path, text: str, *settings: str) -> Recipe:
    file = folder / FILE_NAME
    file.write_text(text, "utf-8")
    return load(file, settings)


def fault(folder: Path, text: str, *settings: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        read(folder, text, *settings)
    return caught.value


def test_targets_keep_their_order_and_know_their_kind(tmp_path: Path) -> None:
    recipe = read(tmp_path, ADAPTER)
    assert [(t.name, t.kind) for t in recipe.targets.values()] == [
        ("base", "model"),
        ("tone", "dataset"),
        ("adapter", "adapter"),
    ]
    assert recipe.folder == tmp_path
    assert recipe.targets["adapter"].fields.data == Ref("tone", "train")  # type: ignore[attr-defined]
    assert recipe.targets["adapter"].fields.training.lr == 0.0001  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "goals"), [("", []), ("default: a\n", ["a"]), ("default: [a]\n", ["a"])]
)
def test_default_is_a_name_or_a_list(tmp_path: Path, text: str, goals: list[str]) -> None:
    assert read(tmp_path, text + ONE).default == goals


def test_cache_settings_are_read(tmp_path: Path) -> None:
    recipe = read(tmp_path, ONE + "cache: {remote: 'https://example.org/c', max_size: 50GB}\n")
    assert (recipe.cache.remote, recipe.cache.max_size) == ("https://example.org/c", "50GB")


TOP_FAULTS = [
    ("", 1, 1, "", "a recipe is a mapping with `targets:`", "`olivebuild init` writes one"),
    ("- a", 1, 1, "- a", "a recipe is a mapping with `targets:`", "`olivebuild init` writes one"),
    ("tragets: {}", 1, 1, "tragets: {}", "unknown key 'tragets'", "did you mean targets?"),
    (
        "version: 1\nfoo: 2",
        2,
        1,
        "foo: 2",
        "unknown key 'foo'",
        "known are: version, default, cache, resources, numerics, executors, targets",
    ),
    (
        "version: 2\n" + ONE,
        1,
        1,
        "version: 2",
        "version 2 is not known to this olivebuild",
        "write version: 1",
    ),
    (
        "version: true\n" + ONE,
        1,
        1,
        "version: true",
        "version True is not known to this olivebuild",
        "write version: 1",
    ),
    (
        "version: '1'\n" + ONE,
        1,
        1,
        "version: '1'",
        "version '1' is not known to this olivebuild",
        "write version: 1",
    ),
    (
        "version: 1\ntargets: {}",
        2,
        1,
        "targets: {}",
        "`targets:` must name at least one target",
        "`olivebuild init` writes a recipe to begin with",
    ),
    (
        "targets: [a]",
        1,
        1,
        "targets: [a]",
        "`targets:` must name at least one target",
        "`olivebuild init` writes a recipe to begin with",
    ),
    (
        "targets:\n",
        1,
        1,
        "targets:",
        "`targets:` must name at least one target",
        "`olivebuild init` writes a recipe to begin with",
    ),
    (ONE + "default: aa\n", 3, 1, "default: aa", "unknown target 'aa'", "did you mean a?"),
    (ONE + "default: [a, 1]\n", 3, 1, "default: [a, 1]", "unknown target '1'", "known are: a"),
    (
        ONE + "cache: {remot: x}\n",
        3,
        9,
        "cache: {remot: x}",
        "unknown key 'remot' in cache",
        "did you mean remote?",
    ),
    (
        ONE + "cache: {max_size: 5}\n",
        3,
        9,
        "cache: {max_size: 5}",
        "cache.max_size: input should be a valid string",
        SCHEMA,
    ),
]


@pytest.mark.parametrize(("text", "line", "column", "shown", "fact", "hint"), TOP_FAULTS)
def test_faults_outside_of_targets(
    tmp_path: Path, text: str, line: int, column: int, shown: str, fact: str, hint: str
) -> None:
    error = fault(tmp_path, text)
    assert (error.where, error.fact, error.hint) == (
        Where(FILE_NAME, line, column, shown),
        fact,
        hint,
    )


@pytest.mark.parametrize("text", ["default: [[a]]\n", "default: {a: 1}\n", "default: [{a: 1}]\n"])
def test_a_default_of_another_shape_is_a_fault_of_the_recipe(tmp_path: Path, text: str) -> None:
    error = fault(tmp_path, text + ONE)
    assert str(error.where) == f"{FILE_NAME}:1:1"


TARGET_FAULTS = [
    (
        "  B: {kind: command}",
        3,
        "'B' is not a name for a target",
        "names begin with a letter or digit and hold a-z, 0-9, _ and -",
    ),
    (
        "  -b: {kind: command}",
        3,
        "'-b' is not a name for a target",
        "names begin with a letter or digit and hold a-z, 0-9, _ and -",
    ),
    (
        '  "b\\n": {kind: command}',
        3,
        "'b\\n' is not a name for a target",
        "names begin with a letter or digit and hold a-z, 0-9, _ and -",
    ),
    (
        "  build: {kind: command}",
        3,
        "build is the name of a command",
        "call the target something else",
    ),
    (
        "  b: 1",
        3,
        "b must be a mapping with a `kind:`",
        "b: {kind: ...}, one of model, dataset, adapter, merged, onnx, benchmark, choice, command",
    ),
    (
        "  b: {run: x}",
        3,
        "b has no kind",
        "kind: one of model, dataset, adapter, merged, onnx, benchmark, choice, command",
    ),
    ("  b: {kind: comand}", 7, "unknown kind 'comand'", "did you mean command?"),
    (
        "  b: {kind: [1]}",
        7,
        "unknown kind '[1]'",
        "known are: model, dataset, adapter, merged, onnx, benchmark, choice, command",
    ),
    (
        "  b: {kind: command, run: x, outputs: [y], shel: true}",
        44,
        "unknown key 'shel' in b",
        "did you mean shell?",
    ),
    (
        "  b: {kind: command, rnu: x, outputs: [y]}",
        22,
        "unknown key 'rnu' in b",
        "did you mean run?",
    ),
    ("  b: {kind: command, outputs: [y]}", 3, "b has no run", "add `run:`"),
    (
        "  b: {kind: command, run: 1, outputs: [y]}",
        22,
        "b.run: input should be a valid string",
        SCHEMA,
    ),
    (
        "  b: {kind: command, run: '', outputs: [y]}",
        22,
        "b.run: string should have at least 1 character",
        SCHEMA,
    ),
    (
        "  b: {kind: command, run: x, outputs: [../y]}",
        3,
        "b: the output '../y' leaves the target's folder",
        "outputs are relative paths without ..",
    ),
    (
        "  b: {kind: command, run: x, outputs: [/y]}",
        3,
        "b: the output '/y' leaves the target's folder",
        "outputs are relative paths without ..",
    ),
    (
        "  b: {kind: command, run: 'x {outputs.z}', outputs: [y]}",
        3,
        "b: `run` names {outputs.z}, which is not declared",
        "declared are y",
    ),
    (
        "  b: {kind: command, run: 'x {inputs.z}', outputs: [y]}",
        3,
        "b: `run` names {inputs.z}, which is not declared",
        "declared are none",
    ),
    (
        "  b: {kind: dataset, source: x, text: t, holdout: 2}",
        42,
        "b.holdout: input should be less than or equal to 1",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: x, text: t, holdout: .nan}",
        42,
        "b.holdout: input should be a finite number",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: x, text: t, seed: '1'}",
        42,
        "b.seed: input should be a valid integer",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: x, text: t, dedupe: 1}",
        42,
        "b.dedupe: input should be a valid boolean",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: 'ftp:x', text: t}",
        22,
        "b.source: unknown source scheme 'ftp': known are a path, gguf, hf, pypi, az, s3, gs, "
        "azureml, https",
        SCHEMA,
    ),
    (
        "  b: {kind: merged, model: B, adapter: a}",
        21,
        "b.model: 'B' is not the name of a target or of a target's output",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: x, prompt: p, text: t}",
        3,
        "b: its rows need exactly one of prompt and completion, user and assistant, messages, or "
        "text, not prompt, text",
        "see `olivebuild schema`",
    ),
    (
        "  b: {kind: dataset, source: x, text: t, test: y, holdout: 0.1}",
        3,
        "b: `test` and `holdout` don't go together",
        "the test rows come from one or the other",
    ),
]


@pytest.mark.parametrize(("line", "column", "fact", "hint"), TARGET_FAULTS)
def test_faults_of_a_target(tmp_path: Path, line: str, column: int, fact: str, hint: str) -> None:
    error = fault(tmp_path, ONE + line + "\n")
    assert (error.where, error.fact, error.hint) == (Where(FILE_NAME, 3, column, line), fact, hint)


def test_an_unclosed_quote_in_a_command_line_is_a_fault(tmp_path: Path) -> None:
    error = fault(
        tmp_path, 'targets:\n  b:\n    kind: command\n    run: echo "x\n    outputs: [y]\n'
    )
    assert (str(error.where), error.fact, error.hint) == (
        f"{FILE_NAME}:2:3",
        "b: `run` is not a command line: No closing quotation",
        "close the quotes",
    )


def test_a_command_line_of_blanks_is_a_fault(tmp_path: Path) -> None:
    error = fault(tmp_path, ONE + "  b: {kind: command, run: ' ', outputs: [y]}\n")
    assert str(error.where).startswith(f"{FILE_NAME}:3:")


def test_outputs_that_would_have_one_name_are_a_fault(tmp_path: Path) -> None:
    error = fault(tmp_path, ONE + "  b: {kind: command, run: x, outputs: [one/y.txt, two/y.txt]}\n")
    assert str(error.where).startswith(f"{FILE_NAME}:3:")


def test_a_nested_fault_is_shown_at_its_own_line(tmp_path: Path) -> None:
    error = fault(tmp_path, ADAPTER.replace("1e-4", "fast"))
    assert (error.where, error.fact) == (
        Where(FILE_NAME, 9, 7, "      lr: fast"),
        "adapter.training.lr: input should be a valid number",
    )


def test_a_nested_slip_of_the_pen_gets_a_suggestion(tmp_path: Path) -> None:
    error = fault(tmp_path, ADAPTER.replace("steps: 3", "stepz: 3"))
    assert (error.where, error.fact, error.hint) == (
        Where(FILE_NAME, 10, 7, "      stepz: 3"),
        "unknown key 'stepz' in adapter",
        "did you mean steps?",
    )


def test_an_item_of_a_list_is_what_is_wrong_not_the_other_form_of_the_field(tmp_path: Path) -> None:
    error = fault(tmp_path, ONE + "  b: {kind: dataset, source: [x, 'ftp:y'], text: t}\n")
    assert (str(error.where), error.fact.partition(": ")[2]) == (
        f"{FILE_NAME}:3:34",
        "unknown source scheme 'ftp': known are a path, gguf, hf, pypi, az, s3, gs, azureml, https",
    )


def test_an_unreadable_gate_is_a_fault_of_the_recipe(tmp_path: Path) -> None:
    error = fault(
        tmp_path, ONE + "  b: {kind: benchmark, models: [m], data: d, gates: ['acuracy > 1']}\n"
    )
    assert error.fact == "b.gates: the gate 'acuracy > 1' names an unknown figure 'acuracy'"
    assert error.hint == f"known are {', '.join(METRICS)}"


def test_other_packages_are_asked_for_their_kinds_at_most_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []

    def nothing_found(**which: str) -> list[object]:
        asked.append(which)
        return []

    monkeypatch.setattr(step, "entry_points", nothing_found)
    lines = [f"  t{i}: {{kind: command, run: x, outputs: [y]}}\n" for i in range(20)]
    assert len(read(tmp_path, "targets:\n" + "".join(lines)).targets) == 20
    assert len(asked) <= 1


class Echo(Command):
    """A kind of another package."""

    kind = "echo"
    problem: object = None

    def check(self, fields: Any) -> Any:
        return self.problem


def test_what_a_kind_says_of_its_fields_is_not_cut_at_a_semicolon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    echo = Echo()
    monkeypatch.setattr(validate, "kinds", lambda: ["echo"])
    monkeypatch.setattr(validate, "step_of", lambda kind: echo)
    text = "targets:\n  t: {kind: echo, run: x, outputs: [y]}\n"
    assert read(tmp_path, text).targets["t"].kind == "echo"
    for problem, fact, hint, note in (
        (Problem("`a; b` is run", "run one; or none"), "t: `a; b` is run", "run one; or none", ""),
        ("it is wrong; mend it; soon", "t: it is wrong", "mend it; soon", "the kind echo returns"),
    ):
        echo.problem = problem
        with pytest.raises(RecipeError) as caught:
            read(tmp_path, text)
        assert (caught.value.fact, caught.value.hint) == (fact, hint)
        assert note in capfd.readouterr().err


def test_a_word_with_a_semicolon_is_told_whole(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, "targets:\n  t: {kind: merged, model: 'a; b', adapter: c}\n")
    assert (
        caught.value.fact == "t.model: 'a; b' is not the name of a target or of a target's output"
    )


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


def test_a_file_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    file.write_bytes(b"targets: \xff")
    with pytest.raises(RecipeError) as caught:
        load(file)
    assert (str(caught.value.where), caught.value.fact) == (FILE_NAME, "not UTF-8 text: byte 9")


def test_a_folder_instead_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path)
    assert caught.value.fact == "can't be read: Is a directory"


def test_without_a_recipe_the_hint_names_the_ways_to_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        find(tmp_path, None)
    error = caught.value
    assert (str(error.where), error.fact) == (FILE_NAME, "there is no recipe here")
    assert error.hint == "`olivebuild init` writes one; -C DIR or -f FILE names another place"


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("adpter", ["base", "adapter"], "did you mean adapter?"),
        ("zzz", ["base", "adapter"], "known are: base, adapter"),
    ],
)
def test_did_you_mean(word: str, known: list[str], hint: str) -> None:
    assert did_you_mean(word, known) == hint
