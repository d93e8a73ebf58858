"""Small changes to files, made by chance: some know JSON, safetensors or how paths look in a
binary, others change bytes or what a path is.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fuzzer.spoilt_values import KEYS, NAMES, PATHS, RAW, SIZES, TEMPLATES
from tests.support.fuzzing import Mutator


class Changes:
    """Draws from `chance` alone: the same chance makes the same change.

    `root` holds the workspace and what is around it.
    """

    def __init__(
        self, chance: random.Random, root: Path, pool: list[Path], places: bool = True
    ) -> None:
        self.chance = chance
        self.root = root
        self.places = places
        self.pool = pool
        """Other files, to take pieces from."""

    def change(self, path: Path) -> str:
        """Change a file or a folder; what was done, in words."""
        regular = path.is_file() and not path.is_symlink()
        ways: list[tuple[float, Callable[[Path], str]]] = (
            [(1.5 if regular else 10, self.place)] if self.places else []
        )
        if regular:
            if path.suffix in (".json", ".jsonl", ".lock", ".trace") or path.name.endswith(
                ".index"
            ):
                ways += [(7, self.json), (1, self.text), (1, self.bytes)]
            elif path.suffix == ".safetensors":
                ways += [(6, self.safetensors), (2, self.bytes)]
            elif path.suffix in (".yaml", ".jinja", ".csv", ".tsv", ".txt", ".md"):
                ways += [(6, self.text), (1, self.bytes)] + (
                    [(6, self.template)] if path.suffix == ".jinja" else []
                )
            else:
                ways += [
                    (5, self.bytes),
                    (1, self.text),
                    (2, self.json if path.read_bytes()[:1] in (b"{", b"[") else self.bytes),
                ]
        way = self.chance.choices([w for _, w in ways], [n for n, _ in ways])[0]
        return f"{path.relative_to(self.root)}: {way(path)}"

    def _placed(self, text: str) -> str:
        """With the sandbox's own folders and the library that must not be loaded in the place of
        their names.
        """
        return text.replace("{evil}", str(self.root / "work" / "evil.so")).replace(
            "{root}", str(self.root)
        )

    def _hostile(self) -> str:
        """A JSON value, as text."""
        if self.chance.random() < 0.3:
            return (
                '"'
                + self._placed(
                    self.chance.choice(PATHS).replace("\\", "\\\\").replace("\\\\u", "\\u")
                )
                + '"'
            )
        return self.chance.choice(RAW)

    def json(self, path: Path) -> str:
        """One value swapped, one key known to mean something set, one key given twice, or the text
        around it spoilt.
        """
        text = path.read_text("utf-8", errors="surrogateescape")
        head, value = "", None
        lines = (
            [text]
            if path.suffix != ".jsonl" and not path.name.endswith(".trace")
            else text.split("\n")
        )
        at = self.chance.randrange(max(1, len([line for line in lines if line.strip()])))
        for start in (lines[at].find("{"), lines[at].find("[")):
            with suppress(ValueError, RecursionError):
                if start >= 0:
                    head, value = lines[at][:start], json.loads(lines[at][start:])
                    break
        if value is None:
            return self.text(path)
        body, what = self._changed(value)
        if self.chance.random() < 0.03:
            body, what = (
                self.chance.choice(("[", '{"a":', "\ufeff", "// x\n", ""))
                + body * self.chance.choice((1, 2)),
                "spoilt around",
            )
        if head.strip() and self.chance.random() < 0.8:
            head = _own_digest(head, body)
        lines[at] = head + body
        data = "\n".join(lines).encode("utf-8", "surrogateescape")
        path.write_bytes(
            data
            if self.chance.random() > 0.02
            else data.decode("utf-8", "replace").encode("utf-16")
        )
        return what

    def _changed(self, value: Any) -> tuple[str, str]:
        places = list(_places(value))
        marks: dict[str, str] = {}

        def mark(raw: str) -> str:
            marks[name := f"\x01{len(marks)}\x01"] = raw
            return name

        if isinstance(value, dict) and self.chance.random() < 0.5:
            known = [k for k in KEYS if k in value]
            name = (
                self.chance.choice(known)
                if known and self.chance.random() < 0.6
                else self.chance.choice(list(KEYS))
            )
            raw = self._placed(self.chance.choice(KEYS[name]))
            holder: Any = value
            if self.chance.random() < 0.3 and (
                inner := [p[0][p[1]] for p in places if isinstance(p[0][p[1]], dict)]
            ):
                holder = self.chance.choice(inner)
            holder[name] = mark(raw)
            what = f"{name} = {raw:.80}"
        elif places:
            holder, key = self.chance.choice(places)
            how = self.chance.random()
            what = f"{key!r:.60} "
            if how < 0.15:
                del holder[key]
                what += "left out"
            elif how < 0.25 and isinstance(holder, list):
                holder.extend([holder[key]] * self.chance.choice((1, 1000)))
                what += "again"
            elif how < 0.3 and isinstance(holder, dict):
                raw = self._hostile()
                body = _dump(value, marks)
                # The same key, twice.
                name = json.dumps(key)
                return body.replace(
                    name, f"{name}: {raw}, {name}", 1
                ), f"{name:.60} twice, as {raw:.60}"
            elif how < 0.4 and isinstance(holder, dict):
                key2 = self._placed(
                    self.chance.choice([*PATHS, "", "\ud800", "\x1b[2J", "__class__", "x" * 5000])
                )
                holder[key2] = holder.pop(key)
                what += f"renamed to {key2!r:.60}"
            else:
                raw = self._hostile()
                holder[key] = mark(raw)
                what += f"= {raw:.80}"
        else:
            return (raw := self._hostile()), f"all of it = {raw:.60}"
        return _dump(value, marks), what

    def safetensors(self, path: Path) -> str:
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little") if len(data) > 8 else 0
        try:
            header = json.loads(data[8 : 8 + size])
        except ValueError:
            return self.bytes(path)
        if self.chance.random() < 0.15:
            lie = self.chance.choice([*SIZES, size + 1, size - 1, len(data), len(data) - 8])
            path.write_bytes(struct.pack("<Q", lie % (1 << 64)) + data[8:])
            return f"header length {lie}"
        names = [n for n in header if n != "__metadata__"]
        what = ""
        if names and self.chance.random() < 0.6:
            name, other = self.chance.choice(names), self.chance.choice(names)
            entry = header[name]
            if isinstance(entry, dict) and isinstance(header[other], dict):
                what = self._tensor(header, name, other)
        body, what = (_dump(header, {}), what) if what else self._changed(header)
        text = body.encode("utf-8", "surrogatepass")
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        return what

    def _tensor(self, header: dict[str, dict[str, Any]], name: str, other: str) -> str:
        entry = header[name]
        how = self.chance.randrange(7)
        if how == 0:
            entry["dtype"] = self.chance.choice(
                ["F32", "F64", "I8", "U8", "BOOL", "F8_E4M3", "BF16", "F4", "evil", ""]
            )
        elif how == 1:
            entry["shape"] = self.chance.choice(
                [
                    [],
                    [0],
                    [-1],
                    [1 << 62, 4],
                    [1],
                    list(reversed(list(entry.get("shape", [])))),
                    [[1]],
                    [1.5],
                ]
            )
        elif how == 2:
            entry["data_offsets"] = header[other].get("data_offsets")
        elif how == 3:
            entry["data_offsets"] = self.chance.choice(
                [
                    [0, 0],
                    [4, 0],
                    [-4, 4],
                    [0, 1 << 63],
                    [0],
                    [0, 1, 2],
                    ["0", "4"],
                    [0.0, 4.0],
                    None,
                ]
            )
        elif how == 4:
            del header[name]
        elif how == 5:
            header[self.chance.choice([*PATHS, "", "\x1b[2J", other + ".x"])] = header.pop(name)
        else:
            header[name], header[other] = header[other], header[name]
        return f"tensor {name}, way {how}"

    def text(self, path: Path) -> str:
        data = path.read_bytes()
        path.write_bytes(Mutator(self.chance, [data[: 1 << 20] or b"x"]).text())
        return "text changed"

    def template(self, path: Path) -> str:
        path.write_text(text := self.chance.choice(TEMPLATES))
        return f"is {text}"

    def bytes(self, path: Path) -> str:
        data = bytearray(path.read_bytes())
        length, how = len(data), self.chance.randrange(9)
        # What is decided early in a file matters more than its weights.
        near = self.chance.choice((length, min(length, 64), min(length, 1024)))
        at = self.chance.randrange(near or 1)
        if how == 0:
            del data[at:]
        elif how in (1, 2) and length:
            for _ in range(self.chance.choice((1, 1, 3, 50))):
                data[self.chance.randrange(near)] ^= 1 << self.chance.randrange(8)
        elif how in (3, 4):
            form = self.chance.choice(("<B", "<H", "<I", "<Q", ">I"))
            number = self.chance.choice(SIZES) % (1 << (8 * struct.calcsize(form)))
            data[at : at + struct.calcsize(form)] = struct.pack(form, number)
        elif how == 5:
            count = self.chance.choice((1, 8, 100, 5000))
            data[at:at] = data[at : at + count] or b"\0" * count
        elif how == 6 and self.pool:
            # What was changed before may be a pipe or a device now.
            source = self.chance.choice(self.pool)
            other = source.read_bytes() if source.is_file() else b"\0"
            start = self.chance.randrange(len(other) + 1)
            data = (
                bytearray(other)
                if self.chance.random() < 0.4
                else data[:at] + other[start : start + 200] + data[at:]
            )
        elif how == 7:
            words = [
                w
                for w in (
                    b"model.onnx.data",
                    b"model.onnx",
                    b"llama",
                    b"phi3",
                    b"m.gguf",
                    b"general.architecture",
                    b"tokenizer.ggml.tokens",
                )
                if w in data
            ]
            if words:
                old = self.chance.choice(words)
                new = self._placed(self.chance.choice(PATHS)).encode()
                # Equal lengths keep the rest readable.
                return _write(
                    path,
                    data.replace(
                        old,
                        (new + b"/" * len(old))[: len(old)] if self.chance.random() < 0.8 else new,
                    ),
                    f"{old!r} is a path",
                )
        else:
            data[at:] = (
                b""
                if self.chance.random() < 0.2
                else self.chance.choice((b"\0", b"\xff", b"(")) * min(100_000, length - at)
            )
        return _write(path, data, f"bytes, way {how} at {at}")

    def place(self, path: Path) -> str:
        """Change what lies at a path, not what a file says."""
        chance = self.chance
        secret = self.root / "neighbour"
        how = chance.choice(
            [
                "gone",
                "empty",
                "link",
                "link",
                "link",
                "fifo",
                "folder",
                "socket",
                "mode",
                "beside",
                "beside",
                "moved",
            ]
        )
        folder = path if path.is_dir() else path.parent
        if how == "beside":
            name = os.fsdecode(chance.choice(NAMES))
            beside = folder / name
            with suppress(OSError, ValueError):
                sort = chance.choice(("copy", "link", "fifo", "folder", "empty"))
                return f"beside it {name!r}: {self._make(beside, sort, path, secret)}"
            return "nothing"
        if how == "mode":
            # A change before this one may have left a link to what has no mode to change.
            with contextlib.suppress(OSError):
                path.chmod(chance.choice((0, 0o200, 0o111, 0o4777)))
            return "mode"
        if how == "moved":
            path.rename(path.with_name(os.fsdecode(chance.choice(NAMES))))
            return "moved"
        _remove(path)
        return "gone" if how == "gone" else self._make(path, how, path, secret)

    def _make(self, path: Path, how: str, like: Path, secret: Path) -> str:
        if how == "copy":
            path.write_bytes(like.read_bytes() if like.is_file() else b"x")
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "folder":
            path.mkdir()
            (path / "x").write_text("x")
        elif how == "fifo":
            os.mkfifo(path)
        elif how == "socket":
            with suppress(OSError), socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
        elif how == "link":
            places: list[Path | str] = [
                secret / "secret.txt",
                secret,
                secret / "model",
                self.root / "home",
                path,
                "/dev/zero",
                "/dev/stdin",
                "nowhere",
                "..",
                "/proc/self/fd",
                ".",
            ]
            to = self.chance.choice(places)
            path.symlink_to(to)
            return f"link to {to}"
        return how


def _write(path: Path, data: bytes | bytearray, what: str) -> str:
    path.write_bytes(data)
    return what


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _places(value: object) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: its holder and its key. Of a long list the first few."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        one = todo.pop()
        keys = (
            list(one)
            if isinstance(one, dict)
            else range(min(len(one), 5))
            if isinstance(one, list)
            else ()
        )
        for key in keys[:200] if isinstance(keys, list) else keys:
            found.append((one, key))
            todo.append(one[key])  # type: ignore[index]
    return found


def _dump(value: object, marks: dict[str, str]) -> str:
    text = json.dumps(value, separators=(",", ":"))
    for name, raw in marks.items():
        text = text.replace(json.dumps(name), raw)
    return text


def _own_digest(head: str, body: str) -> str:
    """What begins with its own digest gets the right one."""
    from olivebuild.core import hashing

    return head.replace(head.strip(), hashing.of_bytes(body)) if len(head.strip()) == 32 else head
