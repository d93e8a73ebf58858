"""Validation: recipe text -> targets, each field checked, each error with its place.

It knows nothing of graphs or keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from olivebuild.api.node import NAME, Ref, amount_of
from olivebuild.api.step import KINDS, Fields, Step, Target, kinds, step_of
from olivebuild.core.errors import InvalidValue, Problem, RecipeError, Where
from olivebuild.core.fs import portable_names
from olivebuild.core.text import aside, did_you_mean, size_of, span_of
from olivebuild.recipe import document
from olivebuild.recipe.command_names import COMMANDS
from olivebuild.recipe.document import Document
from olivebuild.recipe.field_errors import faults, types_of, unknown, validate
from olivebuild.recipe.matrix import Matrices
from olivebuild.recipe.overrides import override
from olivebuild.recipe.placeholders import within, without

if TYPE_CHECKING:
    from olivebuild.recipe.executors import Machine


class Cache(Fields):
    remote: str | None = None
    max_size: str | None = None
    """The size that `olivebuild gc` leaves by default, such as 50GB."""

    @field_validator("max_size")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        if value is not None:
            size_of(value)
        return value


@dataclass
class Checked:
    """A recipe that was checked as a whole."""

    document: Document
    targets: dict[str, Target]
    default: list[str]
    cache: Cache = field(default_factory=Cache)
    matrices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The name of a matrix -> its members, which are targets."""
    limits: dict[str, float] = field(default_factory=dict)
    """resource -> the amount that there is of it."""

    executors: dict[str, Machine] = field(default_factory=dict)
    """The name of an executor -> its fields."""
    strict: bool = False
    """Whether the machine's numerics are a part of every key whose result they can change."""
    notes: tuple[str, ...] = ()
    """What was left out of the recipe for an override."""


KEYS = ["version", "default", "cache", "resources", "numerics", "executors", "targets"]
OF_ANY_KIND = ("kind", "resources", "executor")
"""Fields of a target that are not its kind's."""
NUMERICS = ("any", "strict")


def check(text: str, file: str, settings: Iterable[str] = ()) -> Checked:
    """Return a recipe, checked. Raises RecipeError.

    `settings`: overrides of the form `TARGET.FIELD=VALUE`.
    """
    doc = document.parse(text, file)
    top = _top(doc)
    raw = top.get("targets")
    if not isinstance(raw, dict) or not raw:
        raise RecipeError(
            "`targets:` must name at least one target",
            where=doc.where(("targets",)),
            hint="`olivebuild init` writes a recipe to begin with",
        )
    # An override may name a target of the file, or a member that a matrix makes of it.
    notes: list[str] = []
    of_members = [setting for setting in settings if not override(doc, raw, setting, notes)]
    matrices = Matrices(doc, raw)
    raw = matrices.expanded()
    for setting in of_members:
        if not override(doc, raw, setting, notes):
            name = setting.partition(".")[0]
            raise RecipeError(
                f"unknown target {name!r}",
                where=Where(f"--set {setting}"),
                hint=did_you_mean(name, raw),
            )
    executors = _executors(doc, top.get("executors", {}))
    targets = {name: _target(doc, name, value, matrices, executors) for name, value in raw.items()}
    cache = Cache()
    if "cache" in top:
        cache = validate(doc, Cache, top["cache"], ("cache",), "cache")
    limits = _resources(doc, top.get("resources", {}), ("resources",))
    return Checked(
        document=doc,
        targets=targets,
        default=_default(doc, top.get("default"), targets, matrices),
        cache=cache,
        matrices=matrices.members,
        limits=limits,
        executors=executors,
        strict=top.get("numerics") == "strict",
        notes=tuple(notes),
    )


