"""Generations: words tell the release, an option overrules, and mixtures are told."""

from __future__ import annotations

import json

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.recipe.importers.olive.generation import Generation, recognise, version_of
from olivebuild.recipe.importers.positions import parse

LAYOUT_07 = {"input_model": {"type": "HfModel", "model_path": "m"}, "output_dir": "out"}
HF = {"type": "PyTorchModel", "config": {"hf_config": {"model_name": "m"}}}


def of(value: object, wanted: str | None = None) -> Generation:
    return recognise(parse(json.dumps(value, indent=1), "f.json"), wanted)


@pytest.mark.parametrize(
    ("value", "version"),
    [
        ({"evaluators": {"e": {"metrics": [{"sub_type": "x"}]}}}, (0, 1, 0)),
        (
            {"input_model": {"config": {"hf_config": {"model_loading_args": {"a": 1}}}}},
            (0, 4, 0),
        ),
        (
            {
                "input_model": HF,
                "systems": {"s": {"config": {"accelerators": ["gpu"], "hf_token": True}}},
            },
            (0, 5, 0),
        ),
        ({"data_configs": {"a": {}}, "passes": {"e": {"type": "ExtractAdapters"}}}, (0, 5, 2)),
        ({"data_configs": [{"params_config": {"split": "train"}}]}, (0, 6, 1)),
        (
            {"input_model": HF, "data_configs": [{"load_dataset_config": {"params": {}}}]},
            (0, 6, 2),
        ),
        (
            {
                **LAYOUT_07,
                "data_configs": [{"pre_process_data_config": {"source_max_len": 8}}],
            },
            (0, 6, 9),
        ),
        ({**LAYOUT_07, "passes": {"q": {"type": "qlora", "lora_r": 8}}}, (0, 7, 1)),
        ({**LAYOUT_07, "passes": {"q": [{"type": "qlora", "r": 8}]}}, (0, 13, 0)),
        ({**LAYOUT_07, "builds": {}}, (0, 14, 0)),
        ({}, (0, 13, 0)),
    ],
)
def test_words_tell_the_release(value: object, version: tuple[int, int, int]) -> None:
    generation = of(value)
    assert generation.version == version
    assert generation.chosen == ("tell-tales" if value else "nothing")
    assert not generation.against


def test_a_mixture_is_read_as_the_release_that_takes_the_most() -> None:
    generation = of(
        {
            "input_model": {"config": {"hf_config": {"model_loading_args": {"a": 1}}}},
            "data_configs": [{"pre_process_data_config": {"params": {"source_max_len": 8}}}],
            "passes": {"m": {"type": "MergeAdapterWeights"}},
            "engine": {"execution_providers": ["CPUExecutionProvider"]},
        }
    )
    assert generation.name == "0.6.2"
    assert [tale.what for tale in generation.against] == [
        "model_loading_args",
        "execution_providers",
    ]


@pytest.mark.parametrize(
    ("length", "name"), [({"source_max_len": 8}, "0.6.2"), ({}, "main of July 2024")]
)
def test_texts_without_a_length_are_none_of_a_release_that_requires_it(
    length: dict[str, int], name: str
) -> None:
    process = {"params": {"text_template": "{a}"} | length}
    value = {"input_model": HF, "data_configs": [{"pre_process_data_config": process}]}
    assert of(value).name == name


def test_the_option_decides_otherwise() -> None:
    generation = of({**LAYOUT_07, "passes": {"q": {"type": "qlora", "lora_r": 8}}}, "0.9")
    assert generation.chosen == "--olive-version"
    assert generation.since(0, 8)
    assert [tale.what for tale in generation.against] == ["lora_r"]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.6.2", (0, 6, 2)),
        ("v0.5.1", (0, 5, 1)),
        ("0.7", (0, 7, 1)),
        ("0.7.1.1", (0, 7, 1)),
        ("0.6", (0, 6, 2)),
        ("1.0", (0, 14, 0)),
        ("main", (0, 14, 0)),
        ("0.0.1", (0, 1, 0)),
    ],
)
def test_releases_are_named(text: str, version: tuple[int, int, int]) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize("text", ["", "newest", "7", "0.x", "0.1.2.3.4", "0.1000000"])
def test_other_names_are_an_error(text: str) -> None:
    with pytest.raises(RecipeError, match="no release of Olive"):
        version_of(text)
