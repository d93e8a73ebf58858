"""What a stranger's repository or cache may hold in the place of our own folders: nothing outside
them is ever deleted or written.
"""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import pytest

import olivebuild
from olivebuild.core.errors import StoreError
from olivebuild.core.fs import trees
from tests.conftest import Place
from tests.support.mounts import memory_disk
from tests.support.programs import ALONE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


RECIPE = """\
default: b
targets:
  first: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
  b: {kind: command, run: "cp {inputs.a} {outputs.y}", inputs: {a: first.x}, outputs: {y: y.txt}}
"""


@pytest.fixture
def chain(place: Place) -> Place:
    place.recipe.write_text(RECIPE)
    (place.folder / "in.txt").write_text("one")
    return place


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Somebody's own files."""
    home = tmp_path / "home"
    for name in ("thesis/thesis.tex", "first/z", "photos/a.jpg", ".bashrc"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"precious {name}")
    return home


def content(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize(
    "link",
    [
        ".olivebuild",
        ".olivebuild/tmp",
        ".olivebuild/logs",
        ".olivebuild/graph.json",
        ".olivebuild/last.jsonl",
        "build",
    ],
)
@pytest.mark.parametrize("verb", ["build", "plan", "clean", "status", "verify"])
def test_a_link_in_the_place_of_our_own_folder_is_an_error_that_names_it(
    chain: Place, home: Path, link: str, verb: str
) -> None:
    before, place = content(home), chain.folder / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(home / ".bashrc" if place.suffix else home)
    done = chain.run(verb)
    assert (done.code, content(home)) == (1, before)
    assert str(place) in done.err
    assert "OLIVEBUILD_BUILD" in done.err


def test_another_recipe_s_folder_that_is_a_link_is_not_cleaned(chain: Place, home: Path) -> None:
    assert chain.build().code == 0
    before = content(home)
    shutil.rmtree(chain.folder / "build")
    (chain.folder / "build").symlink_to(home)
    (chain.folder / ".olivebuild" / "photos").mkdir()
    (chain.folder / ".olivebuild" / "photos" / "last.jsonl").write_text("\n")
    assert chain.run("clean").code == 1
    assert content(home) == before


@pytest.mark.parametrize(
    "name",
    [
        "tmp",
        "checkpoints",
        "history",
        "quarantine",
        "workspaces",
        "places",
        "locks",
        "blobs",
        "traces",
    ],
)
def test_a_cache_with_a_link_in_it_is_not_used(chain: Place, home: Path, name: str) -> None:
    before = content(home)
    chain.cache.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(chain.cache / name, ignore_errors=True)
    (chain.cache / name).symlink_to(home)
    done = chain.run()
    assert (done.code, content(home)) == (1, before)
    assert str(chain.cache / name) in done.err
    assert chain.run("gc", "--delete", "--older-than", "0d").code == 1
    assert content(home) == before


def test_results_go_where_the_user_says_and_clean_deletes_no_more(
    chain: Place, home: Path, tmp_path: Path
) -> None:
    """The path that the user names may hold links, and may hold other things: ours lie in a folder
    of their own there.
    """
    (tmp_path / "disk").symlink_to(home)
    chain.environment["OLIVEBUILD_BUILD"] = str(tmp_path / "disk")
    before = content(home)
    assert chain.build().ran == ["first", "b"]
    (ours,) = [p for p in home.iterdir() if p.name.startswith(chain.folder.name)]
    assert sorted(p.name for p in ours.iterdir() if not p.name.startswith(".")) == ["b", "first"]
    assert not (chain.folder / "build").exists()
    assert chain.build().ran == []
    (ours / "b" / "y.txt").write_text("damaged")
    assert chain.build().end["restored"] == ["b"]
    assert chain.run("clean").code == 0
    assert content(home) == before


def test_a_tree_is_deleted_without_looking_behind_its_links(tmp_path: Path, home: Path) -> None:
    before, root = content(home), tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "out").symlink_to(home)
    (root / "a" / "file").write_text("x")
    (root / "link").symlink_to(home)
    trees.delete(root, root / "link")
    trees.delete(root, root / "a")
    trees.delete(root, root / "a")
    assert ([*root.iterdir()], content(home)) == ([], before)


@pytest.mark.parametrize("by_handle", [True, False])
def test_a_link_on_the_way_is_refused(
    tmp_path: Path, home: Path, by_handle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "BY_HANDLE", by_handle)
    before, root = content(home), tmp_path / "root"
    root.mkdir()
    (root / "tmp").symlink_to(home)
    with pytest.raises(StoreError, match="a link stands where"):
        trees.delete(root, root / "tmp" / "thesis")
    for outside in (root / ".." / "home", root):
        with pytest.raises(ValueError, match="does not lie below"):
            trees.delete(root, outside)
    assert content(home) == before


def test_what_can_not_be_deleted_is_said_where_it_matters(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "held" / "disk", 1 << 20):
        trees.delete(tmp_path, tmp_path / "held")
        with pytest.raises(OSError, match="busy"):
            trees.delete(tmp_path, tmp_path / "held", ignore_errors=False)
        assert (tmp_path / "held" / "disk").is_dir()


def test_nothing_else_deletes_trees() -> None:
    package = Path(olivebuild.__file__).parent
    guilty = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        if path.name not in ("trees.py", *ALONE)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id) in ("rmtree", "removedirs")
    ]
    assert guilty == []
