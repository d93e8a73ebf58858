"""A model's own chat template: what it writes, and what it refuses."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("transformers")

from olivebuild.core.errors import InputError
from olivebuild.ml.data.chat_template import ChatTemplate
from olivebuild.ml.data.plain_tokenizer import PlainTokenizer
from olivebuild.ml.data.template_habits import Refused
from tests.support.chat_templates import CHATML, tokenizer_of

QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "yes"}]


def template_of(text: str | None) -> ChatTemplate:
    return ChatTemplate(PlainTokenizer(tokenizer_of(text)), set(), Counter())


def test_a_prompt_ends_where_an_answer_begins() -> None:
    template = template_of(CHATML)
    whole = template.render(QUESTION, None, prompt=False)
    prompt = template.render(QUESTION, None, prompt=True)
    assert prompt.startswith(whole)
    assert prompt[len(whole) :] == "<|im_start|>assistant\n"


def test_a_model_without_a_template_is_an_error() -> None:
    template = template_of(None)
    assert not template.exists
    assert template.turn_ends == set()
    with pytest.raises(InputError, match="no chat template"):
        template.render(QUESTION, None, prompt=True)


def test_what_a_template_raises_is_its_refusal() -> None:
    template = template_of("{{ raise_exception('no roles here') }}")
    with pytest.raises(Refused, match="no roles here"):
        template.render(QUESTION, None, prompt=True)
