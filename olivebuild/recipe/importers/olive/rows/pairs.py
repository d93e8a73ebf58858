"""`dataset_type: pair` of 0.3 to 0.6.2: prompt and completion, each cut to its own length."""

from __future__ import annotations

from olivebuild.recipe.importers.olive.draft import DraftTarget
from olivebuild.recipe.importers.olive.options import Option
from olivebuild.recipe.importers.olive.rows.sequences import PAIR, Processing, Sequences
from olivebuild.recipe.importers.olive.rows.text import of_columns, parts_of, written
from olivebuild.recipe.importers.positions import Placeholder

COLUMNS = {"default": ("input", "output"), "self_instruct": ("prompt", "completion")}
"""Formats, and the columns that they read as prompt and as completion."""


def pairs(reader: Processing, target: DraftTarget) -> Sequences:
    """Write prompt and completion into the data set, and return how its pairs are cut."""
    params = reader.params
    format_ = params.get("pair_format", str)
    name = format_.text or "default"
    for path in format_.paths:
        reader.workflow.ledger.mapped(path, f"{target.name}.prompt")
    if name in COLUMNS:
        for field, column in zip(("prompt", "completion"), COLUMNS[name], strict=True):
            target.set(field, of_columns([column]), *format_.paths, note=format_.note)
        for key in PAIR[1:7]:
            params.no_effect(key, "only the format custom reads it")
    elif name == "custom":
        _side(reader, target, "prompt", "input")
        _side(reader, target, "completion", "output")
    else:
        fact = f"the pairs of the format {name} are not read here"
        if name == "alpaca":
            fact = "Olive's format alpaca never worked: it calls a method that is not there"
        for path in format_.paths:
            reader.workflow.ledger.refused(
                path, fact, "choose custom, with input_template and output_template"
            )
        for field in ("prompt", "completion"):
            target.set(field, Placeholder(field), *format_.paths)
    return _lengths(reader)


def _side(reader: Processing, target: DraftTarget, field: str, side: str) -> None:
    """Write one side of the format custom: a template, else a column."""
    params, ledger = reader.params, reader.workflow.ledger
    template, column = params.get(f"{side}_template", str), params.get(f"{side}_col", str)
    function = params.get(f"{side}_formatting_func", str)
    for path in function.paths:
        ledger.refused(
            path, "a function of a script, which is not run", "write a template", fatal=False
        )
    chosen = function if function.given else template if template.given else column
    value: object = Placeholder(f"{side}_template")
    if chosen is template and template.text is not None:
        parts = parts_of(template.text)
        if isinstance(parts, list):
            value = written(parts)
        else:
            for path in template.paths:
                ledger.refused(path, *parts)
    elif chosen is column and column.text is not None:
        value = of_columns([column.text])
    elif chosen.open and chosen is not function:
        value = chosen.value
    target.set(field, value, *chosen.paths)
    for option in (template, column):
        for path in option.paths:
            if option is chosen:
                ledger.mapped(path, f"{target.name}.{field}")
            else:
                ledger.no_effect(path, "another parameter says the text")


def _lengths(reader: Processing) -> Sequences:
    params = reader.params
    result = Sequences()
    kind = params.get("dataset_type", str)
    result.fields["form"] = Option(value="pairs", paths=kind.paths)
    for key, name in (("source_max_len", "prompt_length"), ("target_max_len", "completion_length")):
        option = params.get(key, int)
        if option.value is None:
            option = Option(value=Placeholder(key), note="Olive needs it for pairs")
        result.fields[name] = option
    special = params.get("add_special_tokens", bool)
    value = special.value if special.open else "none" if special.value is False else "spaced"
    result.fields["special_tokens"] = Option(value=value, paths=special.paths)
    limit = params.get("max_samples", int)
    if limit.value is not None:
        result.fields["limit"] = limit
    ignored = params.get("ignore_source_in_labels", bool)
    if ignored.value is False:
        result.loss = Option(value="all", paths=ignored.paths)
    else:
        params.no_effect("ignore_source_in_labels", "only completions are learnt anyway")
    reader.mask(result)
    _short(reader)
    for key in ("text_template", "text_cols", "corpus_strategy", "stride", "joiner"):
        params.no_effect(key, "pairs do not read it")
    for key in ("random_seed", "random_retries", "text_formatting_func"):
        params.no_effect(key, "pairs do not read it")
    return result


def _short(reader: Processing) -> None:
    """Refuse to leave out pairs that are shorter than the two lengths together."""
    option = reader.params.get("drop_short_sequences", bool)
    for path in option.paths:
        if option.value is False:
            reader.workflow.ledger.no_effect(path, "no pair is left out for its length")
        else:
            reader.workflow.ledger.refused(
                path, "pairs are not left out for their length here", "take it out"
            )
