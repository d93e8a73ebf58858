"""Merged models: tensor by tensor where that is proven equal to peft's, else by peft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.errors import InputError
from olivebuild.job import Job
from olivebuild.ml.weights.peft_merge import merge_with_peft
from olivebuild.step import Result
from olivebuild.steps.merged import MergedFields

if TYPE_CHECKING:
    from olivebuild.steps._merge import Change
    from olivebuild.weights import Weights


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    fields = job.fields(MergedFields)
    if fields.source:
        from olivebuild import brought
        from olivebuild.ml.kinds.model import seen_of
        from olivebuild.steps._fetch import fetch

        path = fetch(
            job,
            fields.source,
            look=lambda folder: brought.check(folder, "merged", job.where("source"), trust=False),
        )
        job.result = Result(reference=path, provenance=seen_of(path))
        check_brought(job, path)
    else:
        from olivebuild.steps._opened import check_inputs

        check_inputs(job)
        merge(job, fields)


def check_brought(job: Job, folder: Path | None) -> None:
    from olivebuild.steps import _opened

    try:
        _opened.check_output(job, folder or job.out)
    except ModuleNotFoundError as e:
        job.note(
            f"not opened, since {e.name} is not installed: what reads it will see whether it is "
            "whole"
        )


def merge(job: Job, fields: MergedFields) -> None:
    """Tensor by tensor where that is proven to give peft's bytes; else by peft, and the trace says
    why.
    """
    from olivebuild.steps import _frozen
    from olivebuild.steps._adapters import why_unmergeable, why_unusable
    from olivebuild.steps._ends import stopping, write_ends
    from olivebuild.steps._merge import Unproven, changes, open_input
    from olivebuild.steps._placed import check_places
    from olivebuild.steps._tokenizer_files import dress, with_tokenizer

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
    model = with_tokenizer(job, base, adapter)
    try:
        if job.input("model").trust_remote_code:
            raise Unproven("the model brings code of its own")
        if fields.onto == "dequantised":
            raise Unproven("it goes onto dequantised weights")
        changed = changes(adapter, model)
        check_places(job.store, model, changed)
    except Unproven as e:
        if fields.reproducible:
            hint = (
                "leave `reproducible` out: peft merges this adapter, and its bytes depend on the "
                "processor"
            )
            raise InputError(
                f"no reproducible merge: {e}", where=job.where("reproducible"), hint=hint
            ) from None
        from olivebuild.steps._inputs import as_folder

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
        _frozen.in_folder(job, job.out)
        job.result = job.result._replace(provenance={"by": "peft", "because": str(e)})
        return
    merge_by_tensors(
        job,
        _frozen.in_weights(job, stopping(job, model, adapter)),
        changed,
        reproducible=fields.reproducible,
    )


def merge_by_tensors(
    job: Job, model: Weights, changed: list[Change], *, reproducible: bool
) -> None:
    """Only a merge that goes into build/ is written; for steps that read single tensors it suffices
    to know how each is computed.
    """
    from olivebuild.manifest import Merge
    from olivebuild.ml.onnx.skeletons import known_recipes
    from olivebuild.steps._assemble import Ahead
    from olivebuild.steps._merge import merge_all, multiplication, overlay
    from olivebuild.steps._opened import keep_finite

    job.progress("merging", 0, len(changed))
    try:
        with job.store.batch(job.out.parent, sync=job.action.publish) as batch:
            recipes = known_recipes(job, model)
            ahead = Ahead(job.store, batch, recipes, model) if recipes else None
            groups = ahead.groups(changed) if ahead else [[c] for c in changed]
            computed, error = merge_all(
                groups,
                multiplication(job.store, reproducible=reproducible),
                batch.blob if job.action.publish else None,
                ahead.take if ahead else None,
            )
        if ahead:
            ahead.finish()
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
    """Raises InputError when the base is quantised, as that of adapters trained in 4 bit
    often is.
    """
    from olivebuild.model_config import full_precision_hint, quantised_by

    if method := quantised_by(config):
        hint = full_precision_hint(str(adapter.get("base_model_name_or_path") or ""))
        raise InputError(
            f"the base model is quantised ({method})", where=job.where("model"), hint=hint
        )
