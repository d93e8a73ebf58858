"""The Python API over steps that are commands."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import olivebuild as ob

CHAIN = """\
default: c
targets:
  a: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
  b: {kind: command, run: "cp {inputs.a} {outputs.y}", inputs: {a: a.x}, outputs: {y: y.txt}}
  c: {kind: command, run: "cp {inputs.b} {outputs.z}", inputs: {b: b.y}, outputs: {z: z.txt}}
"""
FAILING = """\
targets:
  a: {kind: command, run: "python -c 'raise SystemExit(3)'", outputs: {x: x.txt}}
  b: {kind: command, run: "python -c 'raise SystemExit(4)'", outputs: {y: y.txt}}
  c: {kind: command, run: "cp {inputs.b} {outputs.z}", inputs: {b: b.y}, outputs: {z: z.txt}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    (work / "olivebuild.yaml").write_text(CHAIN)
    (work / "in.txt").write_text("input")
    return work


def test_plan_build_and_read(folder: Path) -> None:
    project = ob.open(folder)
    assert (list(project), len(project), "a" in project) == (["a", "b", "c"], 3, True)
    plan = project.plan()
    assert (plan.stale, plan.is_fresh) == (("a", "b", "c"), False)
    assert plan["a"].reasons[0]["what"] == "never built here"
    events: list[ob.Event] = []
    result = project.build(on_event=events.append)
    assert (result.goals, result.ran, result.ships) == (("c",), ("a", "b", "c"), None)
    assert [event.name for event in events][:2] == ["plan", "started"]
    assert project.plan().is_fresh
    target = project["c"]
    assert (target.path / "z.txt").read_text() == "input"
    assert (target.verdict, target.kind, target.size) == ("fresh", "command", 5)
    assert len(target.digest) == 32
    assert project.build().fresh == ("a", "b", "c")
    (entry,) = project.history()
    assert entry["goals"] == ("c",)


def test_what_was_edited_is_seen_by_the_same_object(folder: Path) -> None:
    project = ob.open(str(folder))
    project.build()
    (folder / "in.txt").write_text("other")
    assert project.plan("a").stale == ("a",)
    with pytest.raises(ob.BuildError, match="a is stale") as caught:
        _ = project["a"].path
    assert caught.value.hint == "`project.build('a')` makes it"


def test_settings_are_those_of_the_command(folder: Path) -> None:
    edited = ob.open(folder, settings={"a.outputs": {"x": "other.txt"}})
    assert edited.build("a").ran == ("a",)
    assert (edited["a"].path / "other.txt").exists()
    words = ob.open(folder, settings=['a.outputs={"x": "other.txt"}'])
    assert words.plan("a").is_fresh


def test_failures_are_exceptions(folder: Path) -> None:
    (folder / "olivebuild.yaml").write_text(FAILING)
    project = ob.open(folder)
    with pytest.raises(ob.BuildError, match="ended with 3") as caught:
        project.build("a")
    assert any(note.startswith("hint: ") for note in caught.value.__notes__)
    with pytest.raises(ExceptionGroup, match="2 targets failed") as group:
        project.build("a", "c", keep_going=True)
    failed = [e for e in group.value.exceptions if isinstance(e, ob.BuildError)]
    assert {error.target for error in failed} == {"a", "b"}
    with pytest.raises(KeyError):
        _ = project["d"]
    with pytest.raises(ob.BuildError, match="there is no target"):
        project.build("d")
    with pytest.raises(ob.BuildError, match="no recipe"):
        ob.open(folder.parent)


def test_notebooks_show_what_a_terminal_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ob.open(folder)
    assert "never built here" in project.plan()._repr_html_()
    page = project.build()._repr_html_()
    assert "3 built" in page
    assert page.startswith("<pre")
    assert "fresh" in project["a"]._repr_html_()
    assert repr(project.plan()) == "<olivebuild plan: a fresh, b fresh, c fresh>"
    assert capsys.readouterr().out == ""


def test_the_import_brings_nothing_along() -> None:
    code = (
        "import sys; before = set(sys.modules); import olivebuild as ob; "
        "print([m for m in set(sys.modules) - before if m != 'olivebuild']); ob.open; "
        "print([m for m in ('torch', 'rich', 'pyarrow', 'numpy', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


def test_names_are_those_of_the_types() -> None:
    stub = (Path(ob.__file__).with_suffix(".pyi")).read_text()
    for name in ob.__all__:
        assert name in stub
        assert getattr(ob, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = ob.opne  # type: ignore[attr-defined]


def test_a_setting_is_what_its_value_is(folder: Path) -> None:
    """A text stays one, though it looks like a number or a list in YAML."""
    for value in ("1", "true", "[1]", "a: b", "ünï 😀", "two words", "#"):
        assert ob.open(folder, settings={"a.run": value}).plan("a").stale == ("a",)
    with pytest.raises(ob.BuildError, match="input should be a valid string"):
        ob.open(folder, settings={"a.run": 1}).plan("a")


def test_what_is_no_name_or_number_is_told(folder: Path) -> None:
    project = ob.open(folder, settings='a.outputs={"x": "x.txt"}')
    with pytest.raises(TypeError, match=r"\['a', 'b'\] is no name of a target"):
        project.build(["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is no name of a target"):
        project.plan(project["a"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="jobs is -1"):
        project.build(jobs=-1)
    with pytest.raises(ob.BuildError, match="'nowhere' is no place to log to"):
        project.build(log_to="nowhere")


def test_errors_cross_processes(folder: Path) -> None:
    (folder / "olivebuild.yaml").write_text(FAILING)
    with pytest.raises(ob.BuildError) as caught:
        ob.open(folder).build("a")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is type(caught.value)
    assert (str(copy), vars(copy)) == (str(caught.value), vars(caught.value))
    assert copy.__notes__ == caught.value.__notes__


@pytest.mark.parametrize("name", ["plan", "started", "finished"])
def test_what_a_listener_raises_ends_the_build_and_leaves_nothing_locked(
    folder: Path, name: str
) -> None:
    project = ob.open(folder)

    def listen(event: ob.Event) -> None:
        if event.name == name:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        project.build(on_event=listen)
    result = project.build()
    assert {*result.ran, *result.fresh} == {"a", "b", "c"}
    assert (project["c"].path / "z.txt").read_text() == "input"


def test_threads_build_and_draw_at_once(folder: Path) -> None:
    """Two builds of one recipe, one of another: each step runs once, and output is whole."""
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    (other / "in.txt").write_text("other")
    out = sys.stdout

    def work(place: Path) -> tuple[str, ...]:
        result = ob.open(place).build()
        pages = {result._repr_html_() for _ in range(20)}
        assert len(pages) == 1
        assert "<pre" in pages.pop()
        return result.ran

    with ThreadPoolExecutor(3) as threads:
        ran = list(threads.map(work, (folder, folder, other)))
    assert sorted(ran[0] + ran[1]) == ["a", "b", "c"]
    assert ran[2] == ("a", "b", "c")
    assert sys.stdout is out
