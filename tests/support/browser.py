"""Headless Chromium by the DevTools protocol over a pipe: opens a page, tells what it logged and
asked for, and looks at it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PROGRAM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
FLAGS += [
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "about:blank",
]
WEBGPU = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
]
"""Options by which pages have WebGPU, computed by the processor."""


class Browser:
    """One page. `events` are all that the browser told of it since it was opened."""

    def __init__(self, sending: IO[bytes], receiving: IO[bytes]) -> None:
        self._out, self._in = sending, receiving
        self._count = 0
        self._rest = b""
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | (
            {"sessionId": self._session} if self._session else {}
        )
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = self._in.read(1 << 16)
            if not chunk:
                raise RuntimeError("the browser has gone")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def open(self, page: Path | str) -> None:
        """Return when the page, of a file or a URL, and all that it asks for is loaded."""
        self.events.clear()
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self.ask("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def look(
        self, width: int, height: int = 900, *, dark: bool = False, phone: bool = False
    ) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.ask(
            "Emulation.setEmulatedMedia",
            media="",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    def run(self, code: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.ask("Runtime.evaluate", expression=code, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def picture(self) -> bytes:
        height = self.run("document.documentElement.scrollHeight")
        width = self.run("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        return base64.b64decode(
            self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        )

    @property
    def complaints(self) -> list[str]:
        """What the page wrote to its console, and errors."""
        told = [
            e["params"]
            for e in self.events
            if e.get("method")
            in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        ]
        return [json.dumps(params) for params in told]

    @property
    def requests(self) -> list[str]:
        return [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]


@contextmanager
def browser(profile: Path, *options: str) -> Iterator[Browser]:
    """`profile`: an empty folder. `options` are Chromium's."""
    assert PROGRAM
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The browser reads from 3 and writes to 4.
    start = (
        f"import os, sys; os.dup2({theirs_in}, 3); os.dup2({theirs_out}, 4); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    arguments = [
        sys.executable,
        "-c",
        start,
        PROGRAM,
        *FLAGS[:-1],
        *options,
        f"--user-data-dir={profile}",
        FLAGS[-1],
    ]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        arguments, pass_fds=(theirs_in, theirs_out), stdin=quiet, stdout=quiet, stderr=quiet
    )
    os.close(theirs_in)
    os.close(theirs_out)
    with (
        os.fdopen(ours_out, "wb", buffering=0) as sending,
        os.fdopen(ours_in, "rb", buffering=0) as receiving,
    ):
        try:
            yield Browser(sending, receiving)
        finally:
            process.kill()
            process.wait()
