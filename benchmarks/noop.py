"""A build of which nothing has changed: olivebuild beside make, ninja, doit, DVC and `python -c pass`, in turn, on the same graph.

    python benchmarks/noop.py            # 5 targets with a 1 GiB input, and 1,000 targets; a few minutes
    python benchmarks/noop.py --quick    # 5 targets, a small input

The graph is a chain of five copies, or many copies of one file. All builders are warm: everything was built before. Medians of
interleaved rounds; a builder that is not installed is said.
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
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, end, table

Graph = list[tuple[str, str]]
"""(target, what it is a copy of), inputs first; `in.bin` is the source."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small input, 5 targets; no goals")
    parser.add_argument("--json", action="store_true", help="only the last line")
    parser.add_argument("--wide", type=int, default=1000, help="targets of the wide graph")
    options = parser.parse_args()
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory(prefix="noop-") as name:
        root = Path(name)
        chain = [(f"t{i}", f"t{i - 1}" if i else "in.bin") for i in range(5)]
        claims += measure(root / "chain", chain, 1 << (20 if options.quick else 30), 9 if options.quick else 15, options)
        if not options.quick:
            claims += measure(root / "wide", [(f"t{i}", "in.bin") for i in range(options.wide)], 1024, 5, options)
    end(claims, "doit", "ninja", "dvc")


def measure(root: Path, graph: Graph, size: int, rounds: int, options: argparse.Namespace) -> list[Claim]:
    commands: dict[str, tuple[list[str], Path, dict[str, str]]] = {"python -c pass": ([sys.executable, "-c", "pass"], Path("/"), {})}
    missing = []
    for name, prepare in BUILDERS.items():
        folder = root / name
        folder.mkdir(parents=True)
        with open(folder / "in.bin", "wb") as f:
            f.truncate(size)
        prepared = prepare(folder, graph)
        if prepared is None:
            missing.append(name)
            continue
        command, environment = prepared
        for _ in range(3):
            subprocess.run(command, cwd=folder, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        commands[name] = (command, folder, environment)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, (command, folder, environment) in commands.items():
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    if not options.json:
        print(f"\n{len(graph):,} targets, input of {size / 2**20:,.3g} MiB; medians of {rounds} rounds\n")
        rows = [[n, f"{t * 1e3:.1f} ms", f"{t / medians['python -c pass']:.2f}x"] for n, t in medians.items()]
        print(table(["", "no-op", "of python -c pass"], rows))
        for name in missing:
            print(f"{name} is not installed: not measured")
    ours = medians["olivebuild"]
    goals = {"python -c pass": 0.5, "dvc": 50} if len(graph) == 5 else {"make": 1 / 6 if len(graph) <= 1000 else 1 / 3}
    what = f"no-op of {len(graph):,} targets against "
    return [
        Claim(what + n, round(ours * 1e3, 2), round(t * 1e3, 2), "ms", round(t / ours, 3), None if options.quick else goals.get(n))
        for n, t in medians.items()
        if n != "olivebuild"
    ]


Prepared = tuple[list[str], dict[str, str]] | None


def olivebuild(folder: Path, graph: Graph) -> Prepared:
    lines = ["default: [" + ", ".join(t for t, _ in graph if t not in {s for _, s in graph}) + "]", "targets:"]
    for target, source in graph:
        given = "files: [in.bin]" if source == "in.bin" else f"inputs: {{x: {source}.y}}"
        word = "in.bin" if source == "in.bin" else "{inputs.x}"
        lines.append(f'  {target}: {{kind: command, run: "cp {word} {{outputs.y}}", {given}, outputs: {{y: y.bin}}}}')
    (folder / "olivebuild.yaml").write_text("\n".join(lines) + "\n")
    script = shutil.which("olivebuild", path=str(Path(sys.executable).parent))
    command = [script] if script else [sys.executable, "-m", "olivebuild"]
    return [*command, "-j", "2"], {"OLIVEBUILD_CACHE": str(folder / "cache")}


def make(folder: Path, graph: Graph) -> Prepared:
    rules = [f"{target}.bin: {source.removesuffix('.bin')}.bin\n\tcp $< $@\n" for target, source in graph]
    (folder / "Makefile").write_text("all: " + " ".join(f"{t}.bin" for t, _ in graph) + "\n" + "".join(rules))
    return (["make"], {}) if shutil.which("make") else None


def ninja(folder: Path, graph: Graph) -> Prepared:
    lines = ["rule copy", "  command = cp $in $out", *(f"build {t}.bin: copy {s.removesuffix('.bin')}.bin" for t, s in graph)]
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    program = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    return ([program], {}) if program else None


def doit(folder: Path, graph: Graph) -> Prepared:
    tasks = [
        {"name": t, "file_dep": [f"{s.removesuffix('.bin')}.bin"], "targets": [f"{t}.bin"], "actions": [f"cp {s.removesuffix('.bin')}.bin {t}.bin"]}
        for t, s in graph
    ]
    (folder / "dodo.py").write_text(f"def task_copy():\n    yield from {tasks!r}\n")
    program = shutil.which("doit", path=str(Path(sys.executable).parent))
    return ([program], {}) if program else None


def dvc(folder: Path, graph: Graph) -> Prepared:
    program = shutil.which("dvc", path=str(Path(sys.executable).parent))
    if not program or len(graph) > 100:
        return None
    subprocess.run([program, "init", "--no-scm", "-q"], cwd=folder, check=True)
    stages = [
        f"  {t}:\n    cmd: cp {s.removesuffix('.bin')}.bin {t}.bin\n    deps: [{s.removesuffix('.bin')}.bin]\n    outs: [{t}.bin]\n" for t, s in graph
    ]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    return [program, "repro", "-q"], {}


BUILDERS: dict[str, Callable[[Path, Graph], Prepared]] = {"olivebuild": olivebuild, "make": make, "ninja": ninja, "doit": doit, "dvc": dvc}

if __name__ == "__main__":
    main()
