"""What a plan looks at: files, folders, models, libraries, pins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from olivebuild.cache.key import Reason
from olivebuild.cache.traces import Trace
from olivebuild.core import hashing, host
from olivebuild.core.errors import InputError
from olivebuild.planner.states import Verdict
from olivebuild.planner.workspace import LastBuild
from olivebuild.recipe.file import FILE_NAME
from olivebuild.recipe.lockfile import FILE_NAME as LOCK_NAME
from tests.formats.test_safetensors import WEIGHTS, write
from tests.support.sites import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


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
    assert (str(caught.value.where), caught.value.fact) == (
        f"{FILE_NAME}:3:53",
        "data/*.csv matches no file",
    )


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
    new = f".txt:{hashing.of_bytes('2')}"
    assert site.reasons("a") == [
        Reason("file", "data/two.txt", digest_of_one(), new),
        Reason("file", "data/uno.txt", None, digest_of_one()),
    ]


def digest_of_one() -> str:
    return f".txt:{hashing.of_bytes('1')}"


MODEL = "targets:\n  base: {kind: model, source: tiny}\n  onnx: {kind: onnx, model: base}\n"


@pytest.fixture
def model_site(tmp_path: Path) -> Site:
    site = Site(tmp_path, MODEL)
    site.write("tiny/config.json", "{}")
    write(site.folder / "tiny" / "model.safetensors", WEIGHTS)
    return site


def test_a_model_is_fresh_where_it_lies(model_site: Site) -> None:
    state = model_site.plan("base").states["base"]
    assert (state.verdict, state.folder, state.trace) == (
        Verdict.FRESH,
        model_site.folder / "tiny",
        None,
    )


def test_the_readme_of_a_model_changes_no_key(model_site: Site) -> None:
    before = model_site.plan("onnx").states["onnx"].key
    model_site.write("tiny/README.md", "read me")
    assert model_site.plan("onnx").states["onnx"].key == before
    model_site.write("tiny/config.json", '{"a": 1}')
    assert model_site.plan("onnx").states["onnx"].key != before


def test_a_chat_template_one_folder_deep_changes_the_key(model_site: Site) -> None:
    keys = [model_site.plan("onnx").states["onnx"].key]
    for text in ("one", "two"):
        model_site.write("tiny/additional_chat_templates/tool_use.jinja", text)
        planner = model_site.planner()
        keys.append(planner.plan(["onnx"]).states["onnx"].key)
        planner.traces.close()
        assert (
            model_site.folder / "tiny" / "additional_chat_templates" / "tool_use.jinja"
            in planner.scan.depends_on()
        )
    assert len(set(keys)) == 3


def test_a_model_folder_that_is_not_there_is_told(model_site: Site) -> None:
    shutil.rmtree(model_site.folder / "tiny")
    with pytest.raises(InputError) as caught:
        model_site.plan("base")
    assert (str(caught.value.where), caught.value.fact) == (
        f"{FILE_NAME}:2:23",
        "tiny is not a folder",
    )


def test_the_version_of_a_library_is_compared_without_its_build(
    model_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "version", lambda name: "2.9.0+cpu")
    cpu = model_site.plan("onnx").states["onnx"]
    monkeypatch.setattr(host, "version", lambda name: "2.9.0+cu128")
    assert model_site.plan("onnx").states["onnx"].key == cpu.key
    assert {p.value for p in cpu.parts if p.cause == "library"} == {"2.9.0"}


def test_a_library_that_is_not_installed_has_the_version_of_the_lock_file(
    model_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(host, "version", absent)
    model_site.write(
        LOCK_NAME, json.dumps({"version": 1, "sources": {}, "libraries": {"torch": "2.8.0"}})
    )
    parts = model_site.plan("onnx").states["onnx"].parts
    versions = {p.label: p.value for p in parts if p.cause == "library"}
    assert (versions["torch"], versions["transformers"]) == ("2.8.0", "not installed")


def test_a_library_upgrade_is_a_reason(model_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = dict.fromkeys(
        ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers"), "1.0"
    )
    monkeypatch.setattr(host, "version", versions.__getitem__)
    planner = model_site.planner()
    state = planner.plan(["onnx"]).states["onnx"]
    assert state.key
    planner.traces.put(Trace(state.key, "onnx", state.parts, {"": "1"}))
    planner.traces.close()
    planner.workspace.remember("onnx", LastBuild(state.key))
    planner.workspace.save()
    versions["torch"] = "1.1"
    assert model_site.reasons("onnx") == [Reason("library", "torch", "1.0", "1.1")]


def test_a_remote_source_is_not_asked_but_pinned(tmp_path: Path) -> None:
    site = Site(tmp_path, MODEL.replace("tiny", "'hf:a/b'"))
    assert [(s.verdict, list(s.reasons)) for s in site.plan("onnx").states.values()] == [
        (Verdict.STALE, [Reason("source", "hf:a/b", None, "not pinned yet")]),
        (Verdict.WAITING, [Reason("input", "base")]),
    ]


def test_the_pin_is_what_counts_of_a_remote_source(tmp_path: Path) -> None:
    site = Site(tmp_path, MODEL.replace("tiny", "'hf:a/b'"))
    keys = []
    for commit in ("1111", "2222", "1111"):
        site.write(
            LOCK_NAME, json.dumps({"version": 1, "sources": {"hf:a/b": commit}, "libraries": {}})
        )
        keys.append(site.plan("base").states["base"].key)
    assert keys[0] == keys[2] != keys[1]


def test_a_target_is_as_its_worst_node(model_site: Site) -> None:
    model_site.edit(
        "  onnx: ",
        '  tone: {kind: dataset, source: in.txt, text: "{t}"}\n  bench: {kind: benchmark, models: '
        "[base], data: tone}\n  onnx: ",
    )
    plan = model_site.plan("bench")
    assert plan.target("bench")[0] is Verdict.STALE
    assert plan.target("base")[0] is Verdict.FRESH
    assert plan.targets == ["base", "tone", "bench"]


def test_a_file_that_a_waiting_target_reads_must_be_there_at_once(tmp_path: Path) -> None:
    text = (
        "targets:\n  first: {kind: command, run: 'true', outputs: [x.txt]}\n"
        "  second: {kind: command, run: 'true', inputs: [first], files: [data/missing.txt], "
        "outputs: [x.txt]}\n"
    )
    with pytest.raises(InputError) as caught:
        Site(tmp_path, text).plan()
    assert (str(caught.value.where), caught.value.fact) == (
        f"{FILE_NAME}:3:65",
        "data/missing.txt does not exist",
    )


@pytest.mark.parametrize("folder", ["gone", "a**b", "a\0b"])
def test_a_referenced_folder_that_can_not_be_read_is_missing(tmp_path: Path, folder: str) -> None:
    """A trace may come from elsewhere, with a path that is none on this system."""
    site = Site(tmp_path, MODEL.replace("tiny", "'hf:a/b'"))
    site.write(LOCK_NAME, json.dumps({"version": 1, "sources": {"hf:a/b": "1"}, "libraries": {}}))
    planner = site.planner()
    base = planner.plan(["base"]).states["base"]
    assert base.key
    planner.traces.put(Trace(base.key, "model", base.parts, {"": "0" * 32}, reference=folder))
    planner.traces.close()
    state = site.plan("base").states["base"]
    assert (state.verdict, list(state.reasons)) == (
        Verdict.STALE,
        [Reason("output", folder, "0" * 32, "missing")],
    )
