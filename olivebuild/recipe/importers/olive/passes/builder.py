"""ModelBuilder and its options -> an ONNX model."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.draft import DraftTarget, Ref
from olivebuild.recipe.importers.olive.options import Option, Options
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.workflow import Pass, State, Workflow
from olivebuild.recipe.importers.positions import Path
from olivebuild.steps.parts.conversion_options import PRECISIONS, BlockSize, BuilderAlgorithm

ALGORITHMS = get_args(BuilderAlgorithm)
BLOCKS = get_args(BlockSize)
INT4 = (
    ("int4_block_size", "block_size", int),
    ("int4_accuracy_level", "accuracy_level", int),
    ("int4_is_symmetric", "symmetric", bool),
    ("int4_algo_config", "algorithm", str),
)
FLAGS = (
    ("exclude_embeds", "exclude_embeds"),
    ("exclude_lm_head", "exclude_lm_head"),
    ("enable_cuda_graph", "cuda_graph"),
    ("use_qdq", "qdq"),
    ("use_webgpu_fp32", "webgpu_fp32"),
    ("use_cuda_bf16", "cuda_bf16"),
    ("include_hidden_states", "include_hidden_states"),
)
EXTRA = {
    "int4_block_size": "block_size",
    "int4_accuracy_level": "accuracy_level",
    "int4_is_symmetric": "symmetric",
    "int4_algo_config": "algorithm",
    "int4_op_types_to_quantize": "op_types",
    "int4_nodes_to_exclude": "nodes_to_exclude",
    "exclude_embeds": "exclude_embeds",
    "exclude_lm_head": "exclude_lm_head",
    "prune_lm_head": "prune_lm_head",
    "include_hidden_states": "include_hidden_states",
    "enable_cuda_graph": "cuda_graph",
    "enable_webgpu_graph": "webgpu_graph",
    "use_qdq": "qdq",
    "use_webgpu_fp32": "webgpu_fp32",
    "use_cuda_bf16": "cuda_bf16",
    "shared_embeddings": "shared_embeddings",
    "fuse_qkv": "fuse_qkv",
}
"""Keys of `extra_options`, onnxruntime-genai's own words, and ours."""
EXTRA_NO_EFFECT = {
    "hf_token": "tokens come from the environment or a login",
    "hf_remote": "an import grants no trust",
    "adapter_path": "the adapter is a target of its own",
}


