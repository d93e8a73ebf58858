"""The dependency graph: targets -> nodes, inputs first. It knows nothing of disks.

Unknown inputs and cycles are errors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from olivebuild.api.node import Edge, Node, Outline
from olivebuild.core.errors import RecipeError, Where
from olivebuild.core.text import did_you_mean
from olivebuild.recipe import placeholders
from olivebuild.recipe.file import Recipe

if TYPE_CHECKING:
    from olivebuild.api.step import Target


class Graph(Struct, dict=True):
    """The nodes of a recipe, inputs first.

    `inputs` maps a node to its (edge, node it comes from, output name).
    """

    recipe: Recipe
    targets: dict[str, Outline]
    default: list[str]
    matrices: dict[str, tuple[str, ...]] = {}
    """The name of a matrix -> its members."""
    limits: dict[str, float] = {}
    nodes: dict[str, Node] = {}
    inputs: dict[str, list[tuple[Edge, Node, str]]] = {}
    every: Collection[str] = ()
    """The names of all nodes that the recipe has, where this is a part of its graph."""

    @cached_property
    def order(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.nodes)}

    @cached_property
    def users(self) -> dict[str, list[tuple[Edge, str]]]:
        """The (edge, user) pairs of the nodes that read a node, by its name."""
        users: dict[str, list[tuple[Edge, str]]] = {name: [] for name in self.nodes}
        for user, inputs in self.inputs.items():
            for edge, source, _ in inputs:
                users[source.name].append((edge, user))
        return users

    def closure(self, goals: Iterable[str]) -> list[Node]:
        """Return the nodes that targets need, their own included, inputs first."""
        goals = set(goals)
        wanted = {name for name, node in self.nodes.items() if node.target in goals}
        for name in reversed(list(self.nodes)):
            if name in wanted:
                wanted.update(source.name for _, source, _ in self.inputs[name])
        return [node for name, node in self.nodes.items() if name in wanted]

    def targets_below(self, goals: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(node.target for node in self.closure(goals)))

    @property
    def names_executors(self) -> bool:
        """Return whether a target names an executor."""
        return any(target.executor for target in self.targets.values())

    @property
    def all_goals(self) -> list[str]:
        """The goals for which every target is built.

        A lazy target is a goal only if nothing else is made from it.
        """
        eager = [name for name, target in self.targets.items() if not target.lazy]
        below = set(self.targets_below(eager))
        return [*eager, *(name for name in self.targets if name not in below)]

    def goals(self, names: Iterable[str]) -> list[str]:
        """Return the targets to build for the names of the command line. Raises RecipeError.

        Without names it is the recipe's default, or else the targets that no other one needs.
        None of them may need a value that a placeholder stands for.
        """
        goals = [member for name in names for member in self.matrices.get(name, (name,))]
        for name in goals:
            if name not in self.targets:
                raise RecipeError(
                    f"there is no target {name!r}",
                    where=self.recipe.file.name,
                    hint=self._instead(name),
                )
        goals = goals or self.default or self._unused()
        if any(target.placeholders for target in self.targets.values()):
            nodes, file = self.closure(goals), self.recipe.file.name
            placeholders.check(nodes, self.targets, goals, self.recipe.lines, file)
        return goals

    def _instead(self, name: str) -> str:
        """Return a hint for the name of no target: the target or command that may be meant."""
        from olivebuild.recipe.command_names import COMMANDS, NEWER_COMMANDS

        hint = did_you_mean(name, [*self.targets, *self.matrices])
        meant = did_you_mean(name, [*COMMANDS, *NEWER_COMMANDS])
        if hint.startswith("known are") and meant.startswith("did you mean"):
            return f"{meant[:-1]}, the command?"
        return hint

    def _unused(self) -> list[str]:
        """Return the targets that no other target needs."""
        used = set()
        for name, inputs in self.inputs.items():
            target = self.nodes[name].target
            used |= {source.target for _, source, _ in inputs if source.target != target}
        return [name for name in self.targets if name not in used]

    def trusts_remote_code(self, node: Node) -> bool:
        """Return whether code that comes with a model may run: said on it, or on its base."""
        models = [source for edge, source, _ in self.inputs[node.name] if edge.role == "model"]
        return node.trusts_remote_code or any(map(self.trusts_remote_code, models))

    def one(self, name: str) -> str:
        """Return a single target's name. Raises RecipeError for a matrix, or an unknown name."""
        if name in self.matrices:
            hint = f"name one of them, such as {self.matrices[name][0]}"
            raise RecipeError(
                f"{name} is a matrix of {len(self.matrices[name])} targets",
                where=self.recipe.file.name,
                hint=hint,
            )
        return self.goals([name])[0]


