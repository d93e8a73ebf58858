"""The program that makes an environment on another machine. Sent to whatever Python is there.

Nothing of olivebuild is there yet: it uses the standard library alone, and no syntax newer than
3.8, so that an older Python can say that it is too old. It reads a line of JSON from stdin and the
package as a zip file after it, and writes a line of JSON to stdout. Where the package is not there
yet and none follows, the answer is that it is needed.

    FOLDER/DIGEST/           an environment, whole where DIGEST/complete is
    FOLDER/code/DIGEST/      the package
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from typing import Any, BinaryIO

MARK = "olivebuild-environment "
LEAST = (3, 11)
OLD_SECONDS = 30 * 86400
PIP = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input")


class Failed(Exception):
    """What this machine lacks."""

    def __init__(self, fact: str, hint: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.hint = hint


def main() -> None:
    """Answer one request."""
    answer: dict[str, Any]
    try:
        answer = setup(json.loads(sys.stdin.buffer.readline()), sys.stdin.buffer)
    except Failed as e:
        answer = {"fact": e.fact, "hint": e.hint}
    except OSError as e:
        answer = {"fact": str(e), "hint": "`root:` names a folder there that can be written"}
    print(MARK + json.dumps(answer), flush=True)


def setup(asked: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Return where the environment and the package are. Raises Failed and OSError."""
    if sys.version_info < LEAST and asked["kind"] != "conda":
        have = ".".join(map(str, sys.version_info[:3]))
        raise Failed(sys.executable + " is Python " + have + ", and 3.11 is needed", "`python:`")
    folder = folder_of(asked["root"])
    os.makedirs(folder, mode=0o700, exist_ok=True)
    code = os.path.join(folder, "code", asked["code"])
    if not (asked["bytes"] or os.path.isdir(code)):
        return {"needs": "code"}
    put_code(code, stream.read(asked["bytes"]))
    # Windows has none, and is no place for jobs.
    import fcntl

    place = os.path.join(folder, asked["digest"])
    start = time.time()
    with open(place + ".lock", "ab") as lock:
        # Another build may be at it: its environment will do.
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_new = not os.path.exists(os.path.join(place, "complete"))
        if is_new:
            shutil.rmtree(place, ignore_errors=True)
            make(place, asked)
            with open(os.path.join(place, "complete"), "w") as done:
                done.write(json.dumps(asked["requirements"]))
    python = os.path.join(place, "bin", "python")
    seconds = time.time() - start if is_new else 0.0
    return {"python": python, "code": code, "seconds": seconds}


def folder_of(root: str) -> str:
    """Return the folder of environments: below the site's root, or the user's cache folder."""
    if root:
        return os.path.join(os.path.expanduser("~"), os.path.expanduser(root), "environments")
    cache = os.environ.get("OLIVEBUILD_CACHE")
    if cache:
        return os.path.join(os.path.abspath(cache), "environments")
    if sys.platform == "darwin":
        caches = os.path.expanduser("~/Library/Caches")
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(caches, "olivebuild", "environments")


def put_code(place: str, data: bytes) -> None:
    """Unpack the package, unless it is there, and forget packages that are long unused."""
    if not os.path.isdir(place):
        scratch = place + "." + str(os.getpid())
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            package.extractall(scratch)
        try:
            os.rename(scratch, place)
        except OSError:
            shutil.rmtree(scratch, ignore_errors=True)
            if not os.path.isdir(place):
                raise
    os.utime(place)
    parent = os.path.dirname(place)
    for name in os.listdir(parent):
        other = os.path.join(parent, name)
        if os.stat(other).st_mtime < time.time() - OLD_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def make(place: str, asked: dict[str, Any]) -> None:
    """Make an environment in a folder that is not there. Raises Failed."""
    if asked["kind"] == "conda":
        make_conda(place, asked["conda"])
    else:
        words = ["--system-site-packages"] if asked["kind"] == "above" else []
        run(
            [sys.executable, "-m", "venv", *words, place],
            "no environment can be made by " + sys.executable,
            "on Debian and Ubuntu: apt install python3-venv",
        )
    listed = os.path.join(place, "requirements.txt")
    with open(listed, "w") as f:
        f.write("\n".join(asked["requirements"]) + "\n")
    run(
        [os.path.join(place, "bin", "python"), *PIP, "-r", listed],
        "pip could not install what is asked for",
        "`variables:` of the executor can name another index, PIP_INDEX_URL",
    )


def make_conda(place: str, text: str) -> None:
    """Make it by whatever program for conda is there. Raises Failed."""
    program = next((p for p in ("micromamba", "mamba", "conda") if shutil.which(p)), None)
    if program is None:
        raise Failed("there is no conda", "install micromamba, mamba or conda there")
    file = place + ".yaml"
    with open(file, "w") as f:
        f.write(text)
    verb = ["create", "-y"] if program == "micromamba" else ["env", "create", "-q"]
    run([program, *verb, "-p", place, "-f", file], program + " could not make it", "")


def run(words: list[str], fact: str, hint: str) -> None:
    """Run a program; what it prints is kept from stdout, which is for the answer."""
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        said = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
        # pip says what went wrong, and then more.
        wrong = [line for line in said if line.startswith("ERROR")][:1] or said[-1:]
        raise Failed(": ".join([fact, *wrong]), hint)


if __name__ == "__main__":
    main()
