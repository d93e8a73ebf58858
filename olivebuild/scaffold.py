"""`olivebuild init`: a working recipe for a model and a data file, with the columns that the file has."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from olivebuild.errors import InputError, RecipeError, Where
from olivebuild.recipe import FILE_NAME

TEXT = """\
# yaml-language-server: $schema=olivebuild.schema.json
version: 1
default: onnx-int4
targets:
  base: {{kind: model, source: {model}}}
  rows:
    kind: dataset
    source: {data}
    user: {user}
    assistant: {assistant}
    holdout: 0.2
  adapter:
    kind: adapter
    model: base
    data: rows.train
    r: 16
    alpha: 32
    training: {{lr: 2e-4, epochs: 3, warmup: 10, batch: 8}}
  merged: {{kind: merged, model: base, adapter: adapter}}
  onnx-int4: {{kind: onnx, model: merged, precision: int4, provider: cpu}}
  bench: {{kind: benchmark, models: [base, merged, onnx-int4], data: rows.test}}
"""


def write_recipe(folder: Path, name: str | None, model: str, data: str, force: bool) -> str:
    """Write the recipe and return its name. Raises RecipeError when one is there, InputError when the data can't be used."""
    file = folder / (name or FILE_NAME)
    if file.exists() and not force:
        raise RecipeError("there is a recipe already", where=Where(file.name), hint="--force overwrites it")
    columns = _columns(folder / data, data)
    if len(columns) < 2:
        raise InputError(f"{data} has fewer than two columns", where=data, hint="a row needs an input and an answer")
    # The answer stands last in most data files.
    user, assistant = ("{" + c + "}" for c in (columns[0], columns[-1]))
    text = TEXT.format(model=json.dumps(model), data=json.dumps(data), user=json.dumps(user), assistant=json.dumps(assistant))
    file.write_text(text, "utf-8")
    return file.name


def _columns(path: Path, shown: str) -> list[str]:
    """The columns of the first row."""
    if not path.is_file():
        raise InputError(f"{shown} does not exist", where=shown, hint="--data is relative to the folder of the recipe")
    try:
        if path.suffix in (".csv", ".tsv"):
            with open(path, encoding="utf-8-sig", newline="") as f:
                return next(csv.reader(f, delimiter="\t" if path.suffix == ".tsv" else ","), [])
        if path.suffix == ".json":
            data = json.loads(path.read_text("utf-8-sig"))
            return list(data[0])
        if path.suffix == ".jsonl":
            with open(path, encoding="utf-8-sig") as f:
                return list(json.loads(next((line for line in f if line.strip()), "{}")))
    except (ValueError, KeyError, IndexError, TypeError) as e:
        raise InputError(f"the first row can't be read: {e}", where=shown, hint="is it a data file of rows?") from None
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)
    raise InputError(f"files of type {path.suffix or 'none'} are not read", where=shown, hint="known are .jsonl, .json, .csv, .parquet")
