"""Conversations of several schools as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from olivebuild.data.conversation import conversation, conversation_of
from tests.support.rendering import render
from tests.support.rows import run

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


Q, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (
            [
                {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                {"role": "assistant", "content": ["A"]},
            ],
            [Q, A],
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"text": "Q", "type": "input_text"}, {"type": "text", "text": "!"}],
                }
            ],
            [Q | {"content": "Q!"}],
        ),
        (json.dumps([Q, A]), [Q, A]),
        ({"messages": [Q, A]}, [Q, A]),
        ([{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], [Q, A]),
        (
            [
                {"from": "system", "value": "S"},
                {"from": "User", "value": "Q"},
                {"from": "model", "value": "A"},
            ],
            [{"role": "system", "content": "S"}, Q, A],
        ),
        (
            [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
            [{"role": "assistant", "content": "", "tool_calls": [CALL]}],
        ),
        (
            [
                {
                    "from": "function_call",
                    "value": '{"name": "weather", "arguments": {"city": "Oslo"}}',
                },
                {"from": "observation", "value": "cold"},
            ],
            [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {
                            "type": "function",
                            "function": {"name": "weather", "arguments": {"city": "Oslo"}},
                        }
                    ],
                },
                {"role": "tool", "content": "cold"},
            ],
        ),
        (
            [
                {"role": "assistant", "content": None, "function_call": CALL["function"]},
                {"role": "function", "name": "weather", "content": "cold"},
            ],
            [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": CALL["function"]}],
                },
                {"role": "tool", "content": "cold", "name": "weather"},
            ],
        ),
        (
            [{"role": "tool", "content": "cold", "tool_call_id": "c1", "tool_calls": None}],
            [{"role": "tool", "content": "cold", "tool_call_id": "c1"}],
        ),
        ([A | {"reasoning_content": "hm"}], [A | {"reasoning_content": "hm"}]),
        (
            [A | {"reasoning": "hm"}, A | {"thinking": "hm"}],
            [A | {"reasoning_content": "hm"}, A | {"thinking": "hm"}],
        ),
        (
            [
                {"role": "developer", "content": "S"},
                {"role": "Human", "value": "Q"},
                {"role": "ipython", "content": "3"},
                {"role": "bot", "value": "A"},
            ],
            [{"role": "system", "content": "S"}, Q, {"role": "tool", "content": "3"}, A],
        ),
        (
            {"from": ["human", "gpt"], "value": ["Q", "A"], "weight": [None, 0.0]},
            [Q, A | {"weight": 0}],
        ),
        (
            [
                A | {"weight": 0},
                A | {"train": False},
                A | {"weight": 1},
                A | {"weight": 0.0, "train": True},
            ],
            [A | {"weight": 0}, A | {"weight": 0}, A, A | {"weight": 0}],
        ),
    ],
)
def test_conversations_of_several_schools_are_one(given: object, messages: object) -> None:
    assert conversation(given, "chat") == messages


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "a message has a part of type image_url, which is no text",
        ),
        ([{"from": "narrator", "value": "Q"}], "a message is from none of human, user"),
        (
            [{"role": "narrator", "content": "Q"}],
            "the role of a message is 'narrator', none of system, user, assistant, tool",
        ),
        ({"role": ["user"], "content": ["Q", "A"]}, "chat is not a list of messages"),
        ([{"role": "assistant", "content": None}], "a message needs a role"),
        (
            [{"role": "assistant", "tool_calls": [{"id": 1}]}],
            "a call of a tool needs a function with a name",
        ),
        ([A | {"weight": 0.5}], "the weight of a message is neither 0 nor 1"),
        ([A | {"train": "no"}], "`train` of a message is neither true nor false"),
        ("[{'role': 'user'}]", "chat is text that is no valid JSON"),
    ],
)
def test_a_conversation_that_is_not_understood_says_why(given: object, why: str) -> None:
    found = conversation(given, "chat")
    assert isinstance(found, str)
    assert found.startswith(why)


def test_tools_stand_beside_the_messages() -> None:
    data: list[dict[str, Any]] = [
        {"m": [Q, A], "tools": [TOOL]},
        {"m": [Q, A | {"content": "B"}], "functions": [TOOL["function"]]},
        {"m": [Q, A | {"content": "C"}], "tools": "[]"},
        {"m": [Q, A | {"content": "D"}], "tools": [TOOL["function"]]},
    ]
    rows, _ = render(data, messages="m")
    assert [json.loads(r.values.get("tools", "null")) for r in rows] == [
        [TOOL],
        [TOOL],
        None,
        [TOOL],
    ]
    rows, report = render([{"m": [Q, A], "tools": "{"}], messages="m")
    assert (rows, report["drops"][0]["why"]) == ([], "the tools are not a list of objects")


def test_a_system_message_beside_the_others_is_the_first_and_what_is_not_read_is_told(
    tmp_path: Path,
) -> None:
    system = {"role": "system", "content": "S"}
    rows: list[dict[str, Any]] = [
        {"m": [Q, A | {"content": f"{n}"}], "system": "be brief"} for n in range(9)
    ]
    rows[0]["m"] = [system, *rows[0]["m"]]
    rows[1]["m"][1] |= {"refusal": "no", "annotations": []}
    _, notes = run(tmp_path, rows, messages="m", holdout=0, near_duplicates=False)
    assert (
        "the column `system` of 9 rows is their first message, where they do not begin with one"
        in notes
    )
    assert "messages have `refusal` (in 1 rows), which is not read" in notes
    first = [
        json.loads(row["messages"])[0]
        for row in pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    ]
    assert first == [system, *([system | {"content": "be brief"}] * 8)]
    # As it is asked.
    assert conversation_of({"m": [Q], "system": "be brief"}, "m") == [
        system | {"content": "be brief"},
        Q,
    ]
    assert (
        conversation_of({"system": [Q]}, "system")
        == conversation_of({"m": [Q], "system": " "}, "m")
        == [Q]
    )


def test_a_conversation_without_a_turn_to_learn_is_dropped_without_a_fault() -> None:
    _, report = render([{"m": [Q, A | {"weight": 0}]}, {"m": [Q, A]}], messages="m")
    assert [(d["count"], d["fault"]) for d in report["drops"]] == [(1, False)]
