"""A daemon of Docker for tests, and an image that borrows this machine's programs.

The daemon that is there is used; else root starts one, without network and in a folder of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.require import require

IMAGE = "olivebuild-tests:1"
"""Empty: all programs come as volumes."""
OPTIONS = [
    *("--storage-driver", "vfs", "--bridge=none", "--log-level", "error"),
    *("--iptables=false", "--ip6tables=false"),
]


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[dict[str, str]]:
    """Yield variables with which Docker's program reaches a daemon. Skips where there is none."""
    client = shutil.which("docker")
    if client and _answers(os.environ):
        _import()
        yield {}
        return
    can_start = client and shutil.which("dockerd") and hasattr(os, "geteuid") and os.geteuid() == 0
    require("docker", can_start, "needs a daemon of Docker")
    variables = {"DOCKER_HOST": f"unix://{folder}/docker.sock"}
    places = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command = ["dockerd", *OPTIONS, *places, "--host", variables["DOCKER_HOST"]]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--pidfile", f"{folder}/pid"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(300):
            if process.poll() is None and _answers(os.environ | variables):
                break
            time.sleep(0.1)
        else:
            require("docker", None, (folder / "log").read_text()[-300:])
        _import(variables)
        yield variables
    finally:
        process.terminate()
        process.wait()


def _answers(environment: Any) -> bool:
    done = subprocess.run(["docker", "info"], env=environment, capture_output=True, check=False)
    return done.returncode == 0


def _import(variables: dict[str, str] | None = None) -> None:
    """Import an image that has names of users and folders, and nothing else."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        users = b"root:x:0:0::/root:/bin/sh\n"
        info = tarfile.TarInfo("etc/passwd")
        info.size = len(users)
        tar.addfile(info, io.BytesIO(users))
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(folder)
    subprocess.run(
        ["docker", "import", "-", IMAGE],
        input=data.getvalue(),
        env=os.environ | (variables or {}),
        capture_output=True,
        check=True,
    )


def run_args() -> dict[str, Any]:
    """Return `run_args` by which a container has this machine's programs and libraries."""
    folders = {"/usr", "/bin", "/lib", "/lib64", sys.prefix, sys.base_prefix}
    folders |= {path for path in sys.path if path and Path(path).is_dir()}
    return {
        "volumes": [f"{path}:{path}:ro" for path in sorted(folders) if Path(path).exists()],
        "environment": {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        "network_mode": "none",
    }
