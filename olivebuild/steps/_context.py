"""Rows that are longer than a model takes: told before any is trained on or judged, with the row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.errors import InputError, Where

if TYPE_CHECKING:
    from olivebuild.steps._encode import TokenRows
    from olivebuild.worker import Job

SHOWN = 80
"""Characters of a row that tell which one it is."""


def check_rows(job: Job, rows: TokenRows, folder: str, decode: Callable[[list[int]], str], *field: str) -> None:
    """Raise InputError when rows to train on have more tokens than the model in `folder` takes."""
    from olivebuild.steps._speech import context_of

    context = context_of(Path(folder))
    if context is None or not len(rows) or int(rows.lengths.max()) <= context:
        return
    longest, count = int(rows.lengths.argmax()), int((rows.lengths > context).sum())
    text = decode(rows[longest].ids[:SHOWN].tolist())
    fact = f"{count} of {len(rows)} rows have more than the {context} tokens that the model takes, the longest {len(rows[longest])}: {_begin(text)}"
    hint = f"training.max_length: {context} cuts them; or leave them out"
    raise InputError(fact, where=job.where(*field), hint=hint)


def check_prompts(folder: str, prompts: Sequence[list[int]], answer: int, tokenizer: Any, where: Where | None = None) -> None:
    """Raise InputError when a prompt and an answer of that many tokens are more than the model in `folder` takes."""
    from olivebuild.steps._speech import context_of

    context = context_of(Path(folder))
    longest = max(prompts, key=len, default=[])
    if context is None or len(longest) + answer <= context:
        return
    count = sum(len(prompt) + answer > context for prompt in prompts)
    fact = (
        f"the prompt {_begin(tokenizer.decode(longest[:SHOWN]))} has {len(longest)} tokens, its answer up to {answer}, and the model takes {context}"
    )
    more = f"; {count} of {len(prompts)} rows are too long" if count > 1 else ""
    raise InputError(fact + more, where=where or folder, hint="shorten these rows, or leave them out of the data set")


def _begin(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")
