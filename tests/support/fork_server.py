"""Starts commands and their workers as forks of a process that has imported everything: `python -m
tests.support.fork_server CONTROL [heavy]`.

A fork does all that a process of its own does but import modules, which takes most of the time of
short ones. CONTROL is a socket: a request is a JSON object with the handles of stdin, stdout,
stderr, and of a pipe for the exit status; the answer is the id of the process. Ends when the other
end closes. tests/support/forks.py is that end.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.abc
import importlib.machinery
import inspect
import io
import json
import os
import pkgutil
import random
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

import olivebuild
from olivebuild.__main__ import main
from olivebuild.executors import worker

Started = subprocess.Popen
LIBRARIES = (
    "onnxruntime",
    "onnxruntime_genai.models.builder",
    "peft",
    "sklearn.linear_model",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.phi3.modeling_phi3",
    "transformers.models.qwen2.modeling_qwen2",
)
"""What steps on models import, beside our own modules."""
PLAIN = ("numpy", "pyarrow", "yaml")
"""What light steps import, too: a process that has it is no heavy one."""
FORKED = {
    "olivebuild.executors.worker": worker.main,
}
"""Modules whose processes are forks of the command, and what they do."""
HEAVY = ("olivebuild.ml.benchmark.stopwatch", "olivebuild.ml.inference.chat_process")


class Forked(Started):  # type: ignore[type-arg]
    """A process that is forked and not started: same pipes, session, folder, environment and
    handles.
    """

    def _execute_child(self, args: Any, *more: Any) -> None:
        words = [os.fsdecode(word) for word in args] if isinstance(args, list | tuple) else []
        if words[1:3] != ["-P", "-m"] or not {*words[3:4]} & {*FORKED}:
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        bound = inspect.signature(Started._execute_child).bind(self, args, *more).arguments  # type: ignore[attr-defined]
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        pipes = [bound[name] for name in names]
        self.pid = os.fork()
        self._child_created = True
        if self.pid == 0:
            try:
                if bound["start_new_session"]:
                    os.setsid()
                if bound["cwd"] is not None:
                    os.chdir(bound["cwd"])
                environment = dict(os.environ) if bound["env"] is None else bound["env"]
                subprocess.Popen = Started  # type: ignore[misc]
                sys.argv = words[3:]
                take_on(environment, (pipes[0], pipes[3], pipes[5]), bound["pass_fds"])
                leave(FORKED[words[3]])
            finally:
                os._exit(70)
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


class Stash(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that are loaded and that nobody sees, until one of them is imported: then all are
    there, as a command has none of the libraries of its workers.
    """

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self.modules = modules
        self.specs = {name: getattr(module, "__spec__", None) for name, module in modules.items()}
        for name in modules:
            del sys.modules[name]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.modules:
            return None
        sys.meta_path.remove(self)
        for other, module in self.modules.items():
            sys.modules.setdefault(other, module)
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.specs[module.__name__]


def take_on(environment: dict[str, str], handles: Iterable[int], kept: Iterable[int] = ()) -> None:
    """Make a forked process what it would be if it had been started.

    `handles`: its stdin, stdout and stderr, -1 for that of its parent.
    """
    for number, handle in enumerate(handles):
        if handle != -1:
            os.dup2(handle, number)
    kept = {0, 1, 2, *kept}
    for name in os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"):
        if int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))
    os.environ.clear()
    os.environ.update(environment)
    # What the parent would do at its end is not ours to do.
    atexit._clear()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        with suppress(OSError, ValueError):
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.set_wakeup_fd(-1)
    gc.set_threshold(700, 10, 10)
    random.seed()
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    out = os.fdopen(1, "wb", 0 if unbuffered else -1, closefd=False)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = io.TextIOWrapper(out, write_through=unbuffered)
    sys.stderr = io.TextIOWrapper(
        os.fdopen(2, "wb", 0, closefd=False), errors="backslashreplace", write_through=True
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def leave(work: Callable[[], object]) -> NoReturn:
    """Do the work of a process, and end as an interpreter ends."""
    try:
        value = work()
        code = value if isinstance(value, int) else 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    vars(threading)["_shutdown"]()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def load(heavy: bool) -> None:
    """Import what commands and light workers need, and with `heavy` the libraries of models."""
    ours = [m.name for m in pkgutil.walk_packages(olivebuild.__path__, "olivebuild.")]
    work = [name for name in ours if name.startswith("olivebuild.ml.")]
    import_all(name for name in (*PLAIN, *ours) if name not in work and "__main__" not in name)
    if heavy:
        before = set(sys.modules)
        import_all(LIBRARIES)
        # Those that read the environment as they are imported, and libraries with threads.
        apart = ("olivebuild.ml.transfer", "olivebuild.ml.training.nodes")
        import_all(name for name in work if not name.startswith(apart))
        FORKED.update({name: vars(sys.modules[name])["main"] for name in HEAVY})
        stash = {name: sys.modules[name] for name in set(sys.modules) - before}
        sys.meta_path.insert(0, Stash(stash))
    gc.collect()
    gc.freeze()


def import_all(names: Iterable[str]) -> None:
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)


def command(request: dict[str, Any]) -> None:
    """Do what `python -m olivebuild` does."""
    sys.path[0] = request["folder"]
    sys.argv = [str(olivebuild.__file__), *request["arguments"]]
    main()


def fork(request: dict[str, Any], handles: Sequence[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.chdir(request["folder"])
        os.umask(request["umask"])
        take_on(request["environment"], handles)
        if request["fork_workers"]:
            subprocess.Popen = Forked  # type: ignore[misc]
        leave(lambda: command(request))
    finally:
        os._exit(70)


def serve(control: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not control:
                    selector.unregister(key.fileobj)
                    pid, status = key.data
                    ended = os.waitpid(pid, 0)[1]
                    os.write(status, ended.to_bytes(4, "big"))
                    os.close(status)
                    os.close(int(key.fd))
                    continue
                text, handles, _, _ = socket.recv_fds(control, 1 << 18, 4)
                if not text:
                    return
                pid = fork(json.loads(text), handles[:3])
                for handle in handles[:3]:
                    os.close(handle)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, handles[3]))
                control.send(str(pid).encode())


if __name__ == "__main__":
    load("heavy" in sys.argv[2:])
    with socket.socket(fileno=int(sys.argv[1])) as end:
        serve(end)
