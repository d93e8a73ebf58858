"""An adapter in the recipe: its sequences, what is wrong with them, what enters its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.planner.project import open_graph
from olivebuild.steps.adapter import STEP, AdapterFields

RECIPE = """\
targets:
  base: {{kind: model, source: nowhere}}
  tone: {{kind: dataset, source: a.jsonl, {rows}}}
  adapter: {{kind: adapter, model: base, data: tone.train, {fields}}}
"""
TEXT, PAIR, CHAT = (
    'text: "{phrase}"',
    'prompt: "{phrase}", completion: "{tone}"',
    "messages: turns",
)


def parameters(**fields: Any) -> dict[str, Any]:
    asked = {"model": "base", "data": "tone"} | fields
    return dict(STEP.parameters(AdapterFields.model_validate(asked)))


def test_the_parameters_of_an_adapter_without_sequences_are_as_they_were() -> None:
    adapter = {
        "method": "lora", "r": 8, "alpha": 16.0, "dropout": 0.0, "rslora": False, "dora": False,
        "modules": "all-linear", "eval": None,
    }  # fmt: skip
    training = {
        "lr": 1e-4, "epochs": 3.0, "steps": None, "warmup": 0, "scheduler": "linear",
        "order": "shuffled", "batch": 8, "max_length": 1024, "loss": "completion",
        "weight_decay": 0.0, "beta2": 0.999, "max_grad_norm": 1.0, "seed": 0, "data_seed": 0,
        "speed": "auto",
    }  # fmt: skip
    expected = adapter | {"training": training}
    assert parameters() == expected
    for same in ("rows", {"form": "rows"}, {}):
        assert parameters(sequences=same) == expected
    ordered = parameters(
        training={"order": "append", "loss": "turns", "warmup": 3}, eval={"data": "tone.test"}
    )
    changes = {"warmup": 3, "scheduler": "stable", "decay": 0.1, "order": "append", "loss": "turns"}
    changes |= {"epochs": 1.0}
    del training["data_seed"]
    assert ordered == adapter | {
        "eval": {"every": 50, "patience": None, "keep": "best"},
        "training": training | changes,
    }


def test_a_form_alone_is_its_mapping() -> None:
    alone = parameters(sequences="blocks")
    assert alone == parameters(sequences={"form": "blocks", "remainder": "keep"})
    assert alone == parameters(sequences="blocks", training={"loss": "all"})
    assert alone["sequences"] == {"form": "blocks"}
    assert alone["training"]["loss"] == "all"
    other = parameters(sequences={"form": "blocks", "holdout": 0.3, "special_tokens": "spaced"})
    assert other["sequences"] == {"form": "blocks", "holdout": 0.3, "special_tokens": "spaced"}


@pytest.mark.parametrize(
    ("rows", "fields", "fact"),
    [
        (TEXT, "sequences: block", "adapter.sequences: input should be 'rows', 'lines'"),
        (TEXT, "sequences: {form: blocks, remaindr: drop}", "unknown key 'remaindr'"),
        (TEXT, "sequences: {form: windows}", "sequences of the form windows need `stride`"),
        (TEXT, "sequences: random-blocks", "sequences of the form random-blocks need `limit`"),
        (TEXT, "sequences: {joiner: x}", "`sequences.joiner` belongs to the form blocks or"),
        (TEXT, "sequences: {form: blocks, stride: 8}", "belongs to the form windows, not to"),
        (TEXT, "sequences: {holdout: 1.5}", "1.5 sequences can't be held out"),
        (
            TEXT,
            "sequences: {form: windows, stride: 9}, training: {max_length: 8}",
            "sequences.stride 9 is more than the 8 tokens of a sequence",
        ),
        (
            TEXT,
            "sequences: {form: lines, min_length: 9}, training: {max_length: 8}",
            "sequences.min_length 9 is more than the 8 tokens",
        ),
        (
            PAIR,
            "sequences: blocks, training: {loss: completion}",
            "sequences of the form blocks learn everything, and loss: completion does not",
        ),
        (
            TEXT,
            "sequences: {form: random-blocks, limit: 3}, training: {order: append}",
            "order: append keeps the order of the data, and sequences with form: random-blocks",
        ),
        (
            TEXT,
            "sequences: {form: blocks, holdout: 3}, training: {order: append}",
            "order: append keeps the order of the data, and sequences with holdout",
        ),
        (TEXT, "sequences: blocks, eval: {every: 3}", "`eval` needs rows to judge by"),
        (
            TEXT,
            "sequences: {form: blocks, holdout: 2}, eval: {data: tone.test}",
            "`eval.data` and `sequences.holdout` don't go together",
        ),
        (
            TEXT,
            "sequences: {form: pairs, prompt_length: 4, completion_length: 4}",
            "sequences of the form pairs need rows with a prompt, and tone has none",
        ),
        (
            PAIR,
            "sequences: {form: pairs, prompt_length: 4, completion_length: 4}, "
            "training: {max_length: 8}",
            "sequences of the form pairs are as long as `prompt_length` and",
        ),
        (
            PAIR,
            "sequences: {form: pairs, prompt_length: 4, completion_length: 4}, "
            "training: {loss: turns}",
            "sequences of the form pairs have no turns",
        ),
        (
            CHAT,
            "sequences: {form: blocks, special_tokens: spaced}",
            "the chat template writes the special tokens of tone's rows",
        ),
        (
            TEXT,
            "training: {warmup: 0, warmup_ratio: 0.1}",
            "training takes `warmup` or `warmup_ratio`, not both",
        ),
        (
            TEXT,
            "training: {warmup_ratio: 0.1, order: append}",
            "`warmup_ratio` depends on how many come",
        ),
    ],
)
def test_what_does_not_go_together_is_one_error_with_its_place(
    tmp_path: Path, rows: str, fields: str, fact: str
) -> None:
    (tmp_path / "olivebuild.yaml").write_text(RECIPE.format(rows=rows, fields=fields))
    with pytest.raises(RecipeError) as e:
        open_graph(tmp_path, None)
    assert fact in e.value.fact
    assert e.value.hint
    assert e.value.where is not None
    assert e.value.where.line == 4


def test_held_out_sequences_need_no_data_set_to_judge_by(tmp_path: Path) -> None:
    fields = "sequences: {form: blocks, holdout: 0.3}, eval: {every: 5}"
    (tmp_path / "olivebuild.yaml").write_text(RECIPE.format(rows=TEXT, fields=fields))
    graph = open_graph(tmp_path, None)
    assert [edge.role for edge, _, _ in graph.inputs["adapter"]] == ["model", "data"]
