"""Which answers can still become right, and rows that ask nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.ml.data.examples import Table
from olivebuild.ml.data.tokens import Encoder
from olivebuild.ml.inference.questions import Reply
from olivebuild.ml.inference.runtime import CUT, SHOWN, _Asked, may_become, open_model
from tests.support.tiny_models import make


@pytest.mark.parametrize(
    ("text", "right", "may"),
    [
        ("", "joy", True),
        ("The riv", "the river, and more", True),
        ('"The  RIVER', "the river, and more", True),
        # Marks and parts of characters may follow.
        ("e", "\N{LATIN SMALL LETTER E WITH ACUTE}", True),
        ("the \N{REPLACEMENT CHARACTER}", "the \N{EURO SIGN}", True),
        ("the river and so on", "the river", False),
        ("a mountain", "the river", False),
    ],
)
def test_an_answer_is_given_up_when_it_begins_otherwise(text: str, right: str, may: bool) -> None:
    assert may_become(text, right) is may


@pytest.fixture
def runtime(tiny_model: Path, tmp_path: Path) -> Any:
    make("llama", tmp_path / "model", tiny_model, dtype="float32")
    return open_model(tmp_path / "model")


def asked(encoder: Encoder, prompt: str, completion: str, **more: Any) -> _Asked:
    row = {"prompt": prompt, "completion": completion, "label": ""}
    example = encoder.encode("prompt", row)
    return _Asked(encoder, Table("prompt", [row], []), row, example, **{"whole": False, **more})


def test_a_wrong_answer_is_shown_to_its_first_words(runtime: Any) -> None:
    row = asked(Encoder(runtime.tokenizer), "Where? ", "the river and the old dog")
    wrong = runtime.tokenizer.encode("on a mountain " * 8)
    assert row.question.is_hopeless
    assert not row.question.is_hopeless(wrong[: SHOWN - 1])
    assert row.question.is_hopeless(wrong[:SHOWN])
    judged = row.judged(Reply(scores=[-1.0], written=wrong[:SHOWN], cut=True))
    assert judged.text.endswith(CUT)
    assert (judged.cut, judged.right, judged.exact) == (True, False, False)
    whole = asked(Encoder(runtime.tokenizer), "Where? ", "the river", whole=True)
    assert whole.question.is_hopeless is None


def test_a_row_that_asks_nothing_is_answered_after_a_beginning(runtime: Any) -> None:
    encoder = Encoder(runtime.tokenizer)
    question = asked(encoder, "", "the river").question
    assert question.prompt == [runtime.tokenizer.eos_token_id]
    assert question.completions == [[*runtime.tokenizer.encode("the river"), encoder.eos]]
    (reply,) = runtime.ask([question], 3, set())
    assert len(reply.written) == 3
    encoder.eos = None
    with pytest.raises(InputError, match="no token that begins or ends a text"):
        asked(encoder, "", "the river<|endoftext|>")
