"""What the fuzzing tests share: a mutator of texts and JSON, a guard that sees every write and
every program started, and a limit of time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from olivebuild.core.errors import BuildError

WORDS: list[bytes] = [
    *(b"{ } [ ] : , - ? & * ! | > % @ ` # ~ = <<".split()),
    *((
b"&a *a <<: !!python/object/apply:os.system !!binary {inputs.x} {out} {outputs.../x} "
b"${HOME} $(id) __class__ {0.__class__}"
).split()),
    *(b"null true no 0x 1e999 -1 .nan .inf 1e-4 0o7 9999999999999999999999 -0 1_000".split()),
    *((
b".. ../../../../tmp/evil /etc/passwd /dev/zero /dev/stdin C:\\evil con. ~ ./ // hf: "
b"hf:a/b@../.. gguf: pypi:a==1!../b"
).split()),
    b"\0", b"\r", b"\t", b"\x1b[2J", b"\x1b]0;x\x07", b"\xff", b"\xc3", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\xc2\x85",
    b"\xe2\x80\xa8", b"[bold]", b"[/]",
    b"\n", b"\n  ", b" ", b": ", b"- ", b'"', b"'", b"\\", b"---\n", b"...\n", b"[" * 100,
    b"{a: " * 60, b"9" * 5000, b"x" * 5000, b"a,",
    b"\\u0000", b"\\ud800",
]  # fmt: skip
VALUES: list[object] = [
    None, True, False, 0, -1, 1 << 70, 1e308, "", "x", "..", "../../evil", "/tmp/evil",
    "a/../../evil", "..\\evil", "C:\\evil", ".", "./",
    "a\0b", "a\nb", "\x1b[2J",
    "con", "x" * 5000, "0" * 32, "f" * 31, "f" * 33, "F" * 32, "one.txt/x", "sub", [], {}, [[]],
    [None], {"": ""}, [[[[[[]]]]]], {"__class__": 1},
]  # fmt: skip
SECONDS = 20


class Mutator:
    def __init__(self, chance: random.Random, seeds: Sequence[bytes]) -> None:
        self.chance = chance
        self.seeds = seeds

    def text(self) -> bytes:
        """A seed with one to a few changes: most stay nearly right, so that they get far."""
        data = bytearray(self.chance.choice(self.seeds))
        for _ in range(self.chance.choice((1, 1, 1, 2, 3, 6))):
            self._change(data)
        return bytes(data)

    def _change(self, data: bytearray) -> None:
        chance = self.chance
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((1, 2, 5, 20, 200)))
        other = chance.choice(self.seeds)
        piece = other[
            (at := chance.randrange(len(other) + 1)) : at + chance.choice((1, 5, 30, 300))
        ]
        how = chance.randrange(8)
        if how == 0:
            data[start:end] = b""
        elif how == 1:
            data[start:start] = chance.choice(WORDS)
        elif how == 2:
            data[start:end] = chance.choice(WORDS)
        elif how == 3:
            data[start:start] = piece
        elif how == 4:
            data[start:end] = data[start:end] * chance.choice((2, 3, 50))
        elif how == 5 and start < len(data):
            data[start] = chance.randrange(256)
        elif how == 6:
            lines = data.split(b"\n")
            i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            data[:] = b"\n".join(lines)
        else:
            words: list[bytes | bytearray] = [*data.split(b" ")]
            i, j = chance.randrange(len(words)), chance.randrange(len(words))
            words[i] = words[j] if chance.random() < 0.5 else chance.choice(WORDS)
            data[:] = b" ".join(words)

    def json(self, text: str) -> str:
        """Equal JSON but for one place or two."""
        value = json.loads(text)
        for _ in range(self.chance.choice((1, 1, 2))):
            value = self._replace(value)
        return json.dumps(value, separators=(",", ":"))

    def _replace(self, value: object) -> object:
        chance = self.chance
        if isinstance(value, dict) and value and chance.random() < 0.9:
            name = chance.choice(list(value))
            if chance.random() < 0.1:
                return {k: v for k, v in value.items() if k != name}
            if chance.random() < 0.1:
                return value | {str(chance.choice(VALUES)): value[name]}
            return value | {name: self._replace(value[name])}
        if isinstance(value, list) and value and chance.random() < 0.9:
            i = chance.randrange(len(value))
            if chance.random() < 0.1:
                return value[:i] + value[i + 1 :]
            if chance.random() < 0.1:
                return [*value, value[i]]
            return [*value[:i], self._replace(value[i]), *value[i + 1 :]]
        return chance.choice(VALUES)


class Guard:
    """Sees every file that is opened to write, made, moved or deleted, every program, connection
    and unpickling: none may be outside its folders.
    """

    _WRITES = (
        "os.mkdir",
        "os.remove",
        "os.rmdir",
        "os.rename",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.chmod",
        "os.utime",
        "sqlite3.connect",
    )
    _NEVER = (
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "socket.connect",
        "socket.getaddrinfo",
        "pickle.find_class",
        "exec.danger",
    )

    def __init__(self) -> None:
        self.folders: list[str] = []
        self.active = False
        self.seen: list[str] = []
        sys.dont_write_bytecode = True
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.active:
            return
        if event in self._NEVER:
            self.seen.append(f"{event} {arguments!r:.300}")
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
            )
            if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
                self._check(event, path, -1)
        elif event in self._WRITES:
            two = event in ("os.rename", "os.link")
            handles = [a for a in arguments[1:] if isinstance(a, int)]
            for i, path in enumerate(arguments[: 2 if two else 1]):
                self._check(
                    event,
                    path,
                    handles[i if two else -1]
                    if handles and event in ("os.remove", "os.rmdir", "os.rename")
                    else -1,
                )

    def _check(self, event: str, path: object, folder: int) -> None:
        if isinstance(path, int):
            return
        name = os.fsdecode(path)  # type: ignore[arg-type]
        if folder >= 0 and not os.path.isabs(name):
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        full = os.path.join(
            os.path.realpath(os.path.dirname(os.path.abspath(name))), os.path.basename(name)
        )
        if full != os.devnull and not any(
            full == f or full.startswith(f + os.sep) for f in self.folders
        ):
            self.seen.append(f"{event} {full}")

    @contextmanager
    def only(self, *folders: Path) -> Iterator[None]:
        self.folders, self.seen, self.active = [os.path.realpath(f) for f in folders], [], True
        try:
            yield
        finally:
            self.active = False
        assert self.seen == []


class Hang(BaseException):
    """Nobody catches it by mistake."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    # A busy machine may let a process wait long, and what waits for nothing takes no processor: so
    # both clocks.
    clocks = (
        (signal.SIGPROF, signal.ITIMER_PROF, SECONDS),
        (signal.SIGALRM, signal.ITIMER_REAL, SECONDS * 15),
    )
    before = [signal.signal(number, stop) for number, _, _ in clocks]
    for _, clock, seconds in clocks:
        signal.setitimer(clock, seconds)
    try:
        yield
    finally:
        for (number, clock, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


def survives(
    read: Callable[[bytes], object], data: bytes, show: Callable[[BuildError], str]
) -> bool:
    """Whether `read` took the data; else it has refused it by an error of ours, which can be shown
    and does not steer the terminal.
    """
    try:
        with limited():
            read(data)
    except BuildError as e:
        refusal = e
    except BaseException as e:
        e.add_note(f"on {data!r:.3000}")
        raise
    else:
        return True
    shown = show(refusal)
    assert "error: " in shown
    assert all(c.isprintable() or c == "\n" for c in shown), shown
    assert refusal.hint, (shown, data)
    return False
