"""Validation: recipe text -> targets, each field checked, each error with its place.

It knows nothing of graphs or keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError, field_validator
from pydantic_core import ErrorDetails

from olivebuild.api.node import NAME, Ref, amount_of
from olivebuild.api.step import KINDS, Fields, Step, Target, kinds, step_of
from olivebuild.core.errors import InvalidValue, Problem, RecipeError, Where
from olivebuild.core.fs import portable_names
from olivebuild.core.text import aside, did_you_mean, size_of
from olivebuild.recipe import document
from olivebuild.recipe.document import Document
from olivebuild.recipe.matrix import Matrices

F = TypeVar("F", bound=Fields)


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

    strict: bool = False
    """Whether the machine's numerics are a part of every key whose result they can change."""


# A target of one of these names could not be built by its name alone. Some are reserved for
# commands to come.
COMMANDS = frozenset(
    [
        "accept",
        "build",
        "chat",
        "clean",
        "compare",
        "doctor",
        "gc",
        "graph",
        "import",
        "init",
        "log",
        "plan",
        "predict",
        "report",
        "run",
        "schema",
        "status",
        "update",
        "verify",
        "watch",
        "why",
    ]
)
KEYS = ["version", "default", "cache", "resources", "numerics", "targets"]
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
    of_members = [setting for setting in settings if not _override(doc, raw, setting)]
    matrices = Matrices(doc, raw)
    raw = matrices.expanded()
    for setting in of_members:
        if not _override(doc, raw, setting):
            name = setting.partition(".")[0]
            raise RecipeError(
                f"unknown target {name!r}",
                where=Where(f"--set {setting}"),
                hint=did_you_mean(name, raw),
            )
    targets = {name: _target(doc, name, value, matrices) for name, value in raw.items()}
    cache = Cache()
    if "cache" in top:
        cache = _validate(doc, Cache, top["cache"], ("cache",), "cache")
    limits = _resources(doc, top.get("resources", {}), ("resources",))
    return Checked(
        document=doc,
        targets=targets,
        default=_default(doc, top.get("default"), targets, matrices),
        cache=cache,
        matrices=matrices.members,
        limits=limits,
        strict=top.get("numerics") == "strict",
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
            raise _unknown(doc, (key,), "key", key, KEYS)
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


def _target(doc: Document, name: str, value: object, matrices: Matrices) -> Target:
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
        raise _unknown(doc, (*path, "kind"), "kind", str(kind), kinds())
    values = {k: v for k, v in value.items() if k not in ("kind", "resources")}
    fields = _validate(doc, step.fields, _listed(step.fields, values, matrices), path, name)
    if problem := problem_of(step, fields):
        raise RecipeError(f"{name}: {problem.fact}", where=doc.where(path), hint=problem.hint)
    resources = _resources(doc, value.get("resources", {}), (*path, "resources"))
    return Target(name, str(kind), step, fields, resources)


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
        if value is None or not matrices.members or list[Ref] not in _types(info.annotation):
            continue
        if isinstance(value, list):
            result[name] = [member for item in value for member in matrices.names(item)]
        elif isinstance(value, str) and matrices.names(value) != [value]:
            result[name] = matrices.names(value)
    return result


def _types(annotation: Any) -> set[Any]:
    """Return the types of a union, without the metadata of Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _types(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return set().union(*map(_types, get_args(annotation)))
    return {annotation}


def _resources(doc: Document, value: object, path: document.Path) -> dict[str, float]:
    hint = "resources: {gpu: 1, memory: 8GB}"
    if not isinstance(value, dict):
        raise RecipeError(
            "`resources:` is a mapping of names to amounts", where=doc.where(path), hint=hint
        )
    amounts = {}
    for name, amount in value.items():
        try:
            amounts[name] = amount_of(amount)
        except InvalidValue as e:
            raise RecipeError(
                f"resources.{name}: {e.problem.fact}",
                where=doc.where((*path, name)),
                hint=hint,
            ) from None
    return amounts


def _validate(doc: Document, model: type[F], value: object, path: document.Path, name: str) -> F:
    """Return a model of a mapping. Raises RecipeError with the place of the first fault."""
    try:
        return model.model_validate(value)
    except ValidationError as e:
        raise _explain(doc, e, model, path, name) from None


def _explain(
    doc: Document, error: ValidationError, model: type[Fields], path: document.Path, name: str
) -> RecipeError:
    """Return the error of the recipe that pydantic's errors stand for."""
    errors = error.errors(include_url=False)
    # A misspelt key explains a missing one. Of the errors of a union's types, the one that reaches
    # deepest into the file is of the type that was meant.
    first = max(
        errors,
        key=lambda e: (
            e["type"] == "extra_forbidden",
            e["type"] == "missing",
            len(_in_file(doc, path, e["loc"])),
        ),
    )
    place = _in_file(doc, path, first["loc"])
    label = ".".join(str(p) for p in place[len(path) :])
    if first["type"] == "extra_forbidden":
        keys = _known_keys(model, [str(p) for p in first["loc"][:-1]])
        return _unknown(doc, place, "key", str(first["loc"][-1]), keys, f" in {name}")
    if first["type"] == "missing":
        missing = ".".join(str(p) for p in first["loc"])
        return RecipeError(
            f"{name} has no {missing}", where=doc.where(path), hint=f"add `{missing}:`"
        )
    fact, hint = _problem(first)
    fact = fact[:1].lower() + fact[1:]
    return RecipeError(
        f"{name}.{label}: {fact}" if label else f"{name}: {fact}",
        where=doc.where(place),
        hint=hint or "`olivebuild schema` tells what each field takes",
    )


def _problem(error: ErrorDetails) -> Problem:
    """Return the problem of an error of pydantic, or of the validator of a field that it called."""
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, InvalidValue):
        return cause.problem
    return Problem.from_text(str(cause)) if cause else Problem(error["msg"])


