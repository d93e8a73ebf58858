"""Templates of rows: Olive's str.format, and where the answer begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olivebuild.core.errors import Problem
from olivebuild.data.templates import fill
from olivebuild.recipe.importers.olive.rows.text import halves, of_columns, parts_of, written

TEXT = st.text("ab {}\n?", max_size=8)
NAMES = st.lists(st.sampled_from(["a", "Best Answer", "x1"]), min_size=1, max_size=4)


def halved(template: str) -> tuple[str, str] | None:
    parts = parts_of(template)
    assert isinstance(parts, list)
    return halves(parts)


@given(st.lists(TEXT, min_size=5, max_size=5), NAMES)
def test_a_template_gives_the_text_that_format_gives(texts: list[str], names: list[str]) -> None:
    doubled = [t.replace("{", "{{").replace("}", "}}") for t in texts]
    template = doubled[0] + "".join(
        "{" + name + "}" + text for name, text in zip(names, doubled[1:], strict=False)
    )
    row = {"a": "1", "Best Answer": "{two}", "x1": "?"}
    parts = parts_of(template)
    assert isinstance(parts, list)
    assert fill(written(parts), row) == template.format(**row)


@pytest.mark.parametrize("text", ["{a", "a}", "{}", "{0}", "{a!r}", "{a:>4}", "{a.b}", "{a[0]}"])
def test_what_is_more_than_columns_is_no_template(text: str) -> None:
    assert isinstance(parts_of(text), Problem)


def test_columns_stand_with_a_blank_between_them() -> None:
    assert of_columns(["a", "b{"]) == "{a} {b{{}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Q: {q}\nTone:\n{tone}", ("Q: {q}\nTone:\n", "{tone}")),
        (
            "<|user|>\n{q}<|end|>\n<|assistant|>\n{a}\n(from {s})<|end|>",
            ("<|user|>\n{q}<|end|>\n<|assistant|>\n", "{a}\n(from {s})<|end|>"),
        ),
        ("### Question: {q} \n### Answer: {a}", ("### Question: {q} \n### Answer: ", "{a}")),
        ("[INST] {q} [/INST] {a}</s>", ("[INST] {q} [/INST] ", "{a}</s>")),
        ("{text}", None),
        ("nothing", None),
        ("<|assistant|>{a}", None),
    ],
)
def test_a_template_is_split_where_the_answer_begins(
    template: str, expected: tuple[str, str] | None
) -> None:
    assert halved(template) == expected
