"""Values of a draft, checked by the kinds that take them.

A fault is told of the leaf of the file that the value comes from, not of the recipe.
"""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from olivebuild.api.step import step_of
from olivebuild.core.errors import InvalidValue, Problem
from olivebuild.recipe.importers.olive.draft import Alternatives, DraftTarget, Ref
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder

OF_ANY_KIND = ("kind", "executor")


def check_values(workflow: Workflow) -> None:
    """Refuse the leaves whose values no target can have."""
    for target in workflow.draft.targets.values():
        step = step_of(target.kind)
        assert step is not None
        values, is_whole = _values(target)
        try:
            fields = step.fields.model_validate(values)
        except ValidationError as e:
            errors = [(_field(target, error), error) for error in e.errors(include_url=False)]
            # Of the kinds of a union the one that the file means is that whose fields it has.
            is_of_field = any(name for name, _error in errors)
            for name, error in errors:
                is_told = name or not is_of_field
                if is_told and (error["type"] != "missing" or is_whole):
                    _refuse(workflow, target, name or "kind", error)
            continue
        problem = step.check(fields) if is_whole else None
        if isinstance(problem, Problem):
            _refuse_at(workflow, target.fields["kind"].paths, problem)


def _values(target: DraftTarget) -> tuple[dict[str, object], bool]:
    """Return the fields of a target as the recipe nests them, and whether none is left open."""
    values: dict[str, object] = {}
    is_whole = True
    for name, line in target.fields.items():
        if name in OF_ANY_KIND:
            continue
        if _is_open(line.value):
            is_whole = False
            continue
        table = values
        *above, last = name.split(".")
        for part in above:
            below = table.setdefault(part, {})
            assert isinstance(below, dict)
            table = below
        table[last] = _plain(line.value)
    return values, is_whole


def _is_open(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_is_open, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_open, value))
    return isinstance(value, Placeholder | Alternatives)


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Ref) else value


def _field(target: DraftTarget, error: ErrorDetails) -> str:
    """Return the field that an error is of, "" if it is of none that the target has.

    Within a place the name of the kind may stand that was tried of a union.
    """
    parts = [str(part) for part in error["loc"]]
    without = [parts[:n] + parts[n + 1 :] for n in range(1, len(parts))]
    for place in [parts, *without]:
        for n in range(len(place), 0, -1):
            name = ".".join(place[:n])
            if name in target.fields:
                return name
    return ""


def _refuse(workflow: Workflow, target: DraftTarget, name: str, error: ErrorDetails) -> None:
    """Refuse the leaves of the field that an error is of."""
    cause = error.get("ctx", {}).get("error")
    problem = cause.problem if isinstance(cause, InvalidValue) else Problem(error["msg"])
    fact = problem.fact[:1].lower() + problem.fact[1:]
    hint = problem.hint or f"it becomes `{name}` of the target {target.name}"
    paths = target.fields[name].paths
    below = tuple(error["loc"][name.count(".") + 1 :])
    if below and len(paths) == 1 and (*paths[0], *below) in workflow.document.leaves():
        # A list of the file is that of the recipe: the item itself is refused.
        paths = ((*paths[0], *below),)
    _refuse_at(workflow, paths, Problem(fact, hint))


def _refuse_at(workflow: Workflow, paths: tuple[Path, ...], problem: Problem) -> None:
    """Refuse the leaves at and below places of the file; of a pass its type alone."""
    leaves = workflow.document.leaves()
    for path in paths:
        below = [leaf for leaf in leaves if leaf[: len(path)] == path]
        types = [leaf for leaf in below if leaf == (*path, "type")]
        for leaf in types or below:
            workflow.ledger.refused(leaf, *problem)
