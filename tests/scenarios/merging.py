"""Adapters for proofs of merges, and what merges of them give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.ml.kinds import adapter as adapter_kind
from olivebuild.ml.kinds.merged import merge
from olivebuild.steps.merged import MergedFields
from tests.scenarios.steps import given, job_in
from tests.scenarios.test_merges import stored_adapter

LIMITS = {"float32": 1e-5, "bfloat16": 0.05}
"""Two layers with adapters of about twenty times the usual size; what the step itself allows is
measured, and less.
"""


def adapt(base: Path, folder: Path, *, method: str = "LORA", **options: Any) -> Path:
    """An adapter as if trained: everything that it trains is moved at random, saved whole heads and
    embeddings, too.
    """
    import torch
    from peft import PeftType, get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)](task_type="CAUSAL_LM", **options)
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config
    )
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    wrapped.save_pretrained(str(folder))
    return folder


def logits(model: Any) -> Any:
    import torch

    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        return model.float().eval()(input_ids=ids).logits


def spreads(base: Path, adapter: Path, merged: Path) -> tuple[float, float]:
    """How far the merge is from base and adapter, and how far the base is: of a path of its own, by
    plain peft and transformers.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = logits(plain)
    wanted = logits(PeftModel.from_pretrained(plain, str(adapter)))
    found = logits(AutoModelForCausalLM.from_pretrained(merged))
    of_merged, of_base = (float((x - wanted).abs().max() / wanted.std()) for x in (found, before))
    return of_merged, of_base


def merged_in(folder: Path, store: Store, base: Path, adapter: Path) -> tuple[Path, Job]:
    """The merge as a folder, by the step itself."""
    inputs = {"model": given(store, base), "adapter": stored_adapter(store, adapter)}
    job = job_in(folder, store, inputs, publish=True)
    merge(job, MergedFields.model_validate({"model": "base", "adapter": "adapter"}))
    if not job.result.manifest:
        return job.out, job
    done = folder / "done"
    done.mkdir()
    store.restore(store.manifest(job.result.manifest), done)
    return done, job


def told(job: Job) -> str:
    return str(job._stream.getvalue())


def refused(folder: Path, store: Store, base: Path, adapter: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        merged_in(folder, store, base, adapter)
    assert caught.value.hint
    return caught.value


def bring(folder: Path, store: Store, source: Path) -> Path:
    """An adapter from elsewhere, as it is stored."""
    job = job_in(folder, store, fields={"source": str(source)}, recipe_folder=str(source.parent))
    adapter_kind.run(job)
    done = folder / "done"
    done.mkdir()
    store.restore(store.manifest(job.result.manifest or ""), done)
    return done
