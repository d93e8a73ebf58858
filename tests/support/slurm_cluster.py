"""A real Slurm cluster on this machine: its controller, nodes and munge, in a folder of its own.

Each node is a slurmd with a name and port of its own, two cores and a GPU that is /dev/null.
Nothing of the system's configuration is read or written.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.require import require

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "srun")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=500
SwitchType=switch/none
MpiDefault=none
ReturnToService=1
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdTimeout=10
KillWait=5
GresTypes=gpu
"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class SlurmCluster:
    """Context manager of a cluster whose nodes are n1, n2 ..."""

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder = folder
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> SlurmCluster:
        for name in ("munge", "state", *(f"spool/{name}" for name in self.names)):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        self._write()
        munge = self.folder / "munge"
        files = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        paths = [f"--{name}={munge / name.partition('-')[0]}" for name in files]
        self._start("munged", "munged", "--foreground", "--force", "--num-threads=1", *paths)
        self._until(lambda: (munge / "socket").exists(), "munged")
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for name in self.names:
            self.start_node(name)
        self._until(lambda: self.states() == dict.fromkeys(self.names, "idle"), "the nodes")
        return self

    def _write(self) -> None:
        host, user = socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
        lines = CONF.format(host=host, user=user, port=_free_port(), folder=self.folder)
        for name in self.names:
            lines += (
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} "
                "CPUs=2 RealMemory=4000 Gres=gpu:1\n"
            )
        nodes = ",".join(self.names)
        lines += f"PartitionName=main Nodes={nodes} Default=YES MaxTime=60 State=UP\n"
        lines += f"PartitionName=small Nodes={self.names[0]} MaxTime=1 State=UP\n"
        (self.folder / "slurm.conf").write_text(lines)
        (self.folder / "gres.conf").write_text(f"NodeName={nodes} Name=gpu File=/dev/null\n")
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)

    def _start(self, name: str, *words: str) -> None:
        # In /usr/sbin, which is on no user's path.
        program = shutil.which(words[0], path=os.environ.get("PATH", "") + ":/usr/sbin")
        assert program
        with open(self.folder / f"{name}.out", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                [program, *words[1:]],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_node(self, name: str) -> None:
        self._start(name, "slurmd", "-D", "-N", name)

    def __exit__(self, *_: object) -> None:
        user = pwd.getpwuid(os.getuid()).pw_name
        with contextlib.suppress(subprocess.SubprocessError):
            self.call("scancel", "--signal=KILL", "--full", f"--user={user}")
            self.call("scancel", f"--user={user}")
            self._until(lambda: not self.call("squeue", "--noheader").strip(), "jobs", 20)
        for name in self.names:
            self.kill_node(name)
        for daemon in self._daemons.values():
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def call(self, *words: str) -> str:
        """Return what a program of Slurm's prints."""
        done = subprocess.run(
            words,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    def states(self) -> dict[str, str]:
        try:
            lines = self.call("sinfo", "--noheader", "--Node", "--format=%N %t").splitlines()
        except subprocess.CalledProcessError:
            return {}
        return dict(line.split() for line in lines)

    def down(self, name: str) -> None:
        """Have the controller take a node for lost at once."""
        self.call("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def up(self, name: str) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            # It may have come back by itself.
            self.call("scontrol", "update", f"nodename={name}", "state=resume")
        self._until(lambda: self.states().get(name) in ("idle", "mix"), name)

    def kill_node(self, name: str) -> None:
        """End all of a node at once, as when its power fails."""
        daemon = self._daemons.get(name)
        tasks = list(self._tasks(name))
        victims = [*(p for p in (task.parent() for task in tasks) if p), *tasks]
        if daemon and daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                if victim in tasks or "slurmstepd" in victim.name():
                    victim.kill()

    def _tasks(self, name: str) -> Iterator[psutil.Process]:
        """What runs on a node for jobs of this cluster."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                variables = process.environ()
                ours = variables.get("SLURM_CONF") == self.environment["SLURM_CONF"]
                if ours and variables.get("SLURMD_NODENAME") == name:
                    yield process

    def _until(self, condition: object, what: str, seconds: float = 60) -> None:
        assert callable(condition)
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} took too long: {self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(file.read_text()[-2000:] for file in self.folder.glob("*.out"))


def require_slurm() -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    there = all(shutil.which(name, path=path) for name in PROGRAMS)
    require("slurm", there, "Slurm is not installed here")


@contextlib.contextmanager
def slurm_cluster(
    folder: Path, monkeypatch: pytest.MonkeyPatch, nodes: int = 2
) -> Iterator[SlurmCluster]:
    """A cluster that the commands of this process talk to."""
    require_slurm()
    with SlurmCluster(folder, nodes) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield cluster
