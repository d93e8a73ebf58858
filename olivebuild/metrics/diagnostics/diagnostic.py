"""The record of a diagnostic, and the order in which they are told.

A diagnostic is what a colleague would say on seeing the results, though no gate asks for it. The
modules beside this one make them: `labels.py` and `losses.py` of answers, `training.py` of a loss
curve, `overlaps.py` and `rows.py` of rows. `traces.py` collects those of a plan. None changes an
exit code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Figures = dict[str, float | int | str | None]
Severity = Literal["error", "warning"]
"""`error`: a figure does not mean what it seems to, or the model is not worth shipping."""

CODES = {
    "one-label": "answers one label to nearly all rows",
    "one-answer": "writes one answer to nearly all rows",
    "swapped-labels": "answers are right once labels are exchanged",
    "worse-than-source": "worse than the model that it was made from",
    "worse-than-baseline": "worse than a classical text classifier",
    "worse-than-majority": "worse than always answering the commonest label",
    "quantisation-loss": "quantisation loses more than noise",
    "test-in-train": "test rows stand in the rows that were trained on",
    "rows-dropped": "rows of the data were left out",
    "rows-cut": "rows were cut to `max_length`",
    "loss-falling": "the training loss still falls at the last step",
    "loss-rising": "the training loss rises at the end",
    "loss-unstable": "the training loss jumps",
    "overfit": "the held-out loss rises",
}
"""code -> what it says, in the order in which diagnostics of one severity are told."""


class Diagnostic(Struct, frozen=True, kw_only=True):
    """Something that a benchmark's reader should know before its figures are used.

    `text` is a whole sentence without its full stop that names model and data set; `hint` says what
    to do, "" where there is nothing to do. Neither has markup. `target` is the recipe's target that
    it is about: an adapter, a data set, or a model of a benchmark. `benchmark` is the target that
    measured it, "" for what a training or a data set recorded. `figures` are the numbers behind it,
    by the names of metrics where they are metrics; shares are from 0 to 1.
    """

    code: str
    severity: Severity
    text: str
    hint: str = ""
    target: str = ""
    benchmark: str = ""
    model: str = ""
    data: str = ""
    figures: Figures = {}

    @property
    def is_error(self) -> bool:
        return self.severity == "error"


def ordered(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Return diagnostics without repetitions: errors first, then by the order of CODES."""
    codes = list(CODES)

    def place(diagnostic: Diagnostic) -> tuple[bool, int]:
        code = diagnostic.code
        return not diagnostic.is_error, codes.index(code) if code in codes else len(codes)

    unique = {(d.code, d.text): d for d in diagnostics}
    return tuple(sorted(unique.values(), key=place))
