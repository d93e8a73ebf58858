"""Chat templates as Ollama has them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from olivebuild.ml.gguf.turns import Message, Render, turns_of
from tests.support.gguf_models import CHATML

DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + CHATML
)
LLAMA3 = (
    "<s>{% for m in messages %}<|h|>{{ m.role }}<|/h|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
GEMMA = (
    "<s>{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
NUMBERED = "{% for m in messages %}{{ loop.index }} {{ m.content }}{% endfor %}>"


def renderer(template: str) -> Render:
    def refuse(text: str) -> None:
        raise ValueError(text)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    compiled = environment.from_string(template)

    def render(messages: Sequence[Message], answers: bool) -> str:
        return compiled.render(messages=messages, add_generation_prompt=answers)

    return render


def test_plain_turns() -> None:
    turns = turns_of(renderer(CHATML))
    assert turns is not None
    assert turns.around["user"] == ("<|im_start|>user\n", "<|im_end|>\n")
    assert turns.answer == "<|im_start|>assistant\n"
    go = turns.to_go("")
    assert go is not None
    assert go.startswith('{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .')
    assert go.endswith("{{ end }}{{ end }}<|im_start|>assistant\n")


def test_a_system_message_of_the_template_s_own() -> None:
    turns = turns_of(renderer(DEFAULT))
    assert turns is not None
    assert turns.opening == "<|im_start|>system\nBe kind.<|im_end|>\n"
    go = turns.to_go("")
    assert go is not None
    assert go.startswith("{{ if .System }}{{ else }}<|im_start|>system\nBe kind.<|im_end|>\n{{ end")


def test_the_beginning_that_llama_cpp_adds_is_left_out() -> None:
    turns = turns_of(renderer(LLAMA3), "<s>")
    assert turns is not None
    assert "<s>" in str(turns.to_go(""))
    assert "<s>" not in str(turns.to_go("<s>"))


def test_no_system_messages() -> None:
    turns = turns_of(renderer(GEMMA))
    assert turns is not None
    assert sorted(turns.around) == ["assistant", "user"]
    assert turns.answer == "<turn>model\n"


@pytest.mark.parametrize("template", [NUMBERED, "{{ messages[0].content }}", "{{ x.y.z }}", ""])
def test_what_is_more_than_turns_is_none(template: str) -> None:
    assert turns_of(renderer(template)) is None


@pytest.mark.parametrize("mark", ['"""', "{' + '{", "}' + '}"])
def test_texts_that_a_modelfile_can_t_hold(mark: str) -> None:
    turns = turns_of(renderer(CHATML.replace("<|im_start|>assistant", f"{mark}assistant")))
    assert turns is not None
    assert turns.to_go("") is None
