"""Inputs of a command's scripts, as their text tells.

Modules that lie in the folder, words that are files, variables. Runs nothing.

A module that a script imports, and that lies where Python would look for it first, counts like the
script itself, and so do those that it imports.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import msgspec

from olivebuild.api.node import Program
from olivebuild.core import environment
from olivebuild.core.fs import opening
from olivebuild.core.hashing import OnBytes
from olivebuild.steps.parts.command_line import words_in

LARGEST = 4 << 20
"""A longer file is no script that someone wrote."""
MOST = 5000
PYTHON, SHELL = (".py", ".pyw"), (".sh", ".bash", ".zsh", ".ksh")
Memo = Callable[[Path, Callable[[Path, OnBytes], str], str], str]
"""What is computed from a file, path by path, remembered by its stat; the text tells what is
computed.
"""
Facts = dict[str, Any]


class Reading(msgspec.Struct):
    """The inputs that a script names.

    `modules` count; `looked` are folders in which another one may appear; `variables` are names and
    the files that mention them.
    """

    modules: list[Path] = []
    looked: set[Path] = set()
    told: list[tuple[str, str]] = []
    """(what the script names, words): what is not known to be read, or where, and does not count.
    """
    variables: dict[str, str] = {}


def facts_of(path: Path, _count: OnBytes) -> str:
    """Return what a script's text says, as JSON; nothing of what is no script."""
    with opening.open_file(path) as f:
        head = f.read(256)
        first = head.partition(b"\n")[0] if head.startswith(b"#!") else b""
        is_python = path.suffix in PYTHON or b"python" in first
        if (
            not (is_python or path.suffix in SHELL or b"sh" in first)
            or os.fstat(f.fileno()).st_size > LARGEST
        ):
            return "{}"
        data = head + f.read()
    return json.dumps(of_python(data) if is_python else of_shell(data.decode("utf-8", "replace")))


def of_shell(text: str) -> Facts:
    return {"words": words_in(text), "variables": sorted({*environment.mentioned(text)})}


