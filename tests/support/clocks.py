"""Chat templates that read the clock, and recipes with models that have them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from olivebuild.formats import template_clock
from olivebuild.planner.plan import Plan
from tests.support.sites import Site

LLAMA = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " }}
{{- date_string + "\\n\\n<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


GRANITE = (
    "{%- set system = \"Today's Date: \" + strftime_now('%B %d, %Y') + '.' %}{{ system }}{{ "
    "messages[0].content }}"
)


SMOL = (
    "{{- '<|im_start|>system\\n' -}}{%- set today = strftime_now(\"%d %B %Y\") -%}{{ 'Today "
    "Date: ' ~ today }}{{ messages[0]['content'] }}"
)


GPT_OSS = (
    '{%- macro build() -%}{{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n" }}{%- '
    "endmacro -%}{{- build() }}{{ messages[0].content }}"
)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' "
    "}}{% endfor %}"
)


FIXED = '{%- set date_string = "26 Jul 2024" %}{{ date_string }}{{ messages[0].content }}'


MESSAGES = [{"role": "user", "content": "Hello"}]


RECIPE = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: rows.jsonl, user: "{q}", assistant: "{a}"}
  plain: {kind: dataset, source: rows.jsonl, prompt: "{q}", completion: "{a}"}
  adapter: {kind: adapter, model: base, data: tone.train}
  written: {kind: adapter, model: base, data: plain.train}
  merged: {kind: merged, model: base, adapter: adapter}
  int4: {kind: onnx, model: merged, precision: int4}
  bench: {kind: benchmark, models: [base, adapter, merged, int4], data: tone}
"""


def rendered(template: str) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    render: Any = render_jinja_template
    texts, _ = render(
        [MESSAGES], chat_template=template, add_generation_prompt=True, bos_token="<s>"
    )
    return str(texts[0])


def dated_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A recipe with a model whose template reads the clock, on 28 November 2026."""
    monkeypatch.setattr(template_clock, "today", lambda: "2026-11-28")
    site = Site(folder, RECIPE)
    site.write("rows.jsonl", '{"q": "1", "a": "2"}\n')
    site.write("base/config.json", '{"model_type": "llama"}')
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (site.folder / "base/model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + b"x"
    )
    site.write("base/chat_template.jinja", LLAMA)
    for data in ("tone", "plain"):
        site.made(data, train="rows", test="rows")
    return site


def dates(plan: Plan) -> dict[str, str]:
    """target or node -> its date."""
    return {
        name: p.value
        for name, state in plan.states.items()
        for p in state.parts
        if p.label == "template_date"
    }


def build(site: Site) -> tuple[Plan, list[str]]:
    """What a build would plan, and what it says when it pins a date."""
    planner, said = site.planner(), list[str]()
    planner.dating.pinned = lambda node, text: said.append(f"{node.target}: {text}")
    try:
        return planner.plan(planner.graph.all_goals), said
    finally:
        planner.traces.close()
