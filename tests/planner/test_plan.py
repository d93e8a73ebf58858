"""Verdicts and reasons, from traces put in by hand: nothing runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from olivebuild.cache.key import Reason
from olivebuild.cache.store import Store
from olivebuild.cli.lock import accept_target
from olivebuild.core import hashing
from olivebuild.core.errors import BuildError
from olivebuild.core.fs.files import wait_for_tick
from olivebuild.planner.states import Verdict
from olivebuild.planner.workspace import Workspace
from olivebuild.recipe.file import FILE_NAME
from olivebuild.steps.command import STEP
from olivebuild.ui.why import to_text, why
from tests.support.sites import NEW, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def built(site: Site) -> Site:
    site.made("a", x="X", seconds=10.0)
    site.made("b", y="Y", seconds=20.0)
    site.made("c", z="Z", seconds=30.0)
    return site


def test_what_was_never_built_is_stale_and_what_needs_it_waits(site: Site) -> None:
    states = site.plan().states
    assert [(s.verdict, list(s.reasons), s.seconds) for s in states.values()] == [
        (Verdict.STALE, NEW, None),
        (Verdict.WAITING, [Reason("input", "a")], None),
        (Verdict.WAITING, [Reason("input", "b")], None),
    ]
    assert [s.key is None for s in states.values()] == [False, True, True]


def test_planning_makes_nothing(site: Site) -> None:
    site.plan()
    assert sorted(p.name for p in site.folder.iterdir() if not p.name.startswith(".")) == [
        "in.txt",
        FILE_NAME,
    ]


def test_what_was_built_is_fresh(built: Site) -> None:
    states = built.plan().states
    assert [(s.verdict, list(s.reasons), s.seconds) for s in states.values()] == [
        (Verdict.FRESH, [], s) for s in (10.0, 20.0, 30.0)
    ]


def test_only_what_the_goals_need_is_planned(built: Site) -> None:
    assert built.verdicts("b") == {"a": "fresh", "b": "fresh"}


def test_an_edit_makes_stale_what_reads_it_and_what_follows_waits_with_its_last_cost(
    built: Site,
) -> None:
    built.write("in.txt", "other")
    states = built.plan().states
    old, new = (f".txt:{hashing.of_bytes(text)}" for text in ("input", "other"))
    assert [(s.verdict, list(s.reasons), s.seconds) for s in states.values()] == [
        (Verdict.STALE, [Reason("file", "in.txt", old, new)], 10.0),
        (Verdict.WAITING, [Reason("input", "a")], 20.0),
        (Verdict.WAITING, [Reason("input", "b")], 30.0),
    ]


def test_an_edit_with_the_time_put_back_is_seen(built: Site) -> None:
    file = built.folder / "in.txt"
    before = file.stat()
    wait_for_tick(built.folder, before.st_ctime_ns)
    file.write_text("INPUT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert built.verdicts()["a"] == "stale"


def test_an_undone_edit_is_fresh(built: Site) -> None:
    built.write("in.txt", "other")
    built.plan()
    built.write("in.txt", "input")
    assert built.verdicts() == {"a": "fresh", "b": "fresh", "c": "fresh"}


def test_a_touched_file_is_fresh(built: Site) -> None:
    os.utime(built.folder / "in.txt", (1, 1))
    assert built.verdicts() == {"a": "fresh", "b": "fresh", "c": "fresh"}


def test_comments_and_order_in_the_recipe_are_nothing(built: Site) -> None:
    lines = built.folder.joinpath(FILE_NAME).read_text().splitlines()
    built.write(FILE_NAME, "\n".join(["# a comment", lines[1], *reversed(lines[2:]), lines[0], ""]))
    assert set(built.verdicts().values()) == {"fresh"}


def test_equal_bytes_from_a_rerun_stop_the_rebuild(built: Site) -> None:
    built.write("in.txt", "other")
    built.made("a", x="X")
    assert built.verdicts() == {"a": "fresh", "b": "fresh", "c": "fresh"}


def test_other_bytes_from_a_rerun_make_the_next_step_stale(built: Site) -> None:
    built.write("in.txt", "other")
    built.made("a", x="X2")
    assert built.verdicts() == {"a": "fresh", "b": "stale", "c": "waiting"}
    assert built.reasons("b") == [
        Reason("input", "a.x", hashing.of_bytes("X"), hashing.of_bytes("X2"))
    ]


def test_only_the_output_that_is_read_counts(site: Site) -> None:
    site.edit("outputs: {x: x.txt}", "outputs: {x: x.txt, log: log.txt}")
    site.made("a", x="X", log="1")
    site.made("b", y="Y")
    site.write("in.txt", "other")
    site.made("a", x="X", log="2")
    assert site.verdicts("b") == {"a": "fresh", "b": "fresh"}


def test_a_parameter_makes_stale(built: Site) -> None:
    built.edit('"cp {inputs.a} {outputs.y}"', '"mv {inputs.a} {outputs.y}"')
    assert built.verdicts() == {"a": "fresh", "b": "stale", "c": "waiting"}
    old, new = '"cp {inputs.a} {outputs.y}"', '"mv {inputs.a} {outputs.y}"'
    assert built.reasons("b") == [Reason("parameter", "run", old, new)]


def test_a_script_on_the_command_line_is_part_of_the_step(site: Site) -> None:
    site.edit('"cp {outputs.x}"', '"python make.py {outputs.x}"')
    site.write("make.py", "one")
    site.made("a", x="X")
    assert site.verdicts("a") == {"a": "fresh"}
    site.write("make.py", "two")
    old, new = (f".py:{hashing.of_bytes(text)}" for text in ("one", "two"))
    assert site.reasons("a") == [Reason("file", "make.py", old, new)]


def test_a_known_result_of_another_key_is_restored_with_its_reason(built: Site) -> None:
    built.write("in.txt", "other")
    built.made("a", x="X2")
    built.write("in.txt", "input")
    state = built.plan("a").states["a"]
    old, new = (f".txt:{hashing.of_bytes(text)}" for text in ("other", "input"))
    assert (state.verdict, list(state.reasons)) == (
        Verdict.CACHED,
        [Reason("file", "in.txt", old, new)],
    )


@pytest.mark.parametrize("target", ["a", "b", "c"])
def test_a_deleted_folder_is_restored(built: Site, target: str) -> None:
    manifest = built.plan().states[target].manifest
    assert manifest
    shutil.rmtree(built.folder / "build" / target)
    assert built.verdicts() == {"a": "fresh", "b": "fresh", "c": "fresh"} | {target: "cached"}
    assert list(built.plan().states[target].reasons) == [
        Reason("output", f"build/{target}", manifest.digest, "missing")
    ]


def test_a_changed_result_is_restored(built: Site) -> None:
    built.write("build/b/y.txt", "!")
    assert built.verdicts() == {"a": "fresh", "b": "cached", "c": "fresh"}
    assert list(built.plan().states["b"].reasons) == [
        Reason("output", "build/b/y.txt", hashing.of_bytes("Y"), hashing.of_bytes("!"))
    ]


def test_a_missing_blob_does_not_matter_while_the_result_is_right(built: Site) -> None:
    built.blob("Z").unlink()
    assert built.verdicts() == {"a": "fresh", "b": "fresh", "c": "fresh"}


@pytest.mark.parametrize("harm", ["missing", "has 0 bytes instead of 1"])
def test_without_result_and_blob_the_step_runs_again(built: Site, harm: str) -> None:
    shutil.rmtree(built.folder / "build" / "c")
    if harm == "missing":
        built.blob("Z").unlink()
    else:
        os.truncate(built.blob("Z"), 0)
    state = built.plan().states["c"]
    assert state.verdict is Verdict.STALE
    assert [r.what for r in state.reasons] == ["build/c", "the cached result"]
    assert state.reasons[1].new == {"missing": "is missing"}.get(harm, harm)


def test_an_unreadable_manifest_makes_the_step_run_again(built: Site) -> None:
    trace = built.plan().states["c"].trace
    assert trace
    Store(built.cache).path(trace.manifest).write_text("{}")
    state = built.plan().states["c"]
    assert (state.verdict, [r.what for r in state.reasons]) == (
        Verdict.STALE,
        ["the cached result"],
    )


def test_a_lost_trace_makes_stale_and_says_so(built: Site) -> None:
    key = built.plan().states["c"].key
    assert key
    (built.cache / "blobs" / key[:2] / f"{key}.trace").unlink()
    shutil.rmtree(built.cache / "traces")
    state = built.plan().states["c"]
    assert (state.verdict, list(state.reasons)) == (
        Verdict.STALE,
        [Reason("output", "the last trace", key, "missing")],
    )


def test_a_trace_that_lacks_an_output_of_its_target_is_none(built: Site) -> None:
    planner = built.planner()
    trace = planner.plan(["c"]).states["a"].trace
    assert trace
    planner.traces.put(replace(trace, outputs={"": "0" * 32}))
    planner.traces.close()
    assert built.verdicts()["a"] == "stale"


def test_a_cache_filled_elsewhere_restores_everything(built: Site, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = Site(tmp_path / "elsewhere")
    other.cache = built.cache
    assert other.verdicts() == {"a": "cached", "b": "cached", "c": "cached"}


def test_other_names_find_the_same_results(built: Site) -> None:
    built.edit("  b: ", "  renamed: ")
    built.edit("{b: b.y}", "{b: renamed.y}")
    assert built.verdicts() == {"a": "fresh", "renamed": "cached", "c": "fresh"}


def test_why_tells_what_a_new_version_of_a_step_does_differently(
    built: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = STEP.version
    monkeypatch.setattr(
        type(STEP),
        "changes",
        {version: "not this one", version + 1: "it sorts its lines", version + 2: "it ends them"},
    )
    monkeypatch.setattr(type(STEP), "version", version + 2)
    story = why(built.plan(), Workspace(built.folder), "a")
    assert [(r.cause, r.old, r.new) for r in story.reasons] == [
        ("step", str(version), str(version + 2))
    ]
    assert story.notes == [
        f"olivebuild makes it differently now: {text}"
        for text in ("it sorts its lines", "it ends them")
    ]
    assert (
        "  olivebuild makes it differently now: it sorts its lines" in to_text(story).splitlines()
    )


def test_an_old_result_is_not_accepted_for_a_step_that_makes_another(
    built: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = STEP.version
    monkeypatch.setattr(type(STEP), "changes", {version + 1: "it sorts its lines"})
    monkeypatch.setattr(type(STEP), "version", version + 1)
    planner = built.planner()
    with pytest.raises(
        BuildError,
        match="is not what it would be now: olivebuild makes it differently now: it sorts its",
    ) as caught:
        list(accept_target(planner, "a"))
    assert "`olivebuild a` builds it anew" in caught.value.hint
    planner.traces.close()
    assert built.verdicts("a") == {"a": "stale"}
