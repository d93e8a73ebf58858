"""Checks of the model that a new recipe is to begin with, before there is a recipe.

Only small files and headers are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from olivebuild.core.errors import InputError, InvalidValue, first_line
from olivebuild.core.text import did_you_mean
from olivebuild.formats import not_a_model, template_clock
from olivebuild.formats.model_config import Config, ModelFinding, architecture_of, context_of
from olivebuild.formats.model_signs import classes_of_transformers
from olivebuild.formats.source import SCHEMES, Source
from olivebuild.planner.checks import model_use
from olivebuild.planner.checks.model_folder import ModelFolder
from olivebuild.planner.checks.models import rendered_sets
from olivebuild.recipe.graph import Graph

OPTION = "--model"
HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")
HUB_PAGE_OF_ROWS = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/([\w.-]+/[\w.-]+)/?(?:\?.*|#.*|viewer.*)?$"
)
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
CHAT_NAMES = re.compile(r"instruct|chat|(?:^|[-_.])it(?:[-_.]|$)", re.IGNORECASE)
"""How models are called that know a chat template."""
ENCODER_DECODER = "an encoder-decoder (seq2seq)"
FORMS = "a folder, hf:OWNER/NAME or gguf:FILE"


@dataclass(frozen=True, kw_only=True)
class FirstModel:
    """What a recipe has to know of its model.

    `folder` is that of its small files, where they are on this disk.
    """

    source: Source
    has_chat_template: bool
    context: int | None = None
    folder: Path | None = None
    notes: tuple[str, ...] = ()


def source_of(text: str) -> Source:
    """Return the source that `--model` names. Raises InputError for what can be none."""
    if page := HUB_PAGE.match(text):
        raise InputError(
            f"{text} is a page of the hub", where=OPTION, hint=f"write {OPTION} hf:{page[1]}"
        )
    try:
        source = Source.parse(text)
    except InvalidValue as e:
        fact, hint = e.problem
        raise InputError(fact, where=OPTION, hint=hint or f"name {FORMS}") from None
    except ValueError as e:
        raise InputError(str(e), where=OPTION, hint=f"name {FORMS}") from None
    if not source.may_be("model"):
        raise InputError(
            f"{SCHEMES[source.scheme].form} names rows, not a model",
            where=OPTION,
            hint=f"name {FORMS}",
        )
    return source


def look_here(source: Source, recipe_folder: Path) -> FirstModel:
    """Return a look at a model on this disk. Raises InputError for what is none."""
    path = recipe_folder / source.name
    if source.scheme == "gguf":
        return _of_gguf(source, path)
    if not path.exists():
        raise _missing(source, recipe_folder)
    if path.is_file():
        raise _a_file(source, path)
    if not (path / "config.json").is_file():
        fact, hint = not_a_model.folder_like(path)
        raise InputError(f"{source.text} is no model: {fact}", where=OPTION, hint=hint)
    return of_folder(source, path)


def by_name(source: Source, why: str) -> FirstModel:
    """Return what the name of a model says that was not looked at; `why` that was."""
    names = (source.name, source.member)
    has_template = any(CHAT_NAMES.search(name) for name in names)
    note = (
        f"{source.text} was not looked at ({why}): by its name it has "
        f"{'a' if has_template else 'no'} chat template"
    )
    return FirstModel(source=source, has_chat_template=has_template, notes=(note,))


def rows_of_page(text: str) -> str:
    """Return the name of the data set of which a text is the page on the hub; "" for others."""
    page = HUB_PAGE_OF_ROWS.match(text)
    return page[1] if page else ""


def of_folder(source: Source, path: Path) -> FirstModel:
    """Return what a model's small files say. Raises InputError for a fault for which none trains.

    A fault that only the recipe's trust mends is a note.
    """
    folder = ModelFolder(path)
    if kind := _other_kind(folder.config, path):
        raise InputError(
            f"{source.text} is {kind}, not a model that continues text",
            where=OPTION,
            hint="name a causal language model, such as hf:HuggingFaceTB/SmolLM2-135M-Instruct",
        )
    notes = _told(source, folder.findings(trusts=False))
    templates = template_clock.templates_in(template_clock.files_of(path))
    return FirstModel(
        source=source,
        has_chat_template=any(templates),
        context=context_of(folder.config),
        folder=path,
        notes=tuple(notes),
    )


def check_use(model: FirstModel, graph: Graph) -> list[str]:
    """Return notes on what the recipe makes of the model.

    Raises InputError for what is known to fail.
    """
    notes: list[str] = []
    if model.folder is None:
        return notes
    folder = ModelFolder(model.folder)
    for node in graph.closure(graph.goals(())):
        if node.kind in ("adapter", "merged", "moments", "scales", "onnx"):
            sets = rendered_sets(graph, node)
            findings = model_use.findings(folder, node, model.source.name, sets, trusts=False)
            notes += _told(model.source, findings)
    return list(dict.fromkeys(notes))


def _told(source: Source, findings: list[ModelFinding]) -> list[str]:
    """Return findings as notes. Raises InputError for one that fails whatever the recipe says."""
    for finding in findings:
        if finding.fails and "trust_remote_code" not in finding.hint:
            raise InputError(f"{source.text}: {finding.fact}", where=OPTION, hint=finding.hint)
    return [f"{source.text}: {finding.fact} ({finding.hint})" for finding in findings]


def _missing(source: Source, recipe_folder: Path) -> InputError:
    fact = f"{source.text} does not exist"
    if HUB_NAME.fullmatch(source.name):
        hint = f"a model of the Hugging Face hub is written hf:{source.name}"
    else:
        names = [p.name for p in recipe_folder.iterdir() if (p / "config.json").is_file()]
        near = did_you_mean(source.name, names)
        hint = near if near.startswith("did") else f"name {FORMS}"
        hint += "; paths start at the folder of the recipe"
    return InputError(fact, where=OPTION, hint=hint)


def _a_file(source: Source, path: Path) -> InputError:
    """Return the error of a file where a model's folder is expected."""
    head = not_a_model.head_of(path)
    if head.startswith(b"GGUF"):
        return InputError(
            f"{source.text} is a GGUF file", where=OPTION, hint=f"write gguf:{source.text}"
        )
    problem = not_a_model.weights_like(head)
    fact = f"{source.text} is a file, not a model's folder" + (f": {problem[0]}" if problem else "")
    return InputError(
        fact, where=OPTION, hint="name the folder that holds config.json and the weights"
    )


