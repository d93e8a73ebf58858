"""The order of the rooms: imports go downwards only, lazy and type-only ones included, names of
modules in strings resolve, and the parent process imports nothing of `ml`.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import Place

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "olivebuild"
GROUND = ("", "snapshot", "_native")
"""Modules of the root that import nothing of the package, so that a no-op starts quickly."""
ABOVE = ("__main__", "step")
"""Modules of the root that nothing imports."""
ROOMS = [
    ("core",),
    ("formats", "data"),
    ("cache",),
    ("metrics",),
    ("api",),
    ("steps",),
    ("recipe",),
    ("planner",),
    ("ml", "executors"),
    ("engine",),
    ("ui",),
    ("exporters",),
    ("library",),
    ("server",),
    ("cli",),
]
"""From the ground up; rooms of one floor know nothing of each other."""
APART = {
    ("engine", "ml"),
    ("ui", "ml"),
    ("cli", "ml"),
    ("library", "ml"),
    ("server", "ml"),
    ("exporters", "ml"),
    ("ui", "executors"),
}
"""Imports that are never allowed, though they would go downwards."""
SUB_ROOMS = [
    "kernels",
    "weights",
    "models",
    "data",
    "nn",
    "onnx",
    "inference",
    "training",
    "benchmark",
    "peft_merge",
    "gguf",
    "transfer",
    "kinds",
]
"""The order in `ml`."""
MOST_MODULES = 15
DOTTED = re.compile(r"\bolivebuild(?:\.[a-z_]\w*)+\b")
NOT_MODULES = {
    "olivebuild.trackers": "a group of entry points",
    "olivebuild.escape": "the name of an error handler",
    "olivebuild.lock": "a file",
    "olivebuild.recipe.schema.json": "a file",
    "olivebuild.seen": "a key of click's context",
    "olivebuild.sha256": "a tag of Azure ML's",
    "olivebuild.target": "a tag of MLflow's",
    "olivebuild.yaml": "a file",
}


@cache
def modules() -> dict[str, Path]:
    """Return the package's modules: the name below `olivebuild`, "" for the root, and the file."""
    names = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = file
    return names


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text("utf-8"))


@cache
def imports_of(name: str) -> frozenset[str]:
    return frozenset(imported(tree_of(name), set(modules())))


