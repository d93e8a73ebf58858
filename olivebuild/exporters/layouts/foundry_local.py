"""Foundry Local's layout: the folder of an ONNX model, with its name and form of a question.

Foundry Local takes each folder below its cache that has `genai_config.json` and
`inference_model.json`. Fields as in
https://learn.microsoft.com/azure/foundry-local/how-to/how-to-compile-hugging-face-models
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError
from olivebuild.core.fs.small_files import parse_json, read_json, read_text
from olivebuild.core.processes import python
from olivebuild.exporters.layouts.origin import Origin, Written, copy

FILE = "inference_model.json"
CONTENT = "{Content}"
"""What Foundry Local puts a question in the place of."""
RENDERER = "olivebuild.exporters.layouts.question_process"
SECONDS = 20.0
"""Time that a chat template has; one that takes longer does not end."""


def write(origin: Origin, out: Path) -> Written:
    """Raises InputError."""
    runs = copy(origin, out)
    if (out / FILE).exists():
        fact = f"{origin.lineage.target} has a file of its own named {FILE}"
        raise InputError(fact, hint="rename it in its step")
    template, tokenizer = _chat_template(out)
    notes: tuple[str, ...] = ()
    prompt = CONTENT
    if template:
        prompt = _question(template, tokenizer, str(out))
    else:
        notes = ("the model has no chat template: Foundry Local hands it questions as they are",)
    name = re.sub(r"[^\w.-]", "-", origin.name)
    data = {"Name": name, "PromptTemplate": {"assistant": CONTENT, "prompt": prompt}}
    (out / FILE).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return Written(runs=runs, notes=notes)


def _chat_template(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the chat template of a model, "" where it has none, and its tokenizer's settings."""
    settings: dict[str, Any] = {}
    try:
        if (folder / "tokenizer_config.json").is_file():
            read = read_json(folder / "tokenizer_config.json")
            settings = read if isinstance(read, dict) else {}
        if (folder / "chat_template.jinja").is_file():
            return read_text(folder / "chat_template.jinja"), settings
    except (OSError, ValueError) as e:
        fact = f"the tokenizer's files can't be read: {e}"
        raise InputError(fact, where=str(folder), hint="build the target again") from None
    template = settings.get("chat_template")
    return (template if isinstance(template, str) else ""), settings


def _question(template: str, tokenizer: dict[str, Any], where: str) -> str:
    """Return a question as the chat template writes it, by a process with a time limit."""
    tokens = {
        name: value.get("content", "") if isinstance(value, dict) else value
        for name, value in tokenizer.items()
        if name.endswith("_token") and isinstance(value, str | dict)
    }
    asked = json.dumps({"template": template, "tokens": tokens, "content": CONTENT})
    try:
        done = subprocess.run(
            python("-m", RENDERER), input=asked.encode(), capture_output=True, timeout=SECONDS
        )
        answer = parse_json(done.stdout)
        return str(answer["text"])
    except subprocess.TimeoutExpired:
        fact = f"the chat template did not end within {SECONDS:.0f} s"
    except (KeyError, TypeError, ValueError):
        told = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        fact = f"the chat template can't be rendered: {told[:200]}"
    raise InputError(fact, where=where, hint="mend the template of the base model's tokenizer")
