"""The event stream: what a build says while it runs.

The display, plain lines, --json and the logs all read these.

{"event": "plan", "run": [target ...], "restore": [target ...], "seconds": {node: last cost or
null}}        before anything runs; again, of all
                                                                       targets, where something was
                                                                       lost meanwhile and the build
                                                                       looks at everything
{"event": "started", "target": t, "node": n, "reasons": [...], "seconds": last cost or null}
{"event": "progress", "target": t, "node": n, "what": w, "done": d, "total": t}
{"event": "hashing", "file": f, "done": bytes, "total": bytes}         a long file is read, before
or after a step
{"event": "metric", "target": t, "node": n, "step": s, "loss": l ...}
{"event": "sample", "target": t, "node": n, "step": s, "prompt": p, "expected": e, "answer": a}
{"event": "note", "target": t, "node": n, "text": x}
{"event": "fetched", "target": t, "node": n, "bytes": b}               its result came from the
remote cache into this one
{"event": "transfer", "what": "fetching" | "uploading", "done": bytes, "total": bytes}
                                                                       of the remote cache, so far
{"event": "waiting", "target": t, "node": n}                           another build makes this key
{"event": "restored" | "finished", "target": t, "node": n, "seconds": s}
{"event": "stopping", "target": t, "node": n}                          the build was interrupted
{"event": "failed", "target": t, "node": n, "fact": f, "where": w, "hint": h}
{"event": "done", "ran": [], "restored": [], "fresh": [], "failed": [], "gates": [],
"diagnostics": [], "seconds": s}

`watch` says all of that for each build, and between builds:
{"event": "error", "fact": f, "where": w, "hint": h}                   the recipe or an input can't
be read now
{"event": "watching"}    {"event": "changed", "what": path}
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from olivebuild.core.streams import json_text


class Event(Struct, frozen=True):
    name: str
    data: dict[str, object] = {}

    def to_json(self) -> str:
        return json_text({"event": self.name, **self.data})


Listener = Callable[[Event], None]