def imported(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """Yield the modules among `names` that a module imports anywhere, as names below
    `olivebuild`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "olivebuild":
                    yield alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import is named from the root"
            package, _, module = (node.module or "").partition(".")
            if package != "olivebuild":
                continue
            for alias in node.names:
                below = f"{module}.{alias.name}" if module else alias.name
                yield below if below in names else module


def floor_of(room: str) -> int:
    if room in GROUND:
        return -1
    if room in ABOVE:
        return len(ROOMS)
    return next(i for i, floor in enumerate(ROOMS) if room in floor)


def is_allowed(importer: str, target: str) -> bool:
    """Return whether the order lets one module import another."""
    room, other = importer.partition(".")[0], target.partition(".")[0]
    if (importer, target) == ("snapshot", "_native"):
        # Only where a thousand paths are looked at.
        return True
    if room != other or room in GROUND:
        return floor_of(room) > floor_of(other) and (room, other) not in APART
    if room == "ml":
        sub_room, other_sub_room = importer.split(".")[1:2], target.split(".")[1:2]
        if sub_room and other_sub_room:
            return SUB_ROOMS.index(sub_room[0]) >= SUB_ROOMS.index(other_sub_room[0])
    return True


def test_imports_go_downwards() -> None:
    edges = [(name, target) for name in modules() for target in imports_of(name)]
    assert len(edges) > 1000
    assert [f"{a} -> {b}" for a, b in edges if not is_allowed(a, b)] == []


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("cli.build", "engine.builder", True),
        ("engine.builder", "cli.build", False),
        ("formats.source", "data.split", False),
        ("ml.kinds.adapter", "executors.worker", False),
        ("executors.worker", "ml.kinds.adapter", False),
        ("cli.build", "ml.kinds.adapter", False),
        ("ui.console", "executors.local", False),
        ("ml.kinds.adapter", "ml.training.train", True),
        ("ml.training.train", "ml.kinds.adapter", False),
        ("core.host", "snapshot", True),
        ("snapshot", "core.host", False),
        ("core.errors", "__main__", False),
    ],
)
def test_the_order(importer: str, target: str, allowed: bool) -> None:
    assert is_allowed(importer, target) == allowed


def test_lazy_and_type_only_imports_count() -> None:
    code = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from olivebuild.a import b, c\n"
        "def f():\n    import olivebuild.d\n    from olivebuild import e, __version__\n"
    )
    assert sorted(imported(ast.parse(code), {"a", "a.b", "d", "e"})) == ["", "a", "a.b", "d", "e"]


def test_no_circle_among_modules() -> None:
    graph = {name: imports_of(name) - {name} for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(f"a circle of imports: {' -> '.join(e.args[1])}")


def test_rooms_begin_with_one_sentence_and_nothing_else() -> None:
    for name, file in modules().items():
        if file.name != "__init__.py" or not name:
            continue
        tree = tree_of(name)
        assert len(tree.body) == 1, name
        sentence = ast.get_docstring(tree) or ""
        assert re.fullmatch(r"[A-Z][^.]*\.", sentence), f"{name}: {sentence!r}"


def test_no_folder_is_crowded() -> None:
    folders = [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir())]
    counts = {f.relative_to(ROOT).as_posix(): len({*f.glob("[!_]*.py")}) for f in folders}
    assert {f: n for f, n in counts.items() if n > MOST_MODULES} == {}
    assert sum(counts.values()) > 150


def strings() -> Iterator[tuple[str, str]]:
    """Yield each text of the package's code, docstrings too, with its file; of an f-string the
    parts that are written out.
    """
    for name, file in modules().items():
        for node in ast.walk(tree_of(name)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield file.relative_to(ROOT).as_posix(), node.value


def test_names_of_modules_in_strings_resolve() -> None:
    """Runners, modules that are imported ahead, programs that `python -m` starts, groups of entry
    points.
    """
    names: dict[str, str] = {}
    for file, text in strings():
        names |= dict.fromkeys(DOTTED.findall(text), file)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    names |= dict.fromkeys((entry.partition(":")[0] for entry in scripts.values()), "pyproject")
    assert len(names) > 25
    assert NOT_MODULES.keys() <= names.keys()
    assert {n: file for n, file in names.items() if n not in NOT_MODULES and not is_module(n)} == {}


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_verbs_name_modules() -> None:
    from olivebuild.cli.main import VERB_MODULES

    assert [v for v in VERB_MODULES.values() if not is_module(f"olivebuild.cli.{v}")] == []


def test_kinds_name_modules_for_their_work() -> None:
    from olivebuild.api.step import KINDS, step_of

    names = ("accuracy", "baseline", "check", "latency", "overlap", "sensitivity", "structure")
    parts = [f"benchmark-{name}" for name in names]
    for kind in (*KINDS, *parts):
        step = step_of(kind)
        assert step is not None
        once = [name for name in step.preload_once if name.startswith("olivebuild.")]
        assert [n for n in (step.runner, *step.preload, *once) if not is_module(n)] == []


HEAVY = {"torch", "transformers", "peft", "datasets", "onnx", "onnxruntime", "pyarrow"}
IMPORT_ALL = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"


def modules_of_the_parent() -> list[str]:
    """Return the full names of all modules but those of `ml` and the program itself."""
    rooms = [name for name in modules() if name.partition(".")[0] not in ("", "ml", *ABOVE)]
    return [f"olivebuild.{name}" for name in rooms]


def test_no_module_of_the_parent_imports_what_only_workers_need() -> None:
    command = [sys.executable, "-c", f"{IMPORT_ALL}print(*sys.modules)", *modules_of_the_parent()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    names = done.stdout.split()
    assert "olivebuild.engine.builder" in names
    assert {n for n in names if n in HEAVY or n.startswith("olivebuild.ml")} == set()


def modules_after(place: Place, *arguments: str) -> set[str]:
    """Return the modules that a command has imported in its own process."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "olivebuild", *arguments],
        cwd=place.folder,
        env=os.environ | {"OLIVEBUILD_CACHE": str(place.cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_the_parent_imports_nothing_of_the_work(place: Place) -> None:
    place.recipe.write_text(
        "targets:\n"
        '  first: {kind: command, run: "cp in.txt {outputs.text}", outputs: {text: text.txt}}\n'
        '  second: {kind: command, run: "cp {inputs.text} {outputs.text}",'
        " inputs: {text: first.text}, outputs: {text: text.txt}}\n"
    )
    (place.folder / "in.txt").write_text("one\n")
    for arguments in (["plan"], ["build"], ["build"], ["build", "-k"], ["why", "second"]):
        names = modules_after(place, *arguments)
        assert "olivebuild.snapshot" in names
        assert {n for n in names if n.startswith("olivebuild.ml")} == set(), arguments
