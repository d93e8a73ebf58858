"""Loaders: files, repositories, splits, slices and filters as fields of a data set."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.recipe.importers.olive.rows.files import Loader
from olivebuild.recipe.importers.olive.rows.params import Params
from olivebuild.recipe.importers.positions import Placeholder
from tests.recipe.importers.olive.reading import Reading, values


def loaded(
    load: dict[str, Any], version: str = "0.8.0", **more: Any
) -> tuple[dict[str, object], Reading]:
    """Return the fields of the data set `rows`, and what became of the file."""
    reading = Reading({"config": {"load_dataset_config": load}, **more}, version)
    target = reading.target()
    Loader(reading.workflow, Params(reading.section("config"), "load_dataset"), target).write()
    return values(target), reading


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({"data_files": "a.json"}, {"source": "a.json"}),
        ({"data_name": "json", "data_files": ["a.json"]}, {"source": "a.json"}),
        ({"data_files": ["a.json", "b.json"]}, {"source": ["a.json", "b.json"]}),
        ({"data_dir": "d", "data_files": "a.json"}, {"source": "d/a.json"}),
        ({"data_files": "s3://bucket/a.csv", "data_dir": "d"}, {"source": "s3://bucket/a.csv"}),
        ({"data_dir": "s3://bucket", "data_files": "a.csv"}, {"source": "s3://bucket/a.csv"}),
        ({"data_files": "hf://datasets/acme/rows"}, {"source": "hf:acme/rows"}),
        (
            {"data_files": {"type": "file", "config": {"path": "a.json"}}},
            {"source": "a.json"},
        ),
        ({"data_files": {"train": "a.json", "test": "b.json"}}, {"source": "a.json"}),
        ({"data_files": {"train": ["a.json", "b.json"]}}, {"source": ["a.json", "b.json"]}),
        (
            {"data_name": "acme/rows", "split": "train"},
            {"source": "hf:acme/rows", "split": "train"},
        ),
        (
            {"data_name": "acme/rows", "revision": "v1", "subset": "en", "split": "test[:10%]"},
            {"source": "hf:acme/rows@v1", "subset": "en", "split": "test", "slice": ":10%"},
        ),
        ({"data_files": "a.json", "split": "train[ 1_0 : ]"}, {"source": "a.json", "slice": "10:"}),
        ({"data_files": "a.json", "split": "all"}, {"source": "a.json"}),
        (
            {"data_name": "acme/rows", "split": "all", "col_filters": {"lang": "en", "n": 3}},
            {"source": "hf:acme/rows", "where": {"lang": "en", "n": 3}},
        ),
    ],
)
def test_what_is_loaded(load: dict[str, Any], expected: dict[str, object]) -> None:
    split = {} if "split" in load else {"split": "train"}
    fields, reading = loaded(load | split)
    assert fields == expected
    assert not reading.refusals()
    assert not reading.unclaimed()


def test_a_root_of_data_comes_first_up_to_0_6_2() -> None:
    load = {"data_dir": "d", "data_files": "a.json", "split": "train"}
    assert loaded(load, "0.6.2", data_root="store")[0]["source"] == "store/d/a.json"
    assert loaded(load, "0.7.0", data_root="store")[0]["source"] == "d/a.json"
    absolute = load | {"data_files": "/a.json"}
    assert loaded(absolute, "0.6.2", data_root="store")[0]["source"] == "/a.json"
    remote = {"data_files": "a.json", "split": "train"}
    fields, _ = loaded(remote, "0.6.2", data_root="abfss://c@acct.dfs.core.windows.net/r/")
    assert fields["source"] == "abfss://c@acct.dfs.core.windows.net/r/a.json"


def test_without_a_split_that_of_the_release_is_written_down() -> None:
    fields, reading = loaded({"data_name": "acme/rows"})
    assert fields == {"source": "hf:acme/rows", "split": "validation"}
    of_file, reading = loaded({"data_files": "a.json"})
    assert of_file == {"source": "a.json"}
    assert "fails" in reading.workflow.draft.targets["rows"].comments[0]


@pytest.mark.parametrize(
    ("load", "path", "fact"),
    [
        ({"split": "test"}, "split", "a file has only the split train, not test"),
        (
            {"split": "train+test"},
            "split",
            "the split 'train+test' is not one split or a slice of it",
        ),
        (
            {"split": "train[:1%][0]"},
            "split",
            "the split 'train[:1%][0]' is not one split or a slice of it",
        ),
        ({"data_files": {"test": "b"}}, "data_files.test", "data_files has no split 'train'"),
        ({"data_files": [1]}, "data_files[0]", "data_files is a list where"),
        ({"data_files": []}, "data_files", "data_files names no file"),
        ({"data_files": ["a.json", ""]}, "data_files[1]", "data_files names no file"),
        ({"data_name": " "}, "data_name", "data_name is empty"),
        ({"data_name": "webdataset"}, "data_name", "data of the format webdataset is not read"),
        (
            {"data_name": "csv", "data_files": None},
            "data_name",
            "the format csv without data_files",
        ),
        (
            {"data_name": "acme/rows"},
            "data_files",
            "single files of a repository are not chosen here",
        ),
        ({"col_filters": {"a": [1]}}, "col_filters.a[0]", "a filter compares with one value here"),
        ({"splt": "train"}, "splt", "unknown field 'splt'"),
    ],
)
def test_a_fault_is_refused_where_it_stands(load: dict[str, Any], path: str, fact: str) -> None:
    _, reading = loaded({"data_files": "a.json", "split": "train"} | load)
    refusals = reading.refusals()
    assert list(refusals) == [f"config.load_dataset_config.{path}"]
    assert refusals.popitem()[1].startswith(fact)
    assert next(reading.ledger.refusals()).hint


def test_filters_failed_before_0_7() -> None:
    load = {"data_files": "a.json", "split": "train", "col_filters": {"a": 1}}
    fields, reading = loaded(load, "0.6.2")
    assert "where" not in fields
    assert "which fails" in reading.entries()["config.load_dataset_config.col_filters.a"].text


def test_placeholders_stay_open() -> None:
    fields, reading = loaded({"data_name": "<data>", "data_files": "<file>", "split": "<split>"})
    assert fields == {"source": Placeholder("file"), "split": Placeholder("split")}
    assert not reading.refusals()
    assert loaded({})[0] == {"source": Placeholder("data_name")}


def test_a_function_is_named_and_not_run() -> None:
    load = {"type": "my_rows", "params": {"data_name": "acme/rows", "token": True, "mode": "x"}}
    fields, reading = loaded(load)
    assert fields == {"source": Placeholder("rows of my_rows, data_name acme/rows, mode x")}
    (refusal,) = reading.ledger.refusals()
    assert not refusal.fatal
    assert not reading.unclaimed()
