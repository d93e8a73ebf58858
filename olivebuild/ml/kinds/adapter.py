"""Adapters: trained here, or imported from a folder that others trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.fs.small_files import read_bytes, read_json
from olivebuild.formats.source import Source
from olivebuild.steps.adapter import AdapterFields

if TYPE_CHECKING:
    from olivebuild.cache.manifest import Entry


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    fields = job.fields(AdapterFields)
    if fields.source:
        import_folder(job, fields.source, fields.stop, trust=fields.trust)
    else:
        from olivebuild.ml.models import streamed
        from olivebuild.ml.models.opened import check_inputs

        check_inputs(job)
        if not (fields.quantises or fields.training.pages_base):
            streamed.begin(job.input("model").folder, fields.training.dtype)
        from olivebuild.ml.training import train

        job.result = train.train(job, fields)


def _of_loftq(job: Job, folder: Path, *, sync: bool) -> Iterator[Entry]:
    """Yield the stored files that say how LoftQ changed the base, where it did.

    Raises InputError when one is missing.
    """
    from msgspec import structs

    from olivebuild.cache.manifest import Entry
    from olivebuild.core.errors import InputError
    from olivebuild.ml.weights.adapter_config import QUANTISED, SUBTRACTED, is_of_loftq

    quantised, subtracted = folder / QUANTISED, folder / SUBTRACTED
    if not quantised.is_file() or not is_of_loftq(content := read_bytes(quantised)):
        return
    yield Entry.of_runs(QUANTISED, [(job.store.put_bytes(content), len(content))])
    if subtracted.is_file():
        stored = job.store.put_file(subtracted.resolve(), SUBTRACTED, job.out.parent, sync=sync)
        yield structs.replace(stored, executable=False)
    elif read_json(quantised)["loftq_iter"] != 1:
        raise InputError(
            f"{SUBTRACTED} is missing: without it the base that the adapter was trained on can't "
            "be had again",
            where=str(folder),
            hint="copy the whole folder of the adapter",
        )


def checked_config(job: Job, folder: Path) -> dict[str, Any]:
    """Return what an adapter folder's adapter_config.json says.

    Raises InputError when a file is missing, and for an adapter that can't be used here.
    """
    from olivebuild.core.errors import InputError
    from olivebuild.ml.weights.adapter_config import why_unusable

    config = folder / "adapter_config.json"
    for file in (config, folder / "adapter_model.safetensors"):
        if not file.is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            hint = (
                "save it again with safe_serialization=True: unpickling runs code"
                if pickled
                else "is it an adapter folder as peft saves it?"
            )
            raise InputError(f"{file.name} is missing", where=str(folder), hint=hint)
    try:
        data: dict[str, Any] = read_json(config)
        refusal = why_unusable({"peft_type": data["peft_type"], **data})
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise InputError(
            f"not an adapter configuration: {e}",
            where=str(config),
            hint="is it an adapter folder as peft saves it?",
        ) from None
    if refusal:
        raise InputError(refusal[0], where=job.where("source") or str(config), hint=refusal[1])
    return data


def import_folder(job: Job, source: Source, stop: list[str], *, trust: bool) -> None:
    """Store an adapter folder's two files, checked.

    And the tokenizer that it was trained with, if it brings one: peft's or Unsloth's.

    Ends are texts until its base's tokenizer is there.
    """
    import json

    from msgspec import structs

    from olivebuild.cache.manifest import Entry, Manifest
    from olivebuild.formats import imported
    from olivebuild.formats.safetensors import tensors_of
    from olivebuild.ml.data import end_tokens
    from olivebuild.ml.models.fetch import fetch
    from olivebuild.ml.models.tokenizer_files import found_in
    from olivebuild.ml.weights.adapter_config import SUBTRACTED

    folder = fetch(
        job,
        source,
        also=(SUBTRACTED,),
        look=lambda folder: imported.check(folder, "adapter", job.where("source"), trust=trust),
    )
    data, weights = checked_config(job, folder), folder / "adapter_model.safetensors"
    tensors = len(tensors_of(weights))
    text = (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()
    # A file of this machine is copied again in less time than syncing takes, if a power cut takes
    # the copy.
    stored = job.store.put_file(
        weights.resolve(), weights.name, job.out.parent, sync=source.scheme != "file"
    )
    entries = [
        Entry.of_runs("adapter_config.json", [(job.store.put_bytes(text), len(text))]),
        structs.replace(stored, executable=False),
    ]
    said = end_tokens.read(folder / end_tokens.NAME)
    trained = (
        end_tokens.ids_of(said.get("eos_token_id")),
        end_tokens.texts_of(said.get("stop_strings")),
    )
    if stop or any(trained):
        # `stop` has the word, else the ends that lie beside the adapter: those it was trained with.
        ends = (
            end_tokens.of_adapter([], sorted(set(stop)))
            if stop
            else end_tokens.of_adapter(*trained)
        ).encode()
        entries.append(Entry.of_runs(end_tokens.NAME, [(job.store.put_bytes(ends), len(ends))]))
    entries += _of_loftq(job, folder, sync=source.scheme != "file")
    for name, path in found_in(folder):
        content = read_bytes(path)
        entries.append(Entry.of_runs(name, [(job.store.put_bytes(content), len(content))]))
    job.result = Result(
        metrics={"tensors": tensors}, manifest=job.store.put_manifest(Manifest(tuple(entries)))
    )
