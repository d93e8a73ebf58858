"""End tokens: those that were trained, and those that a model's configuration names.

Training writes the ends into the adapter's folder; a merge adds them to the model's, so that a
deployed model stops where it was taught to. This module loads no libraries by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.cache.memo import Derived
from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.core.fs import trees
from olivebuild.core.fs.small_files import read_json
from olivebuild.core.host import installed
from olivebuild.ml.weights.view import write_files

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.ml.weights.view import Weights

NAME = "generation_config.json"
VERSION = 1
"""Raise it when a template's ends are found in another way."""


def ids_of(value: Any) -> list[int]:
    """Return the ids in an `eos_token_id` of a configuration: a number, a list or nothing.

    Raises InputError.
    """
    ids = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    for id_ in ids:
        if not isinstance(id_, int) or isinstance(id_, bool):
            raise InputError(
                f"an eos_token_id is {id_!r:.60}, which is not a number",
                hint="it is the number of a token, or a list of such",
            )
    return ids


def texts_of(value: Any) -> list[str]:
    """Return the texts in the `stop_strings` of a configuration: a text, a list or nothing.

    Raises InputError.
    """
    texts = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    for text in texts:
        if not isinstance(text, str):
            raise InputError(
                f"stop_strings has {text!r:.60}, which is not a text",
                hint="it is a text, or a list of texts",
            )
    return texts


def model_ends(generation: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    """Return the end tokens that generation_config.json names, else those of config.json."""
    text = config.get("text_config")
    for source in (generation, config, text if isinstance(text, dict) else {}):
        if ends := ids_of(source.get("eos_token_id")):
            return ends
    return []


def ends_of(folder: Path) -> set[int]:
    """Return a folder's end tokens, also of one for onnxruntime-genai."""
    if genai := read(folder / "genai_config.json"):
        model = genai.get("model")
        return set(ids_of(model.get("eos_token_id") if isinstance(model, dict) else None))
    return set(model_ends(read(folder / NAME), read(folder / "config.json")))


def read(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no such file. Raises InputError."""
    try:
        data = read_json(file)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as e:
        raise InputError(
            f"not valid JSON: {e}", where=str(file), hint="is the file whole?"
        ) from None
    if not isinstance(data, dict):
        raise InputError("not a JSON object", where=str(file), hint="is the file whole?")
    return data


def text_of(data: Mapping[str, Any]) -> str:
    """Return a configuration's text."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def of_adapter(ends: Iterable[int], stop: Iterable[str] = ()) -> str:
    """Return the generation configuration of an adapter's folder.

    `stop` are texts, where the base's tokenizer is not at hand.
    """
    config: dict[str, Any] = {"eos_token_id": sorted(set(ends)), "stop_strings": list(stop)}
    return text_of({name: values for name, values in config.items() if values})


def with_ends(
    generation: Mapping[str, Any] | None, config: Mapping[str, Any], ends: Iterable[int]
) -> dict[str, Any] | None:
    """Return a model's generation configuration with more ends; None where it has them all.

    A model without one gets it from its config.json.
    """
    present = model_ends(generation or {}, config)
    more = [i for i in sorted(set(ends)) if i not in present]
    if not more:
        return None
    if generation is None:
        generation = _generation_of(config)
    return {**generation, "eos_token_id": [*present, *more]}


def _generation_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokens for generation that config.json names, or its text_config."""
    text = config.get("text_config")
    values = dict(text) if isinstance(text, dict) else {}
    values |= {name: value for name, value in config.items() if value is not None}
    names = ("bos_token_id", "pad_token_id")
    return {name: values[name] for name in names if values.get(name) is not None}


def trained_ends(adapter: Path, tokenizer: Callable[[], Any]) -> set[int]:
    """Return the ends of an adapter's folder. Raises InputError."""
    return ends_from(read(adapter / NAME), tokenizer)


def ends_from(config: Mapping[str, Any], tokenizer: Callable[[], Any]) -> set[int]:
    """Return the ends that an adapter's generation configuration names.

    Without any they are those of the chat template of its base's `tokenizer`. Raises InputError.
    """
    ends, texts = set(ids_of(config.get("eos_token_id"))), texts_of(config.get("stop_strings"))
    if texts:
        ends |= {token_of(text, tokenizer()) for text in texts}
    return ends or template_ends(tokenizer())


def template_ends(tokenizer: Any) -> set[int]:
    """Return the tokens that a chat template writes after an answer; none without one."""
    from olivebuild.ml.data.tokens import Encoder

    return Encoder(tokenizer).turn_ends


def token_of(text: str, tokenizer: Any) -> int:
    """Return the one token that a text is. Raises InputError."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        fact = (
            f"{text!r} is {len(ids)} tokens, and an answer ends at one"
            if len(ids) != 1
            else f"the tokenizer does not know {text!r}"
        )
        raise InputError(
            fact,
            where=str(tokenizer.name_or_path),
            hint="`stop` names end tokens, such as <|im_end|>",
        )
    return int(ids[0])


# -- in a merge


def stopping(job: Job, model: Weights, adapter: Weights) -> Weights:
    """Return the model with a generation configuration that also names the adapter's ends."""
    config = with_ends(
        _of(model, NAME), _of(model, "config.json") or {}, merged_ends(job, model, adapter)
    )
    if config is None:
        return model
    data = text_of(config).encode()
    blob = job.store.put_bytes(data)
    place = job.store.find(blob, len(data), "")
    others = [f for f in model.files if f[0] != NAME]
    return replace(model, files=tuple(sorted([*others, (NAME, blob, place)], key=lambda f: f[0])))


def write_ends(job: Job, model: Weights, adapter: Weights, folder: Path) -> None:
    """Name the adapter's ends in a folder that the library wrote."""
    file = folder / NAME
    config = with_ends(
        read(file) if file.is_file() else None,
        read(folder / "config.json"),
        merged_ends(job, model, adapter),
    )
    if config is not None:
        file.write_text(text_of(config), "utf-8")


def merged_ends(job: Job, model: Weights, adapter: Weights) -> set[int]:
    """Return the adapter's ends.

    Those of a template, or of texts, take a tokenizer, so that they are stored.
    """
    config = _of(adapter, NAME) or {}
    if config.get("eos_token_id") is not None and not config.get("stop_strings"):
        return set(ids_of(config["eos_token_id"]))
    files = [file for file in model.files if not file[0].endswith(".py")]
    digests = [[name, digest] for name, digest, _ in files]
    derived = Derived(job.store)
    key = hashing.of_json(["ends", VERSION, config, digests, installed("transformers")])
    if (stored := derived.read(key)) is not None:
        return set(json.loads(stored))
    from olivebuild.ml.models.load import load_tokenizer

    folder = job.out.parent / "tokenizer"
    folder.mkdir(exist_ok=True)
    write_files(replace(model, files=tuple(files)), folder)
    try:
        # A merge needs no code of the model's own, and answers end alike on all days.
        ends = ends_from(config, lambda: load_tokenizer(folder, date="2000-01-01"))
    except InputError as e:
        if config:
            raise InputError(e.fact, where=job.where("adapter"), hint=e.hint) from None
        job.note(f"the base's own ends are kept: {e.fact}")
        ends = set()
    finally:
        trees.delete(folder.parent, folder)
    derived.write(key, json.dumps(sorted(ends)).encode())
    return ends


def _of(weights: Weights, name: str) -> dict[str, Any] | None:
    """Return a JSON file of a model; None where it is not there."""
    return weights.file(name) if weights.bytes_of(name) is not None else None
