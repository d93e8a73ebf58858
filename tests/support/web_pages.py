"""A folder as a web site on loopback, and packages of npm for its pages."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.require import require


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """Serve a folder; yield the URL of its index."""
    handler = functools.partial(_Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def node_modules(package: Path) -> Path:
    """Return npm's folder of global packages. Skips where it lacks what a package.json wants."""
    npm = shutil.which("npm")
    require("npm", npm, "needs npm")
    done = subprocess.run(
        [str(npm), "root", "--global"], capture_output=True, text=True, check=True
    )
    folder = Path(done.stdout.strip())
    wanted = json.loads(package.read_text())["dependencies"]
    missing = {name: v for name, v in wanted.items() if _version(folder / name) != v}
    names = " ".join(f"{name}@{version}" for name, version in missing.items())
    require("npm", not missing, f"needs packages: npm install --global {names}")
    return folder


def _version(folder: Path) -> str | None:
    file = folder / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.exists() else None
