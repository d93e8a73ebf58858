"""A data configuration of Olive as a data set, and as what is made of its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.draft import DraftTarget
from olivebuild.recipe.importers.olive.options import Option
from olivebuild.recipe.importers.olive.rows.files import KNOWN as LOADER
from olivebuild.recipe.importers.olive.rows.files import Loader
from olivebuild.recipe.importers.olive.rows.pairs import pairs
from olivebuild.recipe.importers.olive.rows.params import Params
from olivebuild.recipe.importers.olive.rows.sequences import (
    CORPUS,
    NO_EFFECT,
    PAIR,
    Processing,
    Sequences,
)
from olivebuild.recipe.importers.olive.rows.text import halves, of_columns, parts_of, written
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.tell_tales import JULY
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder

CONTAINERS = ("huggingfacecontainer", "datacontainer")
MADE_UP = (
    "DummyDataContainer",
    "RawDataContainer",
    "TransformersDummyDataContainer",
    "TransformersPromptDummyDataContainer",
    "TransformersTokenDummyDataContainer",
)
"""Containers whose rows are no text."""
TOKENISER = "text_generation_huggingface_pre_process"
KNOWN = (
    "name",
    "type",
    "params_config",
    "components",
    "default_components",
    "default_components_type",
    "user_script",
    "script_dir",
    "load_dataset_config",
    "pre_process_data_config",
    "post_process_data_config",
    "dataloader_config",
)
NOT_READ = {
    "post_process_data_config": "training reads no outputs of a model",
    "dataloader_config": "batches are those of the training arguments",
    "default_components": "it is Olive's own",
    "default_components_type": "it is Olive's own",
    "script_dir": "nothing in it is imported",
    "user_script": "an import runs nothing: the script is not imported",
}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A data set in the recipe, and how Olive makes token sequences of its rows."""

    target: str
    path: Path
    sequences: Sequences
    apart: bool = False
    """Each of its rows is learnt by itself, as `--better` writes them."""


