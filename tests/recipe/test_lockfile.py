"""olivebuild.lock: pins survive, damage is told, and nothing is written without a change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.recipe.lockfile import FILE_NAME, Lockfile

HINT = "restore it from version control, or delete it to pin everything anew"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


def test_without_a_file_nothing_is_pinned(file: Path) -> None:
    lock = Lockfile(file)
    assert (lock.sources, lock.libraries) == ({}, {})


def test_nothing_is_written_without_a_change(file: Path) -> None:
    Lockfile(file).save()
    assert not file.exists()


def test_pins_and_versions_survive(file: Path) -> None:
    lock = Lockfile(file)
    lock.pin("hf:a/b", "0123")
    lock.note_libraries({"torch": "2.9.0"})
    lock.save()
    again = Lockfile(file)
    assert (again.sources, again.libraries) == ({"hf:a/b": "0123"}, {"torch": "2.9.0"})


def test_the_file_is_sorted_and_ends_with_a_newline(file: Path) -> None:
    lock = Lockfile(file)
    lock.pin("hf:z", "1")
    lock.pin("hf:a", "2")
    lock.save()
    assert file.read_text() == (
        '{\n  "libraries": {},\n  "sources": {\n    "hf:a": "2",\n    "hf:z": "1"\n  },\n  '
        '"version": 1\n}\n'
    )


def test_pinning_what_is_pinned_writes_nothing(file: Path) -> None:
    lock = Lockfile(file)
    lock.pin("hf:a", "2")
    lock.note_version("torch", "2.9.0")
    lock.save()
    file.unlink()
    lock.pin("hf:a", "2")
    lock.note_version("torch", "2.9.0")
    lock.save()
    assert not file.exists()


def test_versions_that_are_recorded_are_not_changed_by_noting(file: Path) -> None:
    lock = Lockfile(file)
    lock.note_libraries({"torch": "2.9.0"})
    lock.note_libraries({"torch": "3.0.0", "peft": "0.21"})
    assert lock.libraries == {"torch": "2.9.0", "peft": "0.21"}


def test_a_version_is_changed_when_asked_for(file: Path) -> None:
    lock = Lockfile(file)
    lock.note_libraries({"torch": "2.9.0"})
    lock.note_version("torch", "3.0.0")
    assert lock.libraries == {"torch": "3.0.0"}


@pytest.mark.parametrize(
    ("text", "where", "fact"),
    [
        ("", f"{FILE_NAME}:1:1", "not valid JSON: Expecting value"),
        (
            '{"sources": {},\n<<<<<<< HEAD\n',
            f"{FILE_NAME}:2:1",
            "not valid JSON: Expecting property name enclosed in double quotes",
        ),
        ("{}", FILE_NAME, "not a lock file of olivebuild: 'sources'"),
        ('{"sources": {}}', FILE_NAME, "not a lock file of olivebuild: 'libraries'"),
        (
            '{"sources": {"a": 1}, "libraries": {}}',
            FILE_NAME,
            "not a lock file of olivebuild: a pin is not text",
        ),
        (
            '{"sources": {}, "libraries": {"a": null}}',
            FILE_NAME,
            "not a lock file of olivebuild: a pin is not text",
        ),
        (
            '{"sources": [], "libraries": {}}',
            FILE_NAME,
            "not a lock file of olivebuild: 'list' object has no attribute 'values'",
        ),
        (
            "[]",
            FILE_NAME,
            "not a lock file of olivebuild: list indices must be integers or slices, not str",
        ),
    ],
)
def test_a_damaged_file_is_told(file: Path, text: str, where: str, fact: str) -> None:
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Lockfile(file)
    assert (str(caught.value.where), caught.value.fact, caught.value.hint) == (where, fact, HINT)


def test_a_file_nested_without_end_is_told(file: Path) -> None:
    file.write_text("[" * 100_000)
    with pytest.raises(RecipeError) as caught:
        Lockfile(file)
    assert caught.value.hint == HINT


def test_a_file_of_a_later_version_is_not_misread(file: Path) -> None:
    file.write_text('{"version": 2, "sources": {}, "libraries": {}}')
    with pytest.raises(RecipeError):
        Lockfile(file)


def test_builds_at_once_keep_each_others_pins(file: Path) -> None:
    one, two = Lockfile(file), Lockfile(file)
    one.pin("hf:a", "1")
    one.note_libraries({"torch": "2.9.0"})
    two.pin("hf:b", "2")
    two.note_libraries({"peft": "0.18.0"})
    one.save()
    two.save()
    again = Lockfile(file)
    assert (again.sources, again.libraries) == (
        {"hf:a": "1", "hf:b": "2"},
        {"peft": "0.18.0", "torch": "2.9.0"},
    )


def test_of_two_first_pins_of_a_source_the_one_saved_first_holds_for_both(file: Path) -> None:
    one, two = Lockfile(file), Lockfile(file)
    one.pin("hf:a", "1")
    two.pin("hf:a", "2")
    one.save()
    two.save()
    assert one.sources == two.sources == Lockfile(file).sources == {"hf:a": "1"}


def test_an_update_replaces_what_another_build_has_pinned(file: Path) -> None:
    first = Lockfile(file)
    first.pin("hf:a", "1")
    first.save()
    update, build = Lockfile(file), Lockfile(file)
    update.pin("hf:a", "2")
    build.pin("hf:b", "3")
    update.save()
    build.save()
    assert Lockfile(file).sources == {"hf:a": "2", "hf:b": "3"}


def test_a_misspelt_entry_is_told(file: Path) -> None:
    """Without its date a template would be rendered with another one, and all that hangs on it made
    anew.
    """
    file.write_text(
        json.dumps({"version": 1, "sources": {}, "libraries": {}, "template_dat": "2026-11-28"})
    )
    with pytest.raises(
        RecipeError, match="'template_dat' is not known; did you mean template_date"
    ):
        Lockfile(file)


def test_digests_of_fetched_files_go_with_the_pin(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    one = Lockfile(file)
    one.pin("s3://b/k", "size 1, etag a")
    one.note_digests("s3://b/k", {"k": "11"})
    one.save()
    two, three = Lockfile(file), Lockfile(file)
    assert two.digests == {"s3://b/k": {"k": "11"}}
    # What is there stays; what is new is added.
    two.note_digests("s3://b/k", {"k": "22", "l": "33"})
    two.save()
    assert Lockfile(file).digests == {"s3://b/k": {"k": "11", "l": "33"}}
    three.pin("s3://b/k", "size 1, etag a")
    three.save()
    assert Lockfile(file).digests == {"s3://b/k": {"k": "11", "l": "33"}}
    three.pin("s3://b/k", "size 1, etag b")
    three.save()
    assert Lockfile(file).digests == {}
    assert "digests" not in file.read_text()


def test_the_history_is_named_once(tmp_path: Path) -> None:
    first, second = Lockfile(tmp_path / FILE_NAME), Lockfile(tmp_path / FILE_NAME)
    for lock in (first, second):
        lock.name_history()
        lock.save()
    name = Lockfile(tmp_path / FILE_NAME).history
    assert len(name) == 32
    assert first.history == second.history == name
    second.name_history()
    second.save()
    assert Lockfile(tmp_path / FILE_NAME).history == name
    second.name_history(anew=True)
    second.save()
    assert Lockfile(tmp_path / FILE_NAME).history == second.history != name


def test_a_name_of_a_history_of_another_form_is_refused(tmp_path: Path) -> None:
    text = '{"sources": {}, "libraries": {}, "history": "../../x"}'
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(RecipeError, match=r"history is '\.\./\.\./x'"):
        Lockfile(tmp_path / FILE_NAME)
