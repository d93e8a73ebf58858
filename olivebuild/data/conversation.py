"""Conversations as they are published -> messages with role and content.

OpenAI's form, ShareGPT's, parts of content, tool calls, weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from olivebuild.data.readers import loads

ROLES = ("system", "user", "assistant", "tool")
WANTED = f"a message needs a role ({', '.join(ROLES)}) and a text as content"
SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "system": "system",
    "developer": "system",
    "function": "tool",
    "ipython": "tool",
    "tool": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
CALLS = ("function_call", "tool_call")
THOUGHTS = {
    "reasoning_content": "reasoning_content",
    "reasoning": "reasoning_content",
    "thinking": "thinking",
}
"""What servers call the thoughts of a turn -> what chat templates do."""
READ = {
    "role",
    "from",
    "content",
    "value",
    "name",
    "tool_call_id",
    "tool_calls",
    "function_call",
    "weight",
    "train",
    *THOUGHTS,
}
"""What is read of a message."""
NOTHING_TO_LEARN = "every turn of the assistant has weight 0"


def conversation(value: object, name: str) -> list[dict[str, Any]] | str:
    """The messages of column `name`, as chat templates take them; or why they can't be read.

    A message keeps `tool_calls`, `tool_call_id`, `name` and its thoughts; one that must not be
    learnt has `weight` 0.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = loads(value)
        except (ValueError, RecursionError):
            return f"{name} is text that is no valid JSON"
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    value = _unzipped(value)
    if not isinstance(value, list) or not value:
        return f"{name} is not a list of messages"
    clean = []
    for message in value:
        turn = _message(message)
        if isinstance(turn, str):
            return turn
        clean.append(turn)
    return clean


def _unzipped(value: object) -> object:
    """Messages of which a table keeps the roles in one list and the contents in another."""
    if not isinstance(value, dict) or not {"role", "from"} & value.keys():
        return value
    lists = list(value.values())
    if not all(isinstance(v, list) and len(v) == len(lists[0]) for v in lists):
        return value
    return [
        {k: v for k, v in zip(value, items, strict=True) if v is not None}
        for items in zip(*lists, strict=True)
    ]


def conversation_of(columns: Mapping[str, Any], name: str) -> list[dict[str, Any]] | str:
    """Return the messages of a row, or why they can't be read.

    The text of its column `system` is the first unless they begin with one.
    """
    messages = conversation(columns.get(name), name)
    if (
        isinstance(messages, str)
        or not has_system(columns, name)
        or messages[0]["role"] == "system"
    ):
        return messages
    return [{"role": "system", "content": columns["system"]}, *messages]


def has_system(columns: Mapping[str, Any], name: str) -> bool:
    """Return whether a system message stands beside the others.

    As in ShareGPT's form and in requests to Anthropic's servers.
    """
    system = columns.get("system")
    return name != "system" and isinstance(system, str) and bool(system.strip())


def unread_in(value: object) -> set[str]:
    """Return what the messages of a row have that is not read, where it says something."""
    if isinstance(value, str):
        try:
            value = loads(value)
        except (ValueError, RecursionError):
            return set()
    if isinstance(value, dict):
        value = value.get("messages")
    messages = value if isinstance(value, list) else []
    return {
        str(key)
        for m in messages
        if isinstance(m, dict)
        for key, field_value in m.items()
        if key not in READ and field_value not in (None, "", [], {})
    }


def why_not_trained(messages: list[dict[str, Any]]) -> tuple[str, bool] | None:
    """Why a conversation teaches nothing, and whether that is a fault; None if it does."""
    if messages[-1]["role"] != "assistant":
        return "the last message is not the assistant's", True
    if all(m.get("weight") == 0 for m in messages if m["role"] == "assistant"):
        return NOTHING_TO_LEARN, False
    last = messages[-1]
    if not last["content"].strip() and not last.get("tool_calls"):
        return "the last message is empty", True
    return None


def tools_of(columns: Mapping[str, Any]) -> str | None:
    """Return the column `tools`, or `functions`, as JSON text.

    "" where there is none, None where it can't be read.
    """
    for name in ("tools", "functions"):
        value = columns.get(name)
        if isinstance(value, str) and value.strip():
            try:
                value = loads(value)
            except (ValueError, RecursionError):
                return None
        if value is None or value in ("", []) or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
            return None
        # Without what says that it is a function; servers and templates take it with that.
        wrapped = [
            {"type": "function", "function": tool}
            if "name" in tool and "function" not in tool
            else tool
            for tool in value
        ]
        return json.dumps(wrapped, ensure_ascii=False)
    return ""


