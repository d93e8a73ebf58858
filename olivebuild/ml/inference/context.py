"""Rows that a model can't be trained on or asked, told before any is.

They are longer than it takes, or refused by its chat template; with their places in the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from olivebuild.core.errors import InputError, Where
from olivebuild.core.fs.small_files import read_json
from olivebuild.data.origins import origins_of
from olivebuild.formats import model_config

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.ml.data.examples import Example, Table
    from olivebuild.ml.data.token_shards import TokenRows
    from olivebuild.ml.data.tokens import Encoder

REFUSED = (
    "a system message can often stand in the user's, and prompt and completion take no template"
)


def check_rows(job: Job, rows: TokenRows, folder: str, role: str, *field: str) -> None:
    """Check that rows of the input `role` are no longer than the model in `folder` takes.

    Raises InputError.
    """
    context = context_of(Path(folder))
    if context is None or not len(rows) or int(rows.lengths.max()) <= context:
        return
    longest, count = int(rows.lengths.argmax()), int((rows.lengths > context).sum())
    place = origins_of(job.input(role).path).of(int(rows.numbers()[longest]))
    fact = (
        f"{count} of {rows.read} rows have more than the {context} tokens that the model takes, "
        f"the longest {len(rows[longest])}"
    )
    raise InputError(
        fact,
        where=place or job.where(*field),
        hint=f"training.max_length: {context} cuts them; or leave them out",
    )


def check_asked(job: Job, encoder: Encoder) -> None:
    """Check rows that benchmarks of what is made here will ask, hours before they do.

    Raises InputError for those that would be asked in vain.

    Their tokens are found as those of the rows to train on are, and remembered with them.
    """
    from olivebuild.ml.data.token_shards import token_rows
    from olivebuild.ml.data.tokens import Encoder

    folder = job.input("model").folder
    for asked in job.action.asked:
        rows = token_rows(
            job, Encoder(encoder.tokenizer, 0, encoder.ends), folder, asked.path, "completion"
        )
        if rows.format == "text":
            # It is read in windows.
            continue
        origins = origins_of(asked.path)
        refused = [f for f in rows.flawed if f.flaw.fault]
        if refused:
            _refuse(
                len(refused),
                rows.read,
                refused[0].flaw.why,
                origins.of(refused[0].row) or job.where("data"),
                asked.target,
            )
        prompts, completions = _parts(rows)
        room = room_of(completions, asked.new_tokens, whole=asked.whole)
        _check_lengths(
            folder,
            prompts,
            room,
            [origins.of(int(n)) for n in rows.numbers()],
            job.where("data"),
            asked.target,
        )


def examples_of(encoder: Encoder, table: Table) -> list[Example]:
    """The rows of a table as they are asked.

    Raises InputError when the chat template refuses some.
    """
    from olivebuild.ml.data.template_habits import Refused

    encoder.read_ends(
        table.format, [row["completion"] for row in table.rows] if table.format == "prompt" else []
    )
    examples, refused = [], []
    for i, row in enumerate(table.rows):
        try:
            examples.append(encoder.try_to_encode(table.format, row))
        except Refused as e:
            refused.append((i, str(e)))
    if refused:
        place = origins_of(table.path).of(refused[0][0]) if table.path else None
        _refuse(
            len(refused),
            len(table.rows),
            f"refused by the chat template: {refused[0][1]}",
            place or encoder.where,
        )
    return examples


def room_of(completions: Sequence[int], new_tokens: int, *, whole: bool) -> int:
    """Return how many tokens an answer may have, those of the right ones being so many.

    `whole`: also beyond the longest.
    """
    return new_tokens if whole else min(new_tokens, max(completions, default=0))


def check_prompts(folder: str, prompts: Sequence[int], answer: int, table: Table) -> None:
    """Check that the model in `folder` takes prompts of these lengths and an answer.

    Raises InputError when they have more tokens together.
    """
    origins = origins_of(table.path) if table.path else None
    _check_lengths(
        folder,
        prompts,
        answer,
        [origins.of(i) if origins else None for i in range(len(prompts))],
        Where(folder),
    )


def _check_lengths(
    folder: str,
    prompts: Sequence[int],
    answer: int,
    places: Sequence[Where | None],
    where: Where | None,
    who: str = "",
) -> None:
    context = context_of(Path(folder))
    count = sum(prompt + answer > context for prompt in prompts) if context is not None else 0
    if not count:
        return
    longest = int(np.argmax(prompts))
    fact = (
        f"the prompt has {prompts[longest]} tokens, its answer up to {answer}, and the model "
        f"takes {context}"
    )
    more = (
        f"; {count} of {len(prompts)} rows{f' that {who} asks' if who else ''} are too long"
        if count > 1 or who
        else ""
    )
    raise InputError(
        fact + more,
        where=places[longest] or where,
        hint="shorten these rows, or leave them out of the data set",
    )


def _refuse(count: int, read: int, why: str, place: Where | None, who: str = "") -> None:
    fact = f"{count} of {read} rows {f'that {who} asks' if who else 'to ask'} can't be asked: {why}"
    raise InputError(
        fact, where=place, hint=f"leave them out of the data set, or mend them: {REFUSED}"
    )


def _parts(rows: TokenRows) -> tuple[list[int], list[int]]:
    """The lengths of prompts and of completions."""
    firsts = [row.first for row in rows]
    return firsts, [int(n) - first for n, first in zip(rows.lengths, firsts, strict=True)]


def context_of(folder: Path) -> int | None:
    """Return how many tokens the model takes, prompt and answer together.

    None where it does not say.
    """
    genai = folder / "genai_config.json"
    if genai.is_file():
        return int(read_json(genai)["model"]["context_length"])
    return model_config.context_of(model_config.read_config(folder))


def room_for(
    prompt: list[int], wanted: int, context: int | None, where: Where | None = None
) -> int:
    """Return how many tokens the answer may have.

    Raises InputError when the prompt alone fills the context.
    """
    if context is None:
        return wanted
    if len(prompt) >= context:
        fact = (
            f"the prompt has {len(prompt)} tokens, and the model takes {context}, its answer "
            "included"
        )
        raise InputError(fact, where=where, hint="a shorter text, or in a chat /new")
    return min(wanted, context - len(prompt))
