"""YAML text to values: the 1.2 core schema, what is refused, and where each fault lies."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olivebuild.core.errors import RecipeError, Where
from olivebuild.recipe import document

NEEDS_QUOTES = 'text that holds ": ", " #", { or [ needs quotes'


def fault(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        document.parse(text, "r.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("2E5", 200000.0),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("+3", 3),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("0x", "0x"),
        (".", "."),
        ('"1"', "1"),
        ("'true'", "true"),
        ("'~'", "~"),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("+.INF", math.inf),
    ],
)
def test_a_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    found = document.parse(f"a: {text}", "r.yaml").value
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(document.parse_value(".nan"))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["|\n  1\n  2\n", ">\n  1\n  2\n"])
def test_a_block_scalar_is_text(text: str) -> None:
    assert isinstance(document.parse("a: " + text, "r.yaml").value["a"], str)  # type: ignore[index]


def test_keys_are_text_whatever_they_look_like() -> None:
    assert document.parse("1: a\ntrue: b\n~: c", "r.yaml").value == {
        "1": "a",
        "true": "b",
        "~": "c",
    }


def test_merge_keys_are_not_special() -> None:
    assert document.parse("<<: {a: 1}", "r.yaml").value == {"<<": {"a": 1}}


@pytest.mark.parametrize("text", ["", "   \n", "# only a comment\n"])
def test_an_empty_document_is_none(text: str) -> None:
    assert document.parse(text, "r.yaml").value is None


def test_aliases_give_the_same_value() -> None:
    assert document.parse("a: &x [1, 2]\nb: *x", "r.yaml").value == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "where", "fact", "hint"),
    [
        ("a: 1\nb: 2\na: 3", Where("r.yaml", 3, 1, "a: 3"), "a is given twice", "keep one of them"),
        (
            "t:\n  a: 1\n  'a': 3",
            Where("r.yaml", 3, 3, "  'a': 3"),
            "a is given twice",
            "keep one of them",
        ),
        (
            "a: !foo 1",
            Where("r.yaml", 1, 4, "a: !foo 1"),
            "the tag !foo is not allowed here",
            "write the plain value",
        ),
        (
            "x: 1\na: !!python/object/apply:os.system [id]",
            Where("r.yaml", 2, 4, "a: !!python/object/apply:os.system [id]"),
            "the tag tag:yaml.org,2002:python/object/apply:os.system is not allowed here",
            "write the plain value",
        ),
        (
            "a: !!int '1'",
            Where("r.yaml", 1, 4, "a: !!int '1'"),
            "the tag tag:yaml.org,2002:int is not allowed here",
            "write the plain value",
        ),
        (
            "? [1, 2]\n: 3",
            Where("r.yaml", 1, 3, "? [1, 2]"),
            "a key must be a word",
            "text that begins with { or [ needs quotes",
        ),
        (
            "a:\n\t- b",
            Where("r.yaml", 2, 1, "\t- b"),
            "not valid YAML: found character that cannot start any token",
            "YAML is indented with spaces, not tabs",
        ),
        (
            "a: b: c",
            Where("r.yaml", 1, 5, "a: b: c"),
            "not valid YAML: mapping values are not allowed in this context",
            NEEDS_QUOTES,
        ),
        (
            "a: *x",
            Where("r.yaml", 1, 4, "a: *x"),
            "not valid YAML: found undefined alias",
            "quote text that begins with * or &",
        ),
        (
            "---\na: 1\n---\nb: 2",
            Where("r.yaml", 3, 1, "---"),
            "not valid YAML: but found another document",
            NEEDS_QUOTES,
        ),
        (
            "a: [1\n",
            Where("r.yaml", 2, 1, ""),
            "not valid YAML: did not find expected ',' or ']'",
            NEEDS_QUOTES,
        ),
        (
            "a: 'open",
            Where("r.yaml", 1, 9, "a: 'open"),
            "not valid YAML: found unexpected end of stream",
            NEEDS_QUOTES,
        ),
    ],
)
def test_a_fault_is_told_with_its_place(text: str, where: Where, fact: str, hint: str) -> None:
    error = fault(text)
    assert (error.where, error.fact, error.hint) == (where, fact, hint)


def test_an_explicit_string_tag_never_makes_a_number() -> None:
    error = fault("a: !!str 1")
    assert (error.fact, str(error.where)) == (
        "the tag tag:yaml.org,2002:str is not allowed here",
        "r.yaml:1:4",
    )


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x0b", "\x1c"])
def test_a_control_character_is_told_with_its_line(character: str) -> None:
    error = fault(f"a: 1\nb: x{character}y\n")
    assert str(error.where) == "r.yaml:2:5"


def test_lines_end_as_the_file_ends_them() -> None:
    error = fault("a:\r\n  - 1\r\n  - !x 2\r\n")
    assert error.where == Where("r.yaml", 3, 5, "  - !x 2")


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert document.parse("\ufeffa: 1", "r.yaml").value == {"a": 1}


@pytest.mark.parametrize(
    "text", ["- " * 50 + "1", "[" * 50 + "]" * 50, "{a: " * 50 + "1" + "}" * 50]
)
def test_deep_nesting_is_refused(text: str) -> None:
    assert fault(text).fact == "nested deeper than 40 levels"


@pytest.mark.parametrize("text", ["'- ' * 50_000 + '1'", "'[' * 50_000 + ']' * 50_000"])
def test_absurd_nesting_does_not_end_the_process(text: str) -> None:
    program = f"""
