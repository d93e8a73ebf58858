"""Connections to an agent that is a process of this machine."""

from __future__ import annotations

import sys

from olivebuild.executors.site.connection import AGENT, LocalConnection, environment_of


def test_the_command_of_an_agent() -> None:
    connection = LocalConnection("box (local)", variables={"PARTITION": "gpu"})
    command = connection.argv(["--launcher", "process"])
    assert command[0] == sys.executable
    assert command[-4:] == ["-m", AGENT, "--launcher", "process"]
    # A folder that a build is started in is no place to import from.
    assert "-P" in command
    environment = environment_of(connection)
    assert environment["PARTITION"] == "gpu"
    assert "PATH" in environment


def test_another_python() -> None:
    connection = LocalConnection("box", program="/opt/env/bin/python")
    assert connection.argv([])[:4] == ["/opt/env/bin/python", "-P", "-m", AGENT]


def test_what_its_end_means() -> None:
    connection = LocalConnection("box", program="/opt/env/bin/python")
    assert connection.is_cut(-9)
    assert not connection.is_cut(1)
    problem = connection.problem(
        1, "Traceback\nModuleNotFoundError: No module named 'olivebuild'\n"
    )
    assert problem.fact == (
        "box: its agent did not begin (exit code 1): "
        "ModuleNotFoundError: No module named 'olivebuild'"
    )
    assert "/opt/env/bin/python -m olivebuild --version" in problem.hint
