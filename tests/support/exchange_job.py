"""A job that does what its action says, for tests of an exchange.

It is run as olivebuild.executors.site.job is, and keeps to the same files.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from olivebuild.cache.store import Store
from olivebuild.core.fs.files import write_atomically


def blob(store: Store, text: str) -> dict[str, object]:
    """Store a text; return what a manifest of blobs has of it."""
    data = text.encode()
    sha256 = hashlib.sha256(data).hexdigest()
    return {"digest": store.put_bytes(data), "size": len(data), "sha256": sha256}


def action(store: Store, key: str, *words: list[Any], inputs: tuple[str, ...] = ()) -> Path:
    """Write the folder of a job that does these words; return it."""
    folder = store.root / "jobs" / key
    folder.mkdir(parents=True, exist_ok=True)
    blobs = [blob(store, text) for text in inputs]
    (folder / "action.json").write_text(json.dumps({"blobs": blobs, "do": words}))
    return folder


def main() -> None:
    root, key = Path(sys.argv[1]), sys.argv[2]
    store, folder = Store(root), root / "jobs" / key
    act = json.loads((folder / "action.json").read_text())
    state = store.checkpoint(key)

    def stop(*_: object) -> None:
        state.parent.mkdir(exist_ok=True)
        write_atomically(state, b"stopped")
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)
    for word, value in act["do"]:
        match word:
            case "event":
                with open(folder / "events", "a") as f:
                    f.write(json.dumps(value) + "\n")
            case "print":
                print(value, flush=True)
            case "state":
                state.parent.mkdir(exist_ok=True)
                write_atomically(state, value.encode())
            case "die without state":
                if not state.is_file():
                    sys.exit(9)
                print(f"goes on from {state.read_text()}")
            case "sleep":
                time.sleep(value)
            case "output":
                texts = [store.read(b["digest"]).decode() for b in act["blobs"]]
                outcome = {"blobs": [blob(store, value + "".join(texts))]}
                write_atomically(folder / "outcome.json", json.dumps(outcome).encode())


if __name__ == "__main__":
    main()
