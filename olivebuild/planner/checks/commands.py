"""Checks of commands: files and variables that they read and that are in no key.

They are found before the commands run, in the text of command lines and scripts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from olivebuild.api.node import Node
from olivebuild.core import environment
from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.patterns import split
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.scan import Scan
from olivebuild.planner.states import Verdict

SYSTEM = ("bin", "sbin", "usr", "lib", "lib64", "dev", "proc", "sys", "etc", "opt")
"""Folders of the root that hold programs and devices."""
SHOWN = 8
Said = tuple[str, str]


def problems(planner: Planner, plan: Plan) -> Iterator[PlanFinding]:
    for name, state in plan.states.items():
        node = state.node
        if (
            node.program
            and state.verdict in (Verdict.STALE, Verdict.WAITING)
            and state.fault is None
        ):
            for fact, hint in said_of(planner.scan, node):
                # A place in the recipe takes its parsing, which an edit of a node does without.
                where = planner.scan.recipe.where(node.target, ("run",))
                yield PlanFinding(node.target, where, fact, hint, (name,), fails=False)


def said_of(scan: Scan, node: Node) -> list[Said]:
    """Return (fact, hint) of variables that a command may lack, and of files in no key."""
    return [*_variables(scan, node), *_words(scan, node), *_scripts(scan, node)]


def _variables(scan: Scan, node: Node) -> Iterator[Said]:
    """Yield the variables that are set here, and that the command reads but does not get."""
    listed = {
        *node.fields.get("environment", {}),
        *node.fields.get("env", {}).get("passed", ()),
        *node.keyed,
    }
    variables = scan.program(node).variables
    missed = sorted(
        name
        for name in variables
        if name in os.environ and name not in listed and not environment.is_base(name)
    )
    if missed:
        sources = ", ".join(dict.fromkeys(variables[name] for name in missed))
        fact = (
            f"{sources} of {node.target} reads {', '.join(missed)} of the environment, which a "
            "command gets only if `env` lists it"
        )
        yield (
            fact,
            f"env: {{keyed: [{missed[0]}]}} where the value changes the result, env: {{passed: "
            f"[{missed[0]}]}} where it does not or is a secret",
        )


def _covered(scan: Scan, node: Node) -> set[Path]:
    return {
        path for wanted in node.files if not wanted.optional for path in scan.paths(node, wanted)
    }


def _words(scan: Scan, node: Node) -> Iterator[Said]:
    """Yield the folders, patterns and files elsewhere that `run` names, and `files` does not."""
    assert node.program
    covered, folder = _covered(scan, node), scan.recipe.folder
    # What the scan of modules looks through counts by itself.
    modules = {path.parent for path in scan.program(node).modules}
    named = []
    for word in node.program.words:
        path = folder / word
        if (
            not _is_uncounted(path, word, folder, shell=bool(node.fields.get("shell")))
            or covered & {path, *path.parents}
            or path in modules
        ):
            continue
        if not any(path in file.parents for file in covered):
            named.append(word)
    if named:
        fact = (
            f"`run` of {node.target} names {_listed(named)}, of which nothing counts: no edit "
            "there makes it run again"
        )
        yield fact, f"if it is read, list it: files: [{named[0]}]"


def _is_uncounted(path: Path, word: str, folder: Path, *, shell: bool) -> bool:
    try:
        if not os.path.isabs(word):
            fixed, wild = split(word)
            return path.is_dir() or (
                shell and bool(wild) and not path.exists() and any((folder / fixed).glob(wild))
            )
        if (path.parts[1:2] and path.parts[1] in SYSTEM) or path == Path(path.anchor):
            return False
        return path.is_dir() or (path.is_file() and not os.access(path, os.X_OK))
    except (OSError, ValueError, NotImplementedError):
        # No name of a file, whatever else it is.
        return False


def _scripts(scan: Scan, node: Node) -> Iterator[Said]:
    covered, folder = _covered(scan, node), scan.recipe.folder
    counted = covered | {folder / word for word in node.program.words} if node.program else covered
    for name, words in scan.program(node).told:
        named = [
            word
            for word in words.split()
            if not counted & {folder / word, *(folder / word).parents}
        ]
        if named:
            fact = (
                f"{name} names {_listed(named)}, of which {node.target} knows nothing: no edit "
                "there makes it run again"
            )
            yield fact, f"if it is read, list it: files: [{named[0]}]"
        elif not words:
            yield (
                f"{name} says in `sys.path` where else modules are found, and what lies there "
                "does not count",
                "list what it imports in `files`",
            )


def _listed(words: list[str]) -> str:
    return ", ".join(words[:SHOWN]) + (
        f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    )
