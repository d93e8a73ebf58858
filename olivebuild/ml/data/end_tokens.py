"""Where an answer stops: the end tokens that were trained, and those that a model's configuration
names. Loads no libraries by itself.

Training writes the ends into the adapter's folder; a merge adds them to the model's, so that
whoever deploys it stops where it was taught to.
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
    """An `eos_token_id` of a configuration, which is a number, a list or nothing.

    Raises InputError.
    """
    found = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    if odd := [v for v in found if not isinstance(v, int) or isinstance(v, bool)]:
        raise InputError(
            f"an eos_token_id is {odd[0]!r:.60}, which is not a number",
            hint="it is the number of a token, or a list of such",
        )
    return found


def texts_of(value: Any) -> list[str]:
    """The `stop_strings` of a configuration: a text, a list of them or nothing.

    Raises InputError.
    """
    found = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    if odd := [v for v in found if not isinstance(v, str)]:
        raise InputError(
            f"stop_strings has {odd[0]!r:.60}, which is not a text",
            hint="it is a text, or a list of texts",
        )
    return found


def model_ends(generation: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    """Where generation of a model stops: generation_config.json has the word, else config.json."""
    text = config.get("text_config")
    for found in (generation, config, text if isinstance(text, dict) else {}):
        if ends := ids_of(found.get("eos_token_id")):
            return ends
    return []


def ends_of(folder: Path) -> set[int]:
    """The same of a folder, also of one for onnxruntime-genai."""
    if genai := read(folder / "genai_config.json"):
        model = genai.get("model")
        return set(ids_of(model.get("eos_token_id") if isinstance(model, dict) else None))
    return set(model_ends(read(folder / NAME), read(folder / "config.json")))


def read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises InputError."""
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
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def of_adapter(ends: Iterable[int], stop: Iterable[str] = ()) -> str:
    """What an adapter's folder says of them.

    `stop`: texts, where the base's tokenizer is not at hand.
    """
    given: dict[str, Any] = {"eos_token_id": sorted(set(ends))}
    return text_of({k: v for k, v in {**given, "stop_strings": list(stop)}.items() if v})


def with_ends(
    generation: Mapping[str, Any] | None, config: Mapping[str, Any], ends: Iterable[int]
) -> dict[str, Any] | None:
    """A model's generation configuration with more ends; None where it has them all.

    A model without one gets it from its config.json.
    """
    known = model_ends(generation or {}, config)
    more = [i for i in sorted(set(ends)) if i not in known]
    if not more:
        return None
    if generation is None:
        text = config.get("text_config")
        given = {
            **(text if isinstance(text, dict) else {}),
            **{k: v for k, v in config.items() if v is not None},
        }
        generation = {
            name: given[name]
            for name in ("bos_token_id", "pad_token_id")
            if given.get(name) is not None
        }
    return {**generation, "eos_token_id": [*known, *more]}


def trained_ends(adapter: Path, tokenizer: Callable[[], Any]) -> set[int]:
    """The ends of an adapter: those that its folder names, else those of the chat template of its
    base's `tokenizer`. Raises InputError.
    """
    return ends_from(read(adapter / NAME), tokenizer)


def ends_from(said: Mapping[str, Any], tokenizer: Callable[[], Any]) -> set[int]:
    ends, texts = set(ids_of(said.get("eos_token_id"))), texts_of(said.get("stop_strings"))
    if texts:
        ends |= {token_of(text, tokenizer()) for text in texts}
    return ends or template_ends(tokenizer())


def template_ends(tokenizer: Any) -> set[int]:
    """What a chat template writes after an answer; nothing without one."""
    from olivebuild.ml.data.tokens import Encoder

    return Encoder(tokenizer).turn_ends


def token_of(text: str, tokenizer: Any) -> int:
    """The one token that a text is. Raises InputError."""
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
    """The model, with a generation configuration that also names the adapter's ends; the same where
    it does already.
    """
    made = with_ends(
        _of(model, NAME), _of(model, "config.json") or {}, merged_ends(job, model, adapter)
    )
    if made is None:
        return model
    data = text_of(made).encode()
    blob = job.store.put_bytes(data)
    place = job.store.find(blob, len(data), "")
    return replace(
        model,
        files=tuple(
            sorted(
                [*(f for f in model.files if f[0] != NAME), (NAME, blob, place)], key=lambda f: f[0]
            )
        ),
    )


def write_ends(job: Job, model: Weights, adapter: Weights, folder: Path) -> None:
    """The same in a folder that was written by the library."""
    file = folder / NAME
    made = with_ends(
        read(file) if file.is_file() else None,
        read(folder / "config.json"),
        merged_ends(job, model, adapter),
    )
    if made is not None:
        file.write_text(text_of(made), "utf-8")


def merged_ends(job: Job, model: Weights, adapter: Weights) -> set[int]:
    """The adapter's ends.

    Those of a template, or of texts, take a tokenizer, so that they are remembered.
    """
    said = _of(adapter, NAME) or {}
    if said.get("eos_token_id") is not None and not said.get("stop_strings"):
        return set(ids_of(said["eos_token_id"]))
    reads = [(name, found, place) for name, found, place in model.files if not name.endswith(".py")]
    derived, key = (
        Derived(job.store),
        hashing.of_json(
            [
                "ends",
                VERSION,
                said,
                [[name, found] for name, found, _ in reads],
                installed("transformers"),
            ]
        ),
    )
    if (known := derived.read(key)) is not None:
        return set(json.loads(known))
    from olivebuild.ml.models.load import load_tokenizer

    folder = job.out.parent / "tokenizer"
    folder.mkdir(exist_ok=True)
    write_files(replace(model, files=tuple(reads)), folder)
    try:
        # Code of the model's own is nothing that a merge needs, and answers end alike on all days.
        ends = ends_from(said, lambda: load_tokenizer(folder, date="2000-01-01"))
    except InputError as e:
        if said:
            raise InputError(e.fact, where=job.where("adapter"), hint=e.hint) from None
        job.note(f"the base's own ends are kept: {e.fact}")
        ends = set()
    finally:
        trees.delete(folder.parent, folder)
    derived.write(key, json.dumps(sorted(ends)).encode())
    return ends


def _of(weights: Weights, name: str) -> dict[str, Any] | None:
    return weights.file(name) if weights.bytes_of(name) is not None else None
