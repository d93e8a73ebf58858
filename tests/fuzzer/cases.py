"""One case: what is spoilt, by which commands it is read, and what must hold after each.

A case is drawn from its name alone.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.fuzzer import running
from tests.fuzzer.mutations import Changes
from tests.fuzzer.running import Ended, Server
from tests.fuzzer.sandbox import Entry, Sandbox, look
from tests.fuzzer.subjects import SUBJECTS, Subject

LIMIT = 30.0
PATIENCE = 150.0
"""A machine that others use may take a few times as long: what took longer than LIMIT is tried
again, and its processor time counts.
"""
DEEP = 0.03
"""The share of cases that run steps which import large libraries: one takes as long as twenty
others.
"""
CODES = (0, 1, 2, 3)
STEERS = {
    "\u202a",
    "\u202b",
    "\u202c",
    "\u202d",
    "\u202e",
    "\u2066",
    "\u2067",
    "\u2068",
    "\u2069",
    "\u2028",
    "\u2029",
}
SILENT = ("model", "adapter", "onnx", "gguf", "wheel", "hub")
"""Subjects that are folders of others: what lies beside them is not theirs to publish.

A data file's path is the user's own word.
"""


MADE = "made"

WRITTEN_BY_INIT = (
    "work/new.yaml",
    "work/.gitignore",
    "work/olivebuild.recipe.schema.json",
)


class Finding(NamedTuple):
    kind: str
    """traceback, hang, exit, canary, ran, output, published, orphan; `unforeseen`: an error of a
    library, passed on as a step's.
    """
    told: str
    case: str
    command: str

    @property
    def signature(self) -> str:
        """Equal for what is likely the same fault."""
        return (
            f"{self.kind}: "
            + re.sub(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+|'[^']*'|\"[^\"]*\"", "_", self.told)[:160]
        )


class Fuzzer:
    def __init__(self, root: Path, deep: float = DEEP) -> None:
        self.deep = deep
        self.sandbox = Sandbox(root)
        # Python looks once for a place for temporary files.
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        self.light, self.heavy = Server(self.sandbox), Server(self.sandbox, heavy=True)
        self.alarms = Path(f"{self.sandbox.root}.alarms")
        self.inputs = self.commands = 0
        self.slowest = (0.0, "")
        self.asked: list[tuple[Server, str]] = []
        """What this case has run."""

    def make(self) -> None:
        """The sandbox, with everything built once: so that there is a cache to spoil, and an ONNX
        folder to bring.
        """
        if (self.sandbox.root / MADE).exists():
            self.sandbox.keep()
            return
        self._must(self.heavy.ask({"make": True}, 600), Path(f"{self.sandbox.root}.server"))
        work = self.sandbox.work
        for arguments in (
            ["build", "int4"],
            ["build", "-k", "base", "brought", "measured", "table"],
            ["build", "-k", *self._targets()],
        ):
            self._must(self.heavy.ask({"arguments": arguments}, 600))
            if not (work / "onnx/genai_config.json").exists():
                for file in (work / "build/int4").iterdir():
                    shutil.copyfile(file, work / "onnx" / file.name)
        self.alarms.unlink(missing_ok=True)
        (self.sandbox.root / MADE).touch()
        self.sandbox.keep()

    def _targets(self) -> list[str]:
        text = (self.sandbox.work / "olivebuild.yaml").read_text()
        return re.findall(r"^  (\w+): \{kind", text, re.M)

    @staticmethod
    def _must(ended: Ended, log: Path | None = None) -> None:
        if ended.code != 0:
            raise AssertionError(
                (ended.out + ended.err + (log.read_bytes() if log else b"")).decode(
                    errors="replace"
                )
            )

    def close(self) -> None:
        if self.sandbox.pristine:
            self.sandbox.put_back()
        self.light.close()
        self.heavy.close()

    def run(self, case: str, only: Sequence[int] = ()) -> tuple[list[str], list[Finding]]:
        """Spoil, read, look: what was done, and what was found.

        `only`: these changes of the case alone.
        """
        name, _, _ = case.partition(":")
        chance, sandbox, subject = random.Random(case), self.sandbox, SUBJECTS[name]
        sandbox.put_back()
        self.alarms.unlink(missing_ok=True)
        done = []
        draw = chance.random()
        if draw < 0.25 and name != "cache":
            _remove(sandbox, "cache", "work/build", "work/.olivebuild")
            done.append("nothing was built")
        elif draw < 0.6 and name == "cache":
            _remove(sandbox, "work/build", *(["work/.olivebuild"] if draw < 0.3 else []))
            done.append("build/ is gone")
        pool = [p for p in sandbox.work.glob("*") if p.is_file()]
        for i in range(chance.choice((1, 1, 1, 2, 3))):
            if not only or i in only:
                done.append(self._spoil(random.Random(f"{case} {i}"), subject, pool))
        if name == "wheel":
            _pin_anew(sandbox)
        before = look(str(sandbox.root))
        found: list[Finding] = []
        if subject.heavy and chance.random() < self.deep * subject.times:
            commands = [(self.heavy, chance.choice(subject.heavy))]
        else:
            commands = [
                (self.light, c)
                for c in chance.sample(
                    subject.light, min(chance.choice((1, 1, 2)), len(subject.light))
                )
            ]
        alone, self.asked = chance.random() < 0.02, []
        for server, command in commands:
            self.commands += 1
            self.asked.append((server, command))
            found += self._read(case, command, server, alone, before)
        self.inputs += 1
        return done, found

    def _spoil(self, chance: random.Random, subject: Subject, pool: list[Path]) -> str:
        root = self.sandbox.root
        found = sorted(
            p
            for pattern in chance.choice(subject.files)
            for p in root.glob(pattern)
            if p.is_symlink() or p.exists()
        )
        if not found:
            return "nothing there"
        with suppress(FileNotFoundError, FileExistsError, NotADirectoryError):
            return Changes(
                chance,
                root,
                [*pool, *(p for p in found if p.is_file() and not p.is_symlink())],
                subject.places,
            ).change(chance.choice(found))
        return "changed before"

    def _read(
        self, case: str, command: str, server: Server, alone: bool, before: dict[str, Entry]
    ) -> list[Finding]:
        words = shlex.split(command)
        found: list[tuple[str, str]] = []

        def ask(limit: float) -> Ended:
            return (
                running.run_alone(self.sandbox, words, limit)
                if alone
                else server.ask({"arguments": words}, limit)
            )

        ended = ask(LIMIT)
        if ended.code is None:
            ended = ask(PATIENCE)
            if ended.code is None or ended.cpu > LIMIT:
                found.append(
                    (
                        "hang",
                        f"{ended.seconds:.0f} s, {ended.cpu:.0f} s of them computing: "
                        f"{ended.err[-300:].decode(errors='replace')}",
                    )
                )
        self.slowest = max(self.slowest, (ended.seconds, f"{case} {command}"))
        out, err = (t.decode("utf-8", "surrogateescape") for t in (ended.out, ended.err))
        if ended.code is not None:
            if ended.code not in CODES:
                found.append(("exit", f"{ended.code} {err[-600:]}"))
            found += self._said(words, ended.code, out, err)
        if ended.left:
            found.append(("orphan", f"{ended.left} processes"))
        changed = self.sandbox.changed(before)
        if any(c.startswith("init") for _, c in self.asked):
            changed = [c for c in changed if c not in WRITTEN_BY_INIT]
        if ran := [c for c in changed if c.startswith("ran/")]:
            found.append(("ran", str(ran)))
        if others := [c for c in changed if not c.startswith("ran/")]:
            found.append(("canary", str(others[:8])))
        if self.alarms.exists():
            found += [
                (
                    "ran"
                    if line.startswith(("exec", "dlopen", "sub", "os.", "pickle"))
                    else "canary",
                    line,
                )
                for line in _lines(self.alarms)
            ]
        if case.startswith(SILENT) and (told := self.sandbox.published(before)):
            found.append(("published", str(told[:5])))
        return [Finding(kind, told, case, command) for kind, told in found]

    def _said(self, words: list[str], code: int, out: str, err: str) -> list[tuple[str, str]]:
        found = []
        for text in (out, err):
            if "Traceback (most recent call last)" in text:
                at = text.index("Traceback (most recent call last)")
                found.append(("traceback", _last_frame(text[at:])))
            shown = text if words[0] not in ("log", "predict") else ""
            if bad := {
                c
                for c in shown
                if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in STEERS
            }:
                at = min(shown.index(c) for c in bad)
                found.append(("output", f"{sorted(bad)!r} in {shown[max(0, at - 80) : at + 40]!r}"))
        if code in (1, 2) and not err.strip() and words[0] not in ("verify", "plan"):
            found.append(("output", f"exit {code} and no error: {out[-300:]!r}"))
        if code and (
            match := re.search(
                r"failed: (\w*(?:Error|Exception|Interrupt|Panic\w*))\b.*|failed: its process "
                r"(?:was stopped by|ended with).*",
                err,
            )
        ):
            found.append(("unforeseen", match[0][:300]))
        if "--json" in words and out.strip():
            try:
                for document in out.splitlines() if words[0] in ("build", "watch") else [out]:
                    json.loads(document, parse_constant=_no_constant)
            except (ValueError, RecursionError) as e:
                found.append(("output", f"no JSON: {e}: {out[:300]!r}"))
        return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _last_frame(text: str) -> str:
    """The error of a traceback, and the deepest frame of ours."""
    lines = text.strip().splitlines()
    ours = [line.strip() for line in lines if "olivebuild/" in line and "File" in line]
    error = next(
        (
            line
            for line in reversed(lines)
            if re.match(r"\w[\w.]*(Error|Exception|Interrupt|Full|NotProvenEqual|Damaged)\b", line)
        ),
        lines[-1],
    )
    return f"{error[:200]} at {ours[-1].split('olivebuild/')[-1] if ours else '?'}"


def _remove(sandbox: Sandbox, *names: str) -> None:
    for name in names:
        shutil.rmtree(sandbox.root / name)


def _lines(file: Path) -> list[str]:
    lines = file.read_text(errors="replace").splitlines()
    file.unlink()
    return sorted(set(lines))[:5]


def _pin_anew(sandbox: Sandbox) -> None:
    """A stranger's lock file names the stranger's wheel."""
    import hashlib

    lock = sandbox.work / "olivebuild.lock"
    with suppress(OSError, StopIteration, ValueError, KeyError):
        wheel = next(
            p
            for p in sandbox.work.glob("wheels/*.whl")
            if p.is_file() and not p.is_symlink() and p.stat().st_size
        )
        data = json.loads(lock.read_text())
        data["sources"]["pypi:fuzzed==1!m.gguf"] = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lock.write_text(json.dumps(data))


def minimised(fuzzer: Fuzzer, finding: Finding) -> list[int]:
    """The fewest changes, one if possible, that still show the finding."""
    for only in ([0], [1], [2], [0, 1], [1, 2], [0, 2]):
        if any(f.signature == finding.signature for f in fuzzer.run(finding.case, only)[1]):
            return only
    return []


def drawn(names: Sequence[str], seed: int, seconds: float) -> Iterator[str]:
    """Cases, subject by subject, until the time is over."""
    deadline, i = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        yield f"{names[i % len(names)]}:{seed}:{i // len(names)}"
        i += 1
