"""The connection by ssh: words that reach the other side as they are, and ends that are explained.

Where openssh-server is installed, Debian's sshd on loopback takes part.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.executors.connections.ssh import CUT, SshConnection, quoted
from tests.support.sshd import Sshd, sshd

NONE = subprocess.DEVNULL
BOX = SshConnection("gpu", "box", python=sys.executable)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd") / "own") as running:
        yield running


def run(connection: SshConnection, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        connection.command(words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("word", "there"),
    [
        ("--root", "--root"),
        ("", "''"),
        ("a b", "'a b'"),
        ("$HOME;`x`", "'$HOME;`x`'"),
        ("it's", "'it'\\''s'"),
        ("~/env/bin/python", "~/env/bin/python"),
        ("~/my env/python", "~/'my env/python'"),
        ("~root", "'~root'"),
        ("*", "'*'"),
    ],
)
def test_words_are_quoted_for_another_shell(word: str, there: str) -> None:
    assert quoted(word) == there


def test_nothing_of_the_recipe_is_an_option_of_ssh() -> None:
    command = BOX._replace(port=22, config="x").argv(["--root", "/a b"])
    assert command[command.index("--") + 1 :][0] == "box"
    assert command[-1].endswith("-m olivebuild.executors.site.agent --root '/a b'")
    assert "BatchMode=yes" in command


def test_without_ssh_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match="there is no ssh here"):
        BOX.argv([])


@pytest.mark.parametrize(
    ("code", "errors", "fact", "hint"),
    [
        (255, "x: Permission denied (publickey).", "takes none of the keys", "ssh-copy-id box"),
        (255, "Host key verification failed.", "host key is not known", "`ssh box` once"),
        (
            255,
            "REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.",
            "not",
            "-R",
        ),
        (255, "ssh: connect to host x port 22: Connection refused", "can't be reached", "ssh box"),
        (255, "Could not resolve hostname box", "the name is not known", "config"),
        (255, "", "the connection ended", "`ssh box`"),
        (127, "bash: nopython: command not found", "there is no", "`python:` names"),
        (1, "x: No module named olivebuild", "has no olivebuild", "pip install olivebuild=="),
        (
            1,
            "ModuleNotFoundError: No module named 'msgspec'",
            "can't run olivebuild",
            "pip install",
        ),
        (2, "unknown option -P", "is older than 3.11", "`python:`"),
        (9, "\x1b[31mboom", "exit code 9: \\u001b[31mboom", "--help"),
    ],
)
def test_ends_are_explained(code: int, errors: str, fact: str, hint: str) -> None:
    error = BOX.problem(code, errors)
    assert error.fact.startswith("gpu (ssh box): ")
    assert fact in error.fact
    assert hint in error.hint
    assert BOX.is_cut(code) == (code == CUT)


def test_words_and_variables_arrive_as_they_are(server: Sshd) -> None:
    box = BOX._replace(config=str(server.config))
    words = ["a b", "it's $HOME", "", "*", '"x"', "\\n", "ü"]
    program = "import sys; print(sys.argv[1:])"
    done = run(box, sys.executable, "-c", program, *words)
    assert (done.returncode, done.stdout) == (0, f"{words}\n"), done.stderr
    with_variable = box._replace(there={"A": "b c", "OMP_NUM_THREADS": "1"})
    assert "env 'A=b c' OMP_NUM_THREADS=1 " in with_variable.argv([])[-1]


def test_ends_of_a_real_server_are_explained(server: Sshd, tmp_path: Path) -> None:
    box = BOX._replace(config=str(server.config))
    unknown = tmp_path / "config"
    text = server.config.read_text().replace("known_hosts", "no_hosts")
    unknown.write_text(text)
    cases = [
        (box._replace(host="nobody@box"), "takes none of the keys"),
        (box._replace(port=1), "can't be reached"),
        (box._replace(config=str(unknown)), "host key is not known here"),
        (box._replace(python="/no/python"), "there is no /no/python"),
    ]
    for connection, fact in cases:
        done = run(connection, connection.python, "-c", "")
        assert fact in connection.problem(done.returncode, done.stderr).fact, done.stderr


def test_a_connection_of_the_users_is_shared_and_none_is_left_behind(
    server: Sshd, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    shared = f"Host *\n  ControlMaster auto\n  ControlPersist yes\n  ControlPath {tmp_path}/%n\n"
    config.write_text(server.config.read_text() + shared)
    box = BOX._replace(config=str(config))
    assert run(box, "true").returncode == 0
    assert not (tmp_path / "box").exists()
    master = ["ssh", "-F", str(config), "-N", "-f", "box"]
    subprocess.run(master, check=True, stdin=NONE, stdout=NONE, stderr=NONE)
    try:
        # Not even the keys are asked for.
        config.write_text(config.read_text().replace("user_key", "no_key"))
        assert run(box, "true").returncode == 0
    finally:
        subprocess.run(["ssh", "-F", str(config), "-O", "exit", "box"], check=True, stderr=NONE)
    assert run(box, "true").returncode == CUT


def test_a_cut_connection_leaves_alone_what_left_its_session(server: Sshd, tmp_path: Path) -> None:
    box = BOX._replace(config=str(server.config))
    there = tmp_path / "there"
    later = f"import time, pathlib; time.sleep(0.5); pathlib.Path({str(there)!r}).touch()"
    program = (
        f"import subprocess, sys, time; none = subprocess.DEVNULL; "
        f"subprocess.Popen([sys.executable, '-c', {later!r}], start_new_session=True, "
        "stdin=none, stdout=none, stderr=none); print('on', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        box.command([sys.executable, "-c", program]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == b"on\n"
    assert server.cut() == 1
    _, errors = process.communicate(timeout=20)
    assert process.returncode == CUT, errors
    deadline = time.monotonic() + 20
    while not there.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert there.exists()
