"""Values that no target takes are refused at the leaf that they come from."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.recipe.importers.olive.verify import check_values
from olivebuild.recipe.importers.positions import shown
from tests.support.olive_workflows import mapped

DATA = [
    {
        "name": "rows",
        "load_dataset_config": {"data_name": "json", "data_files": "a.json", "split": "train"},
    }
]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"r": -1}, "r"),
        ({"lora_dropout": 1.5}, "lora_dropout"),
        ({"training_args": {"learning_rate": 0}}, "training_args.learning_rate"),
        ({"training_args": {"num_train_epochs": -2.0}}, "training_args.num_train_epochs"),
    ],
)
def test_a_value_that_no_target_takes_is_refused(options: dict[str, Any], path: str) -> None:
    lora = {"type": "LoRA", "train_data_config": "rows", **options}
    model = {"type": "HfModel", "model_path": "acme/tiny"}
    result = mapped({"input_model": model, "data_configs": DATA, "passes": {"lora": lora}}, "0.9.0")
    ledger = result.workflow.ledger
    check_values(result.workflow)
    assert [shown(e.path) for e in ledger.refusals()] == [f"passes.lora.{path}"]


def test_the_item_of_a_list_that_no_target_takes_is_refused_itself() -> None:
    builder = {
        "type": "ModelBuilder",
        "precision": "int4",
        "int4_op_types_to_quantize": ["MatMul", "Conv"],
    }
    model = {"type": "HfModel", "model_path": "acme/tiny"}
    result = mapped({"input_model": model, "passes": {"onnx": builder}}, "0.9.3")
    check_values(result.workflow)
    refused = [shown(e.path) for e in result.workflow.ledger.refusals()]
    assert refused == ["passes.onnx.int4_op_types_to_quantize[1]"]


def test_a_value_of_a_field_that_may_be_a_word_or_a_mapping_is_refused_itself() -> None:
    data = [DATA[0] | {"pre_process_data_config": {"text_cols": "a", "max_samples": 0}}]
    lora = {"type": "LoRA", "train_data_config": "rows"}
    model = {"type": "HfModel", "model_path": "acme/tiny"}
    workflow = {"input_model": model, "data_configs": data, "passes": {"lora": lora}}
    result = mapped(workflow, "0.9.0")
    check_values(result.workflow)
    refused = [shown(e.path) for e in result.workflow.ledger.refusals()]
    assert refused == ["data_configs[0].pre_process_data_config.max_samples"]
