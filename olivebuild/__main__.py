"""`olivebuild` and `python -m olivebuild`: a build of which nothing has changed is answered before
anything is imported.
"""

import os
import sys

from olivebuild.snapshot import answer


def main() -> None:
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from olivebuild.core.streams import reopen

        reopen()
    if sys.getfilesystemencoding() != "utf-8":
        from olivebuild.core.processes import restart

        restart()
    code, seen = answer(sys.argv[1:])
    if code is None:
        import gc

        # What importing and reading a plan make stays: looking for garbage in it again and again
        # finds none.
        gc.set_threshold(100_000)
        from olivebuild.cli.main import run

        try:
            run(seen)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    if code is not None:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """End at once: the interpreter, and what thousands of targets left in memory, are the system's
    to free, not to be taken apart one by one.
    """
    import atexit

    threading = sys.modules.get("threading")
    if threading and threading.active_count() > 1:
        # Somebody still works, and is waited for.
        return
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        if not code:
            # As it is told of any program whose output nobody takes.
            return
    os._exit(code)


if __name__ == "__main__":
    main()
