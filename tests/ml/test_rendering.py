"""Conversations as tokens: those of the model's own chat template, whatever its style and its
tokenizer's habits.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from olivebuild.core.errors import InputError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_PROMPT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role "
    "not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# The system message stands in the last question, as the third version of Mistral's has it.
MISTRAL = (
    "{{ bos_token }}{% set loop_messages = messages %}{% set system = '' %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' "
    "%}{% set loop_messages = messages[1:] %}{% endif %}"
    "{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('After the optional system message, conversation roles must "
    "alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{% set last = loop.last or loop.index0 == (loop_messages | "
    "length) - 2 %}"
    "{{ '[INST] ' + (system if last else '') + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + "
    "m['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set "
    "ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content %}{% set "
    "thought = m.reasoning_content or '' %}"
    "{% if '</think>' in content %}{% set thought = "
    "content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ "
    "'<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + "
    "thought.strip('\n') + '\n</think>\n\n' }}{% endif %}"
    "{{ content.lstrip('\n') }}{% for call in m.tool_calls or [] %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' + '
    "call.function.arguments | tojson }}"
    "{{ '}\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' }}{% if loop.first and "
    "tools %}{{ tools | tojson + '\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ "
    "'<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
GRANITE = (
    "{% if messages[0]['role'] != 'system' %}{{ "
    "'<|start_of_role|>system<|end_of_role|>Today\\'s Date: ' + strftime_now('%B %d, %Y')"
    " + '.<|end_of_text|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + "
    "m['content'] + '<|end_of_text|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + "
    "m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif "
    "%}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + '\n' "
    "}}{% else %}{{ 'ASSISTANT: ' + m['content'] + '</s>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
SPECIAL = [
    "<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<|system|>",
    "<|user|>", "<|assistant|>", "<|end|>", "<start_of_turn>", "<end_of_turn>",
    "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|yes|>",
    "<|no|>",
]  # fmt: skip
# template, its end of turn, and what a counted answer of "yes" is
STYLES = {
    "chatml": (CHATML, "<|im_end|>", "yes<|im_end|>"),
    "without a generation prompt": (NO_PROMPT, "<|im_end|>", "yes<|im_end|>"),
    "llama3": (LLAMA3, "<|eot_id|>", "yes<|eot_id|>"),
    "phi3": (PHI3, "<|end|>", "yes<|end|>"),
    "gemma": (GEMMA, "<end_of_turn>", "yes<end_of_turn>"),
    "mistral": (MISTRAL, "</s>", " yes</s>"),
    "inst": (INST, "</s>", " yes </s>"),
    "qwen3": (QWEN3, "<|im_end|>", "<think>\n\n</think>\n\nyes<|im_end|>"),
    "granite": (GRANITE, "<|end_of_text|>", "yes<|end_of_text|>"),
    "vicuna": (VICUNA, "</s>", " yes</s>"),
}
HABITS = ("plain", "bos", "eos", "bos and eos", "metaspace", "strips")


def tokenizer_of(
    template: str | None, habit: str = "plain", eos: str = "</s>", extra: tuple[str, ...] = ()
) -> Any:
    """A tokenizer in a published style: byte level or with marked spaces, with a post-processor or
    without.
    """
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    marked = habit == "metaspace"
    made.pre_tokenizer = (
        pre_tokenizers.Metaspace() if marked else pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    made.decoder = decoders.Metaspace() if marked else decoders.ByteLevel()
    alphabet = list("\n<>|[]{}:\"/',.") if marked else pre_tokenizers.ByteLevel.alphabet()
    corpus = [
        "Is the sky blue? yes no USER: ASSISTANT: [INST] [/INST] Today's Date: user assistant "
        "system model\n\nbe brief and glad"
    ] * 20
    made.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=[*SPECIAL, *extra],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    made.add_tokens(
        [
            AddedToken(text, special=False, normalized=False)
            for text in ("<think>", "</think>", "<tool_call>", "</tool_call>")
        ]
    )
    if habit == "strips":
        # As Phi-3's take the line feed after them.
        made.add_special_tokens(
            [AddedToken(text, special=True, normalized=False, rstrip=True) for text in SPECIAL[2:]]
        )
    if "bos" in habit or "eos" in habit:
        single = " ".join(
            [*(["<s>"] if "bos" in habit else []), "$A", *([eos] if "eos" in habit else [])]
        )
        made.post_processor = processors.TemplateProcessing(
            single=single,
            pair=f"{single} $B",
            special_tokens=[(name, made.token_to_id(name)) for name in ("<s>", eos)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token=eos, pad_token=eos,
        chat_template=template,
        additional_special_tokens=[*SPECIAL[4:], *extra],
    )  # fmt: skip


def encoder_of(
    template: str | None, habit: str = "plain", extra: tuple[str, ...] = (), **options: Any
) -> Any:
    from olivebuild.ml.data.tokens import Encoder

    return Encoder(tokenizer_of(template, habit, extra=extra), **options)


def row_of(*turns: Any, **more: Any) -> dict[str, Any]:
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    messages = [
        {"role": roles[t[0]], "content": t[1], **(t[2] if len(t) > 2 else {})} for t in turns
    ]
    return {"messages": json.dumps(messages), "label": "", **more}


def counted(encoder: Any, row: Any) -> list[str]:
    """What is counted, run by run."""
    runs: list[list[int]] = []
    for i, token in enumerate(row.ids.tolist()):
        if row.counted[i]:
            if not i or not row.counted[i - 1]:
                runs.append([])
            runs[-1].append(token)
    return [encoder.tokenizer.decode(run) for run in runs]


TWO = (("u", "Is the sky blue?"), ("a", "no"), ("u", "and now?"), ("a", "yes"))


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


ENDLESS = {
    "loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "takes more than",
    ),
    "a long sort": ("{{ (range(99999) | list * 300) | sort | length }}", "takes more than"),
    "calls fan out": (
        "{% macro f(x) %}{% if x %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}"
        "{{ f(60) }}",
        "takes more than",
    ),
    "calls itself": (
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "calls itself without end",
    ),
    "a deep nest": ("{% if messages %}" * 3000, "calls itself without end"),
    "much memory": ("{{ ('a' * 900000000000)[:3] }}", "needs more than 4 GB of memory"),
    "much text": ("{{ 'a' * 10000001 }}", "writes 10,000,0.. characters"),
    "grows": (
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(80) %}{% set ns.s = ns.s ~ ns.s "
        "%}{% endfor %}{{ ns.s }}",
        "",
    ),
}


# hypothesis listens to the garbage collector, and an alarm that meets its listener is lost; the
# next one follows at once.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_one_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.core import time_limit

    monkeypatch.setattr(time_limit, "SECONDS", 0.3)
    template, fact = ENDLESS[name]
    encoder = encoder_of(template + CHATML)
    began = time.monotonic()
    with pytest.raises(InputError, match=f"the chat template {fact}") as caught:
        encoder.prompt_text("messages", row_of(("u", "Is the sky blue?"), ("a", "yes")))
    assert time.monotonic() - began < 20
    assert "does it loop?" in caught.value.hint
    # What comes after has its own time and memory.
    assert (
        encoder_of(CHATML)
        .prompt_text("messages", row_of(("u", "Is the sky blue?"), ("a", "yes")))
        .endswith("assistant\n")
    )


def test_a_template_that_does_not_end_is_stopped_in_any_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from olivebuild.core import time_limit

    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    encoder, found = encoder_of(ENDLESS["loops"][0]), list[BaseException]()

    def render() -> None:
        try:
            encoder.render([{"role": "user", "content": "a"}], None, prompt=True)
        except InputError as e:
            found.append(e)

    thread = threading.Thread(target=render)
    thread.start()
    thread.join()
    assert "takes more than" in str(found[0])


def test_a_tokenizer_whose_pattern_does_not_end_is_one_error() -> None:
    from tokenizers import Regex, pre_tokenizers

    tokenizer = tokenizer_of(CHATML)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+b"), "isolated")
    from olivebuild.ml.data.tokens import Encoder

    with pytest.raises(InputError, match="the tokenizer gives up on a text: Onig") as caught:
        Encoder(tokenizer).ask("prompt", {"prompt": "a" * 200})
    assert "tokenizer.json" in str(caught.value.where)


NAMES = [
    "",
    "model",
    *(f"model.layers.{i}.self_attn.{name}_proj" for i in range(24) for name in "qkvo"),
]
PATTERNS = [
    {"target_modules": r"(\w+\.?)+\.x_proj"},
    {"target_modules": r".*(q|v)_proj", "exclude_modules": r"((\w|\.)*)*!"},
    {"rank_pattern": {r"(.*.*)*\d!": 4}}, {"alpha_pattern": {r"([a-z_0-9.]+)*X": 4}},
    {"layers_to_transform": [1], "layers_pattern": r"(.+)+\d"},
    {"layers_to_transform": [1], "layers_pattern": ["layers", r"(\w+\.?)+x"]},
    {"modules_to_save": ["lm_head", r"(\w+\.?)+!"]},
]  # fmt: skip


@pytest.mark.parametrize("config", PATTERNS, ids=str)
def test_a_pattern_that_takes_forever_is_one_error(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.core import time_limit
    from olivebuild.ml.weights import patterns

    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    with pytest.raises(
        InputError, match=r"takes more than 0.2 s on the model's 98 names"
    ) as caught:
        patterns.check(config, NAMES, "adapter_config.json")
    assert caught.value.where
    assert caught.value.fact.partition(":")[0] in config


def test_patterns_as_they_are_published_are_taken() -> None:
    from olivebuild.ml.weights import patterns

    published = r"^(?!.*patch_embed).*(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*"
    unsloth = (
        r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)"
        r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn)\.(?:(?:q_proj)))"
    )
    for pattern in (
        published,
        unsloth,
        r"model.*layers\.(1|3)\.self_attn\.(q|v)_proj",
        "all-linear",
    ):
        patterns.check(
            {"target_modules": pattern, "rank_pattern": {r"layers.\d+.self_attn.q_proj": 8}},
            NAMES,
            None,
        )
    with pytest.raises(InputError, match="is no regular expression"):
        patterns.check({"target_modules": "(q_proj"}, NAMES, None)
