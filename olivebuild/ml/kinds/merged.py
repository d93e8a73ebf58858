"""Merged models: tensor by tensor where that is proven equal to peft's, else by peft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.errors import InputError
from olivebuild.ml.peft_merge import merge_with_peft
from olivebuild.steps.merged import MergedFields

if TYPE_CHECKING:
    from olivebuild.ml.weights.lora import Change
    from olivebuild.ml.weights.view import Weights


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    fields = job.fields(MergedFields)
    if fields.source:
        from olivebuild.formats import imported
        from olivebuild.ml.kinds.model import seen_of
        from olivebuild.ml.models.fetch import fetch

        path = fetch(
            job,
            fields.source,
            look=lambda folder: imported.check(folder, "merged", job.where("source"), trust=False),
        )
        job.result = Result(reference=path, provenance=seen_of(path))
        check_brought(job, path)
    else:
        from olivebuild.ml.models.opened import check_inputs

        check_inputs(job)
        merge(job, fields)


def check_brought(job: Job, folder: Path | None) -> None:
    from olivebuild.ml.models import opened

    try:
        opened.check_output(job, folder or job.out)
    except ModuleNotFoundError as e:
        job.note(
            f"not opened, since {e.name} is not installed: what reads it will see whether it is "
            "whole"
        )


def merge(job: Job, fields: MergedFields) -> None:
    """Merge tensor by tensor where that is proven to give peft's bytes.

    Else by peft, and the trace says why.
    """
    from olivebuild.ml.data.end_tokens import stopping, write_ends
    from olivebuild.ml.models import frozen_dates
    from olivebuild.ml.models.tokenizer_files import dress, with_tokenizer
    from olivebuild.ml.weights.adapter_config import why_unmergeable, why_unusable
    from olivebuild.ml.weights.errors import NotProvenEqual
    from olivebuild.ml.weights.lora import changes, open_input
    from olivebuild.ml.weights.placement import check_places

    base, adapter = (
        open_input(job.store, job.input("model")),
        open_input(job.store, job.input("adapter")),
    )
    config = adapter.file("adapter_config.json")
    check_base(job, config, base.file("config.json"))
    if refusal := why_unusable(config) or why_unmergeable(
        config, adapter.by_name.values(), base.by_name
    ):
        raise InputError(refusal[0], where=job.where("adapter"), hint=refusal[1])
    _check_onto(job, fields, adapter)
    model = with_tokenizer(job, base, adapter)
    try:
        if job.input("model").trust_remote_code:
            raise NotProvenEqual("the model brings code of its own")
        if fields.onto == "dequantised":
            raise NotProvenEqual("it goes onto dequantised weights")
        changed = changes(adapter, model)
        check_places(job.store, model, changed)
    except NotProvenEqual as e:
        if fields.reproducible:
            hint = (
                "leave `reproducible` out: peft merges this adapter, and its bytes depend on the "
                "processor"
            )
            raise InputError(
                f"no reproducible merge: {e}", where=job.where("reproducible"), hint=hint
            ) from None
        from olivebuild.ml.weights.inputs import as_folder

        job.note(f"merging with peft: {e}")
        merge_with_peft(
            job,
            as_folder(job, "model"),
            as_folder(job, "adapter"),
            dequantised=fields.onto == "dequantised",
        )
        if model is not base:
            dress(job.out, model)
        write_ends(job, model, adapter, job.out)
        frozen_dates.in_folder(job, job.out)
        job.result = job.result._replace(provenance={"by": "peft", "because": str(e)})
        return
    merge_by_tensors(
        job,
        frozen_dates.in_weights(job, stopping(job, model, adapter)),
        changed,
        reproducible=fields.reproducible,
    )


def _check_onto(job: Job, fields: MergedFields, adapter: Weights) -> None:
    """Raise InputError for an adapter of LoftQ's that would be merged onto other weights."""
    from olivebuild.ml.weights.adapter_config import QUANTISED, is_of_loftq

    if fields.onto == "base" and is_of_loftq(adapter.bytes_of(QUANTISED)):
        raise InputError(
            "the adapter is trained by LoftQ, which changes the base: it can't be merged onto "
            "another one",
            where=job.where("adapter"),
            hint="write onto: dequantised",
        )


def merge_by_tensors(
    job: Job, model: Weights, changed: list[Change], *, reproducible: bool
) -> None:
    """Merge tensor by tensor, into files only if the result goes into build/.

    For steps that read single tensors it suffices to know how each is computed.
    """
    from olivebuild.cache.manifest import Merge
    from olivebuild.ml.models.opened import keep_finite
    from olivebuild.ml.onnx.ahead import sink_for
    from olivebuild.ml.weights.lora import multiplication
    from olivebuild.ml.weights.merge import merge_all, overlay

    job.progress("merging", 0, len(changed))
    try:
        with job.store.batch(job.out.parent, sync=job.action.publish) as batch:
            sink = sink_for(job, batch, model)
            multiply = multiplication(job.store, reproducible=reproducible)
            computed, error = merge_all(changed, multiply, sink)
        sink.finish()
    except ValueError as e:
        raise InputError(
            str(e),
            where=job.where("adapter"),
            hint="does the adapter hold NaN, or weights of another model?",
        ) from None
    job.progress("merging", len(changed), len(changed))
    merge = (
        None
        if job.action.publish
        else Merge(job.input("adapter").manifest, reproducible, tuple(computed))
    )
    manifest, merged = overlay(job.store, model, computed, merge)
    # The base's weights were looked at before, the merged ones each when it was made.
    keep_finite(job.store, merged.model_digest())
    job.result = Result(
        digests={"": merged.model_digest()},
        metrics={"adapter_tensors": 2 * len(changed), "merge_error": error},
        provenance={"by": "tensors", "merged_bytes": sum(c.weight.size for c in changed)},
        manifest=job.store.put_manifest(manifest),
    )


def check_base(job: Job, adapter: dict[str, Any], config: dict[str, Any]) -> None:
    """Check that the base is not quantised, as that of adapters trained in 4 bit often is.

    Raises InputError.
    """
    from olivebuild.formats.model_config import full_precision_hint, quantised_by

    if method := quantised_by(config):
        hint = full_precision_hint(str(adapter.get("base_model_name_or_path") or ""))
        raise InputError(
            f"the base model is quantised ({method})", where=job.where("model"), hint=hint
        )
