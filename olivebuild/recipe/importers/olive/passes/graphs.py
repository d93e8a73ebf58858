"""Conversions to ONNX and passes on graphs -> ONNX models of the model builder.

The nearest there is.
"""

from __future__ import annotations

from dataclasses import replace

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.draft import DraftTarget, Ref
from olivebuild.recipe.importers.olive.options import Option, Options
from olivebuild.recipe.importers.olive.table import claim_rest, sections
from olivebuild.recipe.importers.olive.workflow import Pass, State, Workflow
from olivebuild.recipe.importers.positions import Placeholder
from olivebuild.steps.parts.conversion_options import PRECISIONS

ALGORITHMS = {
    "default": ("default", ""),
    "rtn": ("rtn", ""),
    "k_quant": ("k_quant", ""),
    "hqq": ("k_quant", "nearest to HQQ"),
    "gptq": ("k_quant", "nearest to GPTQ, which needs calibration rows"),
}
REFUSED = "its pass is refused"
TUNING = "sessions take onnxruntime-genai's own options, which a benchmark measures"
DTYPES = "onnxruntime-genai takes the inputs and outputs of a graph in the formats they have"
IDLE = {
    "ortperftuning": TUNING,
    "ortsessionparamstuning": TUNING,
    "onnxiofloat16tofloat32": DTYPES,
    "onnxiodatatypeconverter": DTYPES,
    "addolivemetadata": "traces tell what a model was made of",
}
"""Passes that change nothing of what a model computes, in lower case -> why."""
QUANTISERS = {
    "onnxmatmul4quantizer": "",
    "onnxblockwisertnquantization": "rtn",
    "onnxkquantquantization": "k_quant",
}
"""Passes that round the weights of a graph in blocks, and the algorithm of those that have one."""


