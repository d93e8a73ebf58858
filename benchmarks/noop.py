"""A build of which nothing has changed: olivebuild beside make, ninja, doit, DVC and `python -c
pass`, in turn, on the same graph.

    # 5 targets with a 1 GiB input, 1,000 and 10,000 targets, one edit; half an hour, most of it the
    # first builds.
    python benchmarks/noop.py
    # 5 targets, a small input.
    python benchmarks/noop.py --quick
    # Where else to look for peers: DVC in an environment of its own.
    python benchmarks/noop.py --path /tmp/venv/bin

The graph is a chain of five copies, or many targets, each the copy of a source of its own. All
builders are warm: everything was built before. Medians of interleaved rounds; a builder that is not
installed is said. make runs without its built-in rules, which would cost it 20 s on 10,000 sources.
Our first build of many targets makes them in this process, since ten thousand processes would take
an hour; what is measured is the command.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, end, table
from olivebuild.api.action import Action, Outcome
from olivebuild.api.executor import Requirements
from olivebuild.api.result import Result
from olivebuild.engine.builder import Builder
from olivebuild.planner.project import open_project

SLOW = 40.0
"""Seconds after which a builder has no more rounds."""
GOALS: dict[int, dict[str, float]] = {
    5: {"python -c pass": 1 / 2, "dvc": 50},
    1000: {"make": 1 / 6},
    10000: {"make": 1 / 3},
}
"""Targets -> how many times faster than a builder we want to be."""
Graph = list[tuple[str, str]]
"""(target, what it is a copy of), inputs first; `in.bin` is the source."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small input, 5 targets; no goals")
    parser.add_argument("--json", action="store_true", help="only the last line")
    parser.add_argument(
        "--wide", type=int, nargs="*", default=[5, 1000, 10000], help="targets of the wide graphs"
    )
    parser.add_argument("--no-chain", action="store_true", help="leave out the chain of 5 targets")
    parser.add_argument("--path", default="", help="a folder with programs of peers")
    options = parser.parse_args()
    # As people run Python: what was compiled is kept.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PATH"] = os.pathsep.join(p for p in (options.path, os.environ["PATH"]) if p)
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory(prefix="noop-") as name:
        root = Path(name)
        chain = [(f"t{i}", f"t{i - 1}" if i else "in.bin") for i in range(5)]
        if not options.no_chain:
            claims += measure(
                root / "chain",
                chain,
                1 << (20 if options.quick else 30),
                9 if options.quick else 15,
                options,
            )
        if not options.quick:
            for wide in options.wide:
                claims += measure(
                    root / f"wide{wide}",
                    [(f"t{i}", f"in/{i}.bin") for i in range(wide)],
                    1024,
                    15 if wide <= 5 else 9,
                    options,
                )
    end(claims, "doit", "ninja", "dvc")


@dataclass(frozen=True)
class BuildTool:
    command: list[str]
    folder: Path
    environment: dict[str, str]

    def run(self) -> float:
        """Wall seconds."""
        start = time.perf_counter()
        environment = os.environ | self.environment
        subprocess.run(
            self.command,
            cwd=self.folder,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - start

    def peak(self) -> tuple[int, int]:
        """Peak resident memory of the largest process in bytes, of a run of its own, and the least
        that could be told.
        """
        command = [sys.executable, "-I", "-S", "-c", LAUNCHER, *self.command]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | self.environment,
            check=True,
            capture_output=True,
        )
        ours, theirs = map(int, done.stdout.split()[-2:])
        return theirs * 1024, ours * 1024


