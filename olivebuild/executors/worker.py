"""The worker process, which runs actions: `python -m olivebuild.executors.worker [MODULE ...]`.

It writes events to stdout, a JSON object a line, and logs to stderr. It reads requests from stdin:
`{"action": FILE, "log": FILE, "code": STAMP}`. After an action that may share its process it waits
for the next request. It ends with its parent, which holds the other end of stdin. The modules of
the command line are imported before the first request comes.

Nothing may import this module: the process runs it as `__main__`, and would have it twice.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from olivebuild.api import privacy
from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.core import code_version
from olivebuild.core.errors import FULL, BuildError, Damaged, StepError, StoreError, first_line
from olivebuild.core.exit_reasons import NO_MEMORY, lacks_memory, lacks_space
from olivebuild.core.fs.files import DEFAULT_MODE
from olivebuild.core.host import peak_rss
from olivebuild.core.processes import end_with_parent

CHANGED = StepError(
    "olivebuild itself was changed while it was building",
    hint="build again: what was finished is kept",
)
"""The error where the parent's code is not this one's: keys stand for results of equal code."""
HEAVY = {"torch", "onnx", "pyarrow"}
"""Modules with which a process ends after its action: they hold more memory than is worth the
time of another start, unless a step that comes next needs them, too.
"""


def main() -> int:
    """Run actions until one fails or may not share its process; return the exit status."""
    # What libraries print must not mix with events: the real stdout is ours alone, and fd 1 becomes
    # the log.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    while True:
        # The folder and the log of an action are deleted after it: a waiting process must not
        # have the one as its working folder, or hold the other open.
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
        if code or not action.reuses_worker:
            return code
        heavy = bool(HEAVY & set(sys.modules))
        modules = _modules_for(action.consumers, heavy=heavy)
        if modules is None:
            return code
        os.chdir(os.path.abspath(os.sep))
        if heavy:
            _release_memory()
        _log_to(os.devnull)
        expects = [str(kind) for kind, _ in action.consumers] if heavy else []
        stream.write(json.dumps({"event": "idle", "expects": expects}) + "\n")
        stream.flush()
        for module in modules:
            # The step imports it again, and reports what is wrong: libraries fail in many ways.
            with contextlib.suppress(Exception):
                importlib.import_module(module)


def _modules_for(consumers: Sequence[list[object]], *, heavy: bool) -> list[str] | None:
    """Return what to import for the steps that probably come next.

    The parent stores a result meanwhile. None where this process, `heavy` as it is, should not
    wait for one.
    """
    if not consumers:
        return None if heavy else []
    from olivebuild.api.step import step_of

    steps = [(step_of(str(kind)), values) for kind, values in consumers]
    if not heavy:
        return [module for step, _ in steps if step for module in step.preload]
    fitting = [
        step
        for step, values in steps
        if step and step.preload_once and step.reuses_worker(step.fields.model_validate(values))
    ]
    if not fitting:
        return None
    return [module for step in fitting for module in (*step.preload, *step.preload_once)]


def _release_memory() -> None:
    """Give back what the last action has left, on the GPUs, too."""
    # A model's modules refer to one another.
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _log_to(file: str) -> None:
    """Make a file, emptied, the stdout and stderr of this process and its children."""
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _listen(requests: queue.SimpleQueue[dict[str, str]]) -> None:
    """Queue the requests of the parent, and end with it."""
    try:
        end_with_parent(lambda line: requests.put(json.loads(line)))
    finally:
        # A line that is no JSON means that the parent is not ours: no reason to wait for more.
        os._exit(1)


def _forget_peak() -> None:
    """Reset the peak memory of this process, on Linux alone."""
    # https://www.kernel.org/doc/html/latest/filesystems/proc.html: 5 resets the peak resident set
    # size.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def run(action: Action, stream: Any, log: str = "") -> int:
    """Run an action's step, and write its result or its error to `stream`.

    Return the exit status: 0, or 1 after an error.
    """
    job = Job(action, stream)
    job.log = log
    try:
        importlib.import_module(action.runner).run(job)
        if job.mode != DEFAULT_MODE:
            privacy.restrict(job.out, job.mode)
        data = job.result._asdict()
        data["reference"] = str(job.result.reference or "")
        if job.fetched:
            data["provenance"] = {**job.result.provenance, "sha256": job.fetched}
        job.say("result", **data, peak_rss=peak_rss())
    except (SystemExit, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001
        # A panic of Rust code is a BaseException, and no Exception.
        job.say("error", **_as_build_error(error, job).to_json())
        return 1
    return 0


def _as_build_error(error: BaseException, job: Job) -> BuildError:
    """Return the error to show for one that ended a step; the log gets the traceback of a bug."""
    target = job.action.target
    match error:
        case BuildError():
            if not lacks_space(error, job.out):
                return error
            return StoreError(f"{error.fact}: {FULL[0]}", where=error.where, hint=FULL[1])
        case Damaged():
            job.set_merges_aside()
            return StepError(
                f"an input of {target} in the cache is not whole: {error}",
                hint="build again: what is damaged was set aside, and its step runs anew",
            )
        case ModuleNotFoundError():
            _log_traceback(error)
            return StepError(
                f"{target} needs the library {error.name}, which is not installed",
                hint="pip install 'olivebuild[build]' installs what steps need",
            )
        case _ if lacks_memory(error):
            _log_traceback(error)
            return StepError(
                f"{target} failed: {NO_MEMORY[0]}; its process had taken up to {_peak_memory()}",
                hint=NO_MEMORY[1],
            )
        case _ if lacks_space(error, job.out):
            return StoreError(f"{target} failed: {FULL[0]}", where=job.action.out, hint=FULL[1])
        case _:
            _log_traceback(error)
            return StepError(
                f"{target} failed: {type(error).__name__}: {first_line(error)}",
                hint=f"`olivebuild log {target}` shows the whole story",
            )


def _log_traceback(error: BaseException) -> None:
    # The process's stderr is the log of the action.
    traceback.print_exception(error)


def _peak_memory() -> str:
    # Not imported where nothing fails: the light worker starts in a few milliseconds.
    from olivebuild.core.text import size

    return size(peak_rss())


def _leave(code: int) -> NoReturn:
    """End with an exit status, after what modules have registered to be done at the end.

    Taking apart all that torch and transformers have made takes 1.5 s of a processor, and the
    system takes it back at once.
    """
    shut_down: Callable[[], None] = vars(threading)["_shutdown"]
    with contextlib.suppress(Exception):
        # As the interpreter does: threads that were started are waited for.
        shut_down()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if "ctypes" in sys.modules and os.name == "posix":
        # What libraries in C have printed and not yet written to the log.
        sys.modules["ctypes"].CDLL(None).fflush(None)
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