def _in_file(doc: Document, path: document.Path, loc: Iterable[str | int]) -> document.Path:
    """Return the part of pydantic's location that is in the file or on the command line.

    Unions add names of their own to locations.
    """
    for part in loc:
        longer = (*path, part)
        if longer in doc.places or any(p[: len(longer)] == longer for p in doc.overrides):
            path = longer
    return path


def _known_keys(model: type[Fields], loc: list[str]) -> list[str]:
    for part in loc:
        info = model.model_fields.get(part)
        types = _types(info.annotation) if info else ()
        model = next((t for t in types if isinstance(t, type) and issubclass(t, Fields)), model)
    return [
        *(info.alias or name for name, info in model.model_fields.items()),
        *(["kind"] if not loc else []),
    ]


def _unknown(
    doc: Document, path: document.Path, what: str, word: str, names: Iterable[str], suffix: str = ""
) -> RecipeError:
    return RecipeError(
        f"unknown {what} {word!r}{suffix}", where=doc.where(path), hint=did_you_mean(word, names)
    )


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
            raise _unknown(doc, ("default",), "target", str(name), [*targets, *matrices.members])
    return [str(member) for name in names for member in matrices.names(name)]


def _override(doc: Document, raw: dict[str, object], setting: str) -> bool:
    """Apply an override such as `adapter.training.lr=2e-4`, and note the command line as its place.

    Return False when there is no such target, or none yet.
    """
    name, equals, text = setting.partition("=")
    path = name.split(".")
    where = Where(f"--set {setting}")
    if not equals or len(path) < 2:
        raise RecipeError(
            "--set takes TARGET.FIELD=VALUE",
            where=where,
            hint="for example --set adapter.training.lr=2e-4",
        )
    if path[0] not in raw:
        return False
    table = raw
    for part in path[:-1]:
        below = table.setdefault(part, {})
        if not isinstance(below, dict):
            raise RecipeError(
                f"{part} has no fields of its own",
                where=where,
                hint="`olivebuild schema` tells what each field takes",
            )
        table = below
    table[path[-1]] = document.parse_value(text)
    doc.overrides["targets", *path] = f"--set {setting}"
    return True
