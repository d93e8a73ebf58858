"""Data that a training learns from: rows of a data set, or sequences cut from their texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import InputError
from olivebuild.ml.data import end_tokens, sequences
from olivebuild.ml.data.sequences import SequenceRows
from olivebuild.ml.data.texts import TextEncoder
from olivebuild.ml.data.token_shards import TokenRows, token_rows
from olivebuild.ml.data.tokens import Encoder
from olivebuild.ml.inference.context import check_rows, context_of
from olivebuild.ml.models import load
from olivebuild.ml.training.unusable_rows import check_flaws

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import AdapterFields

Rows = TokenRows | SequenceRows


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """`rows` are trained on, and `held_out` are not; `stream` are the rows of the data set.

    Without `sequences` in the recipe, `rows` are those.
    """

    encoder: Encoder
    rows: Rows
    stream: TokenRows
    held_out: SequenceRows | None = None

    def figures(self, fields: AdapterFields) -> dict[str, Any]:
        """Return the counts of sequences by the names of a step's metrics; none of plain rows."""
        if isinstance(self.rows, TokenRows):
            return {}
        cut = [self.rows, *([self.held_out] if self.held_out else [])]
        figures = {
            "sequences": len(self.rows),
            "sequence_tokens": int(self.rows.lengths.sum()),
            "sequences_held_out": sum(map(len, cut[1:])),
        }
        unused = sequences.left_out(cut, fields.cut)
        return figures | ({} if unused is None else {"tokens_left_out": unused})


def encoder_of(job: Job, fields: AdapterFields) -> Encoder:
    """Return the encoder of rows by the tokenizer of the input `model`."""
    base, cut = job.input("model"), fields.cut
    tokenizer = load.load_tokenizer(
        base.folder, trust_remote_code=base.trust_remote_code, date=job.action.template_date
    )
    ends = end_tokens.ends_of(Path(base.folder))
    encoder = (
        Encoder(tokenizer, fields.training.max_length, ends)
        if cut.form == "rows"
        else TextEncoder(tokenizer, cut, ends)
    )
    encoder.where = job.where("data")
    return encoder


def load_data(job: Job, fields: AdapterFields, role: str = "data") -> TrainingData:
    """Return the input `role` as what is trained on, or judged by, with its held-out part.

    Raises InputError where all sequences would be held out.
    """
    encoder, cut = encoder_of(job, fields), fields.cut
    stream = token_rows(job, encoder, job.input("model").folder, job.input(role).path, fields.loss)
    if cut.is_plain:
        return TrainingData(encoder=encoder, rows=stream, stream=stream)
    length = fields.training.max_length
    rows = sequences.cut(stream, cut, length, encoder.tokenizer.pad_token_id)
    sequences.note_cuts(stream, cut, length)
    if role != "data" or cut.holdout is None or not len(rows):
        return TrainingData(encoder=encoder, rows=rows, stream=stream)
    seed = fields.training.resolved().data_seed or 0
    train, held = sequences.hold_out(len(rows), cut.holdout, seed)
    if not len(train):
        raise InputError(
            f"holdout {cut.holdout:g} of {len(rows)} sequences leaves none to train on",
            where=job.where("sequences", "holdout"),
            hint="hold out fewer, or cut shorter sequences (training.max_length)",
        )
    return TrainingData(
        encoder=encoder, rows=rows.take(train), stream=stream, held_out=rows.take(held)
    )


def check_data(
    job: Job, fields: AdapterFields, data: TrainingData, role: str, *field: str, name: str
) -> dict[str, Any]:
    """Return the figures of rows that were dropped or cut, by `name`; say what is trained on.

    Raises InputError for rows or sequences that the model does not take, and where there are none.
    """
    folder = job.input("model").folder
    flaws = check_flaws(job, data.stream, folder, role, *field, name=name)
    if isinstance(data.rows, TokenRows):
        check_rows(job, data.rows, folder, role, *field)
        return flaws
    if not len(data.rows):
        raise _no_sequence(job, fields, data.stream)
    length, context = int(data.rows.lengths.max()), context_of(Path(folder))
    if context is not None and length > context:
        raise InputError(
            f"sequences of {length} tokens are more than the {context} that the model takes",
            where=job.where("training", "max_length"),
            hint=f"training.max_length: {context}",
        )
    _note(job, fields, data, role)
    return flaws


def _no_sequence(job: Job, fields: AdapterFields, stream: TokenRows) -> InputError:
    """Return the error of a data set that gives no sequence."""
    cut, length = fields.cut, fields.training.max_length
    count = int(stream.lengths.sum())
    full = cut.form in ("blocks", "windows", "random-blocks")
    singular = cut.form.removeprefix("random-").removesuffix("s")
    fact = f"{count} tokens of {len(stream)} rows give no {singular}" + (
        f" of {length}" if full else " to learn from"
    )
    if not full:
        return InputError(fact, where=job.where("data"), hint="are rows too short (min_length)?")
    hint = "write a smaller training.max_length, or train on more rows"
    if cut.form != "random-blocks":
        hint += "; `remainder: keep` trains on the last, shorter one, too"
    return InputError(fact, where=job.where("training", "max_length"), hint=hint)


def _note(job: Job, fields: AdapterFields, data: TrainingData, role: str) -> None:
    """Say what sequences there are, and what was left out or added on the way."""
    cut, figures = fields.cut, data.figures(fields)
    job.note(
        f"{figures['sequences']} sequences of up to {int(data.rows.lengths.max())} tokens "
        f"({cut.form}), {figures['sequence_tokens']} tokens together, from {len(data.stream)} rows"
        + (" to judge by" if role == "eval" else "")
    )
    if unused := figures.get("tokens_left_out"):
        job.note(f"{unused} tokens at the end of the data are in no sequence")
    if role == "eval":
        return
    if data.held_out is not None:
        judged = "" if fields.eval else ", and nothing judges them: `eval: {every: 50}` does"
        job.note(f"{len(data.held_out)} sequences are held out{judged}")
    if cut.limit and cut.form.startswith("random") and len(data.rows) < cut.limit:
        lost = cut.limit - len(data.rows) - len(data.held_out or ())
        if lost > 0:
            job.note(f"{lost} of {cut.limit} draws gave no sequence in {cut.retries} tries")
    _note_specials(job, data.encoder, fields)


def _note_specials(job: Job, encoder: Encoder, fields: AdapterFields) -> None:
    """Say what a tokenizer lacks that sequences are written with."""
    cut, tokenizer = fields.cut, encoder.tokenizer
    if cut.special_tokens == "spaced":
        for name, does in (("bos_token", "begins"), ("eos_token", "ends")):
            if getattr(tokenizer, name) is None:
                job.note(
                    f"the tokenizer has no {name}: each text {does} with the letters None, as "
                    "Olive writes it"
                )
    if cut.mask_padding and tokenizer.pad_token_id is None:
        job.note("the tokenizer has no padding token: `mask_padding` masks nothing")
