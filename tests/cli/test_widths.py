"""All commands' output on terminals of 60, 80 and 120 columns: no line is wider, no word is cut."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios

import pytest
from rich.cells import cell_len

from tests.conftest import Place

RECIPE = """\
default: [second-of-a-long-name, rows-of-a-long-name]
targets:
  first-of-a-long-name:
    kind: command
    run: "cp a-file-of-a-long-name.txt {outputs.text}"
    outputs: {text: a-text.txt}
  second-of-a-long-name:
    kind: command
    run: "python measure.py {inputs.first} {outputs.text}"
    inputs: {first: first-of-a-long-name.text}
    outputs: {text: text.txt}
    metrics: metrics.json
  rows-of-a-long-name:
    kind: dataset
    source: rows.jsonl
    text: "{text} and {label}"
    label: label
    max_dropped: 1
"""
MEASURE = """\
import json, pathlib, sys
text = pathlib.Path(sys.argv[1]).read_text()
pathlib.Path(sys.argv[2]).write_text(text)
numbers = {f"a_metric_with_a_long_name_{i}": len(text) + i / 7 for i in range(3)}
pathlib.Path(sys.argv[2]).with_name("metrics.json").write_text(json.dumps(numbers))
"""
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9])")
REDRAWN = re.compile(r"\x1b\[[0-9]*[AK]")
WIDTHS = (60, 80, 120)


def on_terminal(place: Place, width: int, *words: str) -> list[str]:
    """The lines that a command writes to a terminal of this width, as it writes them."""
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        os.chdir(place.folder)
        environment = os.environ | {"OLIVEBUILD_CACHE": str(place.cache), "TERM": "xterm"}
        environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES")}
        os.execve(sys.executable, [sys.executable, "-m", "olivebuild", *words], environment)
    data = b""
    while True:
        try:
            piece = os.read(fd, 4096)
        except OSError:
            break
        if not piece:
            break
        data += piece
    os.waitpid(pid, 0)
    os.close(fd)
    # Rows that are drawn over are cut to the terminal; tests/ui/test_live.py holds them.
    lines = [line for line in data.decode().split("\n") if not REDRAWN.search(line)]
    return [ESCAPES.sub("", line).rstrip("\r").rstrip() for line in lines]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Two builds that measured, rows of which some were dropped, and then an edit."""
    root = tmp_path_factory.mktemp("widths")
    place = Place(root / "work", root / "cache")
    place.folder.mkdir()
    place.recipe.write_text(RECIPE)
    (place.folder / "measure.py").write_text(MEASURE)
    rows = [
        {"text": "some words of a row " * (1 + i % 7) + str(i), "label": f"label-{i % 3}"}
        for i in range(30)
    ]
    rows[3]["label"] = ""
    (place.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for text in ("one", "two three"):
        (place.folder / "a-file-of-a-long-name.txt").write_text(text)
        done = place.run()
        assert done.code == 0, done.err
    (place.folder / "a-file-of-a-long-name.txt").write_text("four")
    return place


def words_of(lines: list[str]) -> list[str]:
    return [word for line in lines for word in line.split()]


COMMANDS = [
    ["plan"],
    ["plan", "--set", "rows-of-a-long-name.holdot=0.5"],
    ["status"],
    ["why", "second-of-a-long-name"],
    ["history"],
    ["compare", "last~1", "last"],
    ["show", "rows-of-a-long-name", "-n", "2"],
    ["doctor"],
    ["help"],
    ["help", "build"],
    ["predict", "--help"],
    ["graph"],
    ["log", "nothing-of-that-name"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words[:2]) for words in COMMANDS])
def test_no_line_is_wider_and_no_word_is_cut(built: Place, words: list[str]) -> None:
    whole = set(words_of(on_terminal(built, 400, *words)))
    for width in WIDTHS:
        lines = on_terminal(built, width, *words)
        assert [line for line in lines if cell_len(line) > width] == []
        cut = [word for word in words_of(lines) if word not in whole]
        # What is wider than a line is broken after its signs, and where it has none, marked.
        assert [
            word
            for word in cut
            if not (word.endswith(("…", "...")) or word.startswith("…"))
            and not any(word in other and len(other) > width // 2 for other in whole)
        ] == [], (width, lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_build_fits(built: Place, width: int) -> None:
    (built.folder / "a-file-of-a-long-name.txt").write_text(f"of {width}")
    lines = on_terminal(built, width, "build")
    assert [line for line in lines if cell_len(line) > width] == []
    assert any("built" in line for line in lines)
