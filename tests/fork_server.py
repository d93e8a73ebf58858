"""Starts builds as processes of their own without paying for imports each time: `python -m tests.fork_server`.

Reads a JSON object a line: {"arguments", "folder", "environment", "out"}; forks a process that does what `olivebuild` does with these; answers
with its id, and, when it has ended, with its exit code. Ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys

import olivebuild.build
import olivebuild.cli
import olivebuild.executors.local
import olivebuild.live
import olivebuild.noop
import olivebuild.project
import olivebuild.recording  # noqa: F401 - imported here once, so that no build has to
from olivebuild.__main__ import main


def child(request: dict[str, object]) -> None:
    os.environ.update(request["environment"])  # type: ignore[arg-type]
    os.chdir(str(request["folder"]))
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(f"{request['out']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["olivebuild", *request["arguments"]]  # type: ignore[misc]
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
