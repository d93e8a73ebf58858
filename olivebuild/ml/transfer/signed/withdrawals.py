"""Results that count no more though their signatures are right: signed lists in the remote cache.

    v1/withdrawn/<signer>/<n>     n = 0, 1, ...; written once, in order

Each list is a signer's, and adds to those before it. What a machine has read once it keeps
(withdrawn.json in its cache), so that a list that is taken away from the bucket still counts there.
A list of a signer who is not trusted, or is revoked, counts for nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from olivebuild.cache.remote_records import LAYOUT, Signature, envelope, opened, short_name
from olivebuild.core.errors import BuildError, StoreError
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.values.strict_json import decode
from olivebuild.ml.transfer.remote import Remote, reason
from olivebuild.ml.transfer.signing import HINT, Signer, Trust

Key = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
MOST_LISTS = 10_000
"""Lists of one signer that are read."""


class Withdrawn(Struct, frozen=True, kw_only=True):
    """A list: key -> until when (seconds since 1970) results of it count no more, by signing."""

    withdrawn: Mapping[Key, float]


class Seen(Struct, kw_only=True):
    """What a machine has read: how many lists of each signer, and all that they withdraw."""

    lists: dict[str, int] = {}
    withdrawn: dict[str, float] = {}


class Withdrawals:
    """The lists of a remote cache, as far as `trust` lets them count."""

    def __init__(
        self, remote: Remote, trust: Trust, file: Path, note: Callable[[str], None]
    ) -> None:
        """`file` keeps what was read; `note` is told of a list that is none."""
        self._remote, self._trust, self._file, self._note = remote, trust, file, note
        self._seen = _load(file)

    def read(self) -> None:
        """Read the lists that are new, if any signatures are asked for. Raises OSError."""
        before = sum(self._seen.lists.values())
        for signer in sorted(self._trust.trusted - self._trust.revoked):
            self._read_of(signer)
        if sum(self._seen.lists.values()) > before:
            self._file.parent.mkdir(exist_ok=True)
            write_atomically(self._file, msgspec.json.encode(self._seen))

    def check(self, key: str, signature: Signature) -> None:
        """Raise StoreError if a result of `key` that was signed then is withdrawn."""
        until = self._seen.withdrawn.get(key, 0.0)
        if self._trust.is_on and signature.time <= until:
            when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(until))
            raise StoreError(f"what was signed before {when} UTC is withdrawn", hint=HINT)

    def add(self, signer: Signer, keys: Iterable[str]) -> str:
        """Withdraw the results of keys that are signed so far; return the name of the list.

        Raises StoreError where too many lists are there.
        """
        now = round(time.time(), 3)
        body = msgspec.json.encode(Withdrawn(withdrawn=dict.fromkeys(keys, now)))
        text = envelope(body, signer.sign(body))
        for number in range(MOST_LISTS):
            name = _name(signer.name, number)
            if self._remote.size(name) is None and self._remote.create(name, text):
                return name
        hint = "its folder v1/withdrawn is full"
        raise StoreError("there are too many lists of withdrawn results", hint=hint)

    def _read_of(self, signer: str) -> None:
        for number in range(self._seen.lists.get(signer, 0), MOST_LISTS):
            text = self._remote.read(_name(signer, number))
            if text is None:
                return
            try:
                listed = self._opened(signer, text)
            except (ValueError, StoreError) as e:
                fact = e.fact if isinstance(e, StoreError) else str(e)
                self._note(f"a list of withdrawn results is not used: {fact}")
                continue
            for key, until in listed.items():
                self._seen.withdrawn[key] = max(until, self._seen.withdrawn.get(key, 0.0))
            self._seen.lists[signer] = number + 1

    def _opened(self, signer: str, text: bytes) -> Mapping[str, float]:
        body, signature = opened(text)
        if signature.signer != signer:
            raise ValueError("it is another signer's")
        self._trust.check(signature, body)
        return decode(body, Withdrawn).withdrawn


def _name(signer: str, number: int) -> str:
    return f"{LAYOUT}/withdrawn/{short_name(signer)}/{number}"


def _load(file: Path) -> Seen:
    try:
        return decode(opening.read(file), Seen)
    except (OSError, ValueError):
        return Seen()


def main(url: str, *keys: str) -> int:
    """Withdraw the results of keys in the remote cache at `url`; print the name of the list."""
    try:
        signer = Signer.of_configuration()
        if signer is None:
            print("there is no signing key; `olivebuild remote keygen` makes one", file=sys.stderr)
            return 1
        remote = Remote(url)
        if remote.read_only:
            print("a web server is read from only", file=sys.stderr)
            return 1
        withdrawals = Withdrawals(remote, Trust(), Path(os.devnull), lambda _text: None)
        print(withdrawals.add(signer, keys))
    except BuildError as e:
        print(f"{e.fact}; {e.hint}", file=sys.stderr)
        return 1
    except Exception as e:  # noqa: BLE001
        # obstore's errors have no common class that is exported.
        print(reason(e), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
