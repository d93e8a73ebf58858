"""Rows as they are trained, as lines for a terminal or a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.text import Text

from olivebuild.core.text import clean

LABEL = 9
"""Width of the words that lines begin with."""
BAR = 24
MAX_LABELS, MAX_PLACES = 20, 5
CONTEXT, LEARNT = 320, 640
"""The most characters of a stretch without loss, and of one with it, unless all are asked for."""
OPEN, CLOSE = "[[", "]]"
"""Around what the loss is on, where there are no colours."""
STYLE = "bold green"


def to_lines(
    shown: Mapping[str, Any], others: Sequence[str], *, in_full: bool, coloured: bool
) -> Iterator[Text]:
    """Yield the lines of `olivebuild show`. `others`: adapters that train on the same data set.

    `in_full`: each token of the rows has a line. `coloured`: what the loss is on has a colour, and
    no brackets.
    """
    yield Text(_head(shown))
    yield from map(Text, _about(shown, coloured=coloured))
    if others:
        names = ", ".join(others)
        yield Text(f"{'also':<{LABEL}}{names}: --for {others[0]} shows its rows")
    for item in shown["shown"]:
        yield Text()
        yield Text(_title(item, shown), style="bold")
        if why := item.get("cut") or item.get("left_out"):
            yield Text(f"{'cut' if 'cut' in item else 'left out':<{LABEL}}{clean(why)}")
        if "text" in item:
            yield from _paragraph(Text(_visible(_shortened(item["text"], LEARNT, in_full))))
        elif in_full:
            yield from _table(item["tokens"])
        else:
            yield from _paragraph(_marked(item["tokens"], coloured=coloured))


def _head(shown: Mapping[str, Any]) -> str:
    name, rows = f"{shown['data']}.{shown['split']}", _count(shown["rows"], "row")
    if shown["unit"] != "tokens":
        hint = "no target trains on it, and lengths are in characters: --for MODEL counts tokens"
        return f"{name}: {rows}; {hint}"
    what = rows
    if form := shown["sequences"]:
        singular = form.removeprefix("random-").removesuffix("s")
        what = f"{_count(shown['trained'], singular)} from {rows}"
    held = f", {shown['held_out']:,} held out" if shown["held_out"] else ""
    verb = "trains on it" if shown["split"] == "train" else "would take it"
    return (
        f"{name} as {shown['for']} {verb}: {what}{held}, "
        f"{_count(shown['tokens'], 'token')}, {shown['learnt']:,} learnt"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _about(shown: Mapping[str, Any], *, coloured: bool) -> Iterator[str]:
    """Yield lines about the whole split."""
    if shown["unit"] == "tokens":
        how = "stands in green" if coloured else f"stands in {OPEN} {CLOSE}"
        longest = f"; max_length {shown['max_length']}" if shown["max_length"] else ""
        yield f"{'loss':<{LABEL}}{shown['loss']}, {how}{longest}"
    yield from _lengths(shown["lengths"], shown["unit"])
    if labels := shown["labels"]:
        parts = [f"{clean(name)} {count}" for name, count in list(labels.items())[:MAX_LABELS]]
        more = f" and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
        yield f"{'labels':<{LABEL}}{', '.join(parts)}{more}"
    for flaw in shown.get("flaws", ()):
        word = "cut" if flaw["cut"] else "left out"
        where = _places(flaw["where"], flaw["count"])
        yield f"{word:<{LABEL}}{_count(flaw['count'], 'row')}: {clean(flaw['why'])} ({where})"
    if shown.get("fails"):
        yield (
            f"{'fails':<{LABEL}}a training, since that is more than max_dropped allows "
            f"({shown['max_dropped']:g})"
        )
    yield from _dropped(shown)


def _lengths(lengths: Mapping[str, Any], unit: str) -> Iterator[str]:
    """Yield the extent of lengths, and a bar for each range of them."""
    if not lengths:
        return
    yield (
        f"{'lengths':<{LABEL}}{lengths['min']:,} to {lengths['max']:,} {unit}, "
        f"median {lengths['median']:,.0f}"
    )
    bars = lengths["bars"] if len(lengths["bars"]) > 1 else []
    most = max((bar["count"] for bar in bars), default=1)
    ranges = [
        f"{bar['from']:,}" + (f"-{bar['to']:,}" if bar["to"] > bar["from"] else "") for bar in bars
    ]
    width = max(map(len, ranges), default=0)
    for bar, extent in zip(bars, ranges, strict=True):
        signs = "#" * (-(-bar["count"] * BAR // most))
        yield f"{'':<{LABEL}}{extent:>{width}}  {signs:<{BAR}} {bar['count']:>6,}"


def _dropped(shown: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each reason why rows were dropped, with their places."""
    reasons: dict[str, list[str]] = {}
    for row in shown["dropped_rows"]:
        reasons.setdefault(row["why"], []).append(row["where"])
    for drop in shown["drops"]:
        where = _places(reasons.get(drop["why"], [drop["first"]]), drop["count"])
        rows = f"{drop['count']:,} of {_count(shown['read'], 'row')}"
        yield f"{'dropped':<{LABEL}}{rows}: {clean(drop['why'])} ({where})"
    if shown["duplicates"]:
        rows = f"{shown['duplicates']:,} of {_count(shown['read'], 'row')}"
        yield f"{'dropped':<{LABEL}}{rows}: equal to another"


