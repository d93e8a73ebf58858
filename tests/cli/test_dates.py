"""The date of chat templates in olivebuild.lock: pinned by a first build, updated by a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from olivebuild.cache.key import Reason
from olivebuild.cli.main import main
from olivebuild.core.errors import RecipeError
from olivebuild.formats import template_clock
from olivebuild.recipe.lockfile import FILE_NAME, Lockfile
from tests.support.clocks import build, dated_site, dates
from tests.support.sites import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return dated_site(tmp_path, monkeypatch)


def test_the_first_build_pins_todays_date_for_all_that_follow(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, said = build(site)
    assert dates(plan)["adapter"] == "2026-11-28"
    assert said == [
        f"base: its chat template reads the clock: {FILE_NAME} has 2026-11-28 now, which is its "
        "date in all builds"
    ]
    assert Lockfile(site.folder / FILE_NAME).template_date == "2026-11-28"
    monkeypatch.setattr(template_clock, "today", lambda: "2027-06-01")
    again, said = build(site)
    assert dates(again) == dates(plan)
    assert said == []


def test_a_plan_pins_nothing_and_says_with_which_date(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> str:
        return "; ".join(map(str, site.planner().dating.told(site.plan().lookups)))

    assert told() == (
        "the chat template of base reads the clock: it will be rendered with the date of the "
        "first build, 2026-11-28 if that is today"
    )
    assert not (site.folder / FILE_NAME).exists()
    build(site)
    assert told() == (
        "the chat template of base reads the clock: it is rendered with 2026-11-28, which "
        "olivebuild.lock has"
    )
    site.edit("source: base}", "source: base, template_date: 2026-01-02}")
    assert told() == (
        "the chat template of base reads the clock: it is rendered with 2026-01-02, its "
        "template_date"
    )
    site.edit("2026-01-02", "freeze")
    assert told().endswith("2026-11-28, which olivebuild.lock has; what is merged has it fixed")


def command(site: Site, *words: str) -> Any:
    return CliRunner(env={"OLIVEBUILD_CACHE": str(site.cache)}).invoke(
        main, [*words, "-C", str(site.folder)], catch_exceptions=False
    )


def test_the_command_line_tells_and_updates(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "note     base           the chat template of base reads the clock"
        in command(site, "plan").output
    )
    assert json.loads(command(site, "plan", "--json").output)["template_dates"] == [
        {"target": "base", "date": "2026-11-28", "origin": "first build", "freezes": False}
    ]
    build(site)
    site.made("adapter")
    monkeypatch.setattr(template_clock, "today", lambda: "2027-06-01")
    assert command(site, "update").output == ""
    assert Lockfile(site.folder / FILE_NAME).template_date == "2026-11-28"
    assert (
        command(site, "update", "--template-date").output
        == "template_date: 2026-11-28 -> 2027-06-01\n"
    )
    assert command(site, "update", "--template-date").output == "template_date: unchanged\n"
    assert list(site.plan("adapter").states["adapter"].reasons) == [
        Reason("parameter", "template_date", "2026-11-28", "2027-06-01")
    ]
    for word, fact in (
        ("base", "--template-date takes no targets"),
        ("2026-02-03", "--template-date takes no date"),
    ):
        with pytest.raises(RecipeError, match=fact) as caught:
            command(site, "update", "--template-date", word)
        assert (
            f"the field `template_date: {'2027-06-01' if word == 'base' else word}` of a model"
            in caught.value.hint
        )
    site.edit("source: base}", "source: base, template_date: 2026-01-02}")
    assert (
        "base has a template_date of its own, 2026-01-02, which stays"
        in command(site, "update", "--template-date").output
    )


def test_old_lock_files_load_and_what_others_wrote_survives(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    file.write_text(
        json.dumps(
            {"version": 1, "sources": {"hf:a": "1"}, "libraries": {"torch": "2"}, "later": {"x": 1}}
        )
    )
    lock = Lockfile(file)
    assert lock.template_date == ""
    lock.pin_template_date("2026-11-28")
    lock.save()
    assert json.loads(file.read_text()) == {
        "version": 1,
        "sources": {"hf:a": "1"},
        "libraries": {"torch": "2"},
        "later": {"x": 1},
        "template_date": "2026-11-28",
    }
    again = Lockfile(file)
    again.note_version("torch", "3")
    again.save()
    assert Lockfile(file).template_date == "2026-11-28"


def test_of_two_first_builds_the_date_saved_first_holds_for_both_and_an_update_replaces_it(
    tmp_path: Path,
) -> None:
    one, two = Lockfile(tmp_path / FILE_NAME), Lockfile(tmp_path / FILE_NAME)
    one.pin_template_date("2026-11-28")
    two.pin_template_date("2026-11-29")
    one.save()
    two.save()
    assert (
        one.template_date == two.template_date == Lockfile(one.file).template_date == "2026-11-28"
    )
    three, beside = Lockfile(one.file), Lockfile(one.file)
    three.pin_template_date("2026-12-01")
    three.save()
    beside.pin("hf:b", "2")
    beside.save()
    assert beside.template_date == Lockfile(one.file).template_date == "2026-12-01"


@pytest.mark.parametrize("given", ["2026-13-01", 20261128, None, ["2026-11-28"]])
def test_a_lock_file_without_a_date_where_one_stands_is_told(tmp_path: Path, given: object) -> None:
    (tmp_path / FILE_NAME).write_text(
        json.dumps({"sources": {}, "libraries": {}, "template_date": given})
    )
    with pytest.raises(RecipeError):
        Lockfile(tmp_path / FILE_NAME)
