"""The graph of targets as text: a tree, Graphviz, Mermaid."""

from __future__ import annotations

from olivebuild.recipe.graph import Graph


def edges(graph: Graph) -> list[tuple[str, str, str]]:
    """Return (target, the target it needs, the output it reads), each once."""
    pairs = []
    for name, inputs in graph.inputs.items():
        user = graph.nodes[name].target
        pairs += [
            (user, source.target, output) for _, source, output in inputs if source.target != user
        ]
    return list(dict.fromkeys(pairs))


def tree(graph: Graph) -> str:
    """Return a tree with goals at the left, and their inputs below and to the right.

    A target that appears again is followed by " ..." instead of its inputs.
    """
    below: dict[str, list[str]] = {}
    for user, source, output in edges(graph):
        below.setdefault(user, []).append(f"{source}.{output}" if output else source)
    used = {source for _, source, _ in edges(graph)}
    lines: list[str] = []
    shown: set[str] = set()
    # A stack instead of recursion: a chain may be thousands of targets long.
    stack = [(name, "", "", "") for name in reversed(list(graph.targets)) if name not in used]
    while stack:
        label, lead, branch, rest = stack.pop()
        name = label.partition(".")[0]
        kind = graph.targets[name].kind
        children = below.get(name, [])
        again = name in shown and children
        lines.append(f"{lead}{branch}{label} ({kind}){' ...' if again else ''}")
        if again:
            continue
        shown.add(name)
        for i, child in reversed(list(enumerate(children))):
            last = i == len(children) - 1
            stack.append(
                (child, lead + rest, "`-- " if last else "|-- ", "    " if last else "|   ")
            )
    return "\n".join(lines)


def dot(graph: Graph) -> str:
    """Return the graph in the language of Graphviz."""
    lines = ["digraph olivebuild {", "  rankdir=LR; node [shape=box];"]
    lines += [
        f'  "{name}" [label="{name}\\n{target.kind}"];' for name, target in graph.targets.items()
    ]
    lines += [
        f'  "{source}" -> "{user}"' + (f' [label="{output}"];' if output else ";")
        for user, source, output in edges(graph)
    ]
    return "\n".join([*lines, "}"])


def mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid flowchart."""
    names = {name: f"t{i}" for i, name in enumerate(graph.targets)}
    lines = ["graph LR"]
    lines += [
        f'  {names[name]}["{name} ({target.kind})"]' for name, target in graph.targets.items()
    ]
    lines += [
        f"  {names[source]} -->{f'|{output}|' if output else ''} {names[user]}"
        for user, source, output in edges(graph)
    ]
    return "\n".join(lines)
