"""Parameters of the tokenising step -> `sequences` of an adapter, and the text of a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.options import Option
from olivebuild.recipe.importers.olive.rows.params import Params
from olivebuild.recipe.importers.olive.tell_tales import JULY, MAIN
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Placeholder

T = TypeVar("T", str, int)
FORMS = {
    "line-by-line": "lines",
    "line-by-line-random": "random-lines",
    "join": "blocks",
    "join-random": "random-blocks",
    "join-sliding-window": "windows",
}
JOINED = ("blocks", "random-blocks", "windows")
RANDOM = ("random-lines", "random-blocks")
OLD_WORDS = {"strategy": "corpus_strategy", "max_seq_len": "source_max_len"}
"""Parameters of 0.7 and their names up to 0.6.2."""
NO_EFFECT = {
    "model_name": "the tokenizer is the model's",
    "trust_remote_code": "an import grants no trust",
    "pad_to_max_len": "padding is neither attended to nor learnt",
    "padding_side": "padding is neither attended to nor learnt",
    "processing_batch_size": "blocks go on across batches of rows, so it changes none",
    "message_col": "only chat_template reads it",
    "label_cols": "the text of a row is trained on",
    "input_cols": "the template says which columns are read",
    "kwargs": "further arguments of the tokenizer are not taken",
}
CORPUS = (
    "dataset_type",
    "corpus_strategy",
    "strategy",
    "source_max_len",
    "max_seq_len",
    "max_samples",
    "drop_short_sequences",
    "add_special_tokens",
    "use_attention_mask",
    "text_formatting_func",
    "text_template",
    "text_cols",
    "stride",
    "joiner",
    "random_seed",
    "random_retries",
    "chat_template",
    "user_script",
    "script_dir",
    *NO_EFFECT,
)
PAIR = (
    "pair_format",
    "input_formatting_func",
    "input_template",
    "input_col",
    "output_formatting_func",
    "output_template",
    "output_col",
    "target_max_len",
    "ignore_source_in_labels",
)


@dataclass(kw_only=True)
class Sequences:
    """Rules by which rows become token sequences: `sequences` by field, and the length."""

    fields: dict[str, Option] = field(default_factory=dict)
    length: Option = field(default_factory=lambda: Option(value=None))
    loss: Option | None = None

    @property
    def form(self) -> object:
        return self.fields["form"].value


class Processing:
    """Reads the parameters of `pre_process_data`."""

    def __init__(self, workflow: Workflow, params: Params, target: str) -> None:
        self.workflow = workflow
        self.params = params
        self.target = target
        self.generation = workflow.generation

    def word(self, key: str, kind: type[T]) -> Option:
        """Return a parameter that 0.7 renamed, by the name that the release takes."""
        old = OLD_WORDS[key]
        new_only = self.generation.since(0, 7)
        if not new_only:
            option = self.params.get(old, kind)
            if option.value is not None:
                self.params.no_effect(key, f"{old} says it")
                return option
            return self.params.get(key, kind)
        if old in self.params:
            self.params.meant_else(
                old, f"Olive {self.generation.name} ignores {old}: it reads {key}, or its default"
            )
        return self.params.get(key, kind)

    def default(self, value: object) -> Option:
        return Option(value=value, note=f"Olive {self.generation.name}'s default")

    def sequences(self, *, chat: bool) -> Sequences:
        """Return the sequences of a corpus. `chat`: a chat template writes the special tokens."""
        new_defaults = self.generation.version >= JULY
        result = Sequences()
        form = self._form(new_defaults=new_defaults)
        result.fields["form"] = form
        length = self.word("max_seq_len", int)
        if length.value is None:
            length = self.default(1024) if new_defaults else self._no_length()
        result.length = length
        result.fields["special_tokens"] = self._special(chat=chat)
        self._joiner(result, str(form.value), new_defaults=new_defaults)
        if form.value in ("blocks", "windows"):
            rest = "drop" if self.generation.version >= MAIN else "drop-last"
            note = f"Olive {self.generation.name} leaves the rest out" + (
                "" if rest == "drop" else ", and a last block that is exactly full"
            )
            if form.value == "windows":
                note += "; it begins anew behind each 1024 rows"
            result.fields["remainder"] = Option(value=rest, note=note)
        self._limits(result, str(form.value))
        self._short(result, str(form.value))
        self.mask(result)
        return result

    def _form(self, *, new_defaults: bool) -> Option:
        option = self.word("strategy", str)
        if option.value is None:
            return self.default("blocks" if new_defaults else "lines")
        if option.open:
            return option
        name = str(option.value).lower().replace("_", "-")
        if name in FORMS:
            return Option(value=FORMS[name], paths=option.paths, note=option.note)
        for path in option.paths:
            hint = did_you_mean(name, FORMS)
            self.workflow.ledger.refused(path, f"{option.value!r} is no strategy", hint)
        return self.default("blocks" if new_defaults else "lines")

    def _no_length(self) -> Option:
        return Option(
            value=Placeholder("source_max_len"),
            note=f"Olive {self.generation.name} has no default, and fails without it",
        )

    def _special(self, *, chat: bool) -> Option:
        option = self.params.get("add_special_tokens", bool)
        if chat:
            self.params.no_effect("add_special_tokens", "with chat_template Olive adds none")
            return Option(value="none", note="the chat template writes them")
        if option.value is None:
            return self.default("spaced")
        if option.open:
            return option
        value = "spaced" if option.true else "none"
        return Option(value=value, paths=option.paths)

    def _joiner(self, result: Sequences, form: str, *, new_defaults: bool) -> None:
        option = self.params.get("joiner", str)
        if form not in JOINED:
            self.params.no_effect("joiner", "only joined rows have one")
        elif option.value is not None:
            result.fields["joiner"] = option
        elif null := self.params.null("joiner"):
            # It is no joiner, also where the release has one by default.
            result.fields["joiner"] = Option(value="", paths=(null,))
        else:
            result.fields["joiner"] = self.default("\n\n" if new_defaults else "")

    def _limits(self, result: Sequences, form: str) -> None:
        limit = self.params.get("max_samples", int)
        if limit.value is not None:
            result.fields["limit"] = limit
        elif form in RANDOM:
            result.fields["limit"] = Option(
                value=Placeholder("max_samples"), note="Olive needs it for random strategies"
            )
        stride = self.params.get("stride", int)
        if form == "windows":
            because = "Olive begins windows anew behind each batch of rows; here they go on"
            self.params.no_effect("processing_batch_size", because)
            result.fields["stride"] = (
                stride
                if stride.value is not None
                else Option(value=Placeholder("stride"), note="Olive needs it for windows")
            )
        else:
            self.params.no_effect("stride", "only the sliding window has one")
        for key, name in (("random_seed", "seed"), ("random_retries", "retries")):
            option = self.params.get(key, int)
            if form not in RANDOM:
                self.params.no_effect(key, "only random strategies read it")
            elif option.value is not None:
                result.fields[name] = option
            elif name == "seed":
                result.fields[name] = Option(
                    value=Placeholder(key), note="Olive needs it for random strategies"
                )

    def _short(self, result: Sequences, form: str) -> None:
        option = self.params.get("drop_short_sequences", bool)
        if option.true and self.params.get("pad_to_max_len", bool).value in (None, True):
            for path in option.paths:
                fact = "rows are dropped for their length and padded to it, which Olive refuses"
                hint = "write pad_to_max_len: false, whose default is true"
                self.workflow.ledger.refused(path, fact, hint)
        elif option.true and form in ("lines", "random-lines"):
            result.fields["min_length"] = Option(value=result.length.value, paths=option.paths)
        elif option.open:
            result.fields["min_length"] = option
        else:
            self.params.no_effect("drop_short_sequences", "no sequence is left out for its length")

    def mask(self, result: Sequences) -> None:
        """Write `mask_padding`: up to 0.6.2 a mask hides the padding token wherever it stands."""
        option = self.params.get("use_attention_mask", bool)
        if self.generation.version >= JULY:
            self.params.no_effect(
                "use_attention_mask", f"Olive {self.generation.name} masks padding alone"
            )
        elif option.value is None:
            result.fields["mask_padding"] = self.default(True)
        elif option.true or option.open:
            result.fields["mask_padding"] = option
        else:
            self.params.no_effect("use_attention_mask", "no token of a text is masked here")