def _top(doc: Document) -> dict[str, Any]:
    """Return the recipe's top-level mapping, its version and `numerics` checked."""
    top = doc.value
    if not isinstance(top, dict):
        raise RecipeError(
            "a recipe is a mapping with `targets:`",
            where=doc.where(()),
            hint="`olivebuild init` writes one",
        )
    for key in top:
        if key not in KEYS:
            raise unknown(doc, (key,), "key", key, KEYS)
    if top.get("version", 1) != 1 or isinstance(top.get("version"), bool):
        raise RecipeError(
            f"version {top['version']!r} is not known to this olivebuild",
            where=doc.where(("version",)),
            hint="write version: 1",
        )
    if (mode := top.get("numerics", "any")) not in NUMERICS:
        hint = (
            "`numerics: strict` has another processor make everything anew; without it results are "
            "shared"
        )
        raise RecipeError(
            f"numerics: {mode!r} is not one of any, strict",
            where=doc.where(("numerics",)),
            hint=hint,
        )
    return top


def _executors(doc: Document, value: object) -> dict[str, Machine]:
    """Return the fields of each executor by its name. Raises RecipeError."""
    if value == {}:
        return {}
    from olivebuild.recipe.executors import MODELS, problem_of

    hint = f"executors: {{NAME: {{kind: ...}}}}, one of {', '.join(MODELS)}"
    if not isinstance(value, dict):
        raise RecipeError(
            "`executors:` maps names to machines", where=doc.where(("executors",)), hint=hint
        )
    read = {}
    for name, fields in value.items():
        path = ("executors", name)
        if not isinstance(fields, dict) or not isinstance(kind := fields.get("kind"), str):
            raise RecipeError(f"the executor {name} has no kind", where=doc.where(path), hint=hint)
        if kind not in MODELS:
            raise unknown(doc, (*path, "kind"), "kind of executor", kind, MODELS)
        # What a placeholder stands for is asked when something is to run there.
        filled = without(fields, [at for at, _ in within(fields)])
        model = validate(doc, MODELS[kind], filled, path, f"the executor {name}")
        if problem := problem_of(model, fields):
            fact = f"the executor {name}: {problem.fact}"
            raise RecipeError(fact, where=doc.where(path), hint=problem.hint)
        read[str(name)] = model
    return read


def _executor(doc: Document, name: str, value: object, executors: Iterable[str]) -> str:
    """Return the executor that a target names, "" for none. Raises RecipeError."""
    if value is None:
        return ""
    if not isinstance(value, str) or value not in executors:
        raise unknown(
            doc, ("targets", name, "executor"), "executor", str(value), executors, f" in {name}"
        )
    return value


def _target(
    doc: Document, name: str, value: object, matrices: Matrices, executors: Iterable[str]
) -> Target:
    """Return a target with its fields checked. Raises RecipeError."""
    path = ("targets", name)
    _check_name(doc, name)
    if not isinstance(value, dict):
        raise RecipeError(
            f"{name} must be a mapping with a `kind:`",
            where=doc.where(path),
            hint=f"{name}: {{kind: ...}}, one of {', '.join(kinds())}",
        )
    if "kind" not in value:
        raise RecipeError(
            f"{name} has no kind", where=doc.where(path), hint=f"kind: one of {', '.join(kinds())}"
        )
    kind = value["kind"]
    step = step_of(str(kind)) if kind in KINDS or kind in kinds() else None
    if step is None:
        raise unknown(doc, (*path, "kind"), "kind", str(kind), kinds())
    values = {k: v for k, v in value.items() if k not in OF_ANY_KIND}
    values = _listed(step.fields, values, matrices)
    fields, placeholders = _fields(doc, step, values, path, name)
    # How fields go together is known when each has its value.
    if problem := None if placeholders else problem_of(step, fields):
        raise RecipeError(f"{name}: {problem.fact}", where=doc.where(path), hint=problem.hint)
    resources = _resources(doc, value.get("resources", {}), (*path, "resources"))
    if resources.get("nodes", 1.0) != 1.0 and not step.spans_nodes:
        raise RecipeError(
            f"{name}: a target of the kind {kind} is made on one machine",
            where=doc.where((*path, "resources", "nodes")),
            hint="leave out `nodes`",
        )
    return Target(
        name,
        str(kind),
        step,
        fields,
        resources,
        _executor(doc, name, value.get("executor"), executors),
        placeholders,
    )


