"""The graph cache: a recipe's graph in a file.

With it, a recipe that has not changed need not be parsed, checked and resolved again. It belongs
to one text of the recipe and one state of our own sources. It is sealed by this user (seal.py),
since its nodes say what is run. Otherwise the recipe is parsed.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from olivebuild.api.node import Node, Outline, Record, is_builtin
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.seal import seal
from olivebuild.core.values.typed import decode
from olivebuild.recipe.file import Recipe
from olivebuild.recipe.graph import Graph, build_graph

FILE_NAME = "graph.json"


class Kept(Record, frozen=True):
    """The content of the file.

    `inputs`: for each node and edge the (number of the node it comes from, output).
    """

    targets: tuple[Outline, ...]
    default: tuple[str, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[tuple[tuple[int, str], ...], ...]
    matrices: dict[str, tuple[str, ...]]
    limits: dict[str, float]


def graph_of(recipe: Recipe, folder: Path, stamp: str) -> Graph:
    """Return the recipe's graph: from the cache in `folder`, or built and written there.

    `stamp` identifies what the graph is made from; see invalidation.py. Raises RecipeError.
    """
    if recipe.settings:
        # Overrides of one call must not replace the graph of the recipe itself.
        return build_graph(recipe)
    graph = _read(recipe, folder / FILE_NAME, stamp)
    if graph is None:
        graph = build_graph(recipe)
        # Kinds of other packages may change, and the stamp would not.
        if all(map(is_builtin, {node.kind for node in graph.nodes.values()})):
            _write(graph, folder / FILE_NAME, stamp)
    return graph


def _read(recipe: Recipe, file: Path, stamp: str) -> Graph | None:
    try:
        head, _, body = opening.read(file).partition(b"\n")
        if head.decode() != f"{stamp} {_seal(stamp, body)}" or head.endswith(b" "):
            return None
        kept = decode(body, Kept)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    graph = Graph(
        recipe,
        {t.name: t for t in kept.targets},
        list(kept.default),
        kept.matrices,
        kept.limits,
    )
    graph.nodes = {n.name: n for n in kept.nodes}
    for node, inputs in zip(kept.nodes, kept.inputs, strict=True):
        graph.inputs[node.name] = [
            (edge, kept.nodes[number], output)
            for edge, (number, output) in zip(node.edges, inputs, strict=True)
        ]
    return graph


def _seal(stamp: str, body: bytes) -> str:
    return seal(f"graph {stamp} ".encode() + body)


def _write(graph: Graph, file: Path, stamp: str) -> None:
    numbers = {name: i for i, name in enumerate(graph.nodes)}
    inputs = tuple(
        tuple((numbers[source.name], output) for _, source, output in edges)
        for edges in graph.inputs.values()
    )
    kept = Kept(
        targets=tuple(graph.targets.values()),
        default=tuple(graph.default),
        nodes=tuple(graph.nodes.values()),
        inputs=inputs,
        matrices=graph.matrices,
        limits=graph.limits,
    )
    body = msgspec.json.encode(kept)
    try:
        if sealed := _seal(stamp, body):
            write_atomically(file, f"{stamp} {sealed}\n".encode() + body)
    except OSError:
        # A folder that can't be written costs the time of reading the recipe.
        return
