"""What the model process of `olivebuild serve` is asked, and what it says.

In: {"ask": n, "model": name, "prompts": [text or tokens, ...] or "messages": [...], "n": choices of
each, "seed": s, "max_tokens": m, ...} as server/requests.py makes it, and {"stop": n}.

Out: {"event": "begun", "prompt_tokens": t}, {"event": "text", "choice": i, "text": t, "tokens":
[...]} and {"event": "choice", "choice": i, "reason": r, "written": t} for each choice, and
{"event": "end"}; or {"event": "refused", ...} for a request that can't be answered, and
{"event": "failed", ...} where answering failed.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from olivebuild.core.errors import BuildError, InputError, StepError, first_line
from olivebuild.ml.data.plain_tokenizer import PlainTokenizer
from olivebuild.ml.data.tokens import Encoder
from olivebuild.ml.inference.context import room_for
from olivebuild.ml.inference.predict import Form, from_messages
from olivebuild.ml.inference.runtime import Runtime
from olivebuild.ml.inference.serving.answers import Prompt, Wanted, answer
from olivebuild.ml.inference.sessions import vocabulary_of


class Say(Protocol):
    def __call__(self, event: str, **data: object) -> None:
        """Tell the parent of an event."""


class Requests(Protocol):
    """What the parent asks."""

    stopped: int
    """Answers up to this one are not wanted any more."""

    def next(self) -> dict[str, Any]:
        """Return the next request, which is waited for."""


class TooLong(InputError):
    """A prompt that leaves no room in the model's context."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model that answers under a name."""

    runtime: Runtime
    encoder: Encoder
    form: Form | None
    context: int | None

    @property
    def speaks(self) -> bool:
        """Whether conversations can be asked."""
        return bool(self.form or getattr(self.runtime.tokenizer, "chat_template", None))


def serve(models: Mapping[str, Served], requests: Requests, say: Say, *, most_tokens: int) -> None:
    """Answer requests until the parent goes."""
    say(
        "ready",
        models={name: {"context": m.context, "speaks": m.speaks} for name, m in models.items()},
    )
    while True:
        request = requests.next()
        try:
            _respond(models[request["model"]], request, requests, say, most_tokens)
        except InputError as e:
            say("refused", **e.to_json())
        except BuildError as e:
            say("failed", **e.to_json())
        except Exception as e:  # noqa: BLE001
            # One request must not end a server that others use.
            traceback.print_exc()
            fact = f"{type(e).__name__}: {first_line(e)}"
            say("failed", **StepError(fact, hint="the log has the whole story").to_json())
        else:
            say("end")


def _respond(
    model: Served, request: Mapping[str, Any], requests: Requests, say: Say, most_tokens: int
) -> None:
    """Say the answers to a request. Raises InputError before the first for one that has none."""
    wanted = Wanted(
        max_tokens=most_tokens if request["max_tokens"] is None else request["max_tokens"],
        temperature=request["temperature"],
        top_p=request["top_p"],
        stop=tuple(request["stops"]),
        logprobs=request["logprobs"],
        echo=request["echo"],
    )
    prompts = list(_prompts(model, request, wanted))
    say("begun", prompt_tokens=sum(len(p.tokens) for p in prompts))
    draw = np.random.default_rng(request["seed"])
    copies = [prompt for prompt in prompts for _ in range(request["n"])]
    for i, prompt in enumerate(copies):
        for piece in answer(model.runtime, model.encoder.ends, prompt, wanted, draw):
            if requests.stopped >= request["ask"]:
                return
            if piece.text or piece.tokens:
                tokens = [token.to_json() for token in piece.tokens]
                say("text", choice=i, text=piece.text, tokens=tokens)
            if piece.reason:
                say("choice", choice=i, reason=piece.reason, written=piece.written)


def _prompts(model: Served, request: Mapping[str, Any], wanted: Wanted) -> Iterator[Prompt]:
    """Yield what a request asks as tokens. Raises InputError."""
    if "messages" in request:
        tokens = _turns(model, request["messages"])
        yield _prompt(model, tokens, wanted, begin=0, is_text=False)
        return
    plain = PlainTokenizer(model.runtime.tokenizer)
    for asked in request["prompts"]:
        if isinstance(asked, str):
            tokens = model.encoder.ask("prompt", {"prompt": asked})
            begin = len(tokens) - len(plain.encode([asked])[0])
        else:
            tokens, begin = _checked(asked, vocabulary_of(model.runtime)), 0
        if not tokens:
            raise InputError("a prompt is empty", hint="ask something")
        yield _prompt(model, tokens, wanted, begin=begin, is_text=True)


def _prompt(
    model: Served, tokens: list[int], wanted: Wanted, *, begin: int, is_text: bool
) -> Prompt:
    context, room = model.context, wanted.max_tokens
    # Where nothing is to be written, the prompt may fill all of it.
    if context is not None and len(tokens) + bool(room) > context:
        raise TooLong(
            f"the prompt has {len(tokens)} tokens, and the model takes {context}, its answer "
            "included",
            hint="send a shorter one",
        )
    return Prompt(
        tokens=tokens,
        begin=begin,
        is_text=is_text,
        room=room_for(tokens, room, context) if room else 0,
    )


def _turns(model: Served, messages: list[dict[str, str]]) -> list[int]:
    """Return the tokens of a conversation. Raises InputError."""
    form = model.form
    if form is None:
        if not model.speaks:
            hint = "/v1/completions takes texts; `serve --data NAME` puts what is asked into a form"
            raise InputError("the model has no chat template", hint=hint)
        return from_messages(messages, model.encoder)
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise InputError(
            f"the model is asked one text at a time, in the template of {form.name} on which it "
            f"was trained, and these are {len(messages)} messages",
            hint="send one message of the user's, or run `serve` with --chat-template",
        )
    return form.filled(messages[0]["content"], model.encoder)


def _checked(tokens: list[int], vocabulary: int) -> list[int]:
    """Return tokens. Raises InputError for one that the model does not know."""
    strange = next((t for t in tokens if not 0 <= t < vocabulary), None)
    if strange is not None:
        raise InputError(
            f"there is no token {strange}: the model knows {vocabulary}",
            hint="are these tokens of its own tokenizer?",
        )
    return tokens
