"""The text of a new recipe, from what was seen of its rows and its model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from olivebuild.core.text import clean
from olivebuild.data.inspection.about import percent
from olivebuild.data.inspection.choice import Choice
from olivebuild.data.inspection.columns import LARGEST_SET, LONGEST_LABEL, Column
from olivebuild.data.inspection.names import ANSWERED, lower
from olivebuild.data.inspection.sources import Look
from olivebuild.data.inspection.usable import Division, Usable
from olivebuild.recipe.scaffold.first_gates import FirstGates, of_labels, of_texts

HEAD = """\
# yaml-language-server: $schema=olivebuild.recipe.schema.json
version: 1
default: [onnx-int4, bench]
targets:
"""
LISTED_LABELS, LISTED_LETTERS = 20, 300
"""Labels are written into the prompt up to this many, and so many characters of all."""
MOST_NEW_TOKENS = 64
"""Tokens of an answer at most, where answers are texts: writing is slow."""
BATCH = 8
PLAIN_DROPS = 0.05
"""The share of incomplete rows that a data set allows by itself."""
FEW_ROWS = 200
TEST_ROWS = 400
"""Test rows are about so many at most: each is judged with three models."""
BYTES_OF_TOKEN = 2.5
"""Bytes of UTF-8 that a token has at least, on average over a row."""
DEFAULT_LENGTH, LONGEST = 1024, 4096
VALUES = ("number", "boolean", "date")
"""Contents that mean nothing without the names of their columns."""
TURNS = 0.1
"""From this share of conversations with several answers on, all of them are learnt."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of a source and chosen of it.

    `data` is the text of the source; `tests` what is left of the rows of a split to test, where
    there is one.
    """

    data: str
    is_remote: bool
    subset: str | None
    look: Look
    choice: Choice
    train: Usable
    tests: Usable | None
    division: Division
    holdout: float

    @property
    def test_rows(self) -> int:
        """The number of rows that a benchmark asks."""
        return self.tests.kept if self.tests else self.division.test

    @property
    def learns_turns(self) -> bool:
        """Whether all turns of the assistant are learnt, not the last alone."""
        return self.train.many_turns > TURNS * self.train.kept

    @property
    def metric(self) -> str:
        """The share of right answers that can be measured; "" where answers are texts."""
        if self.is_labelled:
            return "accuracy"
        answers, longest = self.train.answers, self.train.longest_answer
        few = 2 <= len(answers) <= min(LARGEST_SET, self.train.kept // 2)
        is_closed = self.choice.is_chat and few and longest <= LONGEST_LABEL
        return "generated_accuracy" if is_closed else ""

    @property
    def is_labelled(self) -> bool:
        """Whether answers are a closed set, so that accuracy can be measured."""
        return not self.choice.is_chat and self.choice.answer.is_closed and bool(self.choice.inputs)


def holdout_for(rows: int) -> float:
    """Return the share to hold out: a fifth, more of few rows, and less of many."""
    if rows < FEW_ROWS:
        return 0.3
    return 0.2 if rows <= 5 * TEST_ROWS else max(0.01, round(TEST_ROWS / rows, 2))


def recipe_text(seen: Seen, *, model: str, chat: bool, context: int | None) -> str:
    """Return the recipe's text. `chat`: rows are written in the model's chat template."""
    lines = [f"  base: {{kind: model, source: {quoted(model)}}}", ""]
    lines += [*comment(_about(seen)), "  rows:", *_indented(_data(seen, chat, "train"))]
    if seen.is_remote and seen.look.test_split:
        lines += ["", f"  # The split {seen.look.test_split}, of which no row is trained on."]
        lines += ["  rows-test:", *_indented(_data(seen, chat, "test"))]
    lines += ["", "  adapter:", *_indented(_adapter(seen, context))]
    lines += [
        "",
        "  merged: {kind: merged, model: base, adapter: adapter}",
        "  onnx-int4: {kind: onnx, model: merged, precision: int4, provider: cpu}",
        "",
        "  bench:",
        *_indented(_bench(seen)),
    ]
    return HEAD + "\n".join(lines) + "\n"


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def comment(text: str, indent: str = "  ") -> list[str]:
    """Return text as lines of a comment. What it quotes from files can't end a line."""
    lines = textwrap.wrap(clean(" ".join(text.split())), 96 - len(indent))
    return [f"{indent}# {line}" for line in lines]