def _message(message: object) -> dict[str, Any] | str:
    if not isinstance(message, dict):
        return WANTED
    if message.get("role") is None and "from" in message:
        turned = _of_sharegpt(message)
        if isinstance(turned, str):
            return turned
        message = turned
    name = message.get("role")
    role = SHAREGPT.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None or str(name) in CALLS:
        return _why_no_role(name)
    if "content" not in message and isinstance(message.get("value"), str):
        message = message | {"content": message["value"]}
    calls = _calls(message)
    if isinstance(calls, str):
        return calls
    content = _content(message.get("content"), bool(calls))
    if content is None:
        return _why_no_content(message.get("content"))
    turn: dict[str, Any] = {"role": role, "content": content}
    for name, kept in (THOUGHTS | {"name": "name", "tool_call_id": "tool_call_id"}).items():
        if message.get(name) is not None and kept not in turn:
            turn[kept] = message[name]
    if calls:
        turn["tool_calls"] = calls
    weight = _weight(message)
    if isinstance(weight, str):
        return weight
    return turn if weight else turn | {"weight": 0}


def _why_no_role(name: object) -> str:
    """Return why the `role` of a message is none that a chat template takes."""
    if isinstance(name, str):
        return f"the role of a message is {name[:40]!r}, none of {', '.join(ROLES)}"
    return WANTED if name is None else "the role of a message is not text"


def _of_sharegpt(message: Mapping[str, Any]) -> dict[str, Any] | str:
    speaker = str(message["from"]).strip().lower()
    if speaker not in SHAREGPT:
        return f"a message is from none of {', '.join(SHAREGPT)}"
    turn = {k: v for k, v in message.items() if k not in ("from", "value")} | {
        "role": SHAREGPT[speaker],
        "content": message.get("value"),
    }
    if speaker not in CALLS:
        return turn
    try:
        calls = loads(turn["content"]) if isinstance(turn["content"], str) else turn["content"]
    except (ValueError, RecursionError):
        return "a call of a function is no valid JSON"
    return turn | {"content": None, "tool_calls": calls if isinstance(calls, list) else [calls]}


def _calls(message: Mapping[str, Any]) -> list[dict[str, Any]] | str:
    """The calls of tools; [] where there are none; or why they can't be read."""
    calls = message.get("tool_calls")
    if isinstance(calls, str) and calls.strip():
        try:
            calls = loads(calls)
        except (ValueError, RecursionError):
            return "tool_calls is text that is no valid JSON"
    if not calls and isinstance(message.get("function_call"), dict):
        calls = [message["function_call"]]
    if not calls:
        return []
    if not isinstance(calls, list):
        return "tool_calls is not a list"
    valid = []
    for call in calls:
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            call = {"type": "function", "function": call}
        if (
            not isinstance(call, dict)
            or not isinstance(call.get("function"), dict)
            or not isinstance(call["function"].get("name"), str)
        ):
            return "a call of a tool needs a function with a name"
        valid.append(call)
    return valid


def _content(content: object, calls: bool) -> str | None:
    """Text, of which parts are joined; None where there is none.

    A message that calls a tool need not say anything.
    """
    if isinstance(content, str):
        return content
    if content is None or content == []:
        return "" if calls else None
    if not isinstance(content, list):
        return None
    parts = [
        part
        if isinstance(part, str)
        else part.get("text")
        if isinstance(part, dict) and _is_text(part)
        else None
        for part in content
    ]
    return "".join(str(p) for p in parts) if all(isinstance(p, str) for p in parts) else None


def _is_text(part: Mapping[str, Any]) -> bool:
    return (part.get("type") or "text") in ("text", "input_text", "output_text")


def _why_no_content(content: object) -> str:
    other_parts = (
        [p for p in content if isinstance(p, dict) and not _is_text(p)]
        if isinstance(content, list)
        else []
    )
    return (
        f"a message has a part of type {str(other_parts[0]['type'])[:40]}, which is no text"
        if other_parts
        else WANTED
    )


def _weight(message: Mapping[str, Any]) -> int | str:
    """1 or 0; or what is wrong with it."""
    weight, train = message.get("weight"), message.get("train")
    if train is not None and not isinstance(train, bool):
        return "`train` of a message is neither true nor false"
    if weight is None:
        return 0 if train is False else 1
    if isinstance(weight, bool | int | float) and weight in (0, 1):
        return 0 if train is False else int(weight)
    return "the weight of a message is neither 0 nor 1"