def map_builder(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Write the ONNX model that the builder makes of the weights, or completes."""
    options = Options(workflow, pass_.options, "ModelBuilder")
    metadata = options.read("metadata_only", bool)
    if metadata.true:
        return _complete(workflow, state, options, metadata)
    for path in metadata.paths:
        workflow.ledger.no_effect(path, "a whole model is built")
    if state.onnx:
        pass_.section.refused(
            "type",
            "a model is built of weights, and the pass before gives an ONNX model",
            "write metadata_only, or leave the conversion out",
        )
        options.section.ledger.no_effect(options.section.path, "its pass is refused")
        return state
    target = workflow.draft.target(pass_.name, "onnx", pass_.section.path)
    target.set("model", Ref(target=state.model))
    _adapter(workflow, state, pass_, target)
    _precision(workflow, options, target, pass_)
    target.set("provider", pass_.hardware.provider, *pass_.hardware.paths)
    for rounding in state.quantisation:
        target.set(rounding.field, rounding.value, rounding.path, note=rounding.note)
    _options(workflow, options, target)
    options.rest()
    return replace(state, adapter="", onnx=target.name, quantisation=())


def _complete(workflow: Workflow, state: State, options: Options, metadata: Option) -> State:
    """Claim a builder that only writes configuration and tokenizer beside an ONNX model."""
    if not state.onnx:
        for path in metadata.paths:
            workflow.ledger.refused(
                path, "metadata_only without an ONNX model before it", "take it out"
            )
    for path in metadata.paths:
        workflow.ledger.mapped(path, f"{state.onnx}.kind", "every ONNX folder has its metadata")
    _valid_precision(workflow, options.read("precision", str))
    because = "only metadata is written, which every ONNX folder has"
    for key in options.section.value:
        if key in options.fields and options.section.ledger.unclaimed(options.section.at(key)):
            options.section.no_effect(key, because)
    options.rest()
    return state


def _adapter(workflow: Workflow, state: State, pass_: Pass, target: DraftTarget) -> None:
    """Write the adapter that was not merged, and say what Olive does with it."""
    if not state.adapter:
        return
    target.set("adapter", Ref(target=state.adapter))
    if workflow.generation.since(0, 7):
        target.comment("Olive leaves the adapter in the graph as nodes; it is merged here.")
        return
    name = workflow.generation.name
    does = f"Olive {name} builds the base and ignores the adapter; it is merged here, as is meant"
    workflow.ledger.meant_else(pass_.section.at("type"), does, f"{target.name}.adapter")
    target.comment(f"Olive {name} ignores an adapter that is not merged, and builds the base.")


def _precision(workflow: Workflow, options: Options, target: DraftTarget, pass_: Pass) -> None:
    option = options.read("precision", str)
    provider = str(pass_.hardware.provider)
    if option.value is None:
        path: Path = options.section.path
        if "precision" not in options.section:
            pass_.section.refused("type", "ModelBuilder without `precision`", "for example int4")
            target.comment(f"{path[-1]}: no precision")
        return
    name = _precision_name(option)
    if option.open:
        options.write(target, "precision", option)
    elif not _valid_precision(workflow, option):
        target.set("precision", "int4")
    elif name not in PRECISIONS.get(provider, (name,)):
        for path in option.paths:
            workflow.ledger.refused(
                path,
                f"{name} does not exist for {provider}: Olive ends without a model, with code 0",
                f"one of {', '.join(PRECISIONS[provider])}",
            )
    else:
        options.write(target, "precision", option, name)


def _valid_precision(workflow: Workflow, option: Option) -> bool:
    """Return whether the builder knows a precision; refuse it else."""
    every = sorted({p for precisions in PRECISIONS.values() for p in precisions})
    if option.text is None or _precision_name(option) in every:
        return True
    for path in option.paths:
        fact = f"{option.text!r} is no precision of the builder"
        workflow.ledger.refused(path, fact, did_you_mean(option.text, every))
    return False


def _precision_name(option: Option) -> str:
    name = (option.text or "").lower()
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(name, name)


def _options(workflow: Workflow, options: Options, target: DraftTarget) -> None:
    for key, field, kind in INT4:
        if key in options.section:
            _checked(workflow, options, target, field, options.read(key, kind))  # type: ignore[type-var]
    for key, field in FLAGS:
        option = options.read(key, bool)
        if not option.given:
            continue
        if option.value is False and not workflow.generation.since(0, 9, 2):
            # Its presence alone would count for the builder; Olive leaves it out.
            options.section.no_effect(key, "false: the same as leaving it out")
        else:
            options.write(target, field, option)
    for key, field in (
        ("int4_op_types_to_quantize", "op_types"),
        ("int4_nodes_to_exclude", "nodes_to_exclude"),
    ):
        texts = options.section.texts(key)
        if texts is not None:
            target.set(field, texts, options.section.at(key))
            options.section.mapped(key, f"{target.name}.{field}")
    _moe(options)
    if "search" in options.section:
        options.section.no_effect(
            "search", "how answers are drawn is said where they are asked for: predict, chat, serve"
        )
    _extra(options.section.section("extra_options"), target)


def _checked(
    workflow: Workflow, options: Options, target: DraftTarget, field: str, option: Option
) -> None:
    """Write an option of int4, or refuse a value that the builder does not know."""
    if not option.given:
        return
    allowed: dict[str, tuple[object, ...]] = {
        "block_size": BLOCKS,
        "accuracy_level": (1, 2, 3, 4),
        "algorithm": ALGORITHMS,
    }
    values = allowed.get(field)
    if option.open or values is None or option.value in values:
        options.write(target, field, option)
        return
    for path in option.paths:
        if field == "accuracy_level" and option.value == 0:
            workflow.ledger.no_effect(path, "0: the builder's own choice")
            continue
        hint = f"one of {', '.join(map(str, values))}"
        workflow.ledger.refused(path, f"{option.value!r} does not exist here", hint)


def _moe(options: Options) -> None:
    option = options.read("use_8bits_moe", bool)
    for path in option.paths:
        if option.true:
            options.workflow.ledger.refused(
                path, "experts in 8 bits have no word here", "take it out"
            )
        else:
            options.workflow.ledger.no_effect(path, "false: the same as leaving it out")


def _extra(extra: Section | None, target: DraftTarget) -> None:
    """Write `extra_options`, which win over the options of their own."""
    for key, value in (extra.value if extra else {}).items():
        assert extra is not None
        if key in EXTRA_NO_EFFECT:
            extra.no_effect(key, EXTRA_NO_EFFECT[key])
        elif key in EXTRA:
            field = EXTRA[key]
            if key in ("int4_op_types_to_quantize", "int4_nodes_to_exclude"):
                mark = "/" if key == "int4_op_types_to_quantize" else ","
                value = value.split(mark) if isinstance(value, str) else value
            elif field in ("block_size", "accuracy_level"):
                # The builder reads them as int(value).
                value = int(value) if isinstance(value, str) and value.isdecimal() else value
                if field == "accuracy_level" and value == 0:
                    extra.no_effect(key, "0: the builder's own choice")
                    target.drop(field)
                    continue
            elif value in ("0", "1", 0, 1, "true", "false"):
                value = value in ("1", 1, "true")
            target.set(field, value, extra.at(key))
            extra.mapped(key, f"{target.name}.{field}")
        else:
            extra.refused(
                key, f"the builder's option {key} has no word here", did_you_mean(key, EXTRA)
            )
