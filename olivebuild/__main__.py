"""`python -m olivebuild`."""

from olivebuild.cli import run

run()
