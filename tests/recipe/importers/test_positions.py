"""JSON with positions: what is read, and what each fault says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olivebuild.core.errors import RecipeError
from olivebuild.recipe.importers.positions import (
    MAX_BYTES,
    MAX_DEPTH,
    Placeholder,
    parse,
    read,
    shown,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('ab{}:,[]"\\/\n\té'),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text("xyz.", min_size=1), below),
    max_leaves=20,
)


@given(VALUES, st.sampled_from([None, 1, 4]))
def test_what_json_writes_is_read_as_it_was(value: object, indent: int | None) -> None:
    assert parse(json.dumps(value, indent=indent), "f").value == value


def test_each_key_and_item_has_its_place() -> None:
    document = parse('{\n  "a": [1,\n    {"b": null}],\n  "c.d": {}\n}', "f.json")
    assert document.places["a",] == (2, 3)
    assert document.places["a", 1, "b"] == (3, 6)
    assert document.line(("a", 1, "b", "nothing")) == 3
    assert document.leaves() == {("a", 0): 1, ("a", 1, "b"): None, ("c.d",): {}}
    where = document.where(("c.d",))
    assert (where.line, where.column, where.text) == (4, 3, '  "c.d": {}')
    assert shown(("a", 1, "b", "c.d")) == 'a[1].b["c.d"]'


@pytest.mark.parametrize(
    ("text", "line", "fact"),
    [
        ("", 1, "the file is empty"),
        ('{\n"a": 1,\n}', 3, "a comma before '}'"),
        ('{"a": [1,\n2,]}', 2, "a comma before ']'"),
        ('{\n"a": 1\n"b": 2}', 3, "where a comma"),
        ('{"a": 1,\n"a": 2}', 2, "given twice"),
        ('{"a": 1} x', 1, "more text after the end"),
        ("{'a': 1}", 1, "a single quote"),
        ("{a: 1}", 1, "where a key must stand"),
        ('{"a" 1}', 1, "no colon"),
        ('{"a":\n True}', 2, "'True' is no value"),
        ('{"a": NaN}', 1, "'NaN' is no value"),
        ('{"a": 1e999}', 1, "too large"),
        ('{"a": ' + "1" * 500 + "}", 1, "500 digits"),
        ('{"a": 01}', 1, "where a comma"),
        ('{\n// why\n"a": 1}', 2, "a comment"),
        ('{"a": 1 /* why */}', 1, "a comment"),
        ('{"a": "b\n"}', 1, "does not end on its line"),
        ('{"a": "b\tc"}', 1, "a control character"),
        ('{"a": "\\x"}', 1, "unknown escape"),
        ('{"a": "\\ud800"}', 1, "surrogate"),
        ('{"a": "b\\u0000"}', 1, "a zero character"),
        ('{"a": ', 1, "ends too early"),
        ('{"a": 1', 1, "ends too early"),
        ('{"a": }', 1, "where a value must stand"),
        ("[" * (MAX_DEPTH + 2), 1, "nested deeper"),
        ("[" + "0," * 100_001 + "0]", 1, "more than"),
    ],
)
def test_a_fault_is_told_by_its_line(text: str, line: int, fact: str) -> None:
    with pytest.raises(RecipeError, match="not valid JSON") as caught:
        parse(text, "f.json")
    assert fact in caught.value.fact
    assert caught.value.where is not None
    assert caught.value.where.line == line
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_templates_are_read_with_a_note_for_each_line() -> None:
    text = """{
#data_start
  <!-- "data_name": "<kind>", -->
#data_end
  "<data_files>": "<files>",
  "length": <length>,
{{#isLocal}}
  "split": "{{split}}",
{{/isLocal}}
{{^isLocal}}
  "split": "train"
{{/isLocal}}
  "r": {{rank}},
  "text_template": "<s>"
}"""
    document = parse(text, "template")
    assert document.value == {
        "data_files": Placeholder("files"),
        "length": Placeholder("length"),
        "split": Placeholder("split"),
        "r": Placeholder("rank"),
        "text_template": Placeholder("s"),
    }
    assert {note.line for note in document.notes} == {2, 3, 4, 6, 7, 9, 10, 11, 12, 13}


@pytest.mark.parametrize(
    ("value", "is_placeholder"),
    [
        ("Your Azure Subscrition ID", True),
        ("<place_holder>", True),
        ("{{model}}", True),
        ("model-cache/{{model}}", True),
        ("yourself", False),
        ("<|user|>", False),
        ("<|user|>\n{x}<|end|>", False),
        ("{{not: a name}}", False),
    ],
)
def test_placeholders_are_recognised(value: str, is_placeholder: bool) -> None:
    (read_as,) = parse(json.dumps([value]), "f").leaves().values()
    assert isinstance(read_as, Placeholder) is is_placeholder


def test_a_template_for_a_model_may_begin_as_a_placeholder_does() -> None:
    text = "Your task is to answer.\n{question}"
    assert parse(json.dumps({"text_template": text}), "f").value == {"text_template": text}


@pytest.mark.parametrize(
    ("raw", "fact"),
    [
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "UTF-16"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b" " * (MAX_BYTES + 1), "larger than"),
        (b"input_model:\n  type: HfModel\n", "YAML"),
    ],
)
def test_other_files_are_one_error(tmp_path: Path, raw: bytes, fact: str) -> None:
    file = tmp_path / "f.json"
    file.write_bytes(raw)
    with pytest.raises(RecipeError, match=fact):
        read(file, "f.json")


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read(file, "f.json").value == {"a": 1}
    with pytest.raises(RecipeError, match="no such file"):
        read(tmp_path / "other", "other")
    with pytest.raises(RecipeError, match="can't be read"):
        read(tmp_path, "folder")