from olivebuild.core import errors
from olivebuild.recipe import document
try:
    document.parse({text}, "r.yaml")
except errors.RecipeError:
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "refused\n")


def test_an_anchor_inside_itself_is_refused() -> None:
    error = fault("a: &x\n  b: *x")
    assert (error.fact, str(error.where)) == ("nested deeper than 40 levels", "r.yaml:1:4")


def test_aliases_of_aliases_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_VALUES", 1000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    error = fault("\n".join(lines))
    assert (error.fact, error.hint) == (
        "more than 1000 values",
        "aliases that repeat aliases grow without bound",
    )


def test_as_many_values_as_allowed_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_VALUES", 4)
    assert document.parse("[1, 2, 3]", "r.yaml").value == [1, 2, 3]
    # What is written out is bounded by the text.
    assert document.parse("[1, 2, 3, 4]", "r.yaml").value == [1, 2, 3, 4]
    assert fault("[&a [1, 2], *a, *a]").fact == "more than 4 values"


def test_where_names_the_key_or_what_is_nearest_above() -> None:
    found = document.parse("targets:\n  a:\n    run: x\n    list: [p, q]\n", "r.yaml")
    assert found.where(("targets", "a", "run")) == Where("r.yaml", 3, 5, "    run: x")
    assert found.where(("targets", "a", "list", 1)) == Where("r.yaml", 4, 15, "    list: [p, q]")
    assert found.where(("targets", "a", "nothing", "here")) == Where("r.yaml", 2, 3, "  a:")
    assert found.where(("elsewhere",)) == Where("r.yaml", 1, 1, "targets:")


def test_where_of_an_override_is_the_command_line() -> None:
    found = document.parse("targets:\n  a:\n    run: x\n", "r.yaml")
    found.overrides["targets", "a", "run"] = "--set a.run=y"
    assert str(found.where(("targets", "a", "run"))) == "--set a.run=y"
    assert str(found.where(("targets", "a"))) == "r.yaml:2:3"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 0.0002),
        ("[a, 1]", ["a", 1]),
        ("{a: 1}", {"a": 1}),
        ("text", "text"),
        ("no", "no"),
        ("", None),
    ],
)
def test_a_value_of_the_command_line_is_yaml_too(text: str, value: object) -> None:
    assert document.parse_value(text) == value


def test_bytes_of_the_command_line_that_are_no_text_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        document.parse_value("\udcff")
    assert str(caught.value.where).startswith("--set")


def place_of_fault(text: str) -> Where | None:
    """Where the fault of a text is; None if it has none."""
    try:
        document.parse(text, "r.yaml")
    except RecipeError as error:
        return error.where or Where("nowhere")
    return None


@settings(database=None, max_examples=400)
@given(st.text(max_size=60))
def test_arbitrary_text_gives_a_value_or_a_recipe_error_with_a_place(text: str) -> None:
    where = place_of_fault(text)
    assert where is None or (where.file, where.line >= 1, where.column >= 1) == (
        "r.yaml",
        True,
        True,
    )


@settings(database=None, max_examples=600)
@given(st.text(alphabet="ab1-:?#&*!|>'\"%@`{}[], \n\t~.e\r\u0085\u2028", max_size=40))
def test_text_full_of_yaml_signs_gives_a_value_or_a_recipe_error_with_a_place(text: str) -> None:
    where = place_of_fault(text)
    assert where is None or (where.file, where.line >= 1, where.column >= 1) == (
        "r.yaml",
        True,
        True,
    )


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", min_codepoint=32)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(codec="ascii", min_codepoint=32)), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(database=None, max_examples=200)
@given(values)
def test_json_is_read_as_json(value: object) -> None:
    assert document.parse(json.dumps(value), "r.yaml").value == value