def _other_kind(config: Config, path: Path) -> str:
    """Return what a model is that does not continue text, in words; "" for others."""
    if (path / "config_sentence_transformers.json").is_file() or (path / "1_Pooling").is_dir():
        return "a sentence-embedding model (sentence-transformers)"
    name = architecture_of(config)
    if name in classes_of_transformers():
        return ""
    if config.get("is_encoder_decoder") is True or name.startswith(("T5For", "MT5For", "UMT5For")):
        return f"{ENCODER_DECODER}, {name}"
    return ""


def _of_gguf(source: Source, path: Path) -> FirstModel:
    """Return what the header of a GGUF file says. Raises InputError for another file."""
    if not path.is_file():
        raise InputError(
            f"{source.name} does not exist",
            where=OPTION,
            hint="paths start at the folder of the recipe",
        )
    head = not_a_model.head_of(path)
    if not head.startswith(b"GGUF"):
        problem = not_a_model.file_like(head)
        raise InputError(
            f"{source.name} is not a GGUF file" + (f": {problem[0]}" if problem else ""),
            where=OPTION,
            hint=problem[1] if problem else "is the download complete?",
        )
    try:
        from gguf import GGUFReader

        field = GGUFReader(path).get_field("tokenizer.chat_template")
    except Exception as e:  # noqa: BLE001
        # A malformed file fails in as many ways as it has bytes.
        raise InputError(
            f"{source.name} can't be read: {first_line(e)}",
            where=OPTION,
            hint="is the download complete?",
        ) from None
    return FirstModel(source=source, has_chat_template=field is not None)
