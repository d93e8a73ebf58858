"""Starts builds as processes of their own without paying for imports each time: `python -m
tests.support.fork_server`.

Reads a JSON object a line: {"arguments", "folder", "environment", "out", "fork_workers"}; forks a
process that does what `olivebuild` does with these; answers with its id, and, when it has ended,
with its exit code. Ends with its standard input. With `fork_workers` the workers are forks of the
build, too: they do all that a worker does but import its modules.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from typing import Any

from olivebuild.__main__ import main
from olivebuild.executors import worker

Started = subprocess.Popen


class Forked(Started):  # type: ignore[type-arg]
    """A worker that is forked and not started: same pipes, session, folder, environment and
    handles.
    """

    def _execute_child(self, args: Any, *more: Any) -> None:
        if args[1:4] != ["-P", "-m", "olivebuild.executors.worker"]:
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        given = inspect.signature(Started._execute_child).bind(self, args, *more).arguments  # type: ignore[attr-defined]
        pipes = [
            given[name]
            for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        ]
        self.pid = os.fork()
        self._child_created = True
        if self.pid == 0:
            try:
                for handle, number in ((pipes[0], 0), (pipes[3], 1), (pipes[5], 2)):
                    os.dup2(handle, number)
                for name in os.listdir(
                    "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
                ):
                    if int(name) > 2 and int(name) not in given["pass_fds"]:
                        try:
                            os.close(int(name))
                        except OSError:
                            continue
                os.setsid()
                os.environ.clear()
                os.environ.update(given["env"])
                sys.argv = args[2:]
                subprocess.Popen = Started  # type: ignore[misc]
                os._exit(worker.main())
            finally:
                os._exit(70)
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def child(request: dict[str, Any]) -> None:
    os.environ.update(request["environment"])
    os.chdir(str(request["folder"]))
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(f"{request['out']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if request["fork_workers"]:
        subprocess.Popen = Forked  # type: ignore[misc]
    sys.argv = ["olivebuild", *request["arguments"]]
    main()


def serve() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                child(json.loads(line))
            except SystemExit as e:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(e.code if isinstance(e.code, int) else 0 if e.code is None else 1)
            finally:
                os._exit(70)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
