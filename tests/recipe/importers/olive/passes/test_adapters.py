"""Passes that train adapters: methods, modules, training arguments, defaults by release."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.api.step import step_of
from tests.support.olive_workflows import Mapped, mapped

MODEL = {"type": "HfModel", "model_path": "acme/tiny"}
LOAD = {"params": {"data_name": "json", "data_files": "rows.json", "split": "train"}}


def trained(
    kind: str, version: str, config: dict[str, Any] | None = None, **options: Any
) -> Mapped:
    options_of = {"train_data_config": "rows", **(config or {})}
    passes = {"tune": {"type": kind, "config": options_of}}
    model = options.pop("model", MODEL)
    length = "source_max_len" if version < "0.7" else "max_seq_len"
    process = {"params": {"text_template": "{a}{b}", length: 64}}
    data = [{"name": "rows", "load_dataset_config": LOAD, "pre_process_data_config": process}]
    return mapped(
        {"input_model": model, "data_configs": data, "passes": passes}, version, **options
    )


def tune(kind: str, version: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
    return trained(kind, version, config).targets["tune"]


def arguments(version: str, **values: Any) -> dict[str, Any]:
    training: dict[str, Any] = tune("LoRA", version, {"training_args": values})["training"]
    return training


@pytest.mark.parametrize(
    ("version", "training"),
    [
        (
            "0.6.2",
            {
                "max_length": 64,
                "lr": 0.0002,
                "scheduler": "constant",
                "steps": 10000,
                "batch": 16,
                "seed": 42,
                "data_seed": 42,
                "dtype": "bfloat16",
            },
        ),
        (
            "0.8.0",
            {
                "max_length": 64,
                "lr": 0.0002,
                "scheduler": "constant",
                "epochs": 3.0,
                "batch": 8,
                "seed": 42,
                "dtype": "bfloat16",
            },
        ),
    ],
)
def test_defaults_of_the_release_are_written_out(version: str, training: dict[str, Any]) -> None:
    target = tune("LoRA", version)
    assert target["training"] == training
    dropout = 0.0 if version == "0.6.2" else 0.05
    assert (target["r"], target["alpha"], target["dropout"]) == (64, 16, dropout)
    assert target["modules"] == "peft-default"


@pytest.mark.parametrize(
    ("version", "values", "expected", "lost"),
    [
        ("0.6.2", {"max_steps": 10, "num_train_epochs": 3}, {"steps": 10}, "num_train_epochs"),
        ("0.6.2", {"num_train_epochs": 3}, {"steps": 10000}, "num_train_epochs"),
        ("0.6.2", {"max_steps": -1, "num_train_epochs": 2}, {"epochs": 2.0}, ""),
        ("0.7.0", {"num_train_epochs": 2}, {"epochs": 2.0}, ""),
        ("0.7.0", {"max_steps": 5, "num_train_epochs": 2}, {"steps": 5}, "num_train_epochs"),
    ],
)
def test_steps_win_over_epochs(
    version: str, values: dict[str, Any], expected: dict[str, Any], lost: str
) -> None:
    result = trained("LoRA", version, {"training_args": values})
    training = result.targets["tune"]["training"]
    assert {k: training[k] for k in ("steps", "epochs") if k in training} == expected
    prefix = "passes.tune.config.training_args."
    assert set(result.meant_else) == ({prefix + lost} if lost else set())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"per_device_train_batch_size": 3, "gradient_accumulation_steps": 5}, {"batch": 15}),
        (
            {"lr_scheduler_type": "cosine", "warmup_ratio": 0.1},
            {"scheduler": "cosine", "warmup_ratio": 0.1},
        ),
        ({"lr_scheduler_type": "linear"}, {"scheduler": "linear", "warmup_ratio": 0.03}),
        (
            {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 7},
            {"scheduler": "constant", "warmup": 7},
        ),
        ({"warmup_ratio": 0.2}, {"scheduler": "constant", "warmup_ratio": None, "warmup": None}),
        (
            {"adam_beta2": 0.99, "max_grad_norm": 0.3, "weight_decay": 0.1},
            {"beta2": 0.99, "max_grad_norm": 0.3, "weight_decay": 0.1},
        ),
        ({"seed": 1, "data_seed": 2}, {"seed": 1, "data_seed": 2}),
        ({"extra_args": {"learning_rate": 0.5, "max_steps": 4}}, {"lr": 0.5, "steps": 4}),
    ],
)
def test_training_arguments_become_training(
    values: dict[str, Any], expected: dict[str, Any]
) -> None:
    training = arguments("0.8.0", **values)
    assert {k: training.get(k) for k in expected} == expected


@pytest.mark.parametrize(
    ("kind", "version", "config", "expected"),
    [
        ("lora", "0.7.1", {"lora_r": 4, "lora_alpha": 8}, {"r": 4, "alpha": 8.0}),
        ("LoRA", "0.8.0", {"r": 4, "alpha": 8}, {"r": 4, "alpha": 8.0}),
        ("LoRA", "0.8.0", {"lora_r": 4, "lora_alpha": 8}, {"r": 64, "alpha": 16}),
        ("DoRA", "0.8.0", {"r": 4}, {"dora": True, "method": None}),
        (
            "QLoRA",
            "0.6.2",
            {"quant_type": "fp4"},
            {"method": "qlora", "quantisation": {"type": "fp4", "double": False}, "modules": None},
        ),
        (
            "QLoRA",
            "0.3.3",
            {},
            {"method": "qlora", "quantisation": {"type": "nf4", "double": True}},
        ),
        (
            "LoftQ",
            "0.8.0",
            {"loftq_iter": 2},
            {
                "method": "loftq",
                "loftq_iter": 2,
                "quantisation": {"type": "nf4", "double": False},
            },
        ),
        (
            "LoHa",
            "0.9.0",
            {"rank_dropout": 0.1, "lora_dropout": 0.2, "target_modules": None},
            {"method": "loha", "rank_dropout": 0.1, "dropout": None, "modules": None},
        ),
        (
            "LoKr",
            "0.9.0",
            {"decompose_factor": 8, "exclude_modules": ["lm_head"], "rank_pattern": {"q": 2}},
            {
                "method": "lokr",
                "decompose_factor": 8,
                "exclude": ["lm_head"],
                "rank_pattern": {"q": 2},
            },
        ),
        (
            "LoRA",
            "0.6.2",
            {"target_modules": ["o_proj", "qkv_proj"]},
            {"modules": ["o_proj", "qkv_proj"]},
        ),
    ],
)
def test_methods_and_shapes(
    kind: str, version: str, config: dict[str, Any], expected: dict[str, Any]
) -> None:
    target = tune(kind, version, config)
    assert {k: target.get(k) for k in expected} == expected


def test_ranks_under_old_names_are_ignored_from_0_8_on() -> None:
    result = trained("LoRA", "0.8.0", {"lora_r": 4})
    assert "r is 64" in result.meant_else["passes.tune.config.lora_r"]


def test_the_modules_of_phi_3_are_olives_own() -> None:
    model = {"type": "HfModel", "model_path": "acme/Phi-3-mini-4k-instruct"}
    target = trained("LoRA", "0.7.0", model=model).targets["tune"]
    assert target["modules"] == ["o_proj", "qkv_proj"]


def test_modules_of_4_bit_methods_are_all_linear_whatever_the_file_says() -> None:
    result = trained("QLoRA", "0.8.0", {"target_modules": ["q_proj"]})
    assert "modules" not in result.targets["tune"]
    assert set(result.meant_else) == {"passes.tune.config.target_modules[0]"}


def test_double_quant_is_no_option_of_lora() -> None:
    result = trained("LoRA", "0.6.2", {"double_quant": True})
    assert "Olive ignores it" in result.meant_else["passes.tune.config.double_quant"]


@pytest.mark.parametrize(
    ("config", "dtype", "else_"),
    [
        ({"torch_dtype": "float32"}, "float32", set()),
        ({"torch_dtype": "float16"}, "float32", {"passes.tune.config.torch_dtype"}),
        ({"torch_dtype": "bfloat16", "compute_dtype": "float32"}, "float32", set()),
    ],
)
def test_number_formats(config: dict[str, Any], dtype: str, else_: set[str]) -> None:
    result = trained("QLoRA", "0.8.0", config)
    assert result.targets["tune"]["training"]["dtype"] == dtype
    assert set(result.meant_else) == else_


@pytest.mark.parametrize(
    ("version", "config", "sequences", "evaluation"),
    [
        ("0.6.2", {"eval_dataset_size": 0.3}, 0.3, None),
        (
            "0.6.2",
            {
                "eval_dataset_size": 1.5,
                "training_args": {"evaluation_strategy": "steps", "eval_steps": 20},
            },
            1,
            {"every": 20, "keep": "last"},
        ),
        (
            "0.6.2",
            {
                "eval_dataset_size": 8,
                "training_args": {
                    "evaluation_strategy": "steps",
                    "logging_steps": 5,
                    "load_best_model_at_end": True,
                },
            },
            8,
            {"every": 5, "keep": "best"},
        ),
        (
            "0.8.0",
            {"eval_data_config": "rows", "training_args": {"max_steps": 40, "eval_steps": 0.1}},
            None,
            {"data": "rows-2.test", "every": 4, "keep": "last"},
        ),
        (
            "0.9.0",
            {"eval_data_config": "rows", "training_args": {"eval_strategy": "no"}},
            None,
            None,
        ),
    ],
)
def test_what_is_held_out(
    version: str, config: dict[str, Any], sequences: object, evaluation: object
) -> None:
    result = trained("LoRA", version, config)
    assert not result.refused
    target = result.targets["tune"]
    assert target["sequences"].get("holdout") == sequences
    assert target.get("eval") == evaluation


def test_a_size_of_held_out_data_is_ignored_from_0_7_on() -> None:
    result = trained("LoRA", "0.8.0", {"eval_dataset_size": 0.3})
    assert "holdout" not in result.targets["tune"]["sequences"]
    assert set(result.meant_else) == {"passes.tune.config.eval_dataset_size"}


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"lora_rr": 4}, "lora_rr"),
        ({"r": "four"}, "r"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"torch_dtype": "int4"}, "torch_dtype"),
        ({"training_args": {"optim": "lion"}}, "training_args.optim"),
        ({"training_args": {"lr_scheduler_type": "polynomial"}}, "training_args.lr_scheduler_type"),
        ({"training_args": {"learning_rte": 1}}, "training_args.learning_rte"),
        (
            {"training_args": {"label_smoothing_factor": 0.1}},
            "training_args.label_smoothing_factor",
        ),
        ({"training_args": {"adam_beta1": 0.5}}, "training_args.adam_beta1"),
        ({"training_args": [1]}, "training_args"),
    ],
)
def test_faults_are_refused_where_they_stand(config: dict[str, Any], path: str) -> None:
    version = "0.8.0" if "bias" not in config else "0.6.2"
    result = trained("LoRA", version, config)
    assert f"passes.tune.config.{path}" in {name.partition("[")[0] for name in result.refused}


def test_a_search_makes_a_matrix_and_without_one_the_default_counts() -> None:
    value = {"olive_parameter_type": "SearchParameter", "type": "Categorical", "support": [4, 8]}
    searched = trained("LoRA", "0.8.0", {"r": value}, search=True)
    assert searched.targets["tune"]["matrix"] == {"r": [4, 8]}
    assert trained("LoRA", "0.8.0", {"r": value}).targets["tune"]["r"] == 64


def test_a_training_of_a_script_is_refused() -> None:
    config = {"user_script": "evil.py", "training_loop_func": "train"}
    passes = {"lora": {"type": "LoRA", "config": config}}
    result = mapped({"input_model": MODEL, "passes": passes})
    assert list(result.refused) == ["passes.lora.config.training_loop_func"]


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "QLoRA", "LoftQ", "LoHa", "LoKr"])
@pytest.mark.parametrize("version", ["0.6.2", "0.7.0", "0.9.0", "main"])
def test_what_is_written_is_a_recipe_of_ours(kind: str, version: str) -> None:
    targets = trained(kind, version).targets
    for name in ("rows", "base", "tune"):
        fields = {k: v for k, v in targets[name].items() if k != "kind"}
        step = step_of(targets[name]["kind"])
        assert step is not None
        assert step.check(step.fields.model_validate(fields)) is None


def test_better_trains_few_epochs_and_keeps_the_best() -> None:
    config = {
        "eval_dataset_size": 0.25,
        "training_args": {
            "num_train_epochs": 1000,
            "max_steps": 100,
            "evaluation_strategy": "steps",
            "eval_steps": 9,
        },
    }
    result = trained("LoRA", "0.6.2", config, better=True)
    target = result.targets["tune"]
    assert target["training"]["epochs"] == 3.0
    assert "steps" not in target["training"]
    assert "scheduler" not in target["training"]
    assert target["eval"] == {"data": "rows.test", "every": 9, "keep": "best"}
    assert result.targets["rows"]["holdout"] == 0.25
    assert result.workflow.draft.default == ["tune", "bench"]
    assert not result.refused