def _about(seen: Seen) -> str:
    """Return what the rows are, and what of them is used, as one text."""
    choice, count = seen.choice, f"{seen.train.read:,}"
    text = f"{seen.data}: {count if seen.look.is_whole else f'more than {count}'} rows"
    if choice.is_chat:
        text += f", conversations in `{choice.answer.name}`."
    elif not choice.inputs:
        text += f", the texts of `{choice.answer.name}`."
    else:
        names = " and ".join(f"`{c.name}`" for c in choice.inputs)
        text += f". {names} {'is' if len(choice.inputs) == 1 else 'are'} the input, "
        text += f"`{choice.answer.name}` the answer."
    return text + (f" {choice.why[0].upper()}{choice.why[1:]}." if choice.why else "")


# -- rows


def _data(seen: Seen, chat: bool, side: str) -> list[str]:
    look, usable = seen.look, seen.tests if side == "test" and seen.tests else seen.train
    lines = ["kind: dataset", f"source: {quoted(seen.data)}"]
    if seen.subset is not None:
        lines.append(f"subset: {quoted(seen.subset)}")
    split = look.test_split if side == "test" else look.split
    if split:
        lines.append(f"split: {quoted(split)}")
    if look.tests and not seen.is_remote:
        folder = seen.data.rstrip("/")
        lines += ["test:", *(f"  - {quoted(f'{folder}/{name}')}" for name in look.tests)]
    lines += [f"{name}: {quoted(text)}" for name, text in templates(seen.choice, chat).items()]
    if seen.is_remote and look.test_split:
        lines.append(f"holdout: {1 if side == 'test' else 0}")
    elif not look.tests:
        lines.append(f"holdout: {seen.holdout:g}")
    if not seen.division.near_duplicates and not look.tests:
        lines += comment("Most rows are alike, and would all stay on one side of the split.", "")
        lines.append("near_duplicates: false")
    return lines + _drops(seen, usable)


def _drops(seen: Seen, usable: Usable) -> list[str]:
    """Return the field that lets incomplete rows go, where there are more than by default."""
    counted = [usable, seen.tests] if seen.tests and not seen.is_remote else [usable]
    worst = max(counted, key=lambda u: u.incomplete / max(1, u.read))
    share = worst.incomplete / max(1, worst.read)
    if share <= PLAIN_DROPS:
        return []
    missing = percent(worst.incomplete, worst.read)
    text = f"{worst.incomplete} of {worst.read} rows ({missing}) lack a value, and are left out."
    # The rows that were not looked at may lack more.
    allowed = math.ceil(share * 100 + (0 if seen.look.is_whole else 5)) / 100
    return [*comment(text, ""), f"max_dropped: {min(1.0, allowed):g}"]


def templates(choice: Choice, chat: bool) -> dict[str, str]:
    """Return the fields that render a row."""
    if choice.is_chat:
        return {"messages": choice.answer.name}
    answer = slot(choice.answer.name)
    if not choice.inputs:
        return {"text": answer}
    asked = "".join(_question(choice)) + _inputs(choice)
    if chat:
        return {"user": asked, "assistant": answer}
    return {"prompt": f"{asked}\n\nAnswer:", "completion": f" {answer}"}


def _question(choice: Choice) -> Iterator[str]:
    """Yield a line that names the answers there are, where they are few and short."""
    answer, labels = choice.answer, sorted(choice.answer.counts)
    letters = sum(map(len, labels))
    plain = all(label.isprintable() for label in labels)
    if choice.form != "pairs" or not answer.is_closed:
        return
    if len(labels) > LISTED_LABELS or letters > LISTED_LETTERS or not plain:
        return
    name = "label" if lower(answer.name) in ANSWERED else answer.name
    listed = f"{', '.join(labels[:-1])} or {labels[-1]}"
    yield _braces(f"Which {clean(name)} does this text have: {listed}?\n\n")


def _inputs(choice: Choice) -> str:
    """Return the inputs as one text: below each other, numbers with the names of their columns."""
    if len(choice.inputs) > 1 and any(c.content in VALUES for c in choice.inputs):
        return "\n".join(f"{_braces(c.name)}: {_maybe(c, choice)}" for c in choice.inputs)
    parts = []
    for i, column in enumerate(choice.inputs):
        is_last, is_optional = i == len(choice.inputs) - 1, column.name in choice.optional
        if not is_optional:
            parts.append(slot(column.name) + ("" if is_last else "\n\n"))
        elif is_last:
            # The blank line belongs to the value: without one nothing stands there.
            parts[-1] = parts[-1].removesuffix("\n\n") if parts else ""
            parts.append("{" + column.name + "?\n\n{}}")
        else:
            parts.append("{" + column.name + "?{}\n\n}")
    return "".join(parts)


