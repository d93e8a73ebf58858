"""Static reading of command lines: the words that may name files, modules or code.

It looks at no disk and runs nothing.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from olivebuild.api.node import Program

SHELL = re.compile(r"sh|bash|dash|zsh|ksh")
PYTHON = re.compile(r"python(\d+(\.\d+)*)?(\.exe)?")
OUTPUTS = (">", ">>", ">|", "&>", "&>>", ">&")
"""The word after one of these is written."""
OPERATORS = set("();<>|&")
WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")
"""The options of Python that take the word after them."""
SLOT = re.compile(r"\{(inputs|outputs)\.([a-z0-9][a-z0-9_.-]*)\}|\{(out)\}")


def words_of(line: str, *, by_shell: bool) -> list[str]:
    """Return the words of a command line, as a shell or as shlex splits it. Raises ValueError."""
    if not by_shell:
        return shlex.split(line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def program_of(run: str, *, by_shell: bool, environment: Mapping[str, str]) -> Program:
    """Return what a command line names. Raises ValueError for text that is no command line."""
    reader = LineReader()
    reader.read(words_of(run, by_shell=by_shell), by_shell=by_shell)
    reader.add_roots(environment.get("PYTHONPATH", ""))
    return Program(
        words=tuple(dict.fromkeys(reader.words)),
        modules=tuple(dict.fromkeys(reader.modules)),
        code=tuple(dict.fromkeys(reader.code)),
        roots=tuple(dict.fromkeys(reader.roots)),
    )


class LineReader:
    """A collector of the words of command lines, by what they may name."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.modules: list[str] = []
        self.code: list[str] = []
        self.roots: list[str] = []

    def add_roots(self, value: str) -> None:
        """Add the folders of a PYTHONPATH, in which Python looks for modules first."""
        self.roots += [part for part in value.split(":") if part]

    def read(self, words: list[str], *, by_shell: bool) -> None:
        """Add the words of a line."""
        for before, word in zip(["", *words], words, strict=False):
            if by_shell and (set(word) <= OPERATORS or before in OUTPUTS):
                continue
            if self._read_option(words, before, word):
                continue
            if word.startswith("PYTHONPATH="):
                self.add_roots(word.partition("=")[2])
            else:
                self.words += candidates(word, by_shell=by_shell)

    def _read_option(self, words: list[str], before: str, word: str) -> bool:
        """Add a word that is code or a module by the option before it; return whether it is."""
        if re.fullmatch(r"-[a-z]*c", before) and _comes_after(words, before, SHELL):
            self._read_nested(word)
            return True
        if before == "-c" and _comes_after(words, before, PYTHON):
            self.code.append(word)
            return True
        if before == "-m" and re.fullmatch(r"\w+(\.\w+)*", word):
            self.modules.append(word)
            self.words += candidates(word)
            return True
        module = re.fullmatch(r"-m(\w+(\.\w+)*)", word)
        if module and PYTHON.fullmatch(PurePosixPath(before).name):
            self.modules.append(module[1])
            return True
        return False

    def _read_nested(self, line: str) -> None:
        try:
            self.read(words_of(line, by_shell=True), by_shell=True)
        except ValueError:
            # No line that a shell reads either.
            self.words += candidates(line)


def _comes_after(words: list[str], option: str, program: re.Pattern[str]) -> bool:
    """Return whether an option comes after the name of a program."""
    head = words[: words.index(option)]
    return any(program.fullmatch(PurePosixPath(word).name) for word in head)


def candidates(word: str, *, by_shell: bool = False) -> Iterator[str]:
    """Yield the paths that a word may name.

    They are the word itself, the value of `--option=value`, and the file of `@file`.
    """
    for text in (word, word.partition("=")[2], word[1:] if word[:1] == "@" else ""):
        has_variable = by_shell and "$" in text
        if text and not text.startswith("-") and not has_variable and _may_be_path(text):
            yield text


MAX_NAME_BYTES = 255


def _may_be_path(text: str) -> bool:
    if "{" in text or "\0" in text:
        return False
    # A program of awk's, say, is longer than a name may be.
    return all(len(os.fsencode(part)) <= MAX_NAME_BYTES for part in text.split("/"))


def words_in(script: str) -> list[str]:
    """Return the words of a shell script that may be files.

    Lines that are no command lines by themselves are skipped.
    """
    reader = LineReader()
    for line in script.splitlines():
        try:
            reader.read(words_of(line, by_shell=True), by_shell=True)
        except ValueError:
            continue
    return list(dict.fromkeys(reader.words))


def named_outputs(outputs: Any) -> dict[str, str]:
    """Return name -> path; a listed output is named after its file."""
    if isinstance(outputs, dict):
        return dict(outputs)
    return {PurePosixPath(path).stem.lower(): path for path in outputs}


def named_inputs(inputs: Any) -> dict[str, Any]:
    """Return name -> reference; a listed input is named after its reference."""
    return dict(inputs) if isinstance(inputs, dict) else {str(ref): ref for ref in inputs}
