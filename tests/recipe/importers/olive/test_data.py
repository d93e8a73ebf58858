"""Data configurations of all generations: files, texts, and token sequences."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.olive_workflows import Mapped, mapped

MODEL = {"type": "HfModel", "model_path": "acme/tiny"}
JSON = {"data_name": "json", "data_files": "rows.json", "split": "train"}
TEMPLATE = "Q: {q}\nTone:\n{tone}"


def trained(data: Any, version: str, **options: Any) -> Mapped:
    """A LoRA on the data configuration `rows`."""
    passes = {"lora": {"type": "LoRA", "config": {"train_data_config": "rows"}}}
    workflow = {"input_model": MODEL, "data_configs": data, "passes": passes}
    return mapped(workflow | options.pop("around", {}), version, **options)


def listed(load: dict[str, Any], process: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": "rows",
            "type": "HuggingfaceContainer",
            "load_dataset_config": load,
            "pre_process_data_config": process,
        }
    ]


FLAT = {**JSON, "component_kwargs": {"pre_process_data": {"text_template": TEMPLATE}}}


@pytest.mark.parametrize(
    ("data", "version"),
    [
        ({"rows": {"name": "other", "params_config": FLAT}}, "0.4.0"),
        ([{"name": "rows", "params_config": FLAT}], "0.6.1"),
        (
            [
                {
                    "name": "rows",
                    "components": {"load_dataset": {"params": JSON}},
                    "params_config": {
                        "component_kwargs": {"pre_process_data": {"text_template": TEMPLATE}}
                    },
                }
            ],
            "0.6.0",
        ),
        (listed({"params": JSON}, {"params": {"text_template": TEMPLATE}}), "0.6.2"),
        (listed(JSON, {"text_template": TEMPLATE}), "0.8.0"),
        (
            listed({"type": "huggingface_dataset", "params": JSON}, {"text_template": TEMPLATE}),
            "0.9.0",
        ),
    ],
)
def test_each_generations_words_give_the_same_rows(data: Any, version: str) -> None:
    result = trained(data, version)
    rows = next(t for t in result.targets.values() if t["kind"] == "dataset")
    assert rows == {
        "kind": "dataset",
        "source": "rows.json",
        "text": TEMPLATE,
        "dedupe": False,
        "near_duplicates": False,
        "holdout": 0,
    }
    assert not result.refused


@pytest.mark.parametrize(
    ("version", "process", "sequences", "length"),
    [
        (
            "0.4.0",
            {"source_max_len": 64},
            {"form": "lines", "special_tokens": "spaced", "mask_padding": True},
            64,
        ),
        (
            "0.6.2",
            {"source_max_len": 64, "corpus_strategy": "join", "use_attention_mask": False},
            {
                "form": "blocks",
                "special_tokens": "spaced",
                "joiner": "",
                "remainder": "drop-last",
            },
            64,
        ),
        (
            "0.8.0",
            {"add_special_tokens": False, "joiner": None, "max_samples": 9},
            {
                "form": "blocks",
                "special_tokens": "none",
                "joiner": "",
                "remainder": "drop-last",
                "limit": 9,
            },
            1024,
        ),
        (
            "main",
            {"max_seq_len": 32},
            {"form": "blocks", "special_tokens": "spaced", "joiner": "\n\n", "remainder": "drop"},
            32,
        ),
        (
            "0.7.0",
            {"strategy": "join-sliding-window", "stride": 8, "max_seq_len": 32, "joiner": " "},
            {
                "form": "windows",
                "special_tokens": "spaced",
                "joiner": " ",
                "remainder": "drop-last",
                "stride": 8,
            },
            32,
        ),
        (
            "0.7.0",
            {"strategy": "join-random", "max_samples": 5, "random_seed": 7, "random_retries": 2},
            {
                "form": "random-blocks",
                "special_tokens": "spaced",
                "joiner": "\n\n",
                "limit": 5,
                "seed": 7,
                "retries": 2,
            },
            1024,
        ),
        (
            "0.7.0",
            {"strategy": "line-by-line", "pad_to_max_len": False, "drop_short_sequences": True},
            {"form": "lines", "special_tokens": "spaced", "min_length": 1024},
            1024,
        ),
    ],
)
def test_sequences_are_what_the_release_makes(
    version: str, process: dict[str, Any], sequences: dict[str, Any], length: int
) -> None:
    data = listed({"params": JSON}, {"params": {"text_template": TEMPLATE, **process}})
    lora = trained(data, version).targets["lora"]
    assert lora["sequences"] == sequences
    assert lora["training"]["max_length"] == length


def test_old_words_are_ignored_from_0_7_on() -> None:
    process = {
        "dataset_type": "corpus",
        "corpus_strategy": "line-by-line",
        "source_max_len": 16,
        "text_template": TEMPLATE,
    }
    result = trained(listed(JSON, process), "0.7.0")
    assert result.targets["lora"]["sequences"]["form"] == "blocks"
    assert result.targets["lora"]["training"]["max_length"] == 1024
    base = "data_configs[0].pre_process_data_config."
    assert set(result.meant_else) == {
        base + key for key in ("dataset_type", "corpus_strategy", "source_max_len")
    }


def test_without_a_length_old_releases_fail_and_so_the_recipe_leaves_it_open() -> None:
    result = trained(listed({"params": JSON}, {"params": {"text_cols": "a"}}), "0.6.2")
    assert result.targets["lora"]["training"]["max_length"] == "<placeholder: source_max_len>"


@pytest.mark.parametrize(
    ("process", "fields"),
    [
        ({"text_cols": ["a", "b"]}, {"text": "{a} {b}"}),
        ({"text_cols": "a"}, {"text": "{a}"}),
        ({}, {"text": "{text}"}),
        ({"text_cols": ["x"], "text_template": "x {{{a}}}"}, {"text": "x {{{a}}}"}),
        ({"chat_template": True}, {"messages": "messages"}),
        ({"chat_template": True, "message_col": "talk"}, {"messages": "talk"}),
    ],
)
def test_the_text_of_a_row(process: dict[str, Any], fields: dict[str, str]) -> None:
    result = trained(listed(JSON, process), "0.8.0")
    rows = result.targets["rows"]
    assert {k: rows[k] for k in fields} == fields
    assert not result.refused


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({"split": "train[:70%]"}, {"source": "rows.json", "slice": ":70%"}),
        ({"data_files": ["a.json", "b.json"]}, {"source": ["a.json", "b.json"]}),
        ({"data_dir": "d", "data_files": "a.json"}, {"source": "d/a.json"}),
        (
            {"data_files": {"train": "a.json", "test": "b.json"}, "split": "test"},
            {"source": "b.json"},
        ),
        (
            {"data_name": "acme/set", "data_files": None, "subset": "small"},
            {"source": "hf:acme/set", "subset": "small", "split": "train"},
        ),
        (
            {"data_name": "acme/set", "data_files": None, "split": None},
            {"source": "hf:acme/set", "split": "validation"},
        ),
        (
            {"data_name": "acme/set", "data_files": None, "col_filters": {"lang": "Python"}},
            {"source": "hf:acme/set", "where": {"lang": "Python"}},
        ),
        (
            {
                "data_files": {
                    "type": "azureml_datastore",
                    "config": {"datastore_url": "azureml://subscriptions/s/x"},
                }
            },
            {"source": "azureml://subscriptions/s/x"},
        ),
        ({"data_files": "https://host/rows.json"}, {"source": "https://host/rows.json"}),
    ],
)
def test_what_is_loaded(load: dict[str, Any], expected: dict[str, Any]) -> None:
    result = trained(listed({**JSON, **load}, {}), "0.8.0")
    rows = result.targets["rows"]
    assert {k: rows.get(k) for k in expected} == expected
    assert not result.refused


def test_data_root_comes_before_relative_files_up_to_0_6_2() -> None:
    data = listed({"params": JSON}, {"params": {"text_cols": "a", "source_max_len": 8}})
    around = {"data_root": "store"}
    old = trained(data, "0.6.2", around=around).targets["rows"]["source"]
    assert old == "store/rows.json"
    assert trained(data, "0.7.0", around=around).targets["rows"]["source"] == "rows.json"


@pytest.mark.parametrize(
    ("load", "process", "path"),
    [
        ({"split": "train+test"}, {}, "load_dataset_config.split"),
        ({"split": "test"}, {}, "load_dataset_config.split"),
        ({"split": "train[:120%]"}, {}, "load_dataset_config.split"),
        ({"data_name": "text"}, {}, "load_dataset_config.data_name"),
        ({"data_flies": "a.json"}, {}, "load_dataset_config.data_flies"),
        ({"data_files": 3}, {}, "load_dataset_config.data_files"),
        ({}, {"text_template": "{a"}, "pre_process_data_config.text_template"),
        ({}, {"strategy": "jion"}, "pre_process_data_config.strategy"),
        ({}, {"max_seq_len": "long"}, "pre_process_data_config.max_seq_len"),
        ({}, {"max_seqlen": 3}, "pre_process_data_config.max_seqlen"),
        (
            {},
            {"strategy": "line-by-line", "drop_short_sequences": True},
            "pre_process_data_config.drop_short_sequences",
        ),
        ({}, {"chat_template": "{% for m in messages %}"}, "pre_process_data_config.chat_template"),
    ],
)
def test_faults_are_refused_where_they_stand(
    load: dict[str, Any], process: dict[str, Any], path: str
) -> None:
    result = trained(listed({**JSON, **load}, process), "0.8.0")
    assert list(result.refused) == [f"data_configs[0].{path}"]


def test_a_container_that_is_not_there_is_refused_with_a_hint() -> None:
    data = listed(JSON, {})
    data[0]["type"] = "HugginfaceContainer"
    entry = trained(data, "0.8.0").entries["data_configs[0].type"]
    assert "no data container" in entry.text
    assert "HuggingfaceContainer" in entry.hint


def test_two_data_sets_of_one_name_are_refused() -> None:
    result = trained([*listed(JSON, {}), *listed(JSON, {})], "0.8.0")
    assert list(result.refused) == ["data_configs[1].name"]


def test_functions_of_scripts_leave_the_rows_open_without_refusing_the_file() -> None:
    data = listed({"type": "my_rows", "params": JSON | {"lang": "x"}}, {"text_cols": "a"})
    data[0]["user_script"] = "evil.py"
    result = trained(data, "0.8.0")
    assert str(result.targets["rows"]["source"]).startswith("<placeholder: rows of my_rows, ")
    assert [e.fatal for e in result.entries.values() if e.hint] == [False]
    assert "data_configs[0].load_dataset_config.type" in result.refused


def test_a_function_that_makes_tokens_leaves_text_and_sequences_open() -> None:
    result = trained(listed(JSON, {"type": "my_tokens", "text_template": "{a}"}), "0.8.0")
    assert list(result.refused) == ["data_configs[0].pre_process_data_config.type"]
    assert "my_tokens" in str(result.targets["rows"]["text"])
    assert str(result.targets["lora"]["sequences"]["form"]).startswith("<placeholder: ")


@pytest.mark.parametrize(
    ("process", "fields", "sequences"),
    [
        (
            {"source_max_len": 8, "target_max_len": 4},
            {"prompt": "{input}", "completion": "{output}"},
            {
                "form": "pairs",
                "prompt_length": 8,
                "completion_length": 4,
                "special_tokens": "spaced",
                "mask_padding": True,
            },
        ),
        (
            {
                "pair_format": "custom",
                "input_template": "Q {q}",
                "output_col": "a",
                "source_max_len": 8,
                "target_max_len": 4,
                "add_special_tokens": False,
                "use_attention_mask": False,
            },
            {"prompt": "Q {q}", "completion": "{a}"},
            {"form": "pairs", "prompt_length": 8, "completion_length": 4, "special_tokens": "none"},
        ),
    ],
)
def test_pairs_are_prompt_and_completion(
    process: dict[str, Any], fields: dict[str, str], sequences: dict[str, Any]
) -> None:
    data = listed({"params": JSON}, {"params": {"dataset_type": "pair", **process}})
    result = trained(data, "0.6.2")
    rows = result.targets["rows"]
    assert {k: rows[k] for k in fields} == fields
    assert result.targets["lora"]["sequences"] == sequences
    assert "max_length" not in result.targets["lora"]["training"]
    assert not result.refused


def test_a_data_set_that_is_not_there_is_refused_with_a_hint() -> None:
    data = listed(JSON, {})
    data[0]["name"] = "rosw"
    result = trained(data, "0.8.0")
    entry = result.entries["passes.lora.config.train_data_config"]
    assert "no data configuration 'rows'" in entry.text
    assert "rosw" in entry.hint


def test_the_data_set_of_an_old_model_has_a_name_of_its_own() -> None:
    dataset = {"data_name": "acme/set", "split": "train", "text_cols": "a", "source_max_len": 8}
    model = {
        "type": "PyTorchModel",
        "config": {"hf_config": {"model_name": "acme/tiny", "dataset": dataset}},
    }
    passes = {
        "q": {"type": "QLoRA", "config": {"train_data_config": "__input_model_data_config__"}}
    }
    result = mapped({"input_model": model, "passes": passes}, "0.4.0")
    assert not result.refused
    rows = next(t for t in result.targets.values() if t["kind"] == "dataset")
    assert rows["source"] == "hf:acme/set"


def test_what_no_pass_reads_has_no_effect() -> None:
    data = [*listed(JSON, {}), {"name": "other", "anything": {"at": "all"}}]
    result = trained(data, "0.8.0")
    assert not result.refused
    assert result.entries["data_configs[1].anything.at"].text.startswith("nothing")


def test_better_rows_stand_apart_and_are_learnt_by_their_completions() -> None:
    result = trained(listed(JSON, {"text_template": TEMPLATE}), "0.8.0", better=True)
    assert result.targets["rows"] == {
        "kind": "dataset",
        "source": "rows.json",
        "prompt": "Q: {q}\nTone:\n",
        "completion": "{tone}",
    }
    assert "sequences" not in result.targets["lora"]
    assert result.targets["bench"]["data"] == "rows.test"
