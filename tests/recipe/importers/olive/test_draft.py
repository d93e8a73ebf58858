"""Drafts: what they write is what our reader of recipes reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olivebuild.recipe import document
from olivebuild.recipe.importers.olive.draft import Alternatives, Draft, Ref, word, yaml
from olivebuild.recipe.importers.positions import Placeholder, parse

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)


@given(SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(TEXTS, SCALARS, max_size=3))
def test_a_value_is_read_back_as_it_was(value: object) -> None:
    assert document.parse_value(f"x: {yaml(value)}\n") == {"x": value}


def test_each_line_says_where_it_comes_from() -> None:
    source = parse('{\n"passes": {\n"lora": {"r": 8}}}', "olive.json")
    draft = Draft(source)
    draft.heading.append("from olive.json")
    draft.default = ["lora"]
    target = draft.target("lora", "adapter", ("passes", "lora"))
    target.comment("what it is\nfor")
    target.set("model", Ref(target="base"))
    target.set("r", 8, ("passes", "lora", "r"), note="as it is")
    target.set("training.lr", Alternatives(values=(1e-4, 2e-4)), ("passes", "lora"))
    target.set("training.steps", Placeholder("max_steps"))
    assert draft.text() == (
        "# from olive.json\n"
        "version: 1\n"
        "default: lora\n"
        "targets:\n"
        "  # what it is for\n"
        "  lora:\n"
        "    kind: adapter  # passes.lora, line 3\n"
        "    model: base\n"
        "    r: 8  # passes.lora.r, line 3; as it is\n"
        "    training:\n"
        '      steps: "<placeholder: max_steps>"\n'
        "    matrix:\n"
        "      training.lr: [0.0001, 0.0002]  # passes.lora, line 3\n"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Merge Adapter", "merge-adapter"),
        ("run", "run-target"),
        ("con", "con-target"),
        ("_x", "x"),
        ("...", "target"),
        ("é", "target"),
        ("a" * 60, "a" * 40),
    ],
)
def test_names_of_targets_are_portable(text: str, name: str) -> None:
    assert word(text) == name


def test_two_targets_never_share_a_name() -> None:
    draft = Draft(parse("{}", "f"))
    assert [draft.target("A b", "model").name for _ in range(3)] == ["a-b", "a-b-2", "a-b-3"]
