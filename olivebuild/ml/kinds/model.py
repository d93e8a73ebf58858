"""Base models: referenced where they lie, downloaded, or converted from GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.errors import InputError
from olivebuild.core.fs import opening
from olivebuild.formats import imported, template_clock
from olivebuild.steps.model import ModelFields


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.ml.models.fetch import fetch

    fields = job.fields(ModelFields)
    where, trust = job.where("source"), fields.trust_remote_code
    path = fetch(
        job,
        fields.source,
        look=lambda folder: imported.check(folder, "model", where, trust=trust),
    )
    if fields.source.looks_first:
        job.result = Result(reference=path, provenance=seen_of(path))
    else:
        _convert(job, path, fields.dtype)
        job.result = Result(provenance=seen_of(job.out))


def seen_of(folder: Path) -> dict[str, object]:
    """Return what is asked of a model also where its folder is not."""
    return {"reads_clock": True} if template_clock.folder_reads_clock(folder) else {}


def _convert(job: Job, gguf: Path, dtype: str) -> None:
    """Dequantise a GGUF file into `job.out` as a plain Hugging Face folder.

    transformers reads GGUF (https://huggingface.co/docs/transformers/gguf) but won't save what it
    read, so the tensors are written here.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from olivebuild.ml.models.load import canonical_config
    from olivebuild.ml.models.opened import check_loaded, check_output

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
    except Exception as e:  # noqa: BLE001
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
