"""The process that runs actions: `python -m olivebuild.executors.worker`.

Speaks JSON lines on stdout, logs on stderr.

It waits on stdin for an action, `{"action": FILE, "log": FILE, "code": OURS}`, and after one that
shares its process for another. It ends when its
parent does: the parent holds the other end of stdin. Words on the command line are modules to
import before the first action comes.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import queue
import shutil
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olivebuild.api import privacy
from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.core import code_version
from olivebuild.core.errors import FULL, BuildError, Damaged, StepError, StoreError, first_line
from olivebuild.core.exit_reasons import NO_MEMORY, lacks_memory
from olivebuild.core.fs.files import DEFAULT_MODE
from olivebuild.core.host import peak_rss
from olivebuild.core.processes import end_with_parent

CHANGED = StepError(
    "olivebuild itself was changed while it was building",
    hint="build again: what was finished is kept",
)
"""Keys are made by the parent's code, so another one must not make what they stand for."""
HEAVY = {"torch", "onnx", "pyarrow"}
"""A process that has imported one of these ends with its action: it holds more memory than another
start costs time.
"""


def main() -> int:
    # What libraries print must not mix with events: the real stdout is ours alone, and fd 1 becomes
    # the log.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    while True:
        # The folder and the log of an action go with it; whoever waits must not stand in one or
        # hold the other.
        os.chdir(os.path.abspath(os.sep))
        request = requests.get()
        _log_to(request["log"])
        _forget_peak()
        if request.get("code") != code_version.code():
            stream.write(json.dumps({"event": "error", **CHANGED.to_json()}) + "\n")
            return 1
        action = Action.from_json(Path(request["action"]).read_text())
        os.chdir(action.out)
        code = run(action, stream, request["log"])
        if code or not action.shares or HEAVY & set(sys.modules):
            return code
        os.chdir(os.path.abspath(os.sep))
        _log_to(os.devnull)
        stream.write('{"event": "idle"}\n')
        stream.flush()
        _import_for(action.readers)


def _import_for(readers: Sequence[list[object]]) -> None:
    """What comes next is likely to be one of these steps: its imports pass while the parent stores
    the result before it.
    """
    for kind, _ in readers:
        from olivebuild.api.step import step_of

        step = step_of(str(kind))
        for module in step.ahead if step else ():
            # What is missing, the step itself tells.
            with contextlib.suppress(ImportError):
                importlib.import_module(module)


def _log_to(file: str) -> None:
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _listen(requests: queue.SimpleQueue[dict[str, str]]) -> None:
    """Take in what the parent asks for, and end with it."""
    try:
        end_with_parent(lambda line: requests.put(json.loads(line)))
    finally:
        # What can't be understood is no reason to wait for more.
        os._exit(1)


def _forget_peak() -> None:
    """Count the peak memory of what comes next alone, where the system can."""
    # https://www.kernel.org/doc/html/latest/filesystems/proc.html: 5 resets the peak resident set
    # size.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def run(action: Action, stream: Any, log: str = "") -> int:
    job = Job(action, stream)
    job.log = log
    try:
        importlib.import_module(action.runner).run(job)
        if job.mode != DEFAULT_MODE:
            privacy.restrict(job.out, job.mode)
        data = job.result._asdict()
        job.say(
            "result",
            **data | {"reference": str(job.result.reference or ""), "peak_rss": peak_rss()},
        )
    except BuildError as e:
        job.say(
            "error",
            **(
                StoreError(f"{e.fact}: {FULL[0]}", where=e.where, hint=FULL[1])
                if _is_full(e, job.out)
                else e
            ).to_json(),
        )
        return 1
    except Damaged as e:
        job.set_merges_aside()
        hint = "build again: what is damaged was set aside, and its step runs anew"
        job.say(
            "error",
            **StepError(
                f"an input of {action.target} in the cache is not whole: {e}", hint=hint
            ).to_json(),
        )
        return 1
    except ModuleNotFoundError as e:
        traceback.print_exc()
        hint = "pip install 'olivebuild[build]' installs what steps need"
        job.say(
            "error",
            **StepError(
                f"{action.target} needs the library {e.name}, which is not installed", hint=hint
            ).to_json(),
        )
        return 1
    except BaseException as e:
        # What is written in Rust panics with something that is no Exception.
        if isinstance(e, SystemExit | KeyboardInterrupt | GeneratorExit):
            raise
        if lacks_memory(e):
            from olivebuild.core.text import size

            traceback.print_exc()
            fact = (
                f"{action.target} failed: {NO_MEMORY[0]}; its process had taken up to "
                f"{size(peak_rss())}"
            )
            job.say("error", **StepError(fact, hint=NO_MEMORY[1]).to_json())
            return 1
        if _is_full(e, job.out):
            job.say(
                "error",
                **StoreError(
                    f"{action.target} failed: {FULL[0]}", where=action.out, hint=FULL[1]
                ).to_json(),
            )
            return 1
        traceback.print_exc()
        hint = f"`olivebuild log {action.target}` shows the whole story"
        job.say(
            "error",
            **StepError(
                f"{action.target} failed: {type(e).__name__}: {first_line(e)}", hint=hint
            ).to_json(),
        )
        return 1
    return 0


def _is_full(error: BaseException, folder: Path) -> bool:
    """Libraries have errors of their own for a full disk, so the disk is asked, too."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    with contextlib.suppress(OSError):
        return "No space left" in str(error) or shutil.disk_usage(folder).free < 1 << 16
    return False


if __name__ == "__main__":
    sys.exit(main())
