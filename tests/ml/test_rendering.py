"""Conversations as tokens: those of the model's own chat template, whatever its style and its
tokenizer's habits.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from tests.support.chat_templates import (
    CHATML,
    HABITS,
    INST,
    QWEN3,
    STYLES,
    TWO,
    counted,
    encoder_of,
    row_of,
    tokenizer_of,
)


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("style", STYLES)
def test_what_is_trained_is_what_the_template_writes(style: str, habit: str) -> None:
    template, end, answer = STYLES[style]
    encoder = encoder_of(template, habit)
    tokenizer = encoder.tokenizer
    pair = {"user": "Is the sky blue?", "assistant": "yes", "label": "yes"}
    chat = row_of(*TWO)
    for format_, row in (("user", pair), ("messages", chat)):
        messages = encoder.messages(format_, row)
        whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        prompt = encoder.ask(format_, row)
        asked = tokenizer.apply_chat_template(
            messages[:-1], tokenize=True, return_dict=False, add_generation_prompt=True
        )
        assert prompt[: len(asked)] == asked
        for loss in ("completion", "turns", "all"):
            (made,) = encoder.tokens(format_, [row], loss)
            assert made.ids.tolist() == whole
            if loss == "all":
                assert made.counted.all()
                continue
            runs = counted(encoder, made)
            # An earlier answer is one that the history has: without an empty thought.
            earlier = answer.replace("yes", "no").removeprefix("<think>\n\n</think>\n\n")
            expected = [*([earlier] if loss == "turns" and format_ == "messages" else []), answer]
            assert [tokenizer(r, add_special_tokens=False)["input_ids"] for r in runs] == [
                tokenizer(text, add_special_tokens=False)["input_ids"] for text in expected
            ]
        example = encoder.encode(format_, row)
        assert example.prompt == prompt
        assert whole[: len(prompt) + len(example.completion)] == example.prompt + example.completion
        assert encoder.answer_text(example.completion, encoder.stops) == "yes"
        assert encoder.trained_ends(format_, "completion") == {tokenizer.convert_tokens_to_ids(end)}
    assert not encoder.counts["merged"]


def test_an_answer_ends_at_the_token_that_the_template_writes_wherever_that_stands() -> None:
    """As gpt-oss has it: the last answer ends otherwise than those before, and every answer has a
    channel.
    """
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + ('<|return|>' if "
        "loop.last else '<|end|>') }}"
        "{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% "
        "endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
    )
    encoder = encoder_of(template, extra=("<|start|>", "<|channel|>", "<|message|>", "<|return|>"))
    (made,) = encoder.tokens("messages", [row_of(*TWO)], "turns")
    assert counted(encoder, made) == [
        "<|channel|>final<|message|>no<|end|>",
        "<|channel|>final<|message|>yes<|return|>",
    ]
    names = encoder.tokenizer.convert_tokens_to_ids
    assert encoder.trained_ends("messages", "completion") == {names("<|return|>")}
    example = encoder.encode("messages", row_of(*TWO))
    assert encoder.answer_text(example.completion, encoder.stops) == "yes"


def test_a_template_that_ends_no_turn_gets_the_tokenizers_end() -> None:
    encoder = encoder_of(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    (made,) = encoder.tokens("messages", [row_of(*TWO)], "completion")
    assert counted(encoder, made) == ["assistant: yes\n</s>"[len("assistant:") :]]
    assert encoder.trained_ends("messages", "completion") == {encoder.tokenizer.eos_token_id}
    # A token that opens the next turn ends none.
    encoder = encoder_of(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endfor %}"
    )
    assert encoder.turn_ends == set()


def test_the_systems_message_goes_where_the_template_puts_it() -> None:
    turns = (("s", "be brief"), *TWO)
    for style in ("chatml", "llama3", "phi3", "mistral", "qwen3", "granite"):
        encoder = encoder_of(STYLES[style][0])
        (made,) = encoder.tokens("messages", [row_of(*turns)], "completion")
        messages = encoder.messages("messages", row_of(*turns))
        assert made.ids.tolist() == encoder.tokenizer.apply_chat_template(
            messages, return_dict=False
        )
        assert encoder.tokenizer.decode(made.ids[: made.first]).count("be brief") == 1
        assert counted(encoder, made) == [STYLES[style][2]]
        (made,) = encoder.tokens("messages", [row_of(*turns)], "turns")
        assert made.ids.tolist() == encoder.tokenizer.apply_chat_template(
            messages, return_dict=False
        )
        # Mistral's moves on to the question that is asked last: the first turn was asked with it,
        # and stands in the history without.
        assert encoder.counts["context"] == (style == "mistral")
        assert [run.removeprefix("<think>\n\n</think>\n\n") for run in counted(encoder, made)] == [
            STYLES[style][2].removeprefix("<think>\n\n</think>\n\n").replace("yes", answer)
            for answer in ("no", "yes")
        ]


@pytest.mark.parametrize(("style", "turns", "said"), [
    ("gemma", (("s", "be brief"), ("u", "sky?"), ("a", "yes")), "System role not supported"),
    ("mistral", (("u", "sky?"), ("u", "now?"), ("a", "yes")), "roles must alternate"),
    ("inst", (("u", "sky?"), ("t", "blue"), ("a", "yes")),
     "Only user and assistant roles are supported"),
])  # fmt: skip
def test_a_row_that_the_template_refuses_is_named(style: str, turns: Any, said: str) -> None:
    encoder = encoder_of(STYLES[style][0])
    row = row_of(*turns)
    (made,) = encoder.tokens("messages", [row])
    assert made.flaw.why.startswith("refused by the chat template: ")
    assert said in made.flaw.why
    assert not len(made)
    for call in (lambda: encoder.encode("messages", row), lambda: encoder.ask("messages", row)):
        with pytest.raises(InputError) as caught:
            call()
        assert "the chat template refuses this row" in caught.value.fact
        assert said in caught.value.fact
        assert "sky?" in caught.value.fact


CALL = {
    "tool_calls": [
        {"id": "c0", "type": "function", "function": {"name": "sky", "arguments": '{"now": true}'}}
    ]
}


def test_calls_are_learnt_as_the_template_writes_them() -> None:
    row = row_of(
        ("u", "Is the sky blue?"),
        ("a", "", CALL),
        tools=json.dumps([{"type": "function", "function": {"name": "sky"}}]),
    )
    encoder = encoder_of(QWEN3)
    (made,) = encoder.tokens("messages", [row])
    assert counted(encoder, made) == [
        '<think>\n\n</think>\n\n\n<tool_call>\n{"name": "sky", "arguments": {"now": '
        "true}}\n</tool_call><|im_end|>"
    ]
    assert '{"type": "function"' in encoder.tokenizer.decode(encoder.ask("messages", row))
    assert not encoder.counts["tools"]
    with pytest.raises(InputError, match="it writes no tool calls"):
        encoder_of(CHATML).encode("messages", row)
    plain = encoder_of(CHATML)
    plain.tokens("messages", [row_of(*TWO, tools=row["tools"])])
    assert plain.counts["tools"] == 1


def test_a_template_that_wants_a_system_message_is_known_by_one() -> None:
    template = (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('Begin with a system "
        "message') }}{% endif %}" + CHATML
    )
    encoder = encoder_of(template)
    (made,) = encoder.tokens("messages", [row_of(("s", "be brief"), *TWO)])
    assert counted(encoder, made) == ["yes<|im_end|>"]


def test_a_turn_of_no_weight_is_not_learnt() -> None:
    turns = (("u", "sky?"), ("a", "no", {"weight": 0}), ("u", "now?"), ("a", "yes", {"weight": 1}))
    encoder = encoder_of(CHATML)
    (made,) = encoder.tokens("messages", [row_of(*turns)], "turns")
    assert counted(encoder, made) == ["yes<|im_end|>"]
    last = row_of(("u", "sky?"), ("a", "no", {"weight": 0}))
    assert encoder.tokens("messages", [last])[0].labels == 0
    # It is no less the right answer where a model is judged.
    assert encoder.answer_text(encoder.encode("messages", last).completion, encoder.stops) == "no"


@pytest.mark.parametrize("habit", HABITS)
def test_a_text_of_ones_own_is_begun_once_and_never_ended(habit: str) -> None:
    encoder = encoder_of(None, habit)
    begin = [1] if "bos" in habit else []
    assert encoder.begin == begin
    for prompt in ("Is the sky blue? ", "<s>Is the sky blue? "):
        ids = encoder.ask("prompt", {"prompt": prompt})
        assert ids.count(1) == (1 if begin or prompt.startswith("<s>") else 0)
        assert ids[-1] != encoder.eos
        example = encoder.encode("prompt", {"prompt": prompt, "completion": "yes"})
        assert example.prompt == ids or habit == "metaspace"
        assert example.completion[-1] == encoder.eos
    (text,) = encoder.tokens("text", [{"text": "the sky"}])
    assert text.ids.tolist().count(encoder.eos) == 1


@pytest.mark.parametrize(("completions", "ends"), [
    (["yes<|im_end|>", "no<|im_end|>"], ["<|im_end|>"]),
    # Labels, and answers that end in one.
    (["<|yes|>", "<|no|>"], []),
    (["<|yes|>"], []),
    (["it is <|yes|>", "it is <|no|>"], []),
    (["yes", "no<|im_end|>"], []),
])  # fmt: skip
def test_a_special_token_is_an_end_where_it_ends_all(
    completions: list[str], ends: list[str]
) -> None:
    encoder = encoder_of(None)
    names = encoder.tokenizer.convert_tokens_to_ids
    encoder.read_ends("prompt", completions)
    assert encoder.written == {names(text) for text in ends}
    assert encoder.trained_ends("prompt", "completion") == (
        {names(text) for text in ends} or {encoder.eos}
    )
    for text in completions:
        completion = encoder.encode("prompt", {"prompt": "sky? ", "completion": text}).completion
        assert completion[-1] == (names(ends[0]) if ends else encoder.eos)
        assert encoder.answer_text(completion, encoder.stops) == text.removesuffix(
            ends[0] if ends else "</s>"
        )


def test_labels_are_completions_of_one_prompt() -> None:
    encoder = encoder_of(INST)
    row = {"user": "sky?", "assistant": "<|yes|>", "label": "<|yes|>"}
    prompt, (own, *labels) = encoder.choices("user", row, ["<|no|>", "<|yes|>"])
    assert encoder.tokenizer.decode(prompt) == "<s>[INST] sky? [/INST]"
    assert [encoder.tokenizer.decode(ids) for ids in labels] == [" <|no|> </s>", " <|yes|> </s>"]
    assert own == labels[1]
    assert encoder.answer_text(own, encoder.stops) == "<|yes|>"


def test_a_long_row_keeps_what_is_nearest_to_the_answer() -> None:
    encoder = encoder_of(CHATML, max_length=9)
    (made,) = encoder.tokens("user", [{"user": "Is the sky blue? " * 5, "assistant": "yes"}])
    assert len(made) == 9
    assert counted(encoder, made) == ["yes<|im_end|>"]
    assert made.flaw.why == "longer than max_length 9: its beginning is cut"
    assert made.flaw.length > 9
    # An answer that is not whole does not teach where to end.
    for format_, row in (
        ("user", {"user": "Sky?", "assistant": "yes " * 9}),
        ("prompt", {"prompt": "Sky? ", "completion": "yes " * 9}),
    ):
        (made,) = encoder.tokens(format_, [row])
        assert (len(made), made.flaw.why) == (
            9,
            "longer than max_length 9: the end of its answer is cut",
        )


def test_ends_of_a_model_and_what_is_added() -> None:
    from olivebuild.ml.data.end_tokens import model_ends, with_ends

    config = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": None}
    assert model_ends({}, config) == [2]
    assert model_ends({"eos_token_id": [7, 2]}, config) == [7, 2]
    assert model_ends({}, {"text_config": {"eos_token_id": 5}}) == [5]
    assert with_ends({"eos_token_id": [7, 2]}, config, {2}) is None
    assert with_ends(None, config, {2}) is None
    assert with_ends(None, config, {9, 2}) == {"bos_token_id": 1, "eos_token_id": [2, 9]}
    assert with_ends({"temperature": 0.5, "eos_token_id": 7}, config, {3}) == {
        "temperature": 0.5,
        "eos_token_id": [7, 3],
    }


def test_stop_texts_are_one_token_each() -> None:
    from olivebuild.ml.data.end_tokens import ends_from, token_of

    tokenizer = tokenizer_of(CHATML)
    names = tokenizer.convert_tokens_to_ids
    assert ends_from({}, lambda: tokenizer) == {names("<|im_end|>")}
    assert ends_from({"stop_strings": ["<|no|>"]}, lambda: tokenizer) == {names("<|no|>")}
    assert ends_from({"eos_token_id": 4}, lambda: tokenizer) == {4}
    with pytest.raises(InputError, match="tokens, and an answer ends at one"):
        token_of("be brief", tokenizer)
