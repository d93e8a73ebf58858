"""The process that speaks with an exchange for a launcher (ml/transfer/exchange/mirror.py)."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError, StepError
from olivebuild.core.exit_reasons import ending
from olivebuild.core.processes import python

MIRROR = "olivebuild.ml.transfer.exchange.mirror"


class MirrorProcess:
    """The process. Several threads may ask at once. It ends with this process."""

    def __init__(self, url: str, root: Path) -> None:
        """Raises BuildError where the exchange can't be opened."""
        self._url = url
        self.faults: dict[str, str] = {}
        """key -> what was wrong when its job was looked at last"""
        self._followed: set[str] = set()
        self._lock = threading.Lock()
        self._number = 0
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {
            0: queue.SimpleQueue()
        }
        self._process = subprocess.Popen(
            python("-m", MIRROR, url, str(root)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._answer(0)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def close(self) -> None:
        """End it: what is on its way is begun anew by the next."""
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def follow(self, key: str) -> None:
        """Have a job's folder kept as its node has it, from now on. Raises BuildError."""
        if key not in self._followed:
            self.ask("follow", key)
            self._followed.add(key)

    def ask(self, op: str, key: str) -> dict[str, Any]:
        """Return the answer, however long that takes. Raises BuildError."""
        with self._lock:
            self._number += 1
            number = self._number
            self._waiting[number] = queue.SimpleQueue()
            if self.has_ended:
                self._waiting[number].put(None)
            assert self._process.stdin
            with contextlib.suppress(OSError, ValueError):
                request = {"id": number, "op": op, "key": key}
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
        answer = self._answer(number)
        if op == "submit":
            self._followed.add(key)
            self.faults.pop(key, None)
        return answer

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                message = json.loads(line)
                if "fault" in message:
                    self.faults[message["key"]] = str(message["fault"])[:300]
                elif waiting := self._waiting.get(message.get("id", 0)):
                    waiting.put(message)
        self._process.wait()
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        for waiting in list(self._waiting.values()):
            waiting.put(None)

    def _answer(self, number: int) -> dict[str, Any]:
        """Raises InputError for what the process refuses, StepError where it has ended."""
        message = self._waiting[number].get()
        del self._waiting[number]
        if message is None:
            raise StepError(
                f"the process that speaks with {self._url} has ended: "
                f"it {ending(self._process.wait())[0]}",
                hint="build again: what had arrived there is kept",
            )
        if error := message.get("error"):
            hint = message.get("hint") or "is the exchange right, and may you write there?"
            raise InputError(str(error)[:300], where=self._url, hint=str(hint))
        return message
