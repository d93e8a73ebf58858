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
