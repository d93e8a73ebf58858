"""Completion by real shells, where they are installed, and of what each word may become."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pyte
import pytest

from olivebuild.cli.completion import complete_data, complete_models, complete_targets
from olivebuild.cli.main import main
from tests.conftest import Place

RECIPE = """\
targets:
  base: {kind: model, source: tiny}
  tone: {kind: dataset, source: in.jsonl, text: "{t}"}
  first: {kind: command, run: "cp in.txt {outputs.x}", outputs: {x: x.txt}}
  int4: {kind: onnx, model: base, matrix: {block_size: [32, 64]}}
  broken: {kind: of no, sense: [1]}
"""


@pytest.fixture
def completed(place: Place) -> Place:
    """A recipe, not whole, and `olivebuild` on the PATH."""
    place.recipe.write_text(RECIPE)
    folder = place.folder.parent / "bin"
    folder.mkdir()
    program = folder / "olivebuild"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m olivebuild "$@"\n')
    program.chmod(0o755)
    (place.folder / "below").mkdir()
    place.environment = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(place.folder.parent),
        "TERM": "xterm",
    }
    return place


def context(folder: Path) -> click.Context:
    context = click.Context(main, resilient_parsing=True)
    context.obj = {"directory": str(folder)}
    return context


def test_words_are_those_of_the_recipe_though_it_has_faults(completed: Place) -> None:
    at = context(completed.folder)
    parameter = click.Argument(["target"])

    def names(complete: object, word: str) -> list[str]:
        return [item.value for item in complete(at, parameter, word)]  # type: ignore[operator]

    assert names(complete_targets, "") == [
        *("base", "tone", "first", "int4", "broken"),
        *("int4-32", "int4-64"),
    ]
    assert names(complete_targets, "int4-") == ["int4-32", "int4-64"]
    assert names(complete_models, "") == ["base", "int4", "int4-32", "int4-64"]
    assert names(complete_data, "") == ["tone"]
    completed.recipe.write_text("targets: [")
    assert names(complete_targets, "") == []


def test_the_first_word_is_a_command_a_target_or_an_option(completed: Place) -> None:
    at = context(completed.folder)
    assert [item.value for item in main.shell_complete(at, "pl")] == ["plan"]
    assert [item.value for item in main.shell_complete(at, "b")] == ["base", "broken", "build"]
    options = [item.value for item in main.shell_complete(at, "--")]
    assert {"--directory", "--version", "--set", "--keep-going"} <= {*options}
    assert len(options) == len({*options})


BASH = """\
eval "$(_OLIVEBUILD_COMPLETE=bash_source olivebuild)"
complete -p olivebuild
ask() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _olivebuild_completion olivebuild; echo "${COMPREPLY[*]}"
}
"""


def shell(place: Place, name: str, *words: str) -> list[str]:
    """The lines that a shell prints."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [program, *words],
        cwd=place.folder / "below",
        env=os.environ | place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_commands_options_and_targets(completed: Place) -> None:
    lines = shell(
        completed,
        "bash",
        "--norc",
        "-c",
        f"{BASH}\nask olivebuild pl\nask olivebuild plan fi\nask olivebuild plan --js\n"
        "ask olivebuild -C .. why int4-3",
    )
    assert lines[0].endswith("-F _olivebuild_completion olivebuild")
    assert lines[1:] == ["plan", "first", "--json", "int4-32"]


def test_fish_completes_commands_options_and_targets(completed: Place) -> None:
    script = (
        "_OLIVEBUILD_COMPLETE=fish_source olivebuild | source\n"
        'complete -C "olivebuild pl"\ncomplete -C "olivebuild plan fi"\n'
        'complete -C "olivebuild plan --js"\n'
    )
    lines = [line.split("\t")[0] for line in shell(completed, "fish", "--no-config", "-c", script)]
    assert lines == ["plan", "first", "--json"]


def test_zsh_completes_commands_options_and_targets(completed: Place) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    screen = pyte.Screen(100, 30)
    stream = pyte.ByteStream(screen)
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(completed.folder / "below")
        os.execve(zsh, ["zsh", "-f", "-i"], os.environ | completed.environment | {"PS1": "% "})

    def until(text: str) -> None:
        end = time.monotonic() + 60
        while not any(line.rstrip().endswith(text) for line in screen.display):
            assert time.monotonic() < end, screen.display
            if select.select([fd], [], [], 1)[0]:
                stream.feed(os.read(fd, 4096))

    try:
        os.write(fd, b"autoload -Uz compinit && compinit -u -D; ")
        os.write(fd, b'eval "$(_OLIVEBUILD_COMPLETE=zsh_source olivebuild)"; echo rea""dy\n')
        until("ready")
        for typed, becomes in (
            (b"olivebuild pl\t", "olivebuild plan"),
            (b"fi\t", "olivebuild plan first"),
            (b"--js\t", "olivebuild plan first --json"),
        ):
            os.write(fd, typed)
            until(becomes)
    finally:
        os.close(fd)
        os.waitpid(pid, 0)