def build_graph(recipe: Recipe) -> Graph:
    """Return the graph of a recipe.

    Raises RecipeError for an unknown input, an input of the wrong kind or output, or a cycle.
    """
    raw: dict[str, Node] = {}
    for target in recipe.targets.values():
        for node in _nodes(recipe, target):
            resources = node.resources or target.resources
            edges = node.edges
            if target.placeholders:
                # Nothing is made of such a target, and what is left open names no input yet.
                edges = tuple(e for e in edges if e.ref.target != placeholders.STAND_IN)
            raw[node.name] = structs.replace(
                node, resources=resources, edges=edges, strict=node.computes and recipe.strict
            )
    inputs = {
        node.name: [_resolve(recipe, raw, node, edge) for edge in node.edges]
        for node in raw.values()
    }
    graph = Graph(
        recipe,
        _outlines(recipe),
        recipe.default,
        recipe.matrices,
        recipe.limits,
    )
    for node in _ordered(recipe, raw, inputs):
        graph.nodes[node.name] = node
        graph.inputs[node.name] = inputs[node.name]
    return graph


def _outlines(recipe: Recipe) -> dict[str, Outline]:
    positions: dict[str, dict[str, tuple[int, int, str]]] = {name: {} for name in recipe.targets}
    for path in [*recipe.document.places, *recipe.document.overrides]:
        if path[0:1] == ("targets",) and len(path) > 1 and path[1] in positions:
            where = recipe.document.where(path)
            # A value of the command line has no line in the file.
            override = where.file if where.line == 0 else ""
            field = ".".join(map(str, path[2:]))
            positions[str(path[1])][field] = (where.line, where.column, override)
    return {
        name: Outline(
            name=name,
            kind=target.kind,
            lazy=target.step.lazy,
            gated=bool(target.step.gates(target.fields)),
            positions=positions[name],
            executor=target.executor,
            executor_kind=recipe.executors[target.executor].kind if target.executor else "",
            placeholders=target.placeholders,
        )
        for name, target in recipe.targets.items()
    }


def _nodes(recipe: Recipe, target: Target) -> list[Node]:
    try:
        return target.step.nodes(target, recipe.targets)
    except RecipeError as e:
        e.where = e.where or recipe.where(target.name)
        raise


def _resolve(
    recipe: Recipe, raw: dict[str, Node], node: Node, edge: Edge
) -> tuple[Edge, Node, str]:
    """Return an edge with the node and the output that it leads to. Raises RecipeError."""
    where = recipe.where(node.target, edge.field)
    if edge.sibling:
        return edge, raw[f"{node.target}:{edge.sibling}"], edge.output
    name = edge.ref.target
    source = raw.get(name)
    if source is None:
        raise _no_target(recipe, node, name, where)
    kind = recipe.targets[name].kind
    if edge.kinds and kind not in edge.kinds:
        hint = f"it takes {' or '.join(edge.kinds)}"
        raise RecipeError(
            f"{name} is of kind {kind}, which is not what {node.target} takes here",
            where=where,
            hint=hint,
        )
    outputs = source.outputs
    output = edge.ref.output or (edge.output if edge.output in outputs else "")
    if output not in outputs:
        names = ", ".join(f"{name}.{o}" for o in outputs if o)
        hint = f"its outputs are {names}" if names else f"write {name}"
        raise RecipeError(f"{name} has no output {output!r}", where=where, hint=hint)
    return edge, source, output


def _no_target(recipe: Recipe, node: Node, name: str, where: Where) -> RecipeError:
    if name not in recipe.matrices:
        return RecipeError(
            f"{node.target} needs {name!r}, which is not a target",
            where=where,
            hint=did_you_mean(name, recipe.targets),
        )
    member = recipe.matrices[name][0]
    return RecipeError(
        f"{node.target} needs one target here, and {name} is a matrix",
        where=where,
        hint=f"name one of them, such as {member}, or make {node.target} a matrix, too",
    )


def _ordered(
    recipe: Recipe, raw: dict[str, Node], inputs: dict[str, list[tuple[Edge, Node, str]]]
) -> list[Node]:
    """Return the nodes, inputs first, by a depth-first search. Raises RecipeError for a cycle."""
    # Without recursion, since a chain may be thousands of targets long.
    done: dict[str, Node] = {}
    on_path: dict[str, None] = {}
    for root in raw:
        stack = [(root, iter(inputs[root]))] if root not in done else []
        on_path = dict.fromkeys(name for name, _ in stack)
        while stack:
            name, rest = stack[-1]
            step = next(rest, None)
            if step is None:
                done[name] = raw[name]
                on_path.pop(name)
                stack.pop()
            elif step[1].name in on_path:
                raise _cycle(recipe, raw, [*on_path][[*on_path].index(step[1].name) :], step[0])
            elif step[1].name not in done:
                on_path[step[1].name] = None
                stack.append((step[1].name, iter(inputs[step[1].name])))
    return list(done.values())


def _cycle(recipe: Recipe, raw: dict[str, Node], path: list[str], edge: Edge) -> RecipeError:
    targets = list(dict.fromkeys(raw[name].target for name in path))
    chain = " -> ".join([*targets, targets[0]])
    where = recipe.where(raw[path[-1]].target, edge.field)
    return RecipeError(
        f"a cycle: {chain}",
        where=where,
        hint="a target can't be made from itself; remove one of these edges",
    )
