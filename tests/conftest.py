"""Fixtures: a folder to work in, the command line, and a tiny Phi-3 that takes part in real
builds.
"""

from __future__ import annotations

import compileall
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import olivebuild
from tests.support import forks, require

# A machine that is busy is slow now and then, which is no fault of what is tested.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

RECIPE = """\
default: onnx-int4
targets:
  base: {kind: model, source: tiny}
  tone:
    kind: dataset
    source: data/tone.jsonl
    prompt: "<|user|>\\n{phrase}<|end|>\\n<|assistant|>\\n"
    completion: "{tone}<|end|>"
    holdout: 0.3
  adapter:
    kind: adapter
    model: base
    data: tone.train
    r: 4
    alpha: 8
    training: {lr: 1e-3, steps: 4, batch: 4}
  merged: {kind: merged, model: base, adapter: adapter}
  onnx-int4: {kind: onnx, model: merged, precision: int4, provider: cpu, block_size: 32}
"""
THINGS = [
    "a letter",
    "the old dog",
    "my phone",
    "the red door",
    "a long night",
    "the river",
    "our garden",
    "the last train",
]
WORDS = {"joy": "glad about", "sad": "crying over", "fear": "afraid of", "surprise": "amazed by"}


def rows() -> list[dict[str, str]]:
    """32 short rows, four labels."""
    return [
        {"phrase": f"I am {word} {thing} today", "tone": tone}
        for thing in THINGS
        for tone, word in WORDS.items()
    ]


def write_rows(file: Path, data: list[dict[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in data))


SWITCHES = {
    f"OLIVEBUILD_{name}"
    for name in ("EXAMPLES", "FUZZ", "FUZZ_SECONDS", "KILLS", "REQUIRE", "ROUNDS", "SEED")
}
"""What tests themselves are told by the environment."""

# What a developer or a CI service has set is no part of the tests: with CI, for one, some builds
# are audited.
for name in [
    name
    for name in os.environ
    if (name.startswith("OLIVEBUILD_") and name not in SWITCHES)
    or name in ("CI", "FORCE_COLOR", "GITHUB_STEP_SUMMARY")
]:
    del os.environ[name]
# Nor what is compiled for him, which a sweep would find.
os.environ["OLIVEBUILD_COMPILED"] = os.path.join(tempfile.gettempdir(), "olivebuild-no-compiled")

# A shell starts background jobs with SIGINT ignored, and children would inherit that; with a
# handler they start as from a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Write the byte code of the package before the first test.

    The first import from a room makes its `__pycache__`, which dates the room's folder, and a build
    at that moment remembers nothing: rightly, since a module may have been added.
    """
    require.check_names()
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(olivebuild.__file__).parent, quiet=1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped, where OLIVEBUILD_REQUIRE says what may not be."""
    if require.REQUIRED:
        skips = len(terminalreporter.stats.get("skipped", []))
        names = ", ".join(sorted(require.REQUIRED))
        terminalreporter.write_line(f"{skips} skipped; required were {names}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let commands on models be forked from a server that has their libraries."""
    has_model = {"tiny_model", "built_once"} & {*getattr(item, "fixturenames", ())}
    forks.heavy = bool(has_model or item.get_closest_marker("scenario"))


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def end(self) -> dict[str, Any]:
        """The last event of `build --json`."""
        assert self.code in (0, 3), self.err
        return self.events[-1]

    @property
    def ran(self) -> list[str]:
        return list(self.end["ran"])


@dataclass
class Place:
    """A recipe's folder with a cache of its own, and `olivebuild` in it."""

    folder: Path
    cache: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of commands."""
        ours = {"OLIVEBUILD_CACHE": str(self.cache), "HF_HUB_OFFLINE": "1"}
        return os.environ | ours | self.environment

    def start(self, *arguments: str, err: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a command as a process of its own, and so its workers."""
        command = [sys.executable, "-m", "olivebuild", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )

    def run(self, *arguments: str, err: int = subprocess.PIPE) -> Done:
        """Run a command: a fork of a server that has its modules, where that is no other thing."""
        process: subprocess.Popen[str] | None = None
        if forks.CAN:
            process = forks.start(arguments, self.folder, self.variables, err=err)
        if process is None:
            process = self.start(*arguments, err=err)
        out, text = process.communicate()
        return Done(process.returncode, out, text)

    def build(self, *arguments: str) -> Done:
        return self.run("build", "--json", *arguments)

    def verdicts(self, *arguments: str) -> dict[str, str]:
        done = self.run("plan", "--json", *arguments)
        assert done.code == 0, done.err
        return {row["target"]: row["verdict"] for row in json.loads(done.out)["targets"]}

    @property
    def recipe(self) -> Path:
        return self.folder / "olivebuild.yaml"

    def edit(self, old: str, new: str) -> None:
        """Replace text of the recipe."""
        text = self.recipe.read_text()
        assert old in text
        self.recipe.write_text(text.replace(old, new))

    def built(self, *parts: str) -> bytes:
        return self.folder.joinpath("build", *parts).read_bytes()

    def blobs_of(self, *parts: str) -> list[Path]:
        """The blobs that make a built file."""
        content = self.built(*parts)
        found = [p for p in self.cache.glob("blobs/??/*") if len(p.name) == 32]
        return [p for p in found if len(data := p.read_bytes()) > 200 and data in content]

    def everything(self) -> dict[str, bytes]:
        """The contents of build/, to compare."""
        build = self.folder / "build"
        return {
            p.relative_to(build).as_posix(): p.read_bytes()
            for p in sorted(build.rglob("*"))
            if p.is_file()
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty folder and an empty cache."""
    folder = tmp_path / "work"
    folder.mkdir()
    return Place(folder, tmp_path / "cache")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Phi-3 of under 1M parameters with random weights, and a tokenizer trained on the test
    rows.
    """
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run(
        [sys.executable, str(Path(__file__).parent / "support/make_tiny.py"), str(folder)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="session")
def built_once(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The whole recipe, built once; tests start from copies."""
    root = tmp_path_factory.mktemp("built")
    place = Place(root / "work", root / "cache")
    shutil.copytree(tiny_model, place.folder / "tiny")
    write_rows(place.folder / "data/tone.jsonl", rows())
    place.recipe.write_text(RECIPE)
    done = place.build("merged", "onnx-int4")
    assert done.ran == ["tone", "adapter", "merged", "onnx-int4"], done.err
    return place


@pytest.fixture
def copied(built_once: Place, tmp_path: Path) -> Iterator[Place]:
    """A copy of the built folder and its cache, at another path."""
    shutil.copytree(built_once.folder, tmp_path / "work")
    shutil.copytree(built_once.cache, tmp_path / "cache")
    yield Place(tmp_path / "work", tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")


Edit = Callable[[Place], None]