def _places(places: Sequence[str], count: int) -> str:
    more = f" and {count - MAX_PLACES:,} more" if count > MAX_PLACES else ""
    return clean(", ".join(places[:MAX_PLACES]) + more)


def _title(item: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    """Return the line above a row: its number, place, label and length."""
    of = shown["trained" if "sequence" in item else "rows"]
    kind = "sequence" if "sequence" in item else "row"
    number = f"{kind} {item[kind]} of {of}"
    size = _count(item["length"], shown["unit"].removesuffix("s"))
    learnt = f", {item['learnt']} learnt" if "learnt" in item else ""
    parts = (number, item["where"], item.get("label", ""), f"{size}{learnt}")
    return clean("  ".join(part for part in parts if part))


def _visible(text: str) -> str:
    """Return text whose ends of lines and tabs are seen."""
    return clean(text.replace("\t", "\\t").replace("\r", "\\r").replace("\n", "\\n\n"))


def _shortened(text: str, most: int, in_full: bool = False) -> str:
    """Return a text without its middle, where it is long."""
    if in_full or len(text) <= most:
        return text
    return f"{text[: most // 2].rstrip()} ... {text[-most // 2 :].lstrip()}"


def _marked(tokens: Iterable[Mapping[str, Any]], *, coloured: bool) -> Text:
    """Return a row's text, in which what the loss is on is marked."""
    result = Text()
    for learnt, group in groupby(tokens, key=lambda token: token["loss"]):
        text = "".join(token["text"] for token in group)
        text = _visible(_shortened(text, LEARNT if learnt else CONTEXT))
        if learnt and not coloured:
            text = f"{OPEN}{text}{CLOSE}"
        result.append(text, style=STYLE if learnt else "")
    return result


def _paragraph(text: Text) -> Iterator[Text]:
    for line in text.split("\n", allow_blank=True):
        yield Text("  ").append_text(line)


def _table(tokens: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """Yield a line for each token: its number, id, whether the loss is on it, and its text."""
    yield Text(f"  {'':>5} {'id':>7} loss  text", style="bright_black")
    for number, token in enumerate(tokens, 1):
        mark = "*" if token["loss"] else "-" if token.get("attended") is False else ""
        text = clean(token["text"].replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r"))
        line = f"  {number:>5} {token['id']:>7} {mark:^4}  {text}"
        yield Text(line, style=STYLE if token["loss"] else "")
