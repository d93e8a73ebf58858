"""Templates and patterns that do not end."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from tests.support.chat_templates import CHATML, encoder_of, row_of, tokenizer_of

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