# A process counts what it was before it became the program: so a small one starts it.
LAUNCHER = """
import os, resource, sys
with open("/proc/self/status") as f:
    ours = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
child = os.fork()
if not child:
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 2)
    os.execvp(sys.argv[1], sys.argv[1:])
if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
    raise SystemExit(1)
print(ours, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measure(
    root: Path, graph: Graph, size: int, rounds: int, options: argparse.Namespace
) -> list[Claim]:
    builders, missing = (
        {"python -c pass": BuildTool([sys.executable, "-c", "pass"], Path("/"), {})},
        [],
    )
    for name, prepare in BUILDERS.items():
        folder = root / name
        write_sources(folder, graph, size)
        prepared = prepare(folder, graph)
        if prepared is None:
            missing.append(name)
            continue
        builders[name] = BuildTool(prepared[0], folder, prepared[1])
        for _ in range(3):
            if builders[name].run() > SLOW:
                break
    edits = any(source.startswith("in/") for _, source in graph)
    noop = rounds_of(builders, rounds, lambda *_: None)
    peaks = {name: builder.peak() for name, builder in builders.items()}
    edit: dict[str, list[float]] = {}
    if edits:
        # DVC and doit would take minutes to tell what makes no difference to the goal.
        chosen = {
            name: b for name, b in builders.items() if name in ("olivebuild", "make", "ninja")
        }
        edit = rounds_of(
            chosen,
            rounds,
            lambda folder, number: (folder / f"in/{len(graph) // 2}.bin").write_text(
                f"edit {number}"
            ),
        )
    if not options.json:
        shape = "each of a source of its own" if edits else "in a chain"
        print(
            f"\n{len(graph):,} targets, {shape}, of {size / 2**20:,.3g} MiB; medians of {rounds} "
            "rounds\n"
        )
        rows = [
            row(name, times, peaks[name], edit, statistics.median(noop["python -c pass"]))
            for name, times in noop.items()
        ]
        print(table(["", "no-op", "of python -c pass", "peak RSS", "one source edited"], rows))
        for name in missing:
            print(f"{name} is not measured: not installed, or too slow for so many targets")
    return claims_of(
        len(graph), edits, medians(noop), medians(edit), peaks["olivebuild"][0], quick=options.quick
    )


def row(
    name: str, times: list[float], peak: tuple[int, int], edit: dict[str, list[float]], least: float
) -> list[str]:
    told = f"{ms(times)}{f' ({len(times)} rounds)' if sum(times) > SLOW else ''}"
    memory = f"{peak[0] / 1e6:.0f} MB" if peak[0] > peak[1] else f"under {peak[1] / 1e6:.0f} MB"
    return [
        name,
        told,
        f"{statistics.median(times) / least:.2f}x",
        memory,
        ms(edit[name]) if name in edit else "",
    ]


def write_sources(folder: Path, graph: Graph, size: int) -> None:
    folder.mkdir(parents=True)
    made = {target for target, _ in graph}
    for number, source in enumerate(sorted({s for _, s in graph} - made)):
        (folder / source).parent.mkdir(exist_ok=True)
        with open(folder / source, "wb") as f:
            f.truncate(size)
            f.write(str(number).encode())


def rounds_of(
    builders: dict[str, BuildTool], rounds: int, before: Callable[[Path, int], object]
) -> dict[str, list[float]]:
    """Wall times, in turn, so that a slow minute of the machine is everybody's.

    Who takes long has fewer rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in builders}
    for number in range(rounds):
        for name, builder in builders.items():
            if sum(times[name]) <= SLOW:
                before(builder.folder, number)
                times[name].append(builder.run())
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


def ms(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.1f} ms"


def claims_of(
    count: int,
    edits: bool,
    noop: dict[str, float],
    edit: dict[str, float],
    peak: int,
    *,
    quick: bool,
) -> list[Claim]:
    goals = {} if count == 5 and edits else GOALS.get(count, {})
    found = []
    for what, times in (("no-op", noop), ("one source edited", edit)):
        for name, t in times.items():
            if name != "olivebuild":
                ours = times["olivebuild"]
                goal = None if quick or (times is edit and count <= 1000) else goals.get(name)
                found.append(
                    Claim(
                        f"{what} of {count:,} targets against {name}",
                        round(ours * 1e3, 2),
                        round(t * 1e3, 2),
                        "ms",
                        round(t / ours, 3),
                        goal,
                    )
                )
    if count >= 10000:
        found.append(
            Claim(
                f"memory of a no-op of {count:,} targets against 40 MB",
                round(peak / 1e6, 1),
                40.0,
                "MB",
                round(40e6 / peak, 3),
                1.0,
            )
        )
    return found


Prepared = tuple[list[str], dict[str, str]] | None


