"""Debian's sshd on loopback, with a port, host key and accounts file of its own.

Nothing of the machine's own ssh is read or written: the client gets a configuration, too.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.require import require

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@dataclass
class Sshd:
    """A server that listens, and the configuration by which `ssh box` reaches it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    def start(self) -> None:
        log = self.folder / "sshd.log"
        assert SSHD
        self.process = subprocess.Popen(
            [SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(log)],
            start_new_session=True,
        )
        deadline = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise AssertionError(log.read_text())

    def sessions(self) -> list[int]:
        """Return the processes of sshd that serve a connection, by their ids."""
        assert self.process
        return [pid for pid in _children(self.process.pid) if pid]

    def cut(self) -> int:
        """Kill what serves the connections, as a network that fails; return how many there were.

        What was started over them goes on.
        """
        # A connection has a monitor, and where there are accounts apart a child of that.
        victims = self.sessions()
        below = [pid for victim in victims for pid in _children(victim) if _is_sshd(pid)]
        for pid in (*victims, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(victims)

    def stop(self) -> None:
        """End the server and its connections."""
        if self.process:
            self.cut()
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Yield a server. Skips the test where sshd is not installed."""
    is_here = sys.platform == "linux" and SSHD and shutil.which("ssh")
    require("sshd", is_here, "openssh-server is not installed, or this is not Linux")
    folder.mkdir(mode=0o700)
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    server = Sshd(folder, port)
    (folder / "authorized").write_bytes((folder / "user_key.pub").read_bytes())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        # Of a worker process's environment: as little as of a login from far away.
        "PermitUserEnvironment no\nAcceptEnv none\n"
    )
    key = (folder / "host_key.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
    server.config.write_text(
        f"Host box\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
    )
    # Privilege separation wants its folder, which an init script would have made.
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _children(parent: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in listed.stdout.split()]


def _is_sshd(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    return False
