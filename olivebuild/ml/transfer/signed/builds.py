"""Builds in a remote cache: the history of a recipe, as all its machines see it.

    v1/history/<history>/<time>-<digest>     a build, written once

Builds are small and many. A machine lists them, and reads those that it has not seen.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from olivebuild.cache.remote_records import LAYOUT, Signature, envelope, opened
from olivebuild.core import hashing
from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.remote import Remote
from olivebuild.ml.transfer.signing import HINT, Signer, Trust

NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{32}")
MOST = 500
"""Builds that are read at once: the newest."""
MOST_BYTES = 1 << 20
"""Bytes of a build; one has some 10,000."""
MOST_TOTAL = 4 << 20
"""Bytes of all builds that are read at once: a history keeps 16 MiB."""
CONNECTIONS = 8


class Builds:
    """The builds of one history in `remote`. `history` is its name: 32 hexadecimal digits."""

    def __init__(self, remote: Remote, trust: Trust, signer: Signer | None, history: str) -> None:
        self._remote, self._trust, self._signer = remote, trust, signer
        self._folder = f"{LAYOUT}/history/{history}"

    def read(self, seen: Collection[str]) -> tuple[dict[str, str], list[str]]:
        """Return name -> text of the builds that were not seen, and why others are not used."""
        known = set(seen)
        sizes = {
            name: entry.size
            for entry in self._remote.entries(self._folder)
            if NAME.fullmatch(name := entry.name.rpartition("/")[2]) and name not in known
        }
        newest, left = [], MOST_TOTAL
        for name in sorted(sizes, reverse=True)[:MOST]:
            left -= sizes[name]
            if left < 0:
                break
            newest.append(name)
        texts: dict[str, str] = {}
        faults: list[str] = []
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for name, (text, fault) in zip(newest, pool.map(self._one, newest), strict=True):
                if fault:
                    faults.append(fault)
                else:
                    texts[name] = text
        return texts, faults

    def write(self, builds: Iterable[tuple[str, str]]) -> list[str]:
        """Put builds there, (time, text) each; return their names."""
        names = []
        for time, text in builds:
            body = text.encode()
            name = f"{re.sub('[-:]', '', time)}-{hashing.of_bytes(body)}"
            if not NAME.fullmatch(name):
                raise StoreError(f"{time!r} is no time of a build", hint=HINT)
            signature = self._signer.sign(body) if self._signer else Signature()
            self._remote.create(f"{self._folder}/{name}", envelope(body, signature))
            names.append(name)
        return names

    def _one(self, name: str) -> tuple[str, str]:
        """Return (text, "") of a build, or ("", why it is not used)."""
        try:
            text = self._remote.read(f"{self._folder}/{name}", MOST_BYTES)
            if text is None:
                return "", "it is not there any more"
            body, signature = opened(text)
            if hashing.of_bytes(body) != name.rpartition("-")[2]:
                raise ValueError("it lies under another name")
            self._trust.check(signature, body)
            return body.decode(), ""
        except StoreError as e:
            return "", e.fact
        except ValueError as e:
            return "", str(e)