def _fields(
    doc: Document, step: Step, values: dict[str, object], path: document.Path, name: str
) -> tuple[Fields, dict[str, str]]:
    """Return a target's fields, and the text of each placeholder by the field it stands in.

    There a field of text holds a word that stands for its value, and another is at its default.
    """
    marked = dict(within(values))
    if not marked:
        return validate(doc, step.fields, values, path, name), {}
    left_out: list[document.Path] = []
    count = faults(step.fields, without(values, left_out))
    for at in marked:
        more = [*left_out, at]
        if count and (fewer := faults(step.fields, without(values, more))) < count:
            left_out, count = more, fewer
    fields = validate(doc, step.fields, without(values, left_out), path, name)
    return fields, {".".join(map(str, at)): text for at, text in marked.items()}


def _check_name(doc: Document, name: str) -> None:
    """Raise RecipeError for a name that a target can't have."""
    path = ("targets", name)
    if not NAME.fullmatch(name):
        hint = "names begin with a letter or digit and hold a-z, 0-9, _ and -"
        raise RecipeError(f"{name!r} is not a name for a target", where=doc.where(path), hint=hint)
    if name in portable_names.DEVICES:
        raise RecipeError(
            f"{name} is the name of a device on Windows",
            where=doc.where(path),
            hint="call the target something else",
        )
    if name in COMMANDS:
        raise RecipeError(
            f"{name} is the name of a command",
            where=doc.where(path),
            hint="call the target something else",
        )


def problem_of(step: Step, fields: Fields) -> Problem | None:
    """Return the problem that a step has with its fields together, if any."""
    problem: object = step.check(fields)
    if isinstance(problem, str):
        aside(
            f"the kind {step.kind} returns text from `check`, which the next release does not "
            "understand: it is to return olivebuild.core.errors.Problem(fact, hint)"
        )
        return Problem.from_text(problem)
    return problem if isinstance(problem, Problem) else None


def _listed(
    model: type[Fields], values: dict[str, object], matrices: Matrices
) -> dict[str, object]:
    """Return values with the members of a matrix for its name where a list of targets may stand."""
    result = dict(values)
    for name, info in model.model_fields.items():
        value = values.get(name)
        if value is None or not matrices.members or list[Ref] not in types_of(info.annotation):
            continue
        if isinstance(value, list):
            result[name] = [member for item in value for member in matrices.names(item)]
        elif isinstance(value, str) and matrices.names(value) != [value]:
            result[name] = matrices.names(value)
    return result


def _resources(doc: Document, value: object, path: document.Path) -> dict[str, float]:
    hint = "resources: {gpu: 1, memory: 8GB}"
    if not isinstance(value, dict):
        raise RecipeError(
            "`resources:` is a mapping of names to amounts", where=doc.where(path), hint=hint
        )
    amounts = {}
    for name, amount in value.items():
        try:
            amounts[name] = _span(amount) if name == "time" else amount_of(amount)
        except InvalidValue as e:
            raise RecipeError(
                f"resources.{name}: {e.problem.fact}",
                where=doc.where((*path, name)),
                hint=hint,
            ) from None
    return amounts


def _span(value: object) -> float:
    """Return the seconds of `2h`, or of a number. Raises InvalidValue."""
    return float(span_of(value)) if isinstance(value, str) else amount_of(value)


def _default(
    doc: Document, value: object, targets: dict[str, Target], matrices: Matrices
) -> list[str]:
    if value is None:
        return []
    names = value if isinstance(value, list) else [value]
    for name in names:
        if isinstance(name, list | dict):
            raise RecipeError(
                "`default:` is a target or a list of targets",
                where=doc.where(("default",)),
                hint="default: onnx-int4",
            )
        if name not in targets and name not in matrices.members:
            raise unknown(doc, ("default",), "target", str(name), [*targets, *matrices.members])
    return [str(member) for name in names for member in matrices.names(name)]
