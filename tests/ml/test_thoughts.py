"""Models that think before they answer: what their templates ask with, write and leave out, in the
style of those that are published.
"""

from __future__ import annotations

import json
import re

import pytest

from olivebuild.core.errors import InputError
from tests.support.chat_templates import QWEN3, STYLES, TWO, counted, encoder_of, row_of

R1 = (
    "{% set ns = namespace(system='') %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = m['content'] "
    "%}{% endif %}{% endfor %}"
    "{{ bos_token + ns.system }}{% for m in messages %}{% if m['role'] == 'user' %}{{ "
    "'<|user|>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' and m['content'] is not none %}{% set content = m['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|assistant|>' + content + '</s>' }}{% endif %}{% endfor %}{% if "
    "add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
QWQ = (
    "{% for m in messages %}{% if m.role == 'assistant' and not m.tool_calls %}{% set content "
    "= m.content.split('</think>')[-1].lstrip('\n') %}"
    "{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% else %}{{ "
    "'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
THINKING = QWEN3.replace(
    "loop.last or thought", "loop.last or (not loop.last and thought)"
).replace(
    "{% if enable_thinking is defined and enable_thinking is false %}{{ "
    "'<think>\n\n</think>\n\n' }}{% endif %}",
    "{{ '<think>\n' }}",
)
"""As Qwen3's that always think: a last answer has its thought, be it empty."""


@pytest.mark.parametrize(("template", "habit"), [(R1, "bos"), (R1, "plain"), (QWQ, "plain")])
@pytest.mark.parametrize("answer", ["yes", "<think>\nIt is day.\n</think>\n\nyes"])
def test_a_model_that_is_asked_with_a_thought_is_taught_by_what_the_error_says(
    template: str, habit: str, answer: str
) -> None:
    encoder = encoder_of(template, habit)
    pair = {"user": "Is the sky blue?", "assistant": answer, "label": "yes"}
    for format_, row in (
        ("user", pair),
        ("messages", row_of(("u", "Is the sky blue?"), ("a", answer))),
    ):
        with pytest.raises(
            InputError, match="does not begin with what it writes as the prompt"
        ) as caught:
            encoder.encode(format_, row)
        (left_out,) = encoder.tokens(format_, [row])
        hint = str(caught.value.hint)
        assert left_out.flaw
        assert (left_out.labels, left_out.flaw.hint) == (0, hint)
    prompt, completion = (
        json.loads(text) for text in re.findall(r'(?:prompt|completion): ("(?:[^"\\]|\\.)*")', hint)
    )
    rendered = {
        "prompt": prompt.format(QUESTION="Is the sky blue?"),
        "completion": completion.format(ANSWER="yes"),
    }
    encoder.read_ends(
        "prompt", [rendered["completion"], rendered["completion"].replace("yes", "no")]
    )
    example = encoder.encode("prompt", rendered)
    # What is learnt begins where the model's own template asks, and ends where it ends a turn.
    asked = [{"role": "user", "content": "Is the sky blue?"}]
    assert example.prompt == encoder.tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_dict=False
    )
    assert (
        encoder.tokenizer.decode(example.completion)
        == "\n</think>\n\nyes" + STYLES["inst" if template == R1 else "chatml"][1]
    )
    assert encoder.trained_ends("prompt", "completion") == encoder.habits.ends


def test_a_model_whose_conversations_have_thoughts_is_taught_by_them() -> None:
    encoder = encoder_of(THINKING)
    for answer, learnt in (
        ("yes", "\n</think>\n\nyes"),
        ("<think>\nIt is day.\n</think>\n\nyes", "It is day.\n</think>\n\nyes"),
    ):
        (made,) = encoder.tokens("messages", [row_of(*TWO[:3], ("a", answer))])
        assert counted(encoder, made) == [learnt + "<|im_end|>"]
        example = encoder.encode("messages", row_of(*TWO[:3], ("a", answer)))
        assert encoder.tokenizer.decode(example.prompt).endswith("<|im_start|>assistant\n<think>\n")
    assert encoder.counts["thought"] == 0


def test_a_thought_that_the_template_leaves_out_is_told() -> None:
    encoder = encoder_of(R1.replace("<|assistant|><think>\n", "<|assistant|>"))
    (made,) = encoder.tokens(
        "messages", [row_of(("u", "sky?"), ("a", "<think>\nIt is day.\n</think>yes"))]
    )
    assert (counted(encoder, made), encoder.counts["thought"]) == (["yes</s>"], 1)
    encoder.tokens(
        "messages",
        [
            row_of(("u", "sky?"), ("a", "yes")),
            row_of(("u", "sky?"), ("a", "<think>\n\n</think>yes")),
        ],
    )
    assert encoder.counts["thought"] == 1
