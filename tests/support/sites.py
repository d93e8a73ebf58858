"""A recipe's folder and a cache whose traces are put in by hand, for tests of plans: nothing
runs.
"""

from __future__ import annotations

from pathlib import Path

from olivebuild.cache.key import Reason
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core import hashing
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.scan import Scan
from olivebuild.planner.workspace import LastBuild, Workspace
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.graph import build_graph
from olivebuild.recipe.lockfile import FILE_NAME as LOCK_NAME
from olivebuild.recipe.lockfile import Lockfile

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
        return Planner(
            graph=build_graph(recipe),
            scan=Scan(recipe, workspace.memo, Lockfile(self.folder / LOCK_NAME)),
            store=store,
            traces=Traces(store),
            workspace=workspace,
        )

    def plan(self, *goals: str) -> Plan:
        planner = self.planner()
        try:
            return planner.plan(planner.graph.goals(goals))
        finally:
            planner.traces.close()

    def verdicts(self, *goals: str) -> dict[str, str]:
        return {name: state.verdict.value for name, state in self.plan(*goals).states.items()}

    def reasons(self, target: str) -> list[Reason]:
        return list(self.plan(target).states[target].reasons)

    def made(self, target: str, *, seconds: float = 1.0, publish: bool = True, **texts: str) -> str:
        """As if the target's step had run and written `texts`, output name -> content.

        Returns the blob of its manifest.
        """
        planner = self.planner()
        state = planner.plan([target]).states[target]
        assert state.key
        out = planner.store.scratch(target)
        paths = state.node.outputs
        for name, text in texts.items():
            (out / paths[name]).write_text(text)
        manifest, blob = planner.store.put_folder(out)
        outputs = {"": manifest.digest} | {
            name: hashing.of_bytes(text) for name, text in texts.items()
        }
        planner.traces.put(Trace(state.key, "command", state.parts, outputs, blob, seconds=seconds))
        if publish:
            planner.workspace.publish(target, manifest, planner.store)
            planner.workspace.remember(target, LastBuild(state.key, tuple(state.reasons)))
        planner.workspace.save()
        planner.traces.close()
        return blob

    def blob(self, text: str) -> Path:
        return Store(self.cache).path(hashing.of_bytes(text))
