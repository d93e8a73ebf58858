"""`show`: rows as they are trained, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cli.show import request_of, trained_on
from olivebuild.core.errors import RecipeError
from olivebuild.recipe.file import Recipe
from olivebuild.recipe.graph import Graph, build_graph
from tests.conftest import RECIPE, Place, rows, write_rows

SHORT = "    training: {lr: 1e-3, steps: 4, batch: 4, max_length: 15}\n"
SECOND = """\
  other:
    kind: adapter
    model: base
    data: tone.train
    training: {steps: 1, max_length: 24}
    sequences: {form: blocks, remainder: drop}
"""


@pytest.fixture(scope="module")
def shown_place(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A recipe with two adapters on one data set, of which a row has no answer and one is twice."""
    root = tmp_path_factory.mktemp("show")
    place = Place(root / "work", root / "cache")
    shutil.copytree(tiny_model, place.folder / "tiny")
    data = rows()
    data[4] = {"phrase": "I say nothing", "tone": ""}
    write_rows(place.folder / "data/tone.jsonl", [*data, data[0]])
    text = RECIPE.replace("    training: {lr: 1e-3, steps: 4, batch: 4}\n", SHORT)
    text = text.replace("    holdout: 0.3\n", "    holdout: 0.3\n    max_dropped: 1\n")
    place.recipe.write_text(text.replace("  merged:", f"{SECOND}  merged:"))
    return place


def shown(place: Place, *words: str) -> dict[str, Any]:
    done = place.run("show", *words, "--json")
    assert done.code == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def test_rows_are_shown_as_they_are_trained(shown_place: Place) -> None:
    answer = shown(shown_place, "tone", "--row", "1", "--row", "2")
    assert (answer["for"], answer["split"], answer["unit"]) == ("adapter", "train", "tokens")
    assert answer["trained"] == answer["rows"] == sum(answer["labels"].values())
    assert answer["lengths"]["max"] == answer["max_length"] == 15
    assert sum(bar["count"] for bar in answer["lengths"]["bars"]) == answer["trained"]
    (flaw,) = answer["flaws"]
    assert flaw["cut"]
    assert not answer["fails"]
    assert flaw["why"] == "longer than max_length 15: its beginning is cut"
    assert flaw["count"] == len(flaw["where"])
    assert flaw["where"][0].startswith("data/tone.jsonl:")
    first = answer["shown"][0]
    assert (first["row"], first["where"]) == (1, "data/tone.jsonl:1")
    text = "".join(token["text"] for token in first["tokens"])
    assert text.endswith("<|end|>\n<|assistant|>\njoy<|end|>")
    assert "".join(t["text"] for t in first["tokens"] if t["loss"]) == "joy<|end|>"
    assert first["learnt"] == sum(t["loss"] for t in first["tokens"])
    # The tokens that a training reports are the tokens that were shown.
    (drop,) = answer["drops"]
    assert (drop["count"], answer["duplicates"], answer["read"]) == (1, 1, 33)
    assert answer["dropped_rows"] == [{"where": "data/tone.jsonl:5", "why": drop["why"]}]


def test_the_training_has_the_tokens_that_were_shown(shown_place: Place) -> None:
    before = shown(shown_place, "--for", "adapter", "-n", "0")
    done = shown_place.build("adapter")
    assert done.code == 0, done.err
    figures = json.loads(shown_place.run("status", "--json").out)
    row = next(r for r in figures["targets"] if r["target"] == "adapter")
    assert f"{before['flaws'][0]['count']} of {before['trained']} rows cut" in row["dropped"][0]


def test_blocks_are_shown_for_the_adapter_that_cuts_them(shown_place: Place) -> None:
    answer = shown(shown_place, "tone", "--for", "other", "-n", "2")
    assert answer["sequences"] == "blocks"
    assert [item["sequence"] for item in answer["shown"]] == [1, 2]
    assert {item["length"] for item in answer["shown"]} == {24}
    assert answer["shown"][0]["where"] == "data/tone.jsonl:1 to data/tone.jsonl:2"
    assert answer["tokens"] == 24 * answer["trained"]
    # The first token of a sequence is never predicted.
    assert [t["loss"] for t in answer["shown"][0]["tokens"]] == [False] + [True] * 23


def test_text_has_brackets_where_there_are_no_colours(shown_place: Place) -> None:
    done = shown_place.run("show", "tone.test", "-n", "1", "--for", "base")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("tone.test as base would take it: ")
    assert "<|end|>]]" in lines[-1]
    assert "\x1b" not in done.out
    dropped = [line for line in lines if line.startswith("dropped")]
    assert "(data/tone.jsonl:5)" in dropped[0]
    again = shown_place.run("show", "tone", "--row", "99")
    assert (again.code, again.out) == (1, "")
    assert "there is no row 99" in again.err


def test_without_a_training_rows_are_shown_as_text(place: Place) -> None:
    write_rows(place.folder / "in.jsonl", [{"t": f"text {i} of them"} for i in range(9)])
    place.recipe.write_text("targets:\n  d: {kind: dataset, source: in.jsonl, text: '{t}'}\n")
    answer = shown(place, "-n", "1")
    assert (answer["unit"], answer["for"]) == ("characters", None)
    assert answer["shown"][0]["text"].startswith("text ")
    assert "--for MODEL counts tokens" in place.run("show", "d").out


# -- what is asked for


def graph_of(folder: Path, text: str = RECIPE) -> Graph:
    return build_graph(Recipe(folder / "olivebuild.yaml", text))


def test_the_adapter_that_trains_on_a_data_set_is_taken(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, RECIPE.replace("  merged:", f"{SECOND}  merged:"))
    assert trained_on(graph, "tone") == ["adapter", "other"]
    request = request_of(graph, None, None, None)
    assert (request.data, request.split, request.by) == ("tone", "train", "adapter")
    assert request.tokenizer == "base"
    request = request_of(graph, "tone.test", "other", None)
    assert (request.split, request.by, request.tokenizer) == ("test", "other", "base")
    assert request_of(graph, "tone", "merged", "test").tokenizer == "merged"


@pytest.mark.parametrize(
    ("target", "by", "fact"),
    [
        ("base", None, "base is of kind model, which has no rows"),
        ("tone.dev", None, "tone has no split 'dev'"),
        ("ton", None, "there is no target 'ton'"),
        ("tone", "onnx-int4", "onnx-int4 is of kind onnx, by which no rows are trained"),
        ("tone", "tone", "tone is of kind dataset, by which no rows are trained"),
    ],
)
def test_what_has_no_rows_or_tokens_is_refused(
    tmp_path: Path, target: str, by: str | None, fact: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        request_of(graph_of(tmp_path), target, by, None)
    assert caught.value.fact == fact
    assert caught.value.hint


def test_which_of_several_data_sets_must_be_said(tmp_path: Path) -> None:
    more = "  hard: {kind: dataset, source: h.jsonl, text: '{t}'}\n"
    with pytest.raises(RecipeError, match="which data set is not said") as caught:
        request_of(graph_of(tmp_path, RECIPE + more), None, None, None)
    assert caught.value.hint == "data sets of this recipe are tone, hard"
