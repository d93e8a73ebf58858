"""The recommended recipe beside the literal one."""

from __future__ import annotations

from typing import Any

from olivebuild.api.step import step_of
from olivebuild.recipe.importers.olive.better import sides
from tests.support.olive_workflows import mapped

WORKFLOW: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "acme/tiny"},
    "data_configs": [
        {
            "name": "rows",
            "load_dataset_config": {"data_name": "json", "data_files": "a.json", "split": "train"},
            "pre_process_data_config": {"text_template": "Q {q}\nA {a}", "max_seq_len": 32},
        }
    ],
    "passes": {
        "lora": {"type": "LoRA", "train_data_config": "rows"},
        "merge": {"type": "MergeAdapterWeights"},
        "builder": {"type": "ModelBuilder", "precision": "int4"},
    },
}


def test_a_benchmark_judges_what_training_and_rounding_change() -> None:
    result = mapped(WORKFLOW, "0.8.0", better=True)
    bench = result.targets["bench"]
    assert bench["models"] == ["base", "merge", "builder"]
    assert bench["gates"] == [
        "perplexity drop vs base <= 0",
        "exact_match drop vs merge <= 0.02",
    ]
    step = step_of("benchmark")
    assert step is not None
    fields = step.fields.model_validate({k: v for k, v in bench.items() if k != "kind"})
    assert step.check(fields) is None


def test_sides_are_the_fields_that_differ() -> None:
    literal = mapped(WORKFLOW, "0.8.0").workflow.draft.text()
    better = mapped(WORKFLOW, "0.8.0", better=True).workflow.draft.text()
    differences = {side.field: (side.literal, side.better) for side in sides(literal, better)}
    assert differences["rows.text"] == ("Q {q}\nA {a}", None)
    assert differences["rows.completion"] == (None, "{a}")
    assert differences["lora.sequences.form"] == ("blocks", None)
    assert differences["default"] == ("builder", ["builder", "bench"])
    assert "lora.r" not in differences
    assert list(sides(literal, literal)) == []
