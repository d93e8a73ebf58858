"""The date of chat templates in keys: which have it, and what sets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.cache.key import Part, Reason
from olivebuild.core.errors import RecipeError
from olivebuild.engine.actions import make_action
from olivebuild.planner.states import Verdict
from olivebuild.recipe.file import load
from olivebuild.recipe.lockfile import FILE_NAME
from olivebuild.ui.why import to_text, why
from tests.support.clocks import CHATML, FIXED, GRANITE, build, dated_site, dates
from tests.support.sites import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return dated_site(tmp_path, monkeypatch)


def test_what_is_rendered_with_such_a_template_has_the_date_in_its_key(site: Site) -> None:
    assert dates(site.plan()) == {"adapter": "2026-11-28", "bench:accuracy.base": "2026-11-28"}
    site.made("adapter")
    found = dates(site.plan())
    assert found == dict.fromkeys(
        ["adapter", "bench:accuracy.base", "bench:accuracy.adapter"], "2026-11-28"
    )


@pytest.mark.parametrize("template", [CHATML, FIXED])
def test_all_other_keys_have_none(site: Site, template: str) -> None:
    site.write("base/chat_template.jinja", template)
    plan = site.plan()
    assert not dates(plan)
    assert not site.planner().dating.told(plan.lookups)
    assert build(site)[1] == []
    assert not (site.folder / FILE_NAME).exists()


def test_rows_whose_prompts_are_written_out_need_no_date(site: Site) -> None:
    assert "template_date" not in {p.label for p in site.plan("written").states["written"].parts}


def test_the_other_parts_of_a_key_stay(site: Site) -> None:
    with_clock = site.plan().states["adapter"].parts
    site.write("base/chat_template.jinja", CHATML)
    without = site.plan().states["adapter"].parts
    labels = [(p.cause, p.label) for p in with_clock]
    assert [x for x in labels if x != ("parameter", "template_date")] == [
        (p.cause, p.label) for p in without
    ]


def test_the_worker_is_told_the_date_of_the_key(site: Site) -> None:
    planner = site.planner()
    plan = planner.plan(["adapter", "merged"])
    assert (
        make_action(planner, plan, plan.states["adapter"], Path(".")).template_date == "2026-11-28"
    )
    planner.traces.close()


def test_a_field_is_the_date_and_is_no_part_of_the_models_own_key(site: Site) -> None:
    site.edit("source: base}", "source: base, template_date: 2026-01-02}")
    plan, said = build(site)
    assert dates(plan)["adapter"] == "2026-01-02"
    assert said == []
    assert not (site.folder / FILE_NAME).exists()


def test_another_date_is_a_reason_that_why_tells(site: Site) -> None:
    site.made("adapter")
    assert site.plan("adapter").states["adapter"].verdict is Verdict.FRESH
    site.edit("source: base}", "source: base, template_date: 2027-01-02}")
    plan, planner = site.plan("adapter"), site.planner()
    assert list(plan.states["adapter"].reasons) == [
        Reason("parameter", "template_date", "2026-11-28", "2027-01-02")
    ]
    assert "parameter template_date: 2026-11-28 -> 2027-01-02" in to_text(
        why(plan, planner.workspace, "adapter")
    )
    planner.traces.close()


def test_a_template_that_begins_to_read_the_clock_is_seen(site: Site) -> None:
    site.write("base/chat_template.jinja", CHATML)
    assert not dates(site.plan())
    site.write("base/chat_template.jinja", GRANITE)
    assert dates(site.plan())["adapter"] == "2026-11-28"


def test_freezing_is_in_the_keys_of_what_is_published(site: Site) -> None:
    site.edit("source: base}", "source: base, template_date: freeze}")
    site.made("adapter")
    found = dates(site.plan("merged"))
    assert found == {"adapter": "2026-11-28", "merged": "freeze 2026-11-28"}


def test_models_of_several_dates_are_an_error(site: Site) -> None:
    site.edit(
        "targets:\n", "targets:\n  full: {kind: model, source: base, template_date: 2026-01-02}\n"
    )
    site.edit("merged: {kind: merged, model: base", "merged: {kind: merged, model: full")
    site.made("adapter")
    site.made("merged")
    with pytest.raises(RecipeError) as caught:
        site.plan("bench")
    assert "2026-11-28 of base" in caught.value.fact
    assert "2026-01-02 of full" in caught.value.fact


@pytest.mark.parametrize("given", ["yesterday", "2026-02-30", "'2026'", "'20261128'"])
def test_a_field_that_is_no_date_is_an_error_with_its_line(site: Site, given: str) -> None:
    site.edit("source: base}", f"source: base, template_date: {given}}}")
    with pytest.raises(RecipeError) as caught:
        load(site.folder / "olivebuild.yaml")
    assert (
        "is not a date; write it as 2026-11-28, or freeze"
        in f"{caught.value.fact}; {caught.value.hint}"
    )
    assert caught.value.where
    assert caught.value.where.line == 2


def test_a_field_without_effect_is_told(site: Site) -> None:
    site.write("base/chat_template.jinja", CHATML)
    site.edit("source: base}", "source: base, template_date: 2026-01-02}")
    said = [text for _, text in site.planner().dating.ignored(site.plan().lookups)]
    assert said == [
        "template_date changes nothing: the chat template of base does not read the clock"
    ]


def test_what_was_seen_of_a_model_holds_where_it_is_not(site: Site) -> None:
    """A hub's model, on a machine that has the cache of results and not the hub's."""
    site.edit("source: base}", "source: hf:a/base}")
    site.write(FILE_NAME, json.dumps({"sources": {"hf:a/base": "0123"}, "libraries": {}}))
    planner = site.planner()
    base = planner.plan(["base"]).states["base"]
    from olivebuild.cache.traces import Trace

    assert base.key
    gone = str(site.folder / "gone")
    planner.traces.put(
        Trace(
            base.key,
            "model",
            base.parts,
            {"": "0" * 32},
            reference=gone,
            provenance={"reads_clock": True},
        )
    )
    assert planner.dating.parts(
        planner.graph.nodes["adapter"], planner.plan(["adapter"]).lookups
    ) == [Part("parameter", "template_date", "2026-11-28")]
    planner.traces.close()