class Maker:
    """Writes the target of one data configuration."""

    def __init__(self, workflow: Workflow, config: Section) -> None:
        self.workflow = workflow
        self.config = config
        self.ledger = workflow.ledger

    def corpus(self, *, held_out: bool) -> Corpus:
        name = str(self.config.path[-1])
        wish = self.config.get("name", str)
        if isinstance(wish, str):
            name = wish
        target = self.workflow.draft.target(name, "dataset", self.config.path)
        if "name" in self.config:
            self.config.mapped("name", target.name)
        self._container(target)
        Loader(self.workflow, Params(self.config, "load_dataset"), target).write()
        params = Params(self.config, "pre_process_data")
        reader = Processing(self.workflow, params, target.name)
        sequences = self._processed(reader, target)
        is_better = self.workflow.better
        if not is_better:
            for key in ("dedupe", "near_duplicates"):
                target.set(key, False, note="Olive keeps every row")
        if held_out:
            target.set("holdout", 1, note="all rows are for evaluation")
        elif not is_better:
            target.set("holdout", 0, note="rows stay in the order of the file")
        for key, why in NO_EFFECT.items():
            params.no_effect(key, why)
        params.unknown((*CORPUS, *PAIR))
        self._claim(target.name)
        return Corpus(
            target=target.name, path=self.config.path, sequences=sequences, apart=is_better
        )

    def _container(self, target: DraftTarget) -> None:
        kind = self.config.get("type", str)
        if kind is None:
            return
        if isinstance(kind, Placeholder) or kind.lower() in CONTAINERS:
            self.config.mapped("type", f"{target.name}.kind")
        elif kind.lower() in map(str.lower, MADE_UP):
            self.config.refused(
                "type", f"{kind} makes up rows, which nothing is trained on", "name a data set"
            )
        else:
            hint = did_you_mean(kind, ("HuggingfaceContainer", "DataContainer", *MADE_UP))
            self.config.refused("type", f"there is no data container {kind!r}", hint)

    def _processed(self, reader: Processing, target: DraftTarget) -> Sequences:
        """Write the text of a row, and return the sequences."""
        kind = reader.params.type()
        if kind.text not in (None, TOKENISER, "huggingface_pre_process"):
            return self._of_function(reader, target, kind)
        for path in kind.paths:
            self.ledger.mapped(path, f"{target.name}.kind")
        dataset_type = reader.params.get("dataset_type", str)
        is_pair = dataset_type.text is not None and dataset_type.text.lower().endswith("pair")
        if reader.generation.since(0, 7) and dataset_type.given:
            reader.params.meant_else(
                "dataset_type", f"Olive {reader.generation.name} ignores it: rows are one text"
            )
        elif is_pair:
            return pairs(reader, target)
        chat = self._text(reader, target)
        sequences = reader.sequences(chat=chat)
        if dataset_type.given and not reader.generation.since(0, 7):
            return self._typed(sequences, dataset_type)
        return sequences

    def _of_function(self, reader: Processing, target: DraftTarget, kind: Option) -> Sequences:
        """Leave text and sequences open: a function of a script would make them."""
        for path in kind.paths:
            self.ledger.refused(
                path,
                f"{kind.text} is a function of a script, which is not run",
                "write text_template and strategy instead of `type`",
                fatal=False,
            )
        target.set("text", Placeholder(f"text that {kind.text} makes of a row"), *kind.paths)
        for section in reader.params.sections[:1]:
            for key in section.value:
                if key in (*CORPUS, *PAIR):
                    section.no_effect(key, "an argument of a function that is not run")
        form = Option(value=Placeholder(f"sequences that {kind.text} makes of rows"))
        return Sequences(fields={"form": form})

    def _typed(self, sequences: Sequences, kind: Option) -> Sequences:
        """Return sequences whose form also comes from `dataset_type`; refuse one that is none."""
        if kind.text is None or kind.text.lower().endswith("corpus"):
            form = sequences.fields["form"]
            form = replace(form, paths=(*form.paths, *kind.paths))
            return replace(sequences, fields=sequences.fields | {"form": form})
        for path in kind.paths:
            fact = f"{kind.text!r} is no kind of rows"
            self.ledger.refused(path, fact, did_you_mean(kind.text, ("corpus", "pair")))
        return sequences

    def _text(self, reader: Processing, target: DraftTarget) -> bool:
        """Write the text of a row; return whether the model's chat template renders it."""
        params = reader.params
        if self._chat(reader, target):
            return True
        function = params.get("text_formatting_func", str)
        template = params.get("text_template", str)
        for path in function.paths:
            self.ledger.refused(
                path, "a function of a script, which is not run", "write text_template", fatal=False
            )
        if function.given:
            what = f"text that {function.text} makes of a row"
            target.set("text", Placeholder(what), *function.paths)
            params.no_effect("text_template", "text_formatting_func wins")
            params.no_effect("text_cols", "text_formatting_func wins")
            return False
        if template.given:
            params.no_effect("text_cols", "text_template wins, and names its columns itself")
            self._template(target, template.value, template.paths)
            return False
        self._columns(reader, target)
        return False

    def _chat(self, reader: Processing, target: DraftTarget) -> bool:
        params = reader.params
        value = next(
            (s.value["chat_template"] for s in params.sections if "chat_template" in s), None
        )
        if value in (None, False):
            params.no_effect("chat_template", "no chat template is used")
            return False
        if not reader.generation.since(0, 7):
            params.meant_else("chat_template", "releases before 0.7 ignore it with a warning")
            return False
        option = params.get("chat_template", bool) if not isinstance(value, str) else None
        holder = params.holder("chat_template")
        assert holder is not None
        if option is None:
            holder.refused(
                "chat_template",
                "conversations are rendered by the model's own chat template here",
                "write true, and put the template into the model's folder",
            )
        else:
            holder.mapped("chat_template", f"{target.name}.messages")
        column = params.get("message_col", str)
        target.set("messages", column.text or "messages", holder.at("chat_template"), *column.paths)
        for path in column.paths:
            self.ledger.mapped(path, f"{target.name}.messages")
        for key in ("text_template", "text_cols", "text_formatting_func"):
            params.no_effect(key, "chat_template wins")
        return True

    def _template(self, target: DraftTarget, value: object, paths: tuple[Path, ...]) -> None:
        if isinstance(value, Placeholder):
            self._put_text(target, value, paths)
            return
        parts = parts_of(str(value))
        if not isinstance(parts, list):
            for path in paths:
                self.ledger.refused(path, *parts)
            target.set("text", Placeholder("text_template"), *paths)
            return
        two = halves(parts) if self.workflow.better else None
        if two is None:
            self._put_text(target, written(parts), paths)
            return
        for field, text in zip(("prompt", "completion"), two, strict=True):
            target.set(field, text, *paths)
            for path in paths:
                self.ledger.mapped(path, f"{target.name}.{field}")

    def _columns(self, reader: Processing, target: DraftTarget) -> None:
        """Write the columns of text_cols, with a blank between them."""
        holder = reader.params.holder("text_cols")
        if holder is None:
            if reader.generation.version >= JULY:
                note = f"Olive {reader.generation.name}'s default"
                target.set("text", "{text}", note=note)
            else:
                note = f"Olive {reader.generation.name} needs text_template or text_cols"
                target.set("text", Placeholder("text_template"), note=note)
            return
        columns = holder.texts("text_cols")
        path = holder.at("text_cols")
        if columns is None:
            target.set("text", Placeholder("text_cols"), path)
            return
        text: object = columns if isinstance(columns, Placeholder) else of_columns(columns)
        self._put_text(target, text, (path,))

    def _put_text(self, target: DraftTarget, text: object, paths: tuple[Path, ...]) -> None:
        target.set("text", text, *paths)
        for path in paths:
            self.ledger.mapped(path, f"{target.name}.text")

    def _claim(self, name: str) -> None:
        """Claim what is left of the configuration."""
        config = self.config
        for key, why in NOT_READ.items():
            if key in config:
                config.no_effect(key, why)
        self._other_components()
        for key in config.value:
            if key not in KNOWN:
                hint = did_you_mean(key, KNOWN)
                config.refused(key, f"unknown field {key!r}", hint)

    def _other_components(self) -> None:
        """Claim the components that training does not read, and their arguments."""
        flat = self.config.section("params_config")
        places = [
            self.config.section("components"),
            flat.section("component_kwargs") if flat else None,
        ]
        for section in places:
            if section is None:
                continue
            for key in ("post_process_data", "dataloader"):
                if key in section:
                    section.no_effect(key, "training reads its own batches")
        names = (*LOADER, *CORPUS, *PAIR, *NO_EFFECT, "component_kwargs")
        for key in flat.value if flat else ():
            if flat is not None and key not in names:
                flat.refused(key, f"unknown field {key!r}", did_you_mean(key, names))
