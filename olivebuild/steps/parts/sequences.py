"""Sequences: what an adapter is trained on, cut from the texts of a data set's rows.

The forms are those of Olive's text generation data (olive/data/component/text_generation.py, 0.3.2
to 0.13) beside our own, `rows`. ml/data/sequences.py cuts them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from olivebuild.api.step import Fields
from olivebuild.core.errors import InvalidValue, Problem

Positive = Annotated[int, Field(gt=0)]
Form = Literal["rows", "lines", "blocks", "windows", "random-lines", "random-blocks", "pairs"]

DEFAULT_LENGTH = 1024
"""Tokens of a sequence at most, where `training.max_length` does not say."""
JOINED = ("blocks", "windows", "random-blocks")
"""Forms of which a sequence may hold several rows."""
RANDOM = ("random-lines", "random-blocks")
APART = ("rows", "pairs")
"""Forms whose rows have a prompt that is not learnt."""
TAKEN_BY = {
    "special_tokens": ("lines", "pairs", *JOINED, "random-lines"),
    "joiner": JOINED,
    "remainder": ("blocks", "windows"),
    "stride": ("windows",),
    "seed": RANDOM,
    "retries": RANDOM,
    "min_length": ("lines", "random-lines"),
    "prompt_length": ("pairs",),
    "completion_length": ("pairs",),
    "mask_padding": ("lines", "pairs", *JOINED, "random-lines"),
}
"""Field -> the forms that take it; a field that is not here goes with all of them."""
NEEDED = {
    "windows": ("stride",),
    "random-lines": ("limit",),
    "random-blocks": ("limit",),
    "pairs": ("prompt_length", "completion_length"),
}
"""Form -> the fields that it can't do without."""


class Sequences(Fields):
    """Rules by which rows become the sequences that are trained on.

    Their length is `training.max_length`. `sequences: blocks` is short for `sequences: {form:
    blocks}`.
    """

    form: Form = "rows"
    """`rows`: each row apart, its prompt not learnt. All other forms but `pairs` learn everything:
    `lines` are rows cut after `max_length` tokens; `blocks` are cut from all rows joined, one after
    the other; `windows` overlap; `random-lines` and `random-blocks` are drawn. `pairs`: prompt and
    completion are cut apart.
    """
    special_tokens: Literal["tokenizer", "none", "spaced"] = "tokenizer"
    """`tokenizer`: a text begins as the tokenizer has it and ends with its end token. `spaced`: it
    is written "BOS text EOS", blanks included, as Olive does; a tokenizer without one of them gets
    the letters "None".
    """
    joiner: str = ""
    """Text whose tokens stand after each row's."""
    remainder: Literal["keep", "drop", "drop-last"] = "keep"
    """`keep`: the last, shorter sequence is trained on. `drop`: only full ones are. `drop-last`: a
    last one that is exactly full is lost as well, as in Olive up to 0.13.
    """
    limit: Positive | None = None
    """The most sequences; of `lines`, `pairs` and `rows` the first so many rows; of what is drawn,
    how many draws.
    """
    stride: Positive | None = None
    """Tokens from the beginning of a window to that of the next; the first `max_length` - `stride`
    tokens of each are not learnt.
    """
    seed: int = 0
    """Seed of what is drawn, by Python's `random.Random`."""
    retries: Positive = 10
    """Draws until a sequence that stays too short is left out."""
    min_length: Positive | None = None
    """Rows of fewer tokens are left out, or drawn again."""
    prompt_length: Positive | None = None
    """Tokens of a prompt; what comes later is cut."""
    completion_length: Positive | None = None
    """Tokens of a completion; what comes later is cut."""
    mask_padding: bool = False
    """Tokens that are equal to the tokenizer's padding are neither attended to nor learnt, as in
    Olive with `use_attention_mask: true` up to 0.6.2; often it is the end token.
    """
    holdout: Annotated[float, Field(gt=0)] | None = None
    """Share or count of the sequences that are held out, drawn by `training.data_seed` as
    `train_test_split` of `datasets` does; `eval` without `data` judges them.
    """

    @field_validator("holdout")
    @classmethod
    def _share_or_count(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise InvalidValue(
                f"{value:g} sequences can't be held out", "write a share below 1, or a count"
            )
        return value

    @property
    def is_plain(self) -> bool:
        """Tell whether rows are trained on as they are without this field."""
        return self == Sequences()

    def parameters(self) -> dict[str, object]:
        """Return the form and what differs from its defaults, for the key."""
        return {"form": self.form} | self.model_dump(mode="json", exclude_defaults=True)

    def problem(self) -> Problem | None:
        """Return what is wrong with these fields together; None if nothing."""
        for name, forms in TAKEN_BY.items():
            if name in self.model_fields_set and self.form not in forms:
                return Problem(
                    f"`sequences.{name}` belongs to the form {' or '.join(forms)}, not to "
                    f"{self.form}",
                    "leave it out",
                )
        for name in NEEDED.get(self.form, ()):
            if getattr(self, name) is None:
                return Problem(
                    f"sequences of the form {self.form} need `{name}`",
                    f"for example sequences: {{form: {self.form}, {name}: 256}}",
                )
        return None
