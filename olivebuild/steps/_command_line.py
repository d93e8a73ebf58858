"""What a command line says before it runs: the words that may be files, modules, code.

Looks at no disk and runs nothing.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from olivebuild.api.node import Program

SHELLS = ("sh", "bash", "dash", "zsh", "ksh")
PYTHON = re.compile(r"python(\d+(\.\d+)*)?(\.exe)?")
OUTPUTS = (">", ">>", ">|", "&>", "&>>", ">&")
"""The word after one of these is written."""
OPERATORS = set("();<>|&")
WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")
"""The options of Python that take the word after them."""
SLOT = re.compile(r"\{(inputs|outputs)\.([a-z0-9][a-z0-9_.-]*)\}|\{(out)\}")


def words_of(line: str, *, by_shell: bool) -> list[str]:
    """Raises ValueError."""
    if not by_shell:
        return shlex.split(line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def program_of(run: str, *, by_shell: bool, environment: Mapping[str, str]) -> Program:
    """Raises ValueError for what is no command line."""
    found = Found()
    found.take(words_of(run, by_shell=by_shell), by_shell=by_shell)
    found.path(environment.get("PYTHONPATH", ""))
    return Program(
        *(
            tuple(dict.fromkeys(many))
            for many in (found.words, found.modules, found.code, found.roots)
        )
    )


class Found:
    def __init__(self) -> None:
        self.words: list[str] = []
        self.modules: list[str] = []
        self.code: list[str] = []
        self.roots: list[str] = []

    def path(self, value: str) -> None:
        """Where Python looks for modules, before its own places."""
        self.roots += [part for part in value.split(":") if part]

    def take(self, words: list[str], *, by_shell: bool) -> None:
        for before, word in zip(["", *words], words, strict=False):
            if by_shell and (set(word) <= OPERATORS or before in OUTPUTS):
                continue
            if re.fullmatch(r"-[a-z]*c", before) and self._starts(words, before, SHELLS):
                self._nested(word)
            elif before == "-c" and self._starts(words, before, ()):
                self.code.append(word)
            elif before == "-m" and re.fullmatch(r"\w+(\.\w+)*", word):
                self.modules.append(word)
                self.words += candidates(word)
            elif (module := re.fullmatch(r"-m(\w+(\.\w+)*)", word)) and PYTHON.fullmatch(
                PurePosixPath(before).name
            ):
                self.modules.append(module[1])
            else:
                if word.startswith("PYTHONPATH="):
                    self.path(word.partition("=")[2])
                    continue
                self.words += candidates(word, by_shell=by_shell)

    @staticmethod
    def _starts(words: list[str], option: str, programs: Iterable[str]) -> bool:
        """Whether the option is one of these programs'; without programs, of Python's."""
        head = [PurePosixPath(word).name for word in words[: words.index(option)]]
        return any(name in programs if programs else PYTHON.fullmatch(name) for name in head)

    def _nested(self, line: str) -> None:
        try:
            self.take(words_of(line, by_shell=True), by_shell=True)
        except ValueError:
            # No line that a shell reads either.
            self.words += candidates(line)


def candidates(word: str, *, by_shell: bool = False) -> Iterator[str]:
    """The paths that a word may name: itself, the value of `--option=value`, the file of
    `@file`.
    """
    for text in (word, word.partition("=")[2], word[1:] if word[:1] == "@" else ""):
        # A name may have 255 bytes: a program of awk's, say, is no path.
        may_be = (
            "{" not in text
            and "\0" not in text
            and all(len(os.fsencode(part)) <= 255 for part in text.split("/"))
        )
        if text and may_be and not text.startswith("-") and not (by_shell and "$" in text):
            yield text


def words_in(script: str) -> list[str]:
    """The words of a shell's script that may be files, line by line; what is no line by itself is
    passed over.
    """
    found = Found()
    for line in script.splitlines():
        try:
            found.take(words_of(line, by_shell=True), by_shell=True)
        except ValueError:
            continue
    return list(dict.fromkeys(found.words))


def named_outputs(many: Any) -> dict[str, str]:
    return (
        dict(many)
        if isinstance(many, dict)
        else {PurePosixPath(path).stem.lower(): path for path in many}
    )


def named_inputs(many: Any) -> dict[str, Any]:
    return dict(many) if isinstance(many, dict) else {str(ref): ref for ref in many}
