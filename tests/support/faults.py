"""What the tests of faults share: a pipeline of quick commands whose results can be told
beforehand, kills, and what must hold after any of them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from olivebuild.core import hashing
from tests.conftest import Place
from tests.support import forks

INPUTS = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["d"], "f": ["c"]}
"""target -> what it is made from; each also reads data/<target>.txt."""
STEP = """\
name=$1 one=$2 two=$3 SETTING=
[ -f strict ] && SETTING=$ATEN_CPU_CAPABILITY
shift 3
echo $name >> "$COUNTER"
text="$name$MODE$SETTING($(cat "$@"))"
printf %s "$text" > "$one"
printf %s "$text$text" > "$two"
"""
GONE_SECONDS = 20


VARIABLES = ("MODE", "ATEN_CPU_CAPABILITY")
"""What of the environment changes a result: one that the recipe lists, and one by which libraries
compute otherwise, as the step does if strict.
"""


OUTPUTS = "{one: one.txt, two: sub/two.txt}"


def recipe(*, strict: bool = False) -> str:
    lines = [*(["numerics: strict"] if strict else []), "default: [e, f]", "targets:"]
    for name, inputs in INPUTS.items():
        words = " ".join(["data/" + name + ".txt", *(f"{{inputs.{i}}}" for i in inputs)])
        given = ", ".join(f"{i}: {i}.one" for i in inputs)
        run = f'run: "sh step.sh {name} {{outputs.one}} {{outputs.two}} {words}"'
        listed = "env: {keyed: [MODE], passed: [COUNTER]}"
        lines.append(
            f"  {name}: {{kind: command, {run}, inputs: {{{given}}}, files: [data/{name}.txt], "
            f"outputs: {OUTPUTS}, {listed}}}"
        )
    return "\n".join(lines) + "\n"


@dataclass
class Pipeline:
    """A diamond of commands in a folder, and what its sources say."""

    place: Place
    sources: dict[str, str] = field(default_factory=dict)
    valid: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in INPUTS})
    """target -> every content that it may rightly have had."""

    def __post_init__(self) -> None:
        folder = self.place.folder
        (folder / "data").mkdir(parents=True)
        self.place.recipe.write_text(recipe())
        (folder / "step.sh").write_text(STEP)
        self.place.environment["COUNTER"] = str(self.counter)
        self.counter.write_text("")
        self.sources = dict.fromkeys(INPUTS, "0")
        for name in INPUTS:
            self.edit(name, "0")

    @property
    def counter(self) -> Path:
        return self.place.folder.parent / "ran"

    def edit(self, name: str, text: str) -> None:
        self.sources[name] = text
        (self.place.folder / f"data/{name}.txt").write_text(text)
        for target in INPUTS:
            self.valid[target].add(self.content(target))

    @property
    def strict(self) -> bool:
        return (self.place.folder / "strict").exists()

    def be_strict(self) -> None:
        """The step computes by the numerics of the machine, and the recipe counts them."""
        (self.place.folder / "strict").touch()
        self.place.recipe.write_text(recipe(strict=True))

    def content(self, target: str) -> str:
        mode, setting = (self.place.environment.get(name, "") for name in VARIABLES)
        words = f"{target}{mode}{setting if self.strict else ''}"
        return f"{words}({self.sources[target]}{''.join(map(self.content, INPUTS[target]))})"

    def expected(self) -> dict[str, bytes]:
        """What build/ must hold."""
        files: dict[str, bytes] = {}
        for name in INPUTS:
            text = self.content(name).encode()
            files |= {f"{name}/one.txt": text, f"{name}/sub/two.txt": text + text}
        return files

    def left_to_do(self) -> int:
        """How many targets are not what they should be."""
        right, there = self.expected(), self.place.everything()
        return sum(
            any(there.get(f) != right[f] for f in (f"{name}/one.txt", f"{name}/sub/two.txt"))
            for name in INPUTS
        )

    def check_nothing_wrong(self) -> None:
        """Whatever lies in build/ is whole, and was right once."""
        build = self.place.folder / "build"
        for folder in build.iterdir() if build.exists() else ():
            one = (folder / "one.txt").read_text()
            assert one in self.valid[folder.name], folder
            assert (folder / "sub/two.txt").read_text() == one + one, folder


def check_blobs(cache: Path, known: set[str] | None = None) -> None:
    """Every blob is what its name says; `known` ones were looked at before."""
    for blob in cache.glob("blobs/??/*"):
        if len(blob.name) == 32 and (known is None or blob.name not in known):
            assert hashing.of_file(blob) == blob.name
            if known is not None:
                known.add(blob.name)


def left_over(folder: Path) -> list[Path]:
    """What is half-made, or was for a moment only."""
    return [
        p
        for p in folder.rglob("*")
        if p.parent.name == "tmp" or p.suffix in (".tmp", ".aside") or p.name.startswith(".clock-")
    ]


def let_a_day_pass(place: Place) -> None:
    """For what was left over: what is young may belong to a build that goes on."""
    for path in (*left_over(place.folder), *left_over(place.cache)):
        os.utime(path, (time.time() - 86400,) * 2)


def check_swept(place: Place, *, after_gc: bool = False) -> None:
    """Nothing half-made is left in the folder and in the cache; what a kill left among the blobs
    waits for `gc`.
    """
    left = [
        p
        for p in (*left_over(place.folder), *left_over(place.cache))
        if after_gc or p.parent.parent.name != "blobs"
    ]
    assert left == [], left


def kill(pid: int, which: str = "tree") -> tuple[bool, list[psutil.Process]]:
    """SIGKILL to the build, to its first child or to all.

    Whether there was one to kill, and the children that there were.
    """
    try:
        build = psutil.Process(pid)
        children = build.children(recursive=True)
    except psutil.NoSuchProcess:
        return False, []
    victims = {"parent": [build], "child": children[:1], "tree": [build, *children]}[which]
    hit = False
    for one in victims:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
            hit = True
    return hit, children


def check_no_orphan(place: Place, children: list[psutil.Process] = []) -> None:  # noqa: B006
    """Neither the children seen, nor any other process that works for this cache, lives on."""
    _, alive = psutil.wait_procs(children, timeout=GONE_SECONDS)
    assert alive == []
    deadline = time.monotonic() + GONE_SECONDS
    while found := [
        p for p in psutil.process_iter(["cmdline", "cwd", "environ"]) if _works_for(place, p)
    ]:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def _works_for(place: Place, process: psutil.Process) -> bool:
    """By its command line or its environment, or, for one that was forked, by the folder that it is
    in.
    """
    folder, words, environment = (
        process.info["cwd"] or "",
        process.info["cmdline"] or (),
        process.info["environ"] or {},
    )
    named = str(place.cache) in " ".join(words) or environment.get("OLIVEBUILD_CACHE") == str(
        place.cache
    )
    return named or any(folder.startswith(str(p)) for p in (place.cache, place.folder))


@dataclass
class Ended:
    """A build that has ended, by itself or not. The last line of its events may be cut."""

    code: int
    events: list[dict[str, Any]]
    err: str

    def of(self, event: str) -> list[str]:
        return [str(e["target"]) for e in self.events if e["event"] == event]

    @property
    def done(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        return self.events[-1]


class Builds:
    """Builds of one place, forked from a server where that can be, with `fork_workers` their
    workers, too.
    """

    def __init__(self, place: Place, *, fork_workers: bool = False) -> None:
        self.place = place
        self.fork_workers = fork_workers
        self.out = place.folder.parent / "said"
        self._process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str) -> int:
        """The id of the process."""
        with (
            self.out.with_suffix(".out").open("w") as out,
            self.out.with_suffix(".err").open("w") as err,
        ):
            words = ("build", "--json", *arguments)
            variables = self.place.variables
            self._process = (
                forks.start(
                    words,
                    self.place.folder,
                    variables,
                    fork_workers=self.fork_workers,
                    out=out,
                    err=err,
                )
                if forks.CAN
                else None
            ) or subprocess.Popen(
                [sys.executable, "-m", "olivebuild", *words],
                cwd=self.place.folder,
                env=variables,
                stdout=out,
                stderr=err,
                text=True,
            )
        return self._process.pid

    def wait(self) -> Ended:
        assert self._process
        code = self._process.wait()
        lines = self.out.with_suffix(".out").read_text().split("\n")
        events = []
        for line in lines:
            with suppress(ValueError):
                events.append(json.loads(line))
        return Ended(code, events, self.out.with_suffix(".err").read_text())

    def build(self, *arguments: str) -> Ended:
        self.start(*arguments)
        return self.wait()


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: tests that write thousands of times need not wait for
    a disk.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="olivebuild-", dir=memory if memory.is_dir() else None
    ) as folder:
        yield Path(folder)


def amount(name: str, default: int) -> int:
    """How many rounds a test makes: OLIVEBUILD_<name>, for long runs."""
    return int(os.environ.get(f"OLIVEBUILD_{name}", default))


def chance_of(name: str) -> random.Random:
    """Seeded by OLIVEBUILD_SEED; a failure says which."""
    return random.Random(f"{name} {os.environ.get('OLIVEBUILD_SEED', '0')}")
