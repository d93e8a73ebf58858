"""Chat templates of several styles, and tokenizers of several habits."""

from __future__ import annotations

import json
from typing import Any

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
