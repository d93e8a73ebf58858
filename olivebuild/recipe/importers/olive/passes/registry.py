"""Mappers of passes by type, and the passes that have none: refused by name, with the reason."""

from __future__ import annotations

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.passes import adapters, builder, graphs, merge, rounding
from olivebuild.recipe.importers.olive.table import sections
from olivebuild.recipe.importers.olive.workflow import Pass, PassMapper, Workflow

PASSES: dict[str, PassMapper] = {
    **dict.fromkeys(adapters.METHODS, adapters.map_adapter),
    "mergeadapterweights": merge.map_merge,
    "modelbuilder": builder.map_builder,
    "extractadapters": graphs.map_extraction,
    "onnxconversion": graphs.map_conversion,
    "optimumconversion": graphs.map_conversion,
    "optimummerging": graphs.map_nothing,
    "onnxpeepholeoptimizer": graphs.map_nothing,
    "onnxmodeloptimizer": graphs.map_nothing,
    "orttransformersoptimization": graphs.map_half,
    "onnxfloattofloat16": graphs.map_half,
    **dict.fromkeys(graphs.QUANTISERS, graphs.map_quantiser),
    "matmulnbitstoqdq": graphs.map_qdq,
    "graphsurgeries": graphs.map_surgeries,
    **dict.fromkeys(rounding.ROUNDERS, rounding.map_rounder),
    "selectivemixedprecision": rounding.map_mixed,
    **dict.fromkeys(graphs.IDLE, graphs.map_idle),
}
"""The type in lower case -> its mapper."""

INT8 = "activations are not rounded here; weights are: ModelBuilder with int4 or int8"
PARTS = "models are built whole here, not in parts"
REASONS = {
    "hardware": {
        "Qualcomm's QNN is no target here": (
            "QNNConversion QNNModelLibGenerator QNNContextBinaryGenerator QNNPreprocess "
            "SNPEConversion SNPEQuantization SNPEtoONNXConversion EPContextBinaryGenerator "
            "DynamicToFixedShape StaticLLM QairtEncapsulation QairtGenAIBuilder QairtMHA2SHA "
            "QairtPipelinePass QairtPreparation"
        ),
        "OpenVINO is no target here": (
            "OpenVINOConversion OpenVINOQuantization OpenVINOQuantizationWithAccuracy "
            "OpenVINOEncapsulation OpenVINOIoUpdate OpenVINOWeightCompression "
            "OpenVINOOptimumConversion"
        ),
        "AMD's Vitis AI and Ryzen AI are no targets here": (
            "VitisAIQuantization VitisQDQQuantizer VitisQOpQuantizer VitisGenerateModelLLM "
            "VitisAIAddMetaData QuarkQuantization RyzenGenerateModelLLM"
        ),
        "NVIDIA's TensorRT is no target here": (
            "NVModelOptQuantization NVModelOptGraphSurgery TorchTRTConversion"
        ),
        "AIMET rounds for Qualcomm's hardware, which is no target here": "AimetQuantization",
    },
    "work": {
        INT8: (
            "OnnxDynamicQuantization OnnxStaticQuantization OnnxQuantization "
            "IncDynamicQuantization IncStaticQuantization "
            "IncQuantization QuantizationAwareTraining OnnxQuantizationPreprocess AutoClip"
        ),
        "only causal language models are built here": "SDLoRA VitisGenerateModelSD InputNCHWtoNHWC",
        PARTS: (
            "CaptureSplitInfo SplitModel ComposeOnnxModels PyTorchTensorParallel "
            "MoEExpertsDistributor InsertBeamSearch"
        ),
        "it became ModelBuilder in 0.6: write that": "GenAIModelExporter",
        "weights are not cut out here": "SliceGPT SparseGPT",
        "weights are not rotated before they are rounded here": "QuaRot SpinQuant",
        "bitsandbytes's 4 bits are no format of the model builder: take int4": (
            "OnnxBnb4Quantization"
        ),
        "HQQ is not there: OnnxKQuantQuantization is nearest": "OnnxHqqQuantization",
        "graphs get no further operators here": (
            "AppendPrePostProcessingOps OnnxOpVersionConversion OrtMixedPrecision "
            "MixedPrecisionOverrides OnnxScriptFusion "
            "OnnxDiscrepancyCheck CaptureLayerAnnotations MobiusBuilder"
        ),
    },
}
"""What has no target here: the reason -> classes of passes."""
HINTS = {
    "hardware": "providers here are cpu, cuda, dml and webgpu: build for one of those",
    "work": "take the pass out",
}


def refuse(_workflow: Workflow, pass_: Pass) -> None:
    """Refuse a pass that has no mapper: a known one with its reason, another as unknown."""
    name = str(pass_.section.value.get("type"))
    for kind, reasons in REASONS.items():
        for reason, names in reasons.items():
            if pass_.type in names.lower().split():
                pass_.section.refused("type", f"{name}: {reason}", HINTS[kind])
                return
    others = [
        n for reasons in REASONS.values() for names in reasons.values() for n in names.split()
    ]
    hint = did_you_mean(name, [*_names(), *others])
    pass_.section.refused("type", f"there is no pass {name!r}", hint)


def _names() -> list[str]:
    classes = dict(sections())
    extra = (
        "OrtPerfTuning",
        "OrtSessionParamsTuning",
        "OnnxIOFloat16ToFloat32",
        "OnnxIODataTypeConverter",
        "AddOliveMetadata",
        "MatMulNBitsToQDQ",
        "GraphSurgeries",
    )
    classes |= {name.lower(): name for name in extra}
    return [classes.get(name, name) for name in PASSES]
