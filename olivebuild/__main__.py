"""`olivebuild` and `python -m olivebuild`: a build of which nothing has changed is answered before anything is imported."""

import sys

from olivebuild.snapshot import answer


def main() -> None:
    code, look = answer(sys.argv[1:])
    if code is None:
        import gc

        # What importing and reading a plan make stays: looking for garbage in it again and again finds none.
        gc.set_threshold(100_000)
        from olivebuild.cli import run

        run(look)
    sys.exit(code)


if __name__ == "__main__":
    main()
