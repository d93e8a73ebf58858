"""The first build: an adapter merged and converted to int4 with nothing in the cache, beside the
same by peft and the model builder.

    python benchmarks/first.py                      # a Phi-3 of 0.7B parameters
    python benchmarks/first.py --hidden 3072 --intermediate 8192 --layers 32 --heads 32
    python benchmarks/first.py --beside CHECKOUT    # another version of olivebuild as well
    python benchmarks/first.py --quick

The first build of a structure watches the model builder once, compares a miniature of it with
transformers, and quantises every tensor; `rebuild.py` measures the builds after it. Random weights,
each round in turn, a new cache each time; times are until the result lies in its folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, Cost, end, run, table
from benchmarks.rebuild import RECIPE, compare, make_adapter, make_model, peer_build, peer_merge

HOME = Path(__file__).parent.parent
OURS, PEER = "olivebuild", "peft + model builder"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("hidden", 1536), ("intermediate", 4096), ("layers", 22)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("heads", 24), ("vocabulary", 32064), ("rank", 64), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--modules", default="qkv_proj,o_proj", help=argparse.SUPPRESS)
    parser.add_argument("--beside", default="", help="a checkout of another version")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--quick", action="store_true", help="a tiny model; no goals")
    options = parser.parse_args()
    if options.quick:
        options.hidden, options.intermediate, options.layers = 64, 128, 2
        options.heads, options.vocabulary, options.rank, options.rounds = 4, 400, 4, 1
    os.environ["HF_HUB_OFFLINE"] = "1"
    # As in rebuild.py: no commit in the graph, and byte code for all.
    os.environ["GIT_DIR"] = os.devnull
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="first-", dir=os.environ.get("BENCHMARK_DIR")) as name:
        measure(Path(name), options)


def measure(root: Path, options: argparse.Namespace) -> None:
    count = make_model(root / "base", options)
    make_adapter(root / "adapter0", root / "base", options, 0)
    if hasattr(os, "sync"):
        os.sync()
    sides: dict[str, Callable[[], Cost]] = {OURS: lambda: build(root, HOME)}
    if options.beside:
        sides[f"olivebuild of {options.beside}"] = lambda: build(root, Path(options.beside))
    if not options.no_peers:
        sides[PEER] = lambda: both(peer_merge(root, 0), peer_build(root))
    rounds = [{name: side() for name, side in sides.items()} for _ in range(options.rounds)]
    if not options.no_peers:
        build(root, HOME)
        compare(root)
    report(rounds, count, options)


def build(root: Path, home: Path) -> Cost:
    """Build with the package in `home`, a new workspace and a new cache."""
    for name in ("work", "cache"):
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "work").mkdir()
    (root / "work/olivebuild.yaml").write_text(RECIPE)
    for name, target in (("base", "base"), ("adapter", "adapter0")):
        (root / "work" / name).symlink_to(root / target)
    paths = (str(home.absolute()), os.environ.get("PYTHONPATH", ""))
    environment = {
        "OLIVEBUILD_CACHE": str(root / "cache"),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    command = [sys.executable, "-m", "olivebuild", "onnx-int4"]
    return run(command, folder=root / "work", environment=environment)


def both(first: Cost, second: Cost) -> Cost:
    """Return the cost of two commands one after the other."""
    return Cost(first.wall + second.wall, first.cpu + second.cpu, max(first.peak, second.peak))


def report(rounds: list[dict[str, Cost]], count: int, options: argparse.Namespace) -> None:
    medians = {
        name: Cost(
            *(
                statistics.median(getattr(costs[name], part) for costs in rounds)
                for part in ("wall", "cpu", "peak")
            )
        )
        for name in rounds[0]
    }
    rows = [
        [name, f"{c.wall:.1f} s", f"{c.cpu:.1f} s", f"{c.peak / 2**20:,.0f} MiB"]
        for name, c in medians.items()
    ]
    print(f"{count / 1e6:,.0f}M parameters; medians of {len(rounds)}\n")
    print(table(["", "wall", "CPU", "peak RSS of all processes"], rows))
    if out := os.environ.get("OUT"):
        text = json.dumps([{n: asdict(c) for n, c in costs.items()} for costs in rounds], indent=2)
        Path(out, "first.json").write_text(text)
    claims = []
    if PEER in medians:
        ours, peer = medians[OURS], medians[PEER]
        print("\nThe ONNX files are byte for byte the same.")
        figures = (
            ("first build, wall", ours.wall, peer.wall, "s", 3.0),
            ("first build, processor time", ours.cpu, peer.cpu, "s", 2.0),
            ("first build, peak memory", ours.peak / 2**20, peer.peak / 2**20, "MiB", 6.0),
        )
        claims = [
            Claim(
                what,
                round(mine, 2),
                round(theirs, 2),
                unit,
                round(theirs / mine, 2),
                None if options.quick else goal,
            )
            for what, mine, theirs, unit, goal in figures
        ]
    end(claims, "torch", "transformers", "peft", "onnxruntime", "onnxruntime-genai")


if __name__ == "__main__":
    main()