def of_python(source: bytes | str) -> Facts:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # The interpreter will say so.
        return {}
    facts: Facts = {"imports": [], "path": [], "alters": False, "variables": set()}
    written = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            facts["imports"] += [[0, alias.name, []] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            facts["imports"].append(
                [node.level, node.module or "", [alias.name for alias in node.names]]
            )
        elif isinstance(node, ast.Subscript) and _named(node.value) == "environ":
            (written if isinstance(node.ctx, ast.Store) else facts["variables"]).update(
                _texts([node.slice])
            )
        elif isinstance(node, ast.Compare) and any(
            _named(c) == "environ" for c in node.comparators
        ):
            facts["variables"].update(_texts([node.left]))
        elif isinstance(node, ast.Call):
            _call(node, facts)
    facts["variables"] = sorted(facts["variables"] - written)
    return facts


def _call(node: ast.Call, facts: Facts) -> None:
    name, of = (
        _named(node.func),
        _named(node.func.value) if isinstance(node.func, ast.Attribute) else "",
    )
    if name == "getenv" or (of == "environ" and name in ("get", "pop", "setdefault")):
        facts["variables"].update(_texts(node.args[:1]))
    elif name == "expandvars":
        facts["variables"].update(
            v for text in _texts(node.args[:1]) for v in environment.mentioned(text)
        )
    elif name in ("import_module", "__import__"):
        facts["imports"] += [
            [0, text, []] for text in _texts(node.args[:1]) if not text.startswith(".")
        ]
    elif name in ("insert", "append", "extend") and ast.unparse(node.func) == f"sys.path.{name}":
        facts["alters"] = True
        facts["path"] += [text for arg in node.args for text in _texts(ast.walk(arg))]


def _named(node: ast.AST) -> str:
    return (
        node.attr
        if isinstance(node, ast.Attribute)
        else node.id
        if isinstance(node, ast.Name)
        else ""
    )


def _texts(nodes: Iterable[ast.AST]) -> list[str]:
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def look(folder: Path, program: Program, line: str, memo: Memo) -> Reading:
    """Return what the scripts of a command in a recipe's folder read. Raises OSError."""
    return Look(folder, program, line, memo).reading


class Look:
    def __init__(self, folder: Path, program: Program, line: str, memo: Memo) -> None:
        self.folder, self.memo = folder, memo
        self.reading = Reading()
        self.roots = [*self._roots(program)]
        self._done: set[Path] = set()
        self._left: list[tuple[Path, Path]] = []
        """Python's files, and the folder in which each looks for modules first."""
        self._note_variables(environment.mentioned(line), "run")
        for word in program.words:
            self._word(folder / word, word)
        for module in program.modules:
            self._module(folder, module)
        for code in program.code:
            self._python(of_python(code), folder / "-c", folder)
        while self._left and len(self._done) < MOST:
            path, root = self._left.pop()
            self._python(self._facts(path), path, root)
        if self._left:
            self.reading.told.append((f"so many modules that only {MOST} of them count", ""))
        self.reading.modules.sort()

    def _roots(self, program: Program) -> Iterator[Path]:
        """Yield where Python looks after the script's own folder.

        As far as that lies in the recipe's.
        """
        roots = [*program.roots, *os.environ.get("PYTHONPATH", "").split(os.pathsep), *sys.path]
        prefixes = {Path(sys.prefix), Path(sys.base_prefix)}
        for path in dict.fromkeys(self.folder / text for text in roots if text):
            if (
                self.folder in (path, *path.parents)
                and "site-packages" not in path.parts
                and not prefixes & {path, *path.parents}
                and path.is_dir()
            ):
                yield path

    def _facts(self, path: Path) -> Facts:
        facts: Facts = json.loads(self.memo(path, facts_of, "script"))
        self._note_variables(facts.get("variables", ()), self._shown(path))
        return facts

    def _note_variables(self, names: Iterable[str], source: str) -> None:
        for name in names:
            self.reading.variables.setdefault(name, source)

    def _shown(self, path: Path) -> str:
        return (
            path.relative_to(self.folder).as_posix() if self.folder in path.parents else str(path)
        )

    def _word(self, path: Path, word: str) -> None:
        if path.is_dir() and (path / "__main__.py").is_file():
            # `python FOLDER` runs this.
            self._add(path / "__main__.py", path)
        if not path.is_file() or (os.path.isabs(word) and self.folder not in path.parents):
            return
        facts = self._facts(path)
        if "imports" in facts:
            self._done.add(path)
            self._python(facts, path, path.resolve().parent)
        if named := [text for text in facts.get("words", ()) if self._is_there(text)]:
            self.reading.told.append((self._shown(path), " ".join(sorted(named))))

    def _is_there(self, word: str) -> bool:
        """A word of a script that is a file in the recipe's folder."""
        path = self.folder / word
        return self.folder in path.parents and path.is_file()

    def _module(self, root: Path, name: str) -> None:
        """Read the module of `-m NAME`."""
        for place in (root, *self.roots):
            self.reading.looked.add(place)
            if self._resolve(place, name.split("."), place):
                package = place.joinpath(*name.split("."))
                if (package / "__main__.py").is_file():
                    self._add(package / "__main__.py", place)
                return

    def _python(self, facts: Facts, path: Path, root: Path) -> None:
        self._alter(facts, path)
        for level, module, names in facts.get("imports", ()):
            parts = module.split(".") if module else []
            places = (
                [path.parents[level - 1]]
                if level and level <= len(path.parents)
                else []
                if level
                else [root, *self.roots]
            )
            for place in places:
                self.reading.looked.add(place)
                if level and not parts:
                    # `from . import name`
                    for name in names:
                        self._resolve(place, [name], root)
                elif self._resolve(place, parts, root):
                    for name in names:
                        self._resolve(place, [*parts, name], root)
                    break

    def _alter(self, facts: Facts, path: Path) -> None:
        """A script that says where else modules are found, in words that can be read or not."""
        if not facts.get("alters"):
            return
        places = [
            place
            for text in facts["path"]
            for base in (path.parent, self.folder)
            if text and (place := base / text).is_dir()
        ]
        self.roots += [
            place.resolve() for place in places if self.folder.resolve() in place.resolve().parents
        ]
        if not places:
            self.reading.told.append((self._shown(path), ""))

    def _resolve(self, place: Path, parts: list[str], root: Path) -> bool:
        """Add the files that importing a module reads, if it lies here."""
        is_resolved = False
        for i, part in enumerate(parts):
            folder = place.joinpath(*parts[:i])
            if i and not folder.is_dir():
                break
            if i:
                self.reading.looked.add(folder)
            package = folder / part
            if (package / "__init__.py").is_file():
                self._add(package / "__init__.py", root)
            elif file := next(
                (
                    f
                    for suffix in (".py", *EXTENSION_SUFFIXES)
                    if (f := folder / f"{part}{suffix}").is_file()
                ),
                None,
            ):
                self._add(file, root)
            elif not (package.is_dir() and any(package.iterdir())):
                break
            is_resolved = True
        return is_resolved

    def _add(self, path: Path, root: Path) -> None:
        if path not in self._done:
            self._done.add(path)
            self.reading.modules.append(path)
            self._left.append((path, root))
