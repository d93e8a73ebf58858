"""chat and predict without a model: what can be asked, and in which template."""

from __future__ import annotations

import io
import platform

import pytest

from olivebuild.cli.inference.adapters import Voice, Voices
from olivebuild.cli.inference.chat import HELP, converse
from olivebuild.cli.inference.subject import form_of, forms_for, trained_form
from olivebuild.core.errors import InputError, RecipeError
from olivebuild.planner.project import open_graph
from tests.conftest import Place

RECIPE = """\
targets:
  other: {kind: dataset, source: a.jsonl, user: "{question}", assistant: "{answer}"}
  texts: {kind: dataset, source: a.jsonl, text: "{text}"}
  base: {kind: model, source: nowhere}
  tone: {kind: dataset, source: a.jsonl, prompt: "Q: {phrase}\\n", completion: "{tone}"}
  pairs: {kind: dataset, source: a.jsonl, prompt: "{a} and {b}", completion: "{c}"}
  adapter: {kind: adapter, model: base, data: tone}
  brought: {kind: adapter, source: folder}
"""


@pytest.fixture
def recipe(place: Place) -> Place:
    place.recipe.write_text(RECIPE)
    (place.folder / "rows.jsonl").write_text('{"phrase": "x"}\n')
    return place


def test_rows_are_tried_with_the_templates_that_the_model_learned_first(recipe: Place) -> None:
    graph = open_graph(recipe.folder, None)
    assert [form["name"] for form in forms_for(graph, "adapter")] == ["tone", "other", "pairs"]
    assert [form["name"] for form in forms_for(graph, "base")] == ["other", "tone", "pairs"]
    assert form_of(graph, "tone", single=True) == {
        "name": "tone",
        "format": "prompt",
        "text": "Q: {phrase}\n",
        "answer": "{tone}",
    }


def test_a_chat_asks_in_the_template_that_was_trained(recipe: Place) -> None:
    graph = open_graph(recipe.folder, None)
    form = trained_form(graph, "adapter")
    assert form
    assert form["name"] == "tone"
    assert trained_form(graph, "base") is None


@pytest.mark.parametrize("data", ['user: "{q}", assistant: "{a}"', "messages: q"])
def test_a_chat_template_keeps_what_was_said_where_nothing_else_was_trained(
    place: Place, data: str
) -> None:
    place.recipe.write_text(
        "targets:\n  base: {kind: model, source: nowhere}\n"
        f"  tone: {{kind: dataset, source: a.jsonl, {data}}}\n"
        "  adapter: {kind: adapter, model: base, data: tone}\n"
    )
    assert trained_form(open_graph(place.folder, None), "adapter") is None


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("texts", "is not a data set whose rows ask"),
        ("base", "is not a data set"),
        ("pairs", "more than that"),
    ],
)
def test_a_template_that_can_not_be_asked_with(recipe: Place, name: str, fact: str) -> None:
    with pytest.raises(RecipeError, match=fact):
        form_of(open_graph(recipe.folder, None), name, single=True)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("chat", "tone"), 2, "tone is of kind dataset, which can't be asked"),
        (("chat", "brought"), 2, "the base of brought is not known"),
        (("predict", "adaptr", "--in", "rows.jsonl"), 2, "did you mean adapter?"),
        (("predict", "adapter", "--in", "no.jsonl"), 2, "'no.jsonl' does not exist"),
        (("predict", "adapter"), 2, "Missing option '--in'"),
        (("chat", "base"), 1, "nowhere"),
        (("chat", "adapter", "--as-is", "--build"), 2, "--as-is and --build don't go together"),
        (("chat", "adapter", "--data", "tone", "--system", "x"), 2, "--data and --system don't"),
        (("chat", "adapter", "--as-is"), 1, "there is no last result of adapter to use"),
        (("predict", "adapter", "--in", "rows.jsonl", "--out", "x.parquet"), 2, "not written as"),
    ],
)
def test_errors_before_a_model_is_loaded(
    recipe: Place, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = recipe.run(*arguments)
    assert done.code == code
    assert text in done.err
    assert "hint: " in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_line_that_is_no_text_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe odd\n"), "utf-8", "surrogateescape")
    )
    with pytest.raises(InputError, match="not UTF-8 text") as caught:
        converse(None, None, Voices({"int4": Voice()}, "int4"))  # type: ignore[arg-type]
    assert str(caught.value.where) == "standard input"


@pytest.mark.skipif(platform.system() == "Windows", reason="has DirectML")
@pytest.mark.parametrize("verb", ["chat", "predict"])
def test_a_model_that_cannot_run_here_is_told_before_it_is_built(place: Place, verb: str) -> None:
    place.recipe.write_text(
        "targets:\n"
        '  base: {kind: model, source: "hf:not/asked"}\n'
        "  there:\n"
        "    kind: onnx\n"
        "    model: base\n"
        "    provider: dml\n"
    )
    (place.folder / "rows.jsonl").write_text('{"prompt": "a"}\n')
    rows = ["--in", "rows.jsonl"] if verb == "predict" else []
    done = place.run(verb, "there", *rows)
    assert done.code == 1
    assert "olivebuild.yaml:6:5: error: there is built for dml: DirectML" in done.err
    assert "hint: " in done.err
    assert done.out == ""


def test_help_is_told_and_a_slip_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a model: these lines must not reach one."""
    lines = iter(["/help", "/hlp", None])
    monkeypatch.setattr("olivebuild.cli.inference.chat._next_line", lambda _: next(lines))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    told: list[str] = []
    monkeypatch.setattr("olivebuild.cli.inference.chat.click.echo", told.append)
    assert converse(None, None, Voices({"int4": Voice()}, "int4")) == 0  # type: ignore[arg-type]
    assert told == [HELP, f"there is no /hlp\n{HELP}"]
