"""Renders a question by a model's chat template, which may be a stranger's.

`python -m olivebuild.exporters.layouts.question_process` reads template, tokens and content as JSON
and writes the text. Jinja's sandbox is that of transformers; whoever starts this limits its time.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, NoReturn


def render(template: str, tokens: dict[str, str], content: str) -> str:
    """Return one turn of a user's, and the beginning of the answer."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(text: str) -> NoReturn:
        raise TemplateError(text)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now(UTC).strftime(form),
    }
    text: str = environment.from_string(template).render(
        messages=[{"role": "user", "content": content}],
        tools=None,
        documents=None,
        add_generation_prompt=True,
        **tokens,
    )
    return text


if __name__ == "__main__":
    asked = json.loads(sys.stdin.buffer.read())
    text = render(asked["template"], asked["tokens"], asked["content"])
    sys.stdout.buffer.write(json.dumps({"text": text}).encode())