def olivebuild(folder: Path, graph: Graph) -> Prepared:
    made = {target for target, _ in graph}
    lines = [
        "default: [" + ", ".join(t for t, _ in graph if t not in {s for _, s in graph}) + "]",
        "targets:",
    ]
    for target, source in graph:
        given, word = (
            (f"inputs: {{x: {source}.y}}", "{inputs.x}")
            if source in made
            else (f"files: [{source}]", source)
        )
        lines.append(
            f'  {target}: {{kind: command, run: "cp {word} {{outputs.y}}", {given}, outputs: {{y: '
            f"y.bin}}}}"
        )
    (folder / "olivebuild.yaml").write_text("\n".join(lines) + "\n")
    environment = {"OLIVEBUILD_CACHE": str(folder / "cache")}
    if len(graph) > 100:
        os.environ |= environment
        project = open_project(folder, None)
        # None of it needs to survive a power cut.
        with patch("os.fsync"):
            Builder(project.planner, Copies(), lambda *_: None).run(project.graph.goals([]))
        project.planner.traces.close()
    script = shutil.which("olivebuild", path=str(Path(sys.executable).parent))
    command = [script] if script else [sys.executable, "-m", "olivebuild"]
    return [*command, "-j", "2"], environment


class Copies:
    """An executor that does here what `cp` would do in a process of its own."""

    def __init__(self) -> None:
        self._action: Action | None = None

    def prepare(self, modules: Sequence[str]) -> None:
        """Nothing takes long here."""

    def can_start(self, action: Requirements) -> bool:
        return self._action is None

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        self._action = action

    def wait(self, seconds: float) -> Outcome:
        action, self._action = self._action, None
        assert action
        given = [i.path for i in action.inputs.values()] or action.files["file.0"]
        shutil.copyfile(given[0], Path(action.out) / "y.bin")
        return Outcome(action.node, 0.01, result=Result())

    def cancel(self) -> None:
        pass


def make(folder: Path, graph: Graph) -> Prepared:
    rules = [
        f"{target}.bin: {source.removesuffix('.bin')}.bin\n\t@cp $< $@\n"
        for target, source in graph
    ]
    (folder / "Makefile").write_text(
        "all: " + " ".join(f"{t}.bin" for t, _ in graph) + "\n" + "".join(rules)
    )
    return (["make", "-r"], {}) if shutil.which("make") else None


def ninja(folder: Path, graph: Graph) -> Prepared:
    lines = [
        "rule copy",
        "  command = cp $in $out",
        *(f"build {t}.bin: copy {s.removesuffix('.bin')}.bin" for t, s in graph),
    ]
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    program = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    return ([program], {}) if program else None


def doit(folder: Path, graph: Graph) -> Prepared:
    tasks = [
        {
            "name": t,
            "file_dep": [f"{s.removesuffix('.bin')}.bin"],
            "targets": [f"{t}.bin"],
            "actions": [f"cp {s.removesuffix('.bin')}.bin {t}.bin"],
        }
        for t, s in graph
    ]
    (folder / "dodo.py").write_text(f"def task_copy():\n    yield from {tasks!r}\n")
    program = shutil.which("doit") or shutil.which("doit", path=str(Path(sys.executable).parent))
    return ([program], {}) if program else None


def dvc(folder: Path, graph: Graph) -> Prepared:
    program = shutil.which("dvc") or shutil.which("dvc", path=str(Path(sys.executable).parent))
    if not program or len(graph) > 1000:
        return None
    subprocess.run([program, "init", "--no-scm", "-q"], cwd=folder, check=True)
    stages = [
        f"  {t}:\n    cmd: cp {s.removesuffix('.bin')}.bin {t}.bin\n    deps: "
        f"[{s.removesuffix('.bin')}.bin]\n    outs: [{t}.bin]\n"
        for t, s in graph
    ]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    if len(graph) > 100:
        # Its first build of 1,000 stages takes an hour; what it is told to believe is the same.
        for target, source in graph:
            shutil.copyfile(folder / source, folder / f"{target}.bin")
        subprocess.run([program, "commit", "-f", "-q"], cwd=folder, check=True)
    return [program, "repro", "-q"], {}


BUILDERS: dict[str, Callable[[Path, Graph], Prepared]] = {
    "olivebuild": olivebuild,
    "make": make,
    "ninja": ninja,
    "doit": doit,
    "dvc": dvc,
}

if __name__ == "__main__":
    main()
