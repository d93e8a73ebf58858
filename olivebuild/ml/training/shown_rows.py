"""Rows of a data set as a training takes them, for people: what `olivebuild show` prints.

The tokens are those of a training, by the same functions, and remembered with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from olivebuild.api.result import Result
from olivebuild.core.errors import InputError
from olivebuild.core.fs.small_files import read_json
from olivebuild.data.origins import Origins, origins_of
from olivebuild.ml.data.examples import Table, read_table
from olivebuild.steps.adapter import AdapterFields

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.ml.data.examples import Tokens
    from olivebuild.ml.data.sequences import SequenceRows
    from olivebuild.ml.training.training_data import TrainingData

BINS = 8
"""The most bars of a histogram."""
MAX_PLACES = 100
"""The most places that are listed for a reason."""


def run(job: Job) -> None:
    """Answer with what a data set's split holds; the request is in the action's fields.

    `rows`: numbers from 1 on, of the rows to show; empty for the first `count`. `fields`: those of
    the adapter whose training is looked at, None where there is none.
    """
    request: Mapping[str, Any] = job.action.fields
    role = "data" if "data" in job.action.inputs else "eval"
    path = job.input(role).path
    table, origins = read_table(path), origins_of(path)
    shown = _of_table(table, Path(path))
    if request["fields"] is None:
        texts = [_text(row) for row in table.rows]
        shown |= {"unit": "characters", "lengths": histogram([len(text) for text in texts])}
        numbers = _numbers(job, request, len(texts), "row")
        shown["shown"] = [_plain(table, origins, n, texts[n]) for n in numbers]
    else:
        fields = AdapterFields.model_validate(request["fields"])
        shown |= _of_training(job, request, fields, role, table, origins)
    job.result = Result(provenance={"shown": shown})


def _of_table(table: Table, path: Path) -> dict[str, Any]:
    """Return what is told of a split without its tokens."""
    report = read_json(path.parent / "report.json")
    # Rows of a test file are read and dropped apart from the others.
    counts = report["test"] if path.stem == "test" and "test" in report else report
    labels = Counter(row["label"] for row in table.rows if row["label"])
    return {
        "format": table.format,
        "rows": len(table.rows),
        "labels": dict(labels.most_common()),
        "read": counts["read"],
        "duplicates": counts["duplicates"],
        "drops": counts["drops"],
        "dropped_rows": counts["dropped_rows"],
    }


def _of_training(
    job: Job,
    request: Mapping[str, Any],
    fields: AdapterFields,
    role: str,
    table: Table,
    origins: Origins,
) -> dict[str, Any]:
    """Return the rows or sequences of a training, their lengths, and what is cut or left out."""
    from olivebuild.ml.training.training_data import load_data

    data = load_data(job, fields, role)
    tokens = Texts(data.encoder.tokenizer)
    is_cut = not fields.cut.is_plain
    length = int(data.rows.lengths.sum()) if len(data.rows) else 0
    counted = sum(row.labels for row in data.rows)
    told: dict[str, Any] = {
        "unit": "tokens",
        "sequences": fields.cut.form if is_cut else None,
        "loss": fields.loss,
        "max_length": None if fields.cut.form == "pairs" else fields.training.max_length,
        "trained": len(data.rows),
        "held_out": len(data.held_out) if data.held_out is not None else 0,
        "tokens": length,
        "learnt": counted,
        "lengths": histogram(data.rows.lengths.tolist()),
        "flaws": list(_flaws(data, origins)),
        "max_dropped": origins.max_dropped,
        "fails": sum(f.flaw.fault for f in data.stream.flawed)
        > origins.max_dropped * data.stream.read,
    }
    if is_cut:
        numbers = _numbers(job, request, len(data.rows), "sequence")
        items = [_sequence(data, origins, n, tokens) for n in numbers]
    else:
        numbers = _numbers(job, request, len(table.rows), "row")
        items = [_row(data, table, origins, n, tokens) for n in numbers]
    return told | {"shown": items}


def _numbers(job: Job, request: Mapping[str, Any], count: int, what: str) -> list[int]:
    """Return the indices of what is to be shown. Raises InputError for a number out of range."""
    for number in request["rows"]:
        if not 1 <= number <= count:
            raise InputError(
                f"there is no {what} {number}",
                where="--row",
                hint=f"{job.action.target} has {what}s 1 to {count}" if count else "there is none",
            )
    return [n - 1 for n in request["rows"]] or list(range(min(count, request["count"])))


def histogram(lengths: Sequence[int]) -> dict[str, Any]:
    """Return the smallest, median and largest length, and at most BINS bars of equal width."""
    if not lengths:
        return {}
    values = np.array(lengths)
    low, high = int(values.min()), int(values.max())
    width = -(-(high - low + 1) // BINS)
    counts = np.bincount((values - low) // width)
    return {
        "min": low,
        "median": float(np.median(values)),
        "max": high,
        "bars": [
            {"from": low + i * width, "to": min(low + (i + 1) * width - 1, high), "count": int(n)}
            for i, n in enumerate(counts)
        ],
    }


def _text(row: Mapping[str, str]) -> str:
    """Return a rendered row without the template of a model."""
    return "\n".join(value for name, value in row.items() if name != "label" and value)


def _place(table: Table, origins: Origins, number: int) -> dict[str, Any]:
    where = origins.of(number)
    place = {"row": number + 1, "where": str(where) if where else ""}
    return place | {"label": table.rows[number]["label"]}


def _plain(table: Table, origins: Origins, number: int, text: str) -> dict[str, Any]:
    return _place(table, origins, number) | {"length": len(text), "text": text}


def _flaws(data: TrainingData, origins: Origins) -> Iterator[dict[str, Any]]:
    """Yield each reason why rows are cut or left out, with the rows' places."""
    reasons: dict[tuple[str, bool, bool], list[int]] = {}
    for flawed in data.stream.flawed:
        key = flawed.flaw.why, flawed.cut, flawed.flaw.fault
        reasons.setdefault(key, []).append(flawed.row)
    for (why, cut, fault), rows in reasons.items():
        places = [str(origins.of(row) or f"row {row + 1}") for row in rows[:MAX_PLACES]]
        yield {"why": why, "cut": cut, "fault": fault, "count": len(rows), "where": places}


