"""Write the generated parts of the reference: commands from click, fields from the kinds.

    python docs/generate.py            # write
    python docs/generate.py --check    # exit 1 and name the pages that would change

A page keeps its own text outside of `<!-- generated: NAME -->` ... `<!-- end -->`. The text of a
field is its docstring in the code, or stands in olivebuild/recipe/fields.toml.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from olivebuild.api.step import kinds, step_of
from olivebuild.cli.main import main as olivebuild
from olivebuild.metrics.catalogue import ALL
from olivebuild.recipe.descriptions import described, nested
from olivebuild.recipe.executors import MODELS, Machine, Prepared, Reached, Site
from olivebuild.recipe.schema import executor_schema, recipe_schema

REFERENCE = Path(__file__).parent / "reference"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMMON = {"-f", "-C"}
"""Options that the page describes once."""
EVERY_TARGET = ("kind", "matrix", "resources", "executor")
"""Fields that the page describes once."""


def commands() -> str:
    """Return a section for each command: what it does, its options, its examples."""
    context = click.Context(olivebuild, info_name="olivebuild")
    sections = []
    for name in olivebuild.list_commands(context):
        command = olivebuild.get_command(context, name)
        assert command is not None
        sections.append(_command(name, command))
        if isinstance(command, click.Group):
            sections += [_command(f"{name} {sub}", c) for sub, c in command.commands.items()]
    return "\n".join(sections)


def _command(name: str, command: click.Command) -> str:
    help_text, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    # Line ends within a paragraph are those of the source.
    paragraphs = [" ".join(p.split()) for p in help_text.strip().split("\n\n")]
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join([f"olivebuild {name}", *map(_argument, arguments)])
    parts = [f"## {name}", f"`{usage}`", *paragraphs]
    options = [p for p in command.params if isinstance(p, click.Option)]
    rows = [_option(o) for o in options if not COMMON & set(o.opts)]
    if rows:
        parts.append("\n".join(["| option | does |", "|---|---|", *rows]))
    parts.append(f"```sh\n{textwrap.dedent(examples).strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _argument(argument: click.Argument) -> str:
    text = argument.human_readable_name.upper() + ("..." if argument.nargs == -1 else "")
    return text if argument.required else f"[{text.replace('S...', '...')}]"


def _option(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    text = option.help or ""
    if (
        not option.is_flag
        and isinstance(option.default, int | float | str)
        and option.default != ""
    ):
        text += f" Default: `{option.default}`."
    return f"| `{', '.join(option.opts)}{value}` | {_cell(text)} |"


def recipe() -> str:
    """Return a table of fields for each kind and for each record that a field holds."""
    definitions = recipe_schema()["$defs"]
    sections = []
    for kind in kinds():
        step = step_of(kind)
        assert step is not None
        models = [(kind, step.fields), *((m.__name__, m) for m in nested(step.fields))]
        for record, model in models:
            heading = f"## {record}" if record == kind else f"### {record}"
            intro = step.summary[0].upper() + step.summary[1:] + "."
            intro = intro if record == kind else _introduction(model)
            table = _fields(record, model, definitions[record])
            sections.append(f"{heading}\n\n{intro}\n\n{table}\n")
    return "\n".join(sections)


def executors() -> str:
    """Return a table of the fields that kinds of executors share, and one for each kind."""
    shared: tuple[type[Machine], ...] = (Site, Reached, Prepared)
    models: list[type[Machine]] = [*shared, *MODELS.values()]
    sections = []
    for model in models:
        inherited = {n for m in model.__mro__[1:] for n in getattr(m, "model_fields", ())}
        schema = executor_schema(model)
        for name in inherited | {"kind"}:
            schema["properties"].pop(name, None)
        if not schema["properties"]:
            continue
        kinds_of = [k for k, m in MODELS.items() if issubclass(m, model)]
        intro = "Those of all these kinds." if model in shared else _introduction(model)
        table = _fields(model.__name__, model, schema)
        sections.append(f"### {', '.join(kinds_of)}\n\n{intro}\n\n{table}\n")
    return "\n".join(sections)


def _fields(record: str, model: type[BaseModel], schema: dict[str, Any]) -> str:
    texts = described(record, model)
    required = {*schema.get("required", []), *schema.get("then", {}).get("required", [])}
    rows = []
    for name, field in schema["properties"].items():
        if name in EVERY_TARGET:
            continue
        text = texts.get(name)
        if not text:
            raise SystemExit(f"{record}.{name} has no docstring and no text in fields.toml")
        rows.append(
            f"| `{name}` | {_type(field)} | {_default(field, name in required)} | {_cell(text)} |"
        )
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows])


def _introduction(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split())


def _type(schema: dict[str, Any]) -> str:
    """Return a JSON Schema's type in words: `integer > 0`, `` `a` or `b` ``."""
    if "anyOf" in schema:
        return " or ".join(_type(s) for s in schema["anyOf"] if s.get("type") != "null")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if schema["type"] == "object" and schema["additionalProperties"] is True:
        return "mapping"
    if schema["type"] == "object":
        return f"mapping to {_type(schema['additionalProperties'])}"
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    return " ".join([schema["type"], ", ".join(limits)]).strip()


def _default(schema: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = schema.get("default")
    if value in (None, "") or isinstance(value, dict | list):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    """Return text on one line, with what would end a table's cell escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def metrics() -> str:
    """Return a table of the metrics: title, name, unit, direction and meaning."""
    rows = [f"| {m.title} | `{m.name}` | {m.unit} | {m.better} | {_cell(m.meaning)} |" for m in ALL]
    head = ["| in tables | in gates and JSON | unit | better | means |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "executors": executors,
    "metrics": metrics,
    "recipe": recipe,
}


def pages() -> dict[Path, str]:
    """Return each page of the reference with its generated parts as they should be."""
    contents = {}
    for file in sorted(REFERENCE.glob("*.md")):
        old = file.read_text("utf-8")
        contents[file] = BLOCK.sub(lambda m: f"{m[1]}\n{PAGES[m[2]]()}\n{m[3]}", old)
    return contents


def stale() -> list[Path]:
    """Return the pages whose generated parts are not as they should be."""
    return [file for file, text in pages().items() if file.read_text("utf-8") != text]


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if files := stale():
            sys.exit(
                f"run python docs/generate.py: {', '.join(f.name for f in files)} would change"
            )
    else:
        for file, text in pages().items():
            file.write_text(text, "utf-8")
