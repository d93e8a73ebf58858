"""Frames of an agent: what is no frame is never taken for one."""

from __future__ import annotations

import io
import threading
import time
from typing import IO

import pytest

from olivebuild.executors.site import frames


def test_a_frame_comes_back_as_it_was() -> None:
    stream = io.BytesIO()
    frames.write(stream, {"id": 1, "op": "put"}, b"\n\0bytes")
    frames.write(stream, {"id": 2})
    stream.seek(0)
    first = frames.read(stream)
    assert first == ({"id": 1, "op": "put"}, b"\n\0bytes")
    assert frames.read(stream) == ({"id": 2}, b"")
    assert frames.read(stream) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"hello\n", "no frame"),
        (b"[1]\n", "no frame"),
        (b'{"bytes": -1}\n', "no frame"),
        (b'{"bytes": "1"}\n', "no frame"),
        (b'{"bytes": 1e99}\n', "no frame"),
        (b'{"bytes": 99999999999}\n', "no frame"),
        (b'{"bytes": 4}\nabc', "cut off"),
        (b'{"id": 1}', "cut off"),
        (b"[" * 100_000 + b"\n", "no frame"),
    ],
)
def test_what_is_no_frame(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frames.read(io.BytesIO(text))


def test_what_a_login_shell_prints_is_skipped() -> None:
    stream = io.BytesIO(b"Welcome to box\nlast login: today\n" + frames.MAGIC + b'{"id": 3}\n')
    assert frames.skip_to_magic(stream)
    assert frames.read(stream) == ({"id": 3}, b"")
    assert not frames.skip_to_magic(io.BytesIO(b"no agent here\n"))
    assert not frames.skip_to_magic(io.BytesIO(b"x" * (frames.MOST_BEFORE + 1) + frames.MAGIC))


class Slow(io.BytesIO):
    """A stream that tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def flush(self) -> None:
        self.written.set()


def test_whoever_works_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "PULSE_SECONDS", 0.01)
    stream: IO[bytes] = Slow()
    assert isinstance(stream, Slow)
    with frames.Pulse(stream) as pulse:
        time.sleep(0.05)
        assert not stream.written.is_set()
        with pulse.beating():
            assert stream.written.wait(10)
        before = stream.tell()
        time.sleep(0.05)
        assert stream.tell() == before
    stream.seek(0)
    assert frames.read(stream) == ({"id": None}, b"")