class Texts:
    """Tokens as text, piece by piece; a character that takes several stands with its last."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def of(self, row: Tokens) -> list[dict[str, Any]]:
        """Return the id and text of each token, and whether the loss is on it."""
        from olivebuild.ml.inference.generate import Decoder

        decoder, pieces = Decoder(self._tokenizer), []
        for i, token in enumerate(row.ids.tolist()):
            piece = {"id": token, "text": decoder.add(token), "loss": bool(row.counted[i])}
            if row.attended is not None and not row.attended[i]:
                piece["attended"] = False
            pieces.append(piece)
        if pieces:
            pieces[-1]["text"] += decoder.rest()
        # The first token is never predicted.
        if pieces and pieces[0]["loss"]:
            pieces[0]["loss"] = False
        return pieces


def _row(
    data: TrainingData, table: Table, origins: Origins, number: int, tokens: Texts
) -> dict[str, Any]:
    """Return a row with its tokens; without any, and with the reason, if it is left out."""
    item = _place(table, origins, number)
    flawed = next((f for f in data.stream.flawed if f.row == number), None)
    if flawed:
        item["cut" if flawed.cut else "left_out"] = flawed.flaw.why
    if flawed and not flawed.cut:
        return item | {"length": 0, "tokens": []}
    index = int(np.searchsorted(data.stream.numbers(), number))
    return item | _pieces(data.stream[index], tokens)


def _sequence(data: TrainingData, origins: Origins, number: int, tokens: Texts) -> dict[str, Any]:
    """Return a sequence with its tokens, and the rows that it is cut from."""
    rows: SequenceRows = data.rows  # type: ignore[assignment]
    bounds = np.cumsum(data.stream.lengths)
    first, last = (
        int(data.stream.numbers()[np.searchsorted(bounds, at, side="right")])
        for at in (rows.spans[number, 0], rows.spans[number, 1] - 1)
    )
    places = [str(origins.of(row) or f"row {row + 1}") for row in dict.fromkeys((first, last))]
    return {"sequence": number + 1, "where": " to ".join(places)} | _pieces(rows[number], tokens)


def _pieces(row: Tokens, tokens: Texts) -> dict[str, Any]:
    pieces = tokens.of(row)
    learnt = sum(piece["loss"] for piece in pieces)
    return {"length": len(pieces), "learnt": learnt, "tokens": pieces}