def map_conversion(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Write the ONNX model that stands for OnnxConversion's or OptimumConversion's."""
    name = sections()[pass_.type]
    options = Options(workflow, pass_.options, name)
    if state.onnx:
        pass_.section.refused("type", "a conversion of an ONNX model", "take one of the two out")
        pass_.options.ledger.no_effect(pass_.options.path, REFUSED)
        return state
    target = workflow.draft.target(pass_.name, "onnx", pass_.section.path)
    target.set("model", Ref(target=state.model))
    if state.adapter:
        target.set("adapter", Ref(target=state.adapter))
        target.comment("The adapter is merged; Olive leaves it in the graph as nodes.")
    target.comment("The model builder's graph, which stands for the exporter's.")
    _float(options, target, pass_, quantised=bool(state.quantisation))
    target.set("provider", pass_.hardware.provider, *pass_.hardware.paths)
    for rounding in state.quantisation:
        target.set(rounding.field, rounding.value, rounding.path, note=rounding.note)
    merged = (
        options.read("merge_adapter_weights", bool)
        if "merge_adapter_weights" in (options.fields)
        else Option(value=None)
    )
    for path in merged.paths:
        workflow.ledger.mapped(path, f"{target.name}.adapter", "adapters are merged anyway")
    options.rest()
    return replace(state, adapter="", onnx=target.name, quantisation=())


def _float(options: Options, target: DraftTarget, pass_: Pass, *, quantised: bool) -> None:
    """Write the precision: that of torch_dtype or fp16, as far as the provider has it."""
    half = Option(value=None)
    if "torch_dtype" in options.fields:
        dtype = options.read("torch_dtype", str)
        name = {"float16": "fp16", "bfloat16": "bf16"}.get(dtype.text or "", "fp32")
        half = replace(dtype, value=name)
    elif "fp16" in options.fields:
        flag = options.read("fp16", bool)
        half = replace(flag, value="fp16" if flag.true else "fp32")
    wanted = str(half.value or "fp32")
    precision, note = _possible(wanted, pass_.hardware.provider)
    if quantised:
        precision, note = "int4", "the passes before round weights to 4 bits"
    target.set("precision", precision, *half.paths, note=note)
    for path in half.paths:
        options.workflow.ledger.mapped(path, f"{target.name}.precision", note)


def _possible(wanted: str, provider: str | Placeholder) -> tuple[str, str]:
    """Return the nearest precision that there is for a provider, and a note where it differs."""
    allowed = PRECISIONS.get(str(provider), (wanted,))
    if wanted in allowed:
        return wanted, ""
    nearest = next((p for p in ("fp32", "fp16") if p in allowed), allowed[0])
    return nearest, f"{wanted} does not exist for {provider} here"


def changed(workflow: Workflow, state: State, pass_: Pass) -> DraftTarget | None:
    """Return a new ONNX target that is the one before, to be changed; refuse the pass without."""
    before = workflow.draft.targets.get(state.onnx)
    if before is None:
        pass_.section.refused(
            "type", "a pass on an ONNX model without a conversion before it", "add ModelBuilder"
        )
        pass_.options.ledger.no_effect(pass_.options.path, REFUSED)
        return None
    target = workflow.draft.target(pass_.name, "onnx", pass_.section.path)
    for field, line in before.fields.items():
        if field != "kind":
            target.fields[field] = line
    return target


def map_half(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Write what OrtTransformersOptimization or OnnxFloatToFloat16 changes: the precision."""
    name = sections()[pass_.type]
    options = Options(workflow, pass_.options, name)
    flag = options.read("float16", bool) if "float16" in options.fields else Option(value=True)
    before = workflow.draft.targets.get(state.onnx)
    if before is None:
        changed(workflow, state, pass_)
        return state
    if not (flag.true or flag.open):
        for path in flag.paths:
            workflow.ledger.mapped(path, f"{state.onnx}.precision")
        options.rest()
        return state
    provider = pass_.hardware.provider
    if "fp16" not in PRECISIONS.get(str(provider), ("fp16",)):
        for path in flag.paths or (pass_.section.at("type"),):
            workflow.ledger.refused(
                path,
                f"fp16 does not exist for {provider} here",
                f"one of {', '.join(PRECISIONS[str(provider)])}, or another provider",
            )
        options.rest()
        return state
    paths = flag.paths or (pass_.section.at("type"),)
    if before.get("precision") in ("int4", "fp16"):
        for path in paths:
            workflow.ledger.mapped(path, f"{state.onnx}.precision", "it is already")
        options.rest()
        return state
    target = changed(workflow, state, pass_)
    assert target is not None
    target.set("precision", "fp16" if flag.true else flag.value, *paths)
    for path in paths:
        workflow.ledger.mapped(path, f"{target.name}.precision")
    options.rest()
    return replace(state, onnx=target.name)


def map_nothing(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Claim a pass whose work the model builder does anyway."""
    claim_rest(workflow, pass_.options, sections()[pass_.type])
    return state


def map_idle(_workflow: Workflow, state: State, pass_: Pass) -> State:
    """Claim a pass that changes nothing of what a model computes."""
    pass_.options.ledger.no_effect(pass_.options.path, IDLE[pass_.type])
    return state


def map_quantiser(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Write what a blockwise quantiser of a graph changes: int4 or int8 weights."""
    name = sections()[pass_.type]
    options = Options(workflow, pass_.options, name)
    target = changed(workflow, state, pass_)
    if target is None:
        return state
    bits = options.read("bits", int) if "bits" in options.fields else Option(value=4)
    _bits(workflow, target, bits, pass_)
    options.put(target, "block_size", "block_size", int)
    if "is_symmetric" in options.fields:
        options.put(target, "symmetric", "is_symmetric", bool)
    level = options.read("accuracy_level", int)
    if level.given and level.value != 0:
        options.write(target, "accuracy_level", level)
    for path in level.paths:
        workflow.ledger.no_effect(path, "0: the builder's own choice")
    _algorithm(options, target, QUANTISERS[pass_.type])
    for key, field in (
        ("nodes_to_exclude", "nodes_to_exclude"),
        ("op_types_to_quantize", "op_types"),
    ):
        texts = options.section.texts(key)
        if texts:
            target.set(field, texts, options.section.at(key))
            options.section.mapped(key, f"{target.name}.{field}")
        elif key in options.section:
            options.section.no_effect(key, "none: the same as leaving it out")
    options.rest()
    return replace(state, onnx=target.name)


def _bits(workflow: Workflow, target: DraftTarget, bits: Option, pass_: Pass) -> None:
    value = f"int{bits.value}"
    if bits.value not in (4, 8):
        for path in bits.paths:
            workflow.ledger.refused(path, f"{bits.value} bits a weight", "4 or 8")
        value = "int4"
    target.set("precision", value, *(bits.paths or (pass_.section.at("type"),)))
    for path in bits.paths:
        workflow.ledger.mapped(path, f"{target.name}.precision")


def _algorithm(options: Options, target: DraftTarget, fixed: str) -> None:
    if fixed:
        target.set("algorithm", fixed)
        return
    option = options.read("algorithm", str)
    if not option.given:
        return
    name = (option.text or "").lower()
    if option.open or name in ALGORITHMS:
        value, note = ALGORITHMS.get(name, (option.value, ""))
        options.write(target, "algorithm", option, value, note)
        return
    for path in option.paths:
        hint = did_you_mean(name, ALGORITHMS)
        options.workflow.ledger.refused(path, f"{name!r} is no algorithm here", hint)


def map_qdq(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Write what MatMulNBitsToQDQ changes."""
    target = changed(workflow, state, pass_)
    if target is None:
        return state
    target.set("qdq", True, pass_.section.at("type"))
    because = "the model builder writes the nodes of QDQ in its own form"
    pass_.options.ledger.no_effect(pass_.options.path, because)
    return replace(state, onnx=target.name)


def map_surgeries(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Write what GraphSurgeries changes: tied embeddings; other surgeons are refused."""
    options = pass_.options
    target = changed(workflow, state, pass_)
    for path, item in options.items("surgeries"):
        surgeon = item.get("surgeon") if isinstance(item, dict) else None
        if surgeon == "TieWordEmbeddings" and target is not None:
            target.set("shared_embeddings", True, (*path, "surgeon"))
            workflow.ledger.mapped(path, f"{target.name}.shared_embeddings")
            continue
        place = (*path, "surgeon") if isinstance(item, dict) and "surgeon" in item else path
        workflow.ledger.refused(
            place,
            f"the surgeon {surgeon} changes graphs in a way that has no word here",
            "take it out",
        )
        workflow.ledger.no_effect(path, "its surgeon is refused")
    for key in options.value:
        if key not in ("surgeries", "type", "config"):
            options.no_effect(key, "the weights of an ONNX folder lie in one file beside its graph")
    return replace(state, onnx=target.name) if target is not None else state


def map_extraction(_workflow: Workflow, state: State, pass_: Pass) -> State:
    """Refuse ExtractAdapters without refusing the file: the adapter stays a target of its own."""
    pass_.section.refused(
        "type",
        "ONNX models with adapters as separate inputs are not built here",
        "the adapter is merged into the ONNX model, and is a target of its own besides",
        fatal=False,
    )
    pass_.options.ledger.no_effect(pass_.options.path, REFUSED)
    return state