def _maybe(column: Column, choice: Choice) -> str:
    return f"{{{column.name}?}}" if column.name in choice.optional else slot(column.name)


def slot(name: str) -> str:
    """Return the place of a column's value in a template."""
    return "{" + _braces(name) + "}"


def _braces(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


# -- training and benchmark


def _adapter(seen: Seen, context: int | None) -> list[str]:
    rows = seen.division.train
    epochs = 3 if rows <= 500 else 2 if rows <= 2000 else 1
    steps = math.ceil(rows * epochs / BATCH)
    settings = [
        "lr: 2e-4",
        f"epochs: {epochs}",
        f"warmup: {min(10, max(1, steps // 5))}",
        f"batch: {BATCH}",
    ]
    if seen.learns_turns:
        settings.append("loss: turns")
    tokens = math.ceil(seen.train.longest_row / BYTES_OF_TOKEN)
    longest = min(LONGEST, context or LONGEST)
    if longest < DEFAULT_LENGTH or tokens > DEFAULT_LENGTH:
        length = min(longest, 1 << max(1, tokens - 1).bit_length())
        settings.append(f"max_length: {max(length, min(longest, DEFAULT_LENGTH))}")
    about = f"{rows:,} rows, {epochs} {'pass' if epochs == 1 else 'passes'}: {steps:,} steps."
    lines = comment(about, "") if seen.look.is_whole else []
    lines += ["kind: adapter", "model: base", "data: rows.train", "r: 16", "alpha: 32"]
    return [*lines, f"training: {{{', '.join(settings)}}}"]


def gates_of(seen: Seen) -> FirstGates:
    """Return the gates that the test rows can decide."""
    if seen.metric:
        return of_labels((seen.tests or seen.train).answers, seen.test_rows, seen.metric)
    return of_texts(seen.test_rows)


def _bench(seen: Seen) -> list[str]:
    remote = seen.is_remote and seen.look.test_split
    lines = [
        "kind: benchmark",
        "models: [base, merged, onnx-int4]",
        f"data: {'rows-test' if remote else 'rows'}",
    ]
    if seen.is_labelled:
        lines += ["# Classical text classifiers stand beside the models.", "baseline: rows"]
    if seen.choice.inputs or seen.choice.is_chat:
        lines += _answers(seen)
    gates = gates_of(seen)
    for reason in gates.why:
        lines += comment(reason, "")
    if gates.gates:
        lines += ["gates:", *(f"  - {quoted(gate)}" for gate in gates.gates)]
    else:
        text = f"{seen.test_rows} test rows decide no gate: with more of them, write some."
        lines += comment(text, "")
    return [*lines, "# What the rows can't decide fails the build, too.", "strict: true"]


def _answers(seen: Seen) -> list[str]:
    """Return how many tokens an answer may have, by the longest one."""
    longest = max(u.longest_answer for u in (seen.train, seen.tests) if u)
    # A token has two bytes at least, but for rare words.
    tokens = 8 * math.ceil((longest / 2 + 2) / 8)
    if tokens <= MOST_NEW_TOKENS:
        return [f"max_new_tokens: {tokens}"]
    text = f"The longest answer has {longest:,} bytes; what is written is cut, likelihoods are not."
    return [*comment(text, ""), f"max_new_tokens: {MOST_NEW_TOKENS}"]


# -- YAML


def quoted(text: str) -> str:
    """Return text in YAML's double quotes, with all escaped that is not printable."""
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
    return '"' + "".join(short.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(character: str) -> str:
    code = ord(character)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def roles(choice: Choice, columns: Sequence[Column]) -> Iterator[tuple[Column, str]]:
    """Yield each column with what it is taken for; "" for those that are not used."""
    for column in columns:
        if column == choice.answer:
            role = "conversation" if choice.is_chat else "answer" if choice.inputs else "text"
        elif column in choice.inputs:
            role = "input"
        else:
            role = "beside it" if column.name in choice.with_it else ""
        yield column, role
