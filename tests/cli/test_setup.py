"""`init`: what it prints, asks, refuses and writes, for files as people have them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from olivebuild.recipe import document
from olivebuild.recipe.schema import recipe_schema
from tests.conftest import Done, Place
from tests.support import own_data
from tests.support.bases import make_base
from tests.support.hub import COMMIT, serving
from tests.support.terminal import Terminal


@pytest.fixture
def own(place: Place) -> Place:
    """A folder with a model of a few small files."""
    make_base(place.folder / "model")
    return place


def init(place: Place, data: str, *options: str, model: str = "model") -> Done:
    return place.run("init", "--model", model, "--data", data, *options)


def recipe(place: Place) -> dict[str, Any]:
    value = document.parse(place.recipe.read_text("utf-8"), "r").value
    assert isinstance(value, dict)
    return value


def rows_of(place: Place) -> dict[str, Any]:
    return dict(recipe(place)["targets"]["rows"])


@pytest.mark.parametrize("shape", [*own_data.SHAPES, *own_data.OTHERS])
def test_a_recipe_is_planned_as_it_was_written(own: Place, shape: str) -> None:
    make, options = own_data.SHAPES.get(shape) or (own_data.OTHERS[shape], [])
    done = init(own, make(own.folder), *options)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == (
        "wrote olivebuild.yaml, olivebuild.recipe.schema.json, .gitignore; next: olivebuild plan"
    )
    jsonschema.validate(recipe(own), recipe_schema())
    assert recipe(own)["default"] == ["onnx-int4", "bench"]
    assert recipe(own)["targets"]["bench"]["strict"] is True
    assert recipe(own)["targets"]["bench"]["gates"]
    verdicts = own.verdicts()
    assert (verdicts["rows"], verdicts["bench"]) == ("stale", "waiting")


def test_it_prints_what_it_took_and_what_not(own: Place) -> None:
    done = init(own, own_data.tickets_csv(own.folder))
    assert done.out.splitlines()[:6] == [
        "tickets.csv: 144 rows",
        "  Nr            -       numbers or names the rows",
        "  Datum         -       dates",
        "  Beschreibung  input   texts of 69 characters on average, at most 80",
        "  Kategorie     answer  3 values, most often Störung (33 %)",
        "  Notiz         -       one value alone, erledigt, siehe oben; empty in 89 % of the rows",
    ]


def test_what_is_not_clear_is_one_error_with_the_options_that_decide(own: Place) -> None:
    done = init(own, own_data.latin_csv(own.folder))
    assert done.code == 1
    assert done.err.splitlines() == [
        "export.csv: error: the answer may be Kategorie or Priorität",
        "  hint: choose: --answer Kategorie or --answer Priorität",
    ]
    assert not own.recipe.exists()
    assert not (own.folder / ".gitignore").exists()


def test_on_a_terminal_it_asks(own: Place) -> None:
    data = own_data.latin_csv(own.folder)
    terminal = Terminal(own, 80, 40, "init", "--model", "model", "--data", data)
    terminal.read("number or name")
    assert "Which column is the answer?" in terminal.lines()
    terminal.type("7\r")
    terminal.read("one of 1 to 2")
    terminal.type("2\r")
    terminal.read()
    assert terminal.code() == 0
    assert rows_of(own)["assistant"] == "{Priorität}"
    assert all(len(line) <= 80 for line in terminal.lines())


def test_given_splits_are_used(own: Place) -> None:
    done = init(own, own_data.parquet_folder(own.folder))
    assert "note: the split validation is not used" in done.out
    assert "108 rows to train, 36 to test" in done.out
    assert rows_of(own)["split"] == "train"
    assert rows_of(own)["test"] == ["reviews/data/test-00000-of-00001.parquet"]
    assert rows_of(own)["assistant"] == "{label_text}"


def test_several_inputs_are_one(own: Place) -> None:
    data = own_data.tickets_csv(own.folder)
    done = init(own, data, "--input", "Notiz", "--input", "Beschreibung", "--answer", "Kategorie")
    assert done.code == 0, done.err
    assert "{Notiz?{}\n\n}{Beschreibung}" in rows_of(own)["user"]


def test_few_rows_decide_no_gate_and_the_recipe_says_so(own: Place) -> None:
    rows = [{"input": f"word {'abc'[n]}", "answer": n} for n in range(3)]
    (own.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = init(own, "rows.jsonl")
    assert "2 rows to train, 1 to test: too few for a gate" in done.out
    assert "gates" not in recipe(own)["targets"]["bench"]
    assert "decide no gate" in own.recipe.read_text()


def test_what_rows_hold_steers_no_terminal(own: Place) -> None:
    names = ("te\x1b[31mxt", "label")
    labels = ("b", "\x1b]0;x\x07")
    rows = [dict(zip(names, (f"a {n} b", labels[n % 2]), strict=True)) for n in range(60)]
    (own.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = init(own, "rows.jsonl")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + own.recipe.read_text()
    assert rows_of(own)["assistant"] == "{label}"


@pytest.mark.parametrize(
    ("data", "options", "error"),
    [
        ("none.csv", [], "none.csv: error: there is no such file or folder"),
        ("empty.csv", [], "empty.csv: error: there are no rows"),
        ("broken.csv", [], "broken.csv:3: error: 1 values, the header has 2 columns"),
        ("hf:a/b/c", [], "--data: error: 'hf:a/b/c' is not of the form"),
        ("gguf:a.gguf", [], "--data: error: gguf:a.gguf names a model, not rows"),
        ("https://huggingface.co/datasets/own/rows", [], "--data: error: https://huggingface.co"),
        ("good.csv", ["--answer", "lable"], "error: --answer lable: the data has no such column"),
        ("good.csv", ["--subset", "x"], "good.csv: error: --subset x: it is not a folder"),
    ],
)
def test_rows_that_can_not_be_used(own: Place, data: str, options: list[str], error: str) -> None:
    (own.folder / "empty.csv").write_text("text,label\n")
    (own.folder / "broken.csv").write_text("text,label\na,b\nc\n")
    (own.folder / "good.csv").write_text("text,label\na b,1\nc d,2\ne f,1\n")
    done = init(own, data, *options)
    assert done.code != 0
    assert done.err.startswith(error), done.err
    assert not own.recipe.exists()


def test_a_model_without_its_scheme_is_told(own: Place) -> None:
    data = own_data.tickets_csv(own.folder)
    done = init(own, data, model="microsoft/Phi-3-mini-4k-instruct")
    assert done.code == 1
    assert done.err.splitlines() == [
        "--model: error: microsoft/Phi-3-mini-4k-instruct does not exist",
        "  hint: a model of the Hugging Face hub is written hf:microsoft/Phi-3-mini-4k-instruct",
    ]


def test_conversations_need_a_chat_template(own: Place) -> None:
    (own.folder / "model/chat_template.jinja").unlink()
    done = init(own, own_data.chat_jsonl(own.folder))
    assert "model has no chat template" in done.err
    done = init(own, own_data.tickets_csv(own.folder))
    assert done.code == 0, done.err
    assert rows_of(own)["completion"] == " {Kategorie}"


def test_a_recipe_that_is_there_stays(own: Place) -> None:
    data = own_data.tickets_csv(own.folder)
    own.recipe.write_text("mine\n")
    assert init(own, data).code == 2
    assert own.recipe.read_text() == "mine\n"
    assert init(own, data, "--force").code == 0


def test_offline_a_hub_model_is_taken_by_its_name(own: Place) -> None:
    done = init(own, own_data.tickets_csv(own.folder), model="hf:some/model-instruct")
    assert done.code == 0, done.err
    assert "was not looked at (HF_HUB_OFFLINE is set)" in done.out
    assert own.verdicts()["base"] == "stale"


@pytest.fixture
def hub(own: Place, tmp_path: Path) -> Iterator[list[str]]:
    """A hub with own/tiny, a model, and a data set of that name in the same folder."""
    folder = tmp_path / "repository"
    make_base(folder)
    own_data.parquet_folder(folder)
    with serving(folder) as (address, asked):
        own.environment |= {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
        }
        yield asked


def test_models_and_rows_of_the_hub_are_looked_at_and_pinned(own: Place, hub: list[str]) -> None:
    done = init(own, "hf:own/tiny", model="hf:own/tiny")
    assert done.code == 0, done.err
    lock = json.loads((own.folder / "olivebuild.lock").read_text())
    assert lock["sources"] == {"hf:own/tiny": COMMIT}
    targets = recipe(own)["targets"]
    assert targets["rows"]["split"] == "train"
    assert (targets["rows-test"]["split"], targets["rows-test"]["holdout"]) == ("test", 1)
    assert targets["bench"]["data"] == "rows-test"
    assert any("/resolve/" in path for path in hub)
    assert own.verdicts()["rows-test"] == "stale"


def test_a_hub_model_that_is_not_there_is_an_error(own: Place, hub: list[str]) -> None:
    done = init(own, own_data.tickets_csv(own.folder), model="hf:own/none")
    assert done.code == 1
    assert done.err.splitlines()[-2:] == [
        "--model: error: hf:own/none is not there, or is private and you may not read it",
        "  hint: is the name right? `hf auth login` signs you in, or the variable HF_TOKEN",
    ]


def test_the_schema_is_printed(place: Place) -> None:
    assert json.loads(place.run("schema").out) == recipe_schema()
