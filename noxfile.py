"""The project's checks, one session each: `nox -l` lists them, and without arguments those run that
need no model.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.sessions = ["lint", "types", "fast"]
nox.options.default_venv_backend = "none" if os.environ.get("OLIVEBUILD_NOX_HERE") else "venv"
AT_ONCE = ("-n", "auto", "--dist", "worksteal")
"""A test at a time needs one core; who is done takes tests of others, some of which are long."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Threads of several tests at once would wait for each other, each of them busily."""
FUZZ_SECONDS = {"ci": "45", "full": "105"}
"""A minute and two, with making what is spoilt."""


EXTRAS = {
    "cpu": "linux",
    "build": "windows",
    "cuda": "linux",
    "directml": "windows",
    "cloud": "linux",
}
"""An extra and the system that it is resolved for."""


def install(session: nox.Session) -> None:
    """Install the package with what its tests need, in the versions that are known to work
    together; with OLIVEBUILD_NOX_HERE nothing.
    """
    if not os.environ.get("OLIVEBUILD_NOX_HERE"):
        session.install("-c", "constraints.txt", "-e", ".[build,dev]")


@nox.session
def lint(session: nox.Session) -> None:
    """Format and rules."""
    install(session)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly."""
    install(session)
    session.run("mypy")


@nox.session
def fast(session: nox.Session) -> None:
    """Tests that need no model."""
    install(session)
    session.run("pytest", *AT_ONCE, "-m", "not scenario and not slow", *session.posargs)


@nox.session
def scenario(session: nox.Session) -> None:
    """Real steps on a tiny model."""
    install(session)
    session.run("pytest", *AT_ONCE, "-m", "scenario and not slow", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Long matrices: all model families, all methods, many faults."""
    install(session)
    session.run("pytest", *AT_ONCE, "-m", "slow", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Lines and branches that tests run, in commands and workers as well; fails under the floor."""
    install(session)
    # Not in the folder of the sources: a file that comes or goes there ends what a no-op remembers.
    folder = Path(".nox/coverage-data").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    data = {"COVERAGE_FILE": str(folder / "data")}
    session.run("coverage", "erase", env=data)
    session.run("coverage", "run", "-m", "pytest", *AT_ONCE, *session.posargs, env=data)
    session.run("coverage", "combine", "-q", env=data)
    session.run("coverage", "report", env=data)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, warnings as errors, in docs/_build."""
    if not os.environ.get("OLIVEBUILD_NOX_HERE"):
        session.install("-c", "constraints.txt", "-e", ".[docs]")
    options = ("-q", "-W", "--keep-going", "-n", "-b", "html", *session.posargs)
    session.run("sphinx-build", *options, "docs", "docs/_build")


@nox.session
def extras(session: nox.Session) -> None:
    """Each extra resolves in an empty environment; that of DirectML is for Windows."""
    session.install("uv")
    for name, platform in EXTRAS.items():
        options = ("--extra", name, "--python-platform", platform, "--python-version", "3.12")
        command = ("uv", "pip", "compile", "-q", "pyproject.toml", *options)
        session.run(*command, "--only-binary", ":all:", "-o", os.devnull)


@nox.session
def ci(session: nox.Session) -> None:
    """All that a change must pass: under 20 minutes on 2 cores."""
    lint(session)
    types(session)
    docs(session)
    variables = {"OLIVEBUILD_FUZZ_SECONDS": FUZZ_SECONDS["ci"], **ONE_THREAD}
    session.run("pytest", *AT_ONCE, *session.posargs, env=variables)


@nox.session
def full(session: nox.Session) -> None:
    """Everything, the slow tests too, and what was skipped. A test that misses what
    OLIVEBUILD_REQUIRE names (tests/support/require.py) fails.
    """
    lint(session)
    types(session)
    session.run(
        "pytest",
        *AT_ONCE,
        "-m",
        "",
        "-rs",
        *session.posargs,
        env={"OLIVEBUILD_FUZZ_SECONDS": FUZZ_SECONDS["full"]},
    )


@nox.session
def bench(session: nox.Session) -> None:
    """The claims about speed, the short way: each script ends with those that hold and those that
    do not.
    """
    install(session)
    for name in ("noop", "rebuild", "train"):
        session.run("python", f"benchmarks/{name}.py", "--quick", *session.posargs)
