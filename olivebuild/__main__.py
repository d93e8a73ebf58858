"""Entry point of `olivebuild` and `python -m olivebuild`.

A build of which nothing has changed is answered before anything else is imported.
"""

import os
import sys

from olivebuild.snapshot import answer


def main() -> None:
    """Answer from the last build's snapshot, or run the command line; exit with its code."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from olivebuild.core.streams import reopen

        reopen()
    if sys.getfilesystemencoding() != "utf-8":
        from olivebuild.core.processes import restart

        restart()
    # A shell that completes words asks with none, and has no use for the answer of a build.
    completes = "_OLIVEBUILD_COMPLETE" in os.environ
    code, seen = (None, None) if completes else answer(sys.argv[1:])
    if code is None:
        import gc

        # Imports and plans make many objects that stay: frequent collections would find no
        # garbage among them.
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
    """End the process without tearing the interpreter down object by object.

    With thousands of targets in memory that takes longer than a build with nothing to do.
    """
    import atexit

    threading = sys.modules.get("threading")
    if threading and threading.active_count() > 1:
        # The interpreter waits for threads that still work.
        return
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        if not code:
            # The interpreter reports output that could not be written, with exit code 120.
            return
    os._exit(code)


if __name__ == "__main__":
    main()
