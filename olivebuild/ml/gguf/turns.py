"""A chat template as Ollama's Modelfile has it: a template of Go's, made from what turns look like.

Ollama does not run Jinja: https://github.com/ollama/ollama/blob/main/docs/template.md. What stands
before and after a message is read off what the chat template writes for a few conversations, and
the result is held against it for others. A template that is more than that is not turned into one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

Message = dict[str, str]
Render = Callable[[Sequence[Message], bool], str]
"""The prompt for a conversation, with the beginning of an answer or without.

Raises whatever Jinja raises.
"""
ROLES = ("system", "user", "assistant")
FORBIDDEN = ("{{", "}}", '"""')
"""Would end a text in a Modelfile, or begin something else."""


class Turns(Struct, frozen=True, kw_only=True):
    """What a prompt consists of: texts before and after messages.

    `opening` comes first where there is no system message, `told` where there is one. `answer`
    begins the answer. `around`: role -> (before, after).
    """

    opening: str
    told: str
    around: dict[str, tuple[str, str]]
    answer: str

    def render(self, messages: Sequence[Message]) -> str:
        has_system = messages[0]["role"] == "system"
        turns = "".join(
            self.around[m["role"]][0] + m["content"] + self.around[m["role"]][1] for m in messages
        )
        return (self.told if has_system else self.opening) + turns + self.answer

    def to_go(self, beginning: str) -> str | None:
        """Return the template for Ollama, without `beginning`, which llama.cpp adds by itself.

        None where it has texts that a Modelfile can't hold.
        """
        opening, told = (t.removeprefix(beginning) for t in (self.opening, self.told))
        texts = [opening, told, self.answer, *(t for pair in self.around.values() for t in pair)]
        if any(mark in text for text in texts for mark in FORBIDDEN):
            return None
        head = opening
        if opening != told:
            head = f"{{{{ if .System }}}}{told}{{{{ else }}}}{opening}{{{{ end }}}}"
        branches = "".join(
            f'{{{{ {"if" if number == 0 else "else if"} eq .Role "{role}" }}}}'
            f"{before}{{{{ .Content }}}}{after}"
            for number, (role, (before, after)) in enumerate(self.around.items())
        )
        return f"{head}{{{{ range .Messages }}}}{branches}{{{{ end }}}}{{{{ end }}}}{self.answer}"


def turns_of(render: Render, beginning: str = "") -> Turns | None:
    """Return the turns of a chat template; None where it is more than turns.

    `beginning` is the text of the token that begins texts.
    """
    try:
        turns = _with_system(render, _without_system(render), beginning)
        conversations = [
            _talk("user"),
            _talk("user", "assistant", "user"),
            _talk("user", "assistant", "user", "assistant", "user"),
        ]
        if "system" in turns.around:
            conversations += [
                _talk("system", "user"),
                _talk("system", "user", "assistant", "user", "assistant", "user"),
            ]
        holds = all(turns.render(talk) == render(talk, True) for talk in conversations)
    except Exception:  # noqa: BLE001
        # A template refuses what it does not expect by whatever Jinja raises.
        return None
    return turns if holds else None


def _talk(*roles: str) -> list[Message]:
    return [{"role": role, "content": f"X{n}{role}{n}X"} for n, role in enumerate(roles)]


def _between(text: str, talk: Sequence[Message]) -> list[str]:
    """Return the texts around the messages of a conversation. Raises ValueError."""
    parts = []
    for message in talk:
        before, content, text = text.partition(message["content"])
        if not content:
            raise ValueError("a message is not in the prompt")
        parts.append(before)
    return [*parts, text]


def _without_system(render: Render) -> Turns:
    talk = _talk("user", "assistant", "user")
    first, to_answer, to_question, last = _between(render(talk, True), talk)
    after_user = _between(render(talk, False), talk)[-1]
    after_answer = _between(render(talk[:2], False), talk[:2])[-1]
    before_user = to_question.removeprefix(after_answer)
    return Turns(
        opening=first.removesuffix(before_user),
        told="",
        around={
            "user": (before_user, after_user),
            "assistant": (
                to_answer.removeprefix(after_user),
                to_question.removesuffix(before_user),
            ),
        },
        answer=last.removeprefix(after_user),
    )


def _begins(turns: Turns, beginning: str) -> bool:
    return any(before.startswith(beginning) for before, _ in turns.around.values())


def _with_system(render: Render, turns: Turns, beginning: str) -> Turns:
    """Return the turns with that of the system, where it is one of its own."""
    talk = _talk("system", "user")
    try:
        first, to_user, _ = _between(render(talk, True), talk)
    except Exception:  # noqa: BLE001
        return turns
    before_user = turns.around["user"][0]
    if not to_user.endswith(before_user):
        return turns
    # It begins texts only where it does not begin each turn.
    told = beginning if first.startswith(beginning) and not _begins(turns, beginning) else ""
    system = (first.removeprefix(told), to_user.removesuffix(before_user))
    return Turns(
        opening=turns.opening,
        told=told,
        around={"system": system, **turns.around},
        answer=turns.answer,
    )
