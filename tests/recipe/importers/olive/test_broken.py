"""Broken workflows: each is one error with the JSON path, the line and a hint, and no recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.recipe.importers.olive.examples import imported, nested

Change = Callable[[dict[str, Any]], object]


def tune(value: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = value["passes"]["tune"]["config"]
    return options


def rows(value: dict[str, Any], part: str) -> dict[str, Any]:
    options: dict[str, Any] = value["data_configs"][0][part]["params"]
    return options


BROKEN: dict[str, Change] = {
    "passes.tune.config.lora_rr": lambda v: tune(v).update(lora_rr=8),
    "passes.tune.config.lora_r": lambda v: tune(v).update(lora_r="eight"),
    "passes.tune.config.train_data_config": lambda v: tune(v).update(train_data_config="leters"),
    "passes.tune.type": lambda v: v["passes"]["tune"].update(type="LoRRA"),
    "passes.tune.config.eval_dataset_size": lambda v: tune(v).update(eval_dataset_size=-3),
    "passes.tune.config.torch_dtype": lambda v: tune(v).update(torch_dtype="int8"),
    "passes.tune.config.training_args[0]": lambda v: tune(v).update(training_args=[1]),
    "passes.tune.config.training_args.learning_rat": lambda v: tune(v)["training_args"].update(
        learning_rat=1
    ),
    "passes.tune.config.training_args.max_steps": lambda v: tune(v)["training_args"].update(
        max_steps=1.5
    ),
    "passes.tune.config.training_args.lr_scheduler_type": lambda v: tune(v)["training_args"].update(
        lr_scheduler_type="cosin"
    ),
    "data_configs[0].pre_process_data_config.params.corpus_strategy": lambda v: rows(
        v, "pre_process_data_config"
    ).update(corpus_strategy="joinn"),
    "data_configs[0].pre_process_data_config.params.text_template": lambda v: rows(
        v, "pre_process_data_config"
    ).update(text_template="{a"),
    "data_configs[0].load_dataset_config.params.split": lambda v: rows(
        v, "load_dataset_config"
    ).update(split="train[:x]"),
    "data_configs": lambda v: v.update(data_configs=3),
    "input_model.type": lambda v: v["input_model"].update(type="TFModel"),
    "input_model.typ": lambda v: v["input_model"].update(typ="x"),
    "passes.onnx.config.precision": lambda v: v["passes"]["onnx"]["config"].update(
        precision="int3"
    ),
    "passes.merge.type": lambda v: v["passes"].pop("tune"),
    "passes": lambda v: v.update(passes=[]),
    "engine.target": lambda v: v["engine"].update(target="cloudy"),
    "systems.cloud.config.accelerators[1]": lambda v: v["systems"]["cloud"]["config"][
        "accelerators"
    ].append(3),
    "systems.cloud.config.aml_compute": lambda v: v["systems"]["cloud"]["config"].update(
        aml_compute=3
    ),
    "systems.cloud.config.hf_token[0]": lambda v: v["systems"]["cloud"]["config"].update(
        hf_token=[True]
    ),
    "systems.cloud.config.instance_count": lambda v: v["systems"]["cloud"]["config"].update(
        instance_count=0
    ),
    "systems.cloud.type": lambda v: v["systems"]["cloud"].update(type="AzureMl2"),
}
"""The JSON path of the fault, and what breaks the workflow."""


@pytest.mark.parametrize("path", list(BROKEN))
def test_a_broken_workflow_is_one_error_with_its_place(tmp_path: Path, path: str) -> None:
    value = nested()
    BROKEN[path](value)
    error = imported(tmp_path, value).error()
    assert error.fact.startswith(f"{path}: ")
    assert (error.exit_code, bool(error.hint)) == (2, True)
    assert error.where is not None
    last = path.rpartition(".")[2].partition("[")[0]
    lines = (tmp_path / "olive-config.json").read_text().splitlines()
    near = lines[max(error.where.line - 12, 0) : error.where.line]
    assert any(f'"{last}"' in line for line in near)
