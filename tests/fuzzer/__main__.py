"""`python -m tests.fuzzer --minutes 60 [--seed N] [--only model,adapter] [--case model:0:17
[--changes 0,2]]`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzzer.cases import DEEP, Finding, Fuzzer, drawn, minimised
from tests.fuzzer.subjects import SUBJECTS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzzer",
        description="Spoil what strangers bring, and look what the commands make of it.",
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--deep",
        type=float,
        default=DEEP,
        help="the share of cases that run heavy steps; it is part of a case",
    )
    parser.add_argument("--only", default=",".join(SUBJECTS), help="subjects, with commas")
    parser.add_argument("--case", help="run this one, and keep the folder")
    parser.add_argument("--changes", default="", help="of that case, these changes alone")
    parser.add_argument(
        "--folder", type=Path, help="where the sandbox lies; one that is there is taken as it is"
    )
    given = parser.parse_args()
    memory = Path("/dev/shm")
    folder = given.folder or Path(
        tempfile.mkdtemp(prefix="olivebuild-fuzz-", dir=memory if memory.is_dir() else None)
    )
    fuzzer = Fuzzer(folder / "sandbox", given.deep)
    started = time.monotonic()
    fuzzer.make()
    print(f"made in {time.monotonic() - started:.0f} s below {folder}", flush=True)
    try:
        if given.case:
            done, found = fuzzer.run(given.case, [int(n) for n in given.changes.split(",") if n])
            print(*done, *(f"{f.kind}: {f.command}: {f.told}" for f in found), sep="\n")
            for name in ("out", "err"):
                print(
                    f"-- {name}\n"
                    + Path(f"{fuzzer.sandbox.root}.said.{name}").read_text(errors="replace")[-3000:]
                )
            return bool(found)
        return fuzz(fuzzer, given.only.split(","), given.seed, given.minutes * 60)
    finally:
        fuzzer.close()
        if not (given.folder or given.case):
            shutil.rmtree(folder)


def fuzz(fuzzer: Fuzzer, names: list[str], seed: int, seconds: float) -> int:
    """Cases for so long; each fault is told once, with the case that shows it."""
    counts: Counter[str] = Counter()
    first: dict[str, Finding] = {}
    started = told = time.monotonic()
    for case in drawn(names, seed, seconds):
        done, found = fuzzer.run(case)
        for finding in found:
            counts[finding.signature] += 1
            if finding.signature not in first:
                first[finding.signature] = finding
                only = minimised(fuzzer, finding) if finding.kind != "hang" else []
                changes = f" --changes {','.join(map(str, only))}" if only else ""
                print(
                    f"FOUND {finding.kind}: {finding.told[:700]}\n  `{finding.command}` after "
                    f"{done}\n  --case {case}{changes}",
                    flush=True,
                )
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(
                f"{told - started:.0f} s: {fuzzer.inputs} inputs, {fuzzer.commands} commands, "
                f"{len(first)} faults",
                flush=True,
            )
    spent = time.monotonic() - started
    print(
        f"{fuzzer.inputs} inputs, {fuzzer.commands} commands in {spent:.0f} s, "
        f"{fuzzer.inputs / spent:.1f} a second"
    )
    print(f"slowest {fuzzer.slowest[0]:.1f} s: {fuzzer.slowest[1]}")
    for signature, count in counts.most_common():
        print(f"{count:6} {signature}  --case {first[signature].case}")
    return bool(first)


if __name__ == "__main__":
    sys.exit(main())
