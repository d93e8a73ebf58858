"""Merges, the model builder, conversions and roundings, and the passes that are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.api.step import step_of
from olivebuild.recipe.importers.olive.ledger import Fate
from tests.support.olive_workflows import Mapped, mapped

MODEL = {"type": "HfModel", "model_path": "acme/tiny"}
DATA = [
    {
        "name": "rows",
        "load_dataset_config": {
            "params": {"data_name": "json", "data_files": "rows.json", "split": "train"}
        },
        "pre_process_data_config": {"params": {"text_template": "{a}", "source_max_len": 64}},
    }
]
LORA = {"type": "LoRA", "config": {"train_data_config": "rows"}}
QLORA = {"type": "QLoRA", "config": {"train_data_config": "rows"}}
MERGE = {"type": "MergeAdapterWeights"}
INT4 = {"type": "ModelBuilder", "config": {"precision": "int4"}}


def flow(version: str, *passes: dict[str, Any], **options: Any) -> Mapped:
    named = {f"p{i}": entry for i, entry in enumerate(passes)}
    return mapped({"input_model": MODEL, "data_configs": DATA, "passes": named}, version, **options)


def last(version: str, *passes: dict[str, Any], **options: Any) -> dict[str, Any]:
    result = flow(version, *passes, **options)
    assert not result.refused
    target = result.targets[result.state.result]
    step = step_of(target["kind"])
    assert step is not None
    step.fields.model_validate({k: v for k, v in target.items() if k != "kind"})
    return {k: v for k, v in target.items() if k != "kind"}


@pytest.mark.parametrize(
    ("version", "train", "onto"),
    [
        ("0.6.2", LORA, None),
        ("0.6.2", QLORA, "dequantised"),
        ("0.7.0", QLORA, None),
    ],
)
def test_a_merge_is_that_of_its_age(version: str, train: dict[str, Any], onto: str | None) -> None:
    merged = last(version, train, MERGE)
    assert merged == {"model": "base", "adapter": "p0"} | ({"onto": onto} if onto else {})


def test_a_merge_without_an_adapter_is_refused() -> None:
    assert list(flow("0.7.0", MERGE).refused) == ["passes.p0.type"]


def test_the_document_s_chain_is_trained_merged_and_built() -> None:
    result = flow("0.6.2", LORA, MERGE, INT4)
    assert result.targets["p2"] == {
        "kind": "onnx",
        "model": "p1",
        "precision": "int4",
        "provider": "cpu",
    }
    assert result.state.result == "p2"


@pytest.mark.parametrize(("version", "count"), [("0.6.2", 1), ("0.7.0", 0)])
def test_an_adapter_that_is_not_merged_is_merged_into_what_is_built(
    version: str, count: int
) -> None:
    result = flow(version, LORA, INT4)
    assert result.targets["p1"]["adapter"] == "p0"
    built = [path for path in result.meant_else if path == "passes.p1.type"]
    assert len(built) == count


@pytest.mark.parametrize(
    ("version", "options", "expected"),
    [
        (
            "0.6.2",
            {"int4_block_size": 64, "int4_accuracy_level": 4},
            {"block_size": 64, "accuracy_level": 4},
        ),
        (
            "0.6.2",
            {"exclude_lm_head": False, "exclude_embeds": True},
            {"exclude_embeds": True, "exclude_lm_head": None},
        ),
        (
            "0.9.2",
            {"int4_algo_config": "k_quant_mixed", "int4_is_symmetric": False},
            {"algorithm": "k_quant_mixed", "symmetric": False},
        ),
        (
            "0.9.2",
            {"int4_nodes_to_exclude": ["/lm_head/MatMul"], "use_qdq": True},
            {"nodes_to_exclude": ["/lm_head/MatMul"], "qdq": True},
        ),
        (
            "0.8.0",
            {"int4_op_types_to_quantize": ["MatMul", "Gather"]},
            {"op_types": ["MatMul", "Gather"]},
        ),
        (
            "0.10.0",
            {
                "extra_options": {
                    "int4_op_types_to_quantize": "MatMul/Gather",
                    "shared_embeddings": "true",
                    "hf_token": "x",
                }
            },
            {"op_types": ["MatMul", "Gather"], "shared_embeddings": True},
        ),
        ("0.6.2", {"search": {"max_length": 9}}, {}),
    ],
)
def test_options_of_the_builder(
    version: str, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    target = last(version, {"type": "ModelBuilder", "config": {"precision": "int4", **options}})
    assert {k: target.get(k) for k in expected} == expected


@pytest.mark.parametrize(
    ("options", "provider", "path"),
    [
        ({"precision": "fp16"}, "cpu", "passes.p0.config.precision"),
        ({"precision": "int"}, "cpu", "passes.p0.config.precision"),
        ({"precision": "int8"}, "dml", "passes.p0.config.precision"),
        ({}, "cpu", "passes.p0.type"),
        ({"precision": "int4", "int4_block_size": 48}, "cpu", "passes.p0.config.int4_block_size"),
        (
            {"precision": "int4", "int4_algo_config": "magic"},
            "cpu",
            "passes.p0.config.int4_algo_config",
        ),
        ({"precision": "int4", "use_8bits_moe": True}, "cpu", "passes.p0.config.use_8bits_moe"),
        (
            {"precision": "int4", "extra_options": {"x": 1}},
            "cpu",
            "passes.p0.config.extra_options.x",
        ),
        ({"precision": "int4", "precison": "int4"}, "cpu", "passes.p0.config.precison"),
    ],
)
def test_faults_of_the_builder(options: dict[str, Any], provider: str, path: str) -> None:
    result = flow("0.9.3", {"type": "ModelBuilder", "config": options}, provider=provider)
    assert list(result.refused) == [path]


CONVERT = {"type": "OnnxConversion", "config": {"target_opset": 17, "save_as_external_data": True}}


@pytest.mark.parametrize(
    ("version", "passes", "provider", "expected"),
    [
        ("0.6.2", [CONVERT], "cpu", {"precision": "fp32"}),
        ("0.6.2", [{"type": "OptimumConversion"}], "dml", {"precision": "fp16"}),
        (
            "0.6.2",
            [CONVERT, {"type": "OrtTransformersOptimization", "config": {"float16": True}}],
            "cuda",
            {"precision": "fp16"},
        ),
        (
            "0.6.2",
            [CONVERT, {"type": "OnnxMatMul4Quantizer", "config": {"block_size": 16}}],
            "cpu",
            {"precision": "int4", "block_size": 16, "symmetric": True},
        ),
        (
            "0.13.0",
            [CONVERT, {"type": "OnnxKQuantQuantization", "bits": 8}],
            "cpu",
            {"precision": "int8", "algorithm": "k_quant", "block_size": 32},
        ),
        ("0.13.0", [INT4, {"type": "MatMulNBitsToQDQ"}], "cpu", {"qdq": True}),
        (
            "0.13.0",
            [INT4, {"type": "GraphSurgeries", "surgeries": [{"surgeon": "TieWordEmbeddings"}]}],
            "cpu",
            {"shared_embeddings": True},
        ),
        (
            "0.13.0",
            [{"type": "gptq", "bits": 4, "group_size": 64, "sym": True}, INT4],
            "cpu",
            {"algorithm": "k_quant", "block_size": 64, "symmetric": True},
        ),
        (
            "0.7.1",
            [{"type": "AutoAWQQuantizer", "zero_point": True}, INT4],
            "cpu",
            {"algorithm": "k_quant", "block_size": 128, "symmetric": False},
        ),
        (
            "0.13.0",
            [
                {"type": "SelectiveMixedPrecision", "algorithm": "k_quant_last"},
                {"type": "rtn", "group_size": 32},
                INT4,
            ],
            "cpu",
            {"algorithm": "k_quant_last", "block_size": 32},
        ),
        (
            "0.13.0",
            [
                {"type": "gptq", "group_size": 32},
                {"type": "rtn", "bits": 8, "lm_head": True},
                {"type": "OnnxConversion", "torch_dtype": "float16"},
                {"type": "ModelBuilder", "precision": "int4", "metadata_only": True},
            ],
            "cuda",
            {"precision": "int4", "algorithm": "k_quant_last", "block_size": 32},
        ),
        ("0.6.2", [INT4, {"type": "OrtPerfTuning", "config": {"io_bind": True}}], "cpu", {}),
    ],
)
def test_chains_become_the_nearest_model(
    version: str, passes: list[dict[str, Any]], provider: str, expected: dict[str, Any]
) -> None:
    target = last(version, *passes, provider=provider)
    assert {k: target.get(k) for k in expected} == expected
    assert target["provider"] == provider


def test_the_steps_of_a_chain_do_not_change_each_other() -> None:
    quantiser = {"type": "OnnxMatMul4Quantizer", "config": {}}
    targets = flow("0.6.2", CONVERT, quantiser).targets
    assert (targets["p0"]["precision"], targets["p1"]["precision"]) == ("fp32", "int4")


@pytest.mark.parametrize(
    ("passes", "path"),
    [
        ([{"type": "OnnxMatMul4Quantizer"}], "passes.p0.type"),
        ([CONVERT, CONVERT], "passes.p1.type"),
        ([{"type": "gptq"}], "passes.p0.type"),
        ([INT4, LORA], "passes.p1.type"),
        ([CONVERT, INT4], "passes.p1.type"),
        (
            [INT4, {"type": "GraphSurgeries", "surgeries": [{"surgeon": "Other"}]}],
            "passes.p1.surgeries[0].surgeon",
        ),
        (
            [CONVERT, {"type": "OrtTransformersOptimization", "float16": True}],
            "passes.p1.float16",
        ),
        ([{"type": "gptq", "bits": 3}, INT4], "passes.p0.bits"),
        ([{"type": "gptq", "group_size": 7}, INT4], "passes.p0.group_size"),
        (
            [{"type": "ModelBuilder", "precision": "int4", "metadata_only": True}],
            "passes.p0.metadata_only",
        ),
    ],
)
def test_chains_that_can_not_be(passes: list[dict[str, Any]], path: str) -> None:
    assert path in flow("0.9.3", *passes).refused


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("QNNConversion", "QNN"),
        ("OpenVINOConversion", "OpenVINO"),
        ("VitisAIQuantization", "Vitis"),
        ("QuarkQuantization", "Ryzen"),
        ("NVModelOptQuantization", "TensorRT"),
        ("TorchTRTConversion", "TensorRT"),
        ("SparseGPT", "cut out"),
        ("QuaRot", "rotated"),
        ("OnnxStaticQuantization", "activations"),
        ("SplitModel", "in parts"),
        ("ModelBuildr", "there is no pass"),
    ],
)
def test_other_passes_are_refused_by_name(kind: str, word: str) -> None:
    result = flow("0.9.3", {"type": kind, "anything": {"x": 1}})
    assert list(result.refused) == ["passes.p0.type"]
    assert word in result.refused["passes.p0.type"]
    assert kind in result.refused["passes.p0.type"]
    if kind == "ModelBuildr":
        assert "ModelBuilder" in result.entries["passes.p0.type"].hint


def test_adapters_as_inputs_are_refused_and_the_recipe_is_written_without() -> None:
    result = flow("0.7.0", LORA, CONVERT, {"type": "ExtractAdapters", "make_inputs": True})
    assert [(path, result.entries[path].fatal) for path in result.refused] == [
        ("passes.p2.type", False)
    ]
    assert result.targets[result.state.result]["adapter"] == "p0"


@pytest.mark.parametrize("kind", ["AddOliveMetadata", "OnnxIODataTypeConverter"])
def test_passes_that_change_nothing_of_the_results_are_without_effect(kind: str) -> None:
    result = flow("0.9.0", INT4, {"type": kind, "graph_name": "tone"})
    assert not result.refused
    assert result.state.result == "p0"
    assert "passes.p1.graph_name" in result.of(Fate.NO_EFFECT)


@pytest.mark.parametrize(
    "passes",
    [
        [{"type": "OnnxKQuantQuantization", "bits": 4, "block_size": 32}],
        [{"type": "OnnxFloatToFloat16", "keep_io_types": True}],
        [{"type": "OrtTransformersOptimization", "float16": True, "num_heads": 4}],
        [INT4, {"type": "OnnxConversion", "target_opset": 20}],
        [INT4, {"type": "ModelBuilder", "precision": "int8"}],
    ],
)
def test_of_a_pass_that_has_no_place_its_type_alone_is_refused(
    passes: list[dict[str, Any]],
) -> None:
    assert list(flow("0.9.3", *passes).refused) == [f"passes.p{len(passes) - 1}.type"]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"int4_block_size": "128"}, {"block_size": 128}),
        ({"int4_accuracy_level": "4"}, {"accuracy_level": 4}),
        ({"int4_accuracy_level": 0}, {}),
        ({"int4_accuracy_level": "0"}, {}),
    ],
)
def test_the_builders_own_words_may_be_numbers_in_quotes(
    extra: dict[str, Any], expected: dict[str, Any]
) -> None:
    builder = {"type": "ModelBuilder", "precision": "int4", "extra_options": extra}
    kept = {"model": "base", "precision": "int4", "provider": "cpu"}
    assert last("0.9.3", builder) == kept | expected


@pytest.mark.parametrize(("version", "is_refused"), [("0.6.2", False), ("0.7.0", True)])
def test_a_second_adapter_without_a_merge_is_what_its_age_makes_of_it(
    version: str, is_refused: bool
) -> None:
    result = flow(version, LORA, QLORA)
    assert ("passes.p1.type" in result.refused) is is_refused
    assert ("passes.p1.type" in result.meant_else) is not is_refused
