"""Training arguments: each becomes a field, or is told why it does not."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.recipe.importers.olive.passes.arguments import Arguments
from olivebuild.recipe.importers.positions import Placeholder
from tests.recipe.importers.olive.reading import Reading, values


def written(
    arguments: Any, version: str = "0.9.0", *, better: bool = False
) -> tuple[dict[str, object], Reading]:
    """Return the fields of an adapter, and what became of its training arguments."""
    reading = Reading({"training_args": arguments}, version, better=better)
    target = reading.target("adapter", "tune")
    reader = Arguments(reading.workflow, reading.root, target)
    reader.write()
    reader.evaluation(reader.strategy(held_out=True))
    reader.rest()
    return values(target), reading


def fields(arguments: Any, version: str = "0.9.0", **options: Any) -> dict[str, object]:
    return written(arguments, version, **options)[0]


def said(reading: Reading, key: str) -> str:
    return reading.entries()[f"training_args.{key}"].text


@pytest.mark.parametrize("arguments", [None, {}])
def test_without_arguments_the_releases_defaults_are_written(arguments: Any) -> None:
    defaults = fields(arguments)
    assert defaults["training.epochs"] == 3
    assert defaults["training.batch"] == 8
    assert defaults["training.lr"] == 0.0002
    assert fields(arguments, "0.6.2")["training.steps"] == 10000


def test_extra_arguments_stand_beside_the_others() -> None:
    target, reading = written({"learning_rate": 0.1, "extra_args": {"seed": 7}})
    assert (target["training.lr"], target["training.seed"]) == (0.1, 7)
    assert not reading.refusals()
    assert reading.entries()["training_args.extra_args.seed"].field == "tune.training.seed"


def test_an_argument_that_stands_twice_is_refused() -> None:
    _, reading = written({"learning_rate": 0.1, "extra_args": {"learning_rate": 0.2}})
    assert reading.refusals() == {
        "training_args.extra_args.learning_rate": "learning_rate stands beside extra_args, too"
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_steps": 5}, {"training.steps": 5}),
        ({"max_steps": -1, "num_train_epochs": 2}, {"training.epochs": 2}),
        ({"max_steps": 0, "num_train_epochs": 0.5}, {"training.epochs": 0.5}),
        ({"max_steps": "<steps>"}, {"training.steps": Placeholder("steps")}),
    ],
)
def test_steps_or_epochs(arguments: dict[str, Any], expected: dict[str, object]) -> None:
    target = fields(arguments)
    keys = ("training.steps", "training.epochs")
    assert {key: target[key] for key in keys if key in target} == expected


def test_epochs_that_are_lost_are_told() -> None:
    _, reading = written({"max_steps": 5, "num_train_epochs": 3})
    assert said(reading, "num_train_epochs") == (
        "max_steps: 5 wins: that many steps, whatever the epochs"
    )
    _, reading = written({"num_train_epochs": 3}, "0.6.2")
    assert "hands on max_steps: 10000 by default" in said(reading, "num_train_epochs")


def test_better_trains_epochs() -> None:
    target, reading = written({"max_steps": 5, "num_train_epochs": 50}, better=True)
    assert "training.steps" not in target
    epochs = target["training.epochs"]
    assert isinstance(epochs, float)
    assert epochs < 50
    assert "max_steps wins over epochs in Olive" in said(reading, "max_steps")


@pytest.mark.parametrize(
    ("arguments", "batch"),
    [
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}, 6),
        (
            {"per_device_train_batch_size": "<size>", "gradient_accumulation_steps": 3},
            Placeholder("size x 3"),
        ),
    ],
)
def test_a_batch_is_a_product(arguments: dict[str, Any], batch: object) -> None:
    assert fields(arguments)["training.batch"] == batch


@pytest.mark.parametrize(
    ("arguments", "expected", "idle"),
    [
        ({"lr_scheduler_type": "constant", "warmup_steps": 3}, {}, "warmup_steps"),
        (
            {"lr_scheduler_type": "cosine", "warmup_steps": 3, "warmup_ratio": 0.1},
            {"training.warmup": 3},
            "warmup_ratio",
        ),
        (
            {"lr_scheduler_type": "LINEAR", "warmup_steps": 0, "warmup_ratio": 0.1},
            {"training.warmup_ratio": 0.1},
            "warmup_steps",
        ),
    ],
)
def test_of_two_warm_ups_one_counts(
    arguments: dict[str, Any], expected: dict[str, object], idle: str
) -> None:
    target, reading = written(arguments)
    assert {k: v for k, v in target.items() if "warmup" in k} == expected
    assert not reading.refusals()
    assert said(reading, idle)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"eval_strategy": "no"}, {}),
        ({"eval_strategy": "no", "eval_steps": 5}, {}),
        ({"eval_strategy": "steps", "eval_steps": 5}, {"eval.every": 5}),
        ({"eval_strategy": "steps", "logging_steps": 4}, {"eval.every": 4}),
        ({"eval_strategy": "epoch"}, {"eval.every": 50}),
        ({"eval_strategy": "steps", "eval_steps": 0.3, "max_steps": 10}, {"eval.every": 3}),
        ({"eval_strategy": "steps", "eval_steps": 0.01, "max_steps": 10}, {"eval.every": 1}),
        (
            {"eval_strategy": "steps", "eval_steps": 0.25},
            {"eval.every": Placeholder("0.25 of all steps")},
        ),
    ],
)
def test_how_often_held_out_rows_are_judged(
    arguments: dict[str, Any], expected: dict[str, object]
) -> None:
    target = fields(arguments)
    assert {k: v for k, v in target.items() if k == "eval.every"} == expected


def test_the_best_is_kept_where_there_is_one() -> None:
    judged = {"eval_strategy": "steps", "eval_steps": 5}
    assert fields(judged | {"load_best_model_at_end": True})["eval.keep"] == "best"
    assert fields(judged | {"load_best_model_at_end": False})["eval.keep"] == "last"
    target, reading = written({"eval_strategy": "no", "load_best_model_at_end": True})
    assert "eval.keep" not in target
    assert said(reading, "load_best_model_at_end") == "nothing is evaluated"


@pytest.mark.parametrize(
    ("arguments", "key", "fact"),
    [
        ({"lr_scheduler_type": "polynomial"}, "lr_scheduler_type", "'polynomial' is no schedule"),
        ({"optim": "adafactor"}, "optim", "adafactor: training uses AdamW here"),
        ({"learning_rate": "fast"}, "learning_rate", "learning_rate is text where a number"),
        ({"max_step": 3}, "max_step", "unknown field 'max_step'"),
        ({"seed": 1.5}, "seed", "seed is a number where a whole number must stand"),
    ],
)
def test_a_fault_is_refused_where_it_stands(arguments: dict[str, Any], key: str, fact: str) -> None:
    _, reading = written(arguments)
    ((path, text),) = reading.refusals().items()
    assert path == f"training_args.{key}"
    assert text.startswith(fact)


@pytest.mark.parametrize("name", ["adamw_torch", "paged_adamw_8bit", "ADAMW_BNB_8BIT", "<optim>"])
def test_optimisers_of_its_kind_are_adamw(name: str) -> None:
    _, reading = written({"optim": name})
    assert not reading.refusals()
    assert "AdamW" in said(reading, "optim")
