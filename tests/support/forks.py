"""Commands as forks of a server that has imported their modules: see fork_server.py."""

from __future__ import annotations

import inspect
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

CAN = sys.platform == "linux" and hasattr(os, "pidfd_open")
READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "OMP_", "OPENBLAS_", "MKL_", "COVERAGE", "LD_")
"""Beginnings of variables that an interpreter and numpy read as they start."""
FREE = ("OLIVEBUILD_", "AWS_", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "GITHUB_", "PATH", "PYTEST_")
"""Beginnings of variables that libraries of models do not read as they are imported."""


class Fork(subprocess.Popen[str]):
    """A command that a server has forked."""

    def __init__(self, server: Server, request: dict[str, Any], out: Any, err: Any) -> None:
        self._server, self._request = server, request
        self._status = -1
        super().__init__(["olivebuild", *request["arguments"]], stdout=out, stderr=err, text=True)

    def _execute_child(self, args: Any, *more: Any) -> None:
        bound = inspect.signature(subprocess.Popen._execute_child).bind(self, args, *more)  # type: ignore[attr-defined]
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        pipes = [bound.arguments[name] for name in names]
        self._status, status = os.pipe()
        try:
            handles = [0, pipes[3], pipes[5], status]
            self.pid = self._server.fork(self._request, handles)
        finally:
            os.close(status)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _internal_poll(self, _deadstate: int | None = None, **_: object) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags == os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        return self.pid, self._read_status()

    def _ended(self) -> None:
        self._handle_exitstatus(self._read_status())  # type: ignore[attr-defined]

    def _read_status(self) -> int:
        data = os.read(self._status, 4)
        os.close(self._status)
        return int.from_bytes(data, "big") if data else int(signal.SIGKILL)


class Server:
    """A server with the environment of this process, which ends with it."""

    def __init__(self, *, heavy: bool) -> None:
        self.environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        self._asking = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        words = [str(theirs.fileno()), *(["heavy"] if heavy else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            env=self.environment | {"TOKENIZERS_PARALLELISM": "false"},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()

    def fork(self, request: dict[str, Any], handles: list[int]) -> int:
        with self._asking:
            socket.send_fds(self._control, [json.dumps(request).encode()], handles)
            pid = self._control.recv(64)
        if not pid:
            raise RuntimeError("the server of forks has ended")
        return int(pid)

    def close(self) -> None:
        self._control.close()
        self._process.wait()


heavy = False
"""Whether commands are to be forked from a server that has the libraries of models."""
_servers: dict[bool, Server] = {}
_starting = threading.Lock()


def start(
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    *,
    fork_workers: bool = True,
    out: int | IO[Any] = subprocess.PIPE,
    err: int | IO[Any] = subprocess.PIPE,
) -> Fork | None:
    """Start a command; None where its environment is one that a fork would not see."""
    with _starting:
        server = _servers.get(heavy) or _servers.setdefault(heavy, Server(heavy=heavy))
    before = server.environment
    differing = {n for n in {*environment, *before} if environment.get(n) != before.get(n)}
    if any(not n.startswith(FREE) if heavy else n.startswith(READ_AT_START) for n in differing):
        return None
    if not folder.is_absolute():
        # The server stands elsewhere.
        return None
    os.umask(umask := os.umask(0))
    request = {
        "arguments": arguments,
        "folder": str(folder),
        "environment": environment,
        "umask": umask,
        "fork_workers": fork_workers,
    }
    return Fork(server, request, out, err)
