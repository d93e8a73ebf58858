"""Verdicts and reasons, from traces put in by hand: nothing runs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from olivebuild import digest, scan
from olivebuild.errors import InputError
from olivebuild.graph import build_graph
from olivebuild.key import Reason
from olivebuild.lockfile import FILE_NAME as LOCK_NAME
from olivebuild.lockfile import Lockfile
from olivebuild.plan import Plan, Planner, Verdict
from olivebuild.recipe import FILE_NAME, load
from olivebuild.scan import Scan
from olivebuild.store import Store
from olivebuild.trace import Trace, Traces
from olivebuild.workspace import Last, Workspace
from tests.test_tensors import WEIGHTS, write

CHAIN = """\
default: c
targets:
  a: {kind: command, run: "cp {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
  b: {kind: command, run: "cp {inputs.a} {outputs.y}", inputs: {a: a.x}, outputs: {y: y.txt}}
  c: {kind: command, run: "cp {inputs.b} {outputs.z}", inputs: {b: b.y}, outputs: {z: z.txt}}
"""
NEW = [Reason("new", "never built here")]


class Site:
    """A recipe's folder and a cache. Each plan opens everything anew, as a new command does."""

    def __init__(self, root: Path, recipe: str = CHAIN) -> None:
        self.folder, self.cache = root / "work", root / "cache"
        self.folder.mkdir()
        self.write(FILE_NAME, recipe)
        self.write("in.txt", "input")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def edit(self, old: str, new: str) -> None:
        text = (self.folder / FILE_NAME).read_text()
        assert old in text
        self.write(FILE_NAME, text.replace(old, new))

    def planner(self) -> Planner:
        recipe = load(self.folder / FILE_NAME)
        workspace, store = Workspace(self.folder), Store(self.cache)
        return Planner(build_graph(recipe), Scan(recipe, workspace.memo, Lockfile(self.folder / LOCK_NAME)), store, Traces(store), workspace)

    def plan(self, *goals: str) -> Plan:
        planner = self.planner()
        try:
            return planner.plan(planner.graph.goals(goals))
        finally:
            planner.traces.close()

    def verdicts(self, *goals: str) -> dict[str, str]:
        return {name: state.verdict.value for name, state in self.plan(*goals).states.items()}

    def reasons(self, target: str) -> list[Reason]:
        return self.plan(target).states[target].reasons

    def made(self, target: str, *, seconds: float = 1.0, publish: bool = True, **texts: str) -> str:
        """As if the target's step had run and written `texts`, output name -> content. Returns the blob of its manifest."""
        planner = self.planner()
        state = planner.plan([target]).states[target]
        assert state.key
        out = planner.store.scratch(target)
        paths = state.node.outputs
        for name, text in texts.items():
            (out / paths[name]).write_text(text)
        manifest, blob = planner.store.put_folder(out)
        outputs = {"": manifest.digest} | {name: digest.of_bytes(text) for name, text in texts.items()}
        planner.traces.put(Trace(state.key, "command", state.parts, outputs, blob, seconds=seconds))
        if publish:
            planner.workspace.publish(target, manifest, planner.store)
            planner.workspace.remember(target, Last(state.key, tuple(state.reasons)))
        planner.workspace.save()
        planner.traces.close()
        return blob

    def blob(self, text: str) -> Path:
        return Store(self.cache).path(digest.of_bytes(text))


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
    assert [(s.verdict, s.reasons, s.seconds) for s in states.values()] == [
        (Verdict.STALE, NEW, None),
        (Verdict.WAITING, [Reason("input", "a")], None),
        (Verdict.WAITING, [Reason("input", "b")], None),
    ]
    assert [s.key is None for s in states.values()] == [False, True, True]


def test_planning_makes_nothing(site: Site) -> None:
    site.plan()
    assert sorted(p.name for p in site.folder.iterdir() if not p.name.startswith(".")) == ["in.txt", FILE_NAME]


def test_what_was_built_is_fresh(built: Site) -> None:
    states = built.plan().states
    assert [(s.verdict, s.reasons, s.seconds) for s in states.values()] == [(Verdict.FRESH, [], s) for s in (10.0, 20.0, 30.0)]


def test_only_what_the_goals_need_is_planned(built: Site) -> None:
    assert built.verdicts("b") == {"a": "fresh", "b": "fresh"}


def test_an_edit_makes_stale_what_reads_it_and_what_follows_waits_with_its_last_cost(built: Site) -> None:
    built.write("in.txt", "other")
    states = built.plan().states
    old, new = (f".txt:{digest.of_bytes(text)}" for text in ("input", "other"))
    assert [(s.verdict, s.reasons, s.seconds) for s in states.values()] == [
        (Verdict.STALE, [Reason("file", "in.txt", old, new)], 10.0),
        (Verdict.WAITING, [Reason("input", "a")], 20.0),
        (Verdict.WAITING, [Reason("input", "b")], 30.0),
    ]


def test_an_edit_with_the_time_put_back_is_seen(built: Site) -> None:
    file = built.folder / "in.txt"
    before = file.stat()
    digest.wait_for_tick(built.folder, before.st_ctime_ns)
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
    assert built.reasons("b") == [Reason("input", "a.x", digest.of_bytes("X"), digest.of_bytes("X2"))]


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
    old, new = (f".py:{digest.of_bytes(text)}" for text in ("one", "two"))
    assert site.reasons("a") == [Reason("file", "make.py", old, new)]


def test_a_known_result_of_another_key_is_restored_with_its_reason(built: Site) -> None:
    built.write("in.txt", "other")
    built.made("a", x="X2")
    built.write("in.txt", "input")
    state = built.plan("a").states["a"]
    old, new = (f".txt:{digest.of_bytes(text)}" for text in ("other", "input"))
    assert (state.verdict, state.reasons) == (Verdict.CACHED, [Reason("file", "in.txt", old, new)])


@pytest.mark.parametrize("target", ["a", "b", "c"])
def test_a_deleted_folder_is_restored(built: Site, target: str) -> None:
    manifest = built.plan().states[target].manifest
    assert manifest
    shutil.rmtree(built.folder / "build" / target)
    assert built.verdicts() == {"a": "fresh", "b": "fresh", "c": "fresh"} | {target: "cached"}
    assert built.plan().states[target].reasons == [Reason("output", f"build/{target}", manifest.digest, "missing")]


def test_a_changed_result_is_restored(built: Site) -> None:
    built.write("build/b/y.txt", "!")
    assert built.verdicts() == {"a": "fresh", "b": "cached", "c": "fresh"}
    assert built.plan().states["b"].reasons == [Reason("output", "build/b/y.txt", digest.of_bytes("Y"), digest.of_bytes("!"))]


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
    assert (state.verdict, [r.what for r in state.reasons]) == (Verdict.STALE, ["the cached result"])


def test_a_lost_trace_makes_stale_and_says_so(built: Site) -> None:
    key = built.plan().states["c"].key
    assert key
    (built.cache / "blobs" / key[:2] / f"{key}.trace").unlink()
    shutil.rmtree(built.cache / "traces")
    state = built.plan().states["c"]
    assert (state.verdict, state.reasons) == (Verdict.STALE, [Reason("output", "the last trace", key, "missing")])


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


def test_a_missing_file_is_told_with_its_place(site: Site) -> None:
    (site.folder / "in.txt").unlink()
    with pytest.raises(InputError) as caught:
        site.plan()
    error = caught.value
    assert (str(error.where), error.fact) == (f"{FILE_NAME}:3:53", "in.txt does not exist")
    assert error.hint == f"paths start at {site.folder}"


def test_a_pattern_without_files_is_told_with_its_place(site: Site) -> None:
    site.edit("files: [in.txt]", "files: ['data/*.csv']")
    with pytest.raises(InputError) as caught:
        site.plan()
    assert (str(caught.value.where), caught.value.fact) == (f"{FILE_NAME}:3:53", "data/*.csv matches no file")


@pytest.fixture
def folder_site(site: Site) -> Site:
    """`a` reads the folder data/."""
    site.edit("files: [in.txt]", "files: [data]")
    site.write("data/one.txt", "1")
    site.write("data/sub/two.txt", "2")
    site.made("a", x="X")
    assert site.verdicts("a") == {"a": "fresh"}
    return site


@pytest.mark.parametrize(
    ("name", "text", "verdict"),
    [
        ("data/one.txt", "1", "fresh"),
        ("data/one.txt", "!", "stale"),
        ("data/sub/two.txt", "!", "stale"),
        ("data/three.txt", "3", "stale"),
        ("data/.DS_Store", "x", "fresh"),
        ("beside.txt", "x", "fresh"),
    ],
)
def test_a_folder_is_read_whole(folder_site: Site, name: str, text: str, verdict: str) -> None:
    folder_site.write(name, text)
    assert folder_site.verdicts("a") == {"a": verdict}


def test_a_renamed_file_in_a_folder_counts(folder_site: Site) -> None:
    (folder_site.folder / "data/one.txt").rename(folder_site.folder / "data/uno.txt")
    assert folder_site.verdicts("a") == {"a": "stale"}


def test_a_linked_folder_in_a_folder_is_read_too(folder_site: Site) -> None:
    folder_site.write("outside/deep.txt", "1")
    (folder_site.folder / "data/link").symlink_to("../outside")
    folder_site.made("a", x="X")
    folder_site.write("outside/deep.txt", "2")
    assert folder_site.verdicts("a") == {"a": "stale"}


def test_files_of_a_pattern_are_read_by_content_not_by_name(site: Site) -> None:
    site.edit("files: [in.txt]", "files: ['data/*.txt']")
    site.write("data/one.txt", "1")
    site.made("a", x="X")
    (site.folder / "data/one.txt").rename(site.folder / "data/uno.txt")
    assert site.verdicts("a") == {"a": "fresh"}
    site.write("data/two.txt", "2")
    new = f".txt:{digest.of_bytes('2')}"
    assert site.reasons("a") == [Reason("file", "data/two.txt", digest_of_one(), new), Reason("file", "data/uno.txt", None, digest_of_one())]


def digest_of_one() -> str:
    return f".txt:{digest.of_bytes('1')}"


MODEL = "targets:\n  base: {kind: model, source: tiny}\n  onnx: {kind: onnx, model: base}\n"


@pytest.fixture
def model_site(tmp_path: Path) -> Site:
    site = Site(tmp_path, MODEL)
    site.write("tiny/config.json", "{}")
    write(site.folder / "tiny" / "model.safetensors", WEIGHTS)
    return site


def test_a_model_is_fresh_where_it_lies(model_site: Site) -> None:
    state = model_site.plan("base").states["base"]
    assert (state.verdict, state.folder, state.trace) == (Verdict.FRESH, model_site.folder / "tiny", None)


def test_the_readme_of_a_model_changes_no_key(model_site: Site) -> None:
    before = model_site.plan("onnx").states["onnx"].key
    model_site.write("tiny/README.md", "read me")
    assert model_site.plan("onnx").states["onnx"].key == before
    model_site.write("tiny/config.json", '{"a": 1}')
    assert model_site.plan("onnx").states["onnx"].key != before


def test_a_model_folder_that_is_not_there_is_told(model_site: Site) -> None:
    shutil.rmtree(model_site.folder / "tiny")
    with pytest.raises(InputError) as caught:
        model_site.plan("base")
    assert (str(caught.value.where), caught.value.fact) == (f"{FILE_NAME}:2:23", "tiny is not a folder")


def test_the_version_of_a_library_is_compared_without_its_build(model_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "version", lambda name: "2.9.0+cpu")
    cpu = model_site.plan("onnx").states["onnx"]
    monkeypatch.setattr(scan, "version", lambda name: "2.9.0+cu128")
    assert model_site.plan("onnx").states["onnx"].key == cpu.key
    assert {p.value for p in cpu.parts if p.cause == "library"} == {"2.9.0"}


def test_a_library_that_is_not_installed_has_the_version_of_the_lock_file(model_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(scan, "version", absent)
    model_site.write(LOCK_NAME, json.dumps({"version": 1, "sources": {}, "libraries": {"torch": "2.8.0"}}))
    parts = model_site.plan("onnx").states["onnx"].parts
    versions = {p.label: p.value for p in parts if p.cause == "library"}
    assert (versions["torch"], versions["transformers"]) == ("2.8.0", "not installed")


def test_a_library_upgrade_is_a_reason(model_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = dict.fromkeys(("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers"), "1.0")
    monkeypatch.setattr(scan, "version", versions.__getitem__)
    planner = model_site.planner()
    state = planner.plan(["onnx"]).states["onnx"]
    assert state.key
    planner.traces.put(Trace(state.key, "onnx", state.parts, {"": "1"}))
    planner.traces.close()
    planner.workspace.remember("onnx", Last(state.key))
    planner.workspace.save()
    versions["torch"] = "1.1"
    assert model_site.reasons("onnx") == [Reason("library", "torch", "1.0", "1.1")]


def test_a_remote_source_is_not_asked_but_pinned(tmp_path: Path) -> None:
    site = Site(tmp_path, MODEL.replace("tiny", "'hf:a/b'"))
    assert [(s.verdict, s.reasons) for s in site.plan("onnx").states.values()] == [
        (Verdict.STALE, [Reason("source", "hf:a/b", None, "not pinned yet")]),
        (Verdict.WAITING, [Reason("input", "base")]),
    ]


def test_the_pin_is_what_counts_of_a_remote_source(tmp_path: Path) -> None:
    site = Site(tmp_path, MODEL.replace("tiny", "'hf:a/b'"))
    keys = []
    for commit in ("1111", "2222", "1111"):
        site.write(LOCK_NAME, json.dumps({"version": 1, "sources": {"hf:a/b": commit}, "libraries": {}}))
        keys.append(site.plan("base").states["base"].key)
    assert keys[0] == keys[2] != keys[1]


def test_a_target_is_as_its_worst_node(model_site: Site) -> None:
    model_site.edit(
        "  onnx: ", '  tone: {kind: dataset, source: in.txt, text: "{t}"}\n  bench: {kind: benchmark, models: [base], data: tone}\n  onnx: '
    )
    plan = model_site.plan("bench")
    assert plan.target("bench")[0] is Verdict.STALE
    assert plan.target("base")[0] is Verdict.FRESH
    assert plan.targets == ["base", "tone", "bench"]


def test_a_file_that_a_waiting_target_reads_must_be_there_at_once(tmp_path: Path) -> None:
    text = (
        "targets:\n  first: {kind: command, run: 'true', outputs: [x.txt]}\n"
        "  second: {kind: command, run: 'true', inputs: [first], files: [data/missing.txt], outputs: [x.txt]}\n"
    )
    with pytest.raises(InputError) as caught:
        Site(tmp_path, text).plan()
    assert (str(caught.value.where), caught.value.fact) == (f"{FILE_NAME}:3:65", "data/missing.txt does not exist")
