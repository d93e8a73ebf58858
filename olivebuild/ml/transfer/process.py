"""Process that talks to a remote cache for a build.

`python -m olivebuild.ml.transfer.process URL CACHE` reads requests as JSON lines from standard
input and answers with JSON lines (engine/remote/process.py), in any order.
It ends when its input does, after the uploads that were asked for.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from olivebuild.cache.remote_records import (
    RemoteResult,
    blobs_of,
    shareable,
    trace_name,
)
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core import hashing
from olivebuild.core.errors import BuildError, Damaged, StoreError
from olivebuild.ml.transfer.claims.claims import Claims
from olivebuild.ml.transfer.differences import Differences
from olivebuild.ml.transfer.fetches import Fetches
from olivebuild.ml.transfer.meter import Meter
from olivebuild.ml.transfer.remote import Remote, is_offline, reason
from olivebuild.ml.transfer.signed.builds import Builds
from olivebuild.ml.transfer.signed.results import Results
from olivebuild.ml.transfer.uploads import Uploads

REQUESTS = 16
"""Answers that are waited for at once; blobs have connections of their own."""
UPLOADS = 8
"""Results that are brought there at once."""


class Process:
    def __init__(self, remote: Remote, store: Store, say: Callable[[dict[str, Any]], None]) -> None:
        self.remote, self.store = remote, store
        self._say = say
        self._traces = Traces(store)
        self._meters = Meter("fetching", say), Meter("uploading", say)
        self._fetches = Fetches(remote, store, self._meters[0])
        self._uploads = Uploads(remote, store, self._meters[1])
        self._results = Results(remote, store, self._traces, say)
        self._claims = Claims(remote, store.root, self._usable, lambda: say({"working": True}))
        self._differences = Differences(store.root, remote.url)
        self._looked: dict[str, RemoteResult] = {}
        """Results that were looked at and not fetched yet."""
        self._pool = ThreadPoolExecutor(REQUESTS)
        self._puts = ThreadPoolExecutor(UPLOADS)
        self._pending: list[Future[None]] = []

    def take(self, request: Mapping[str, Any]) -> None:
        """Begin what a request asks for."""
        ident, op = request["id"], request["op"]
        self._results.take(request.get("paths") or {})
        if op == "use":
            # Nobody waits for that.
            for key in request["keys"]:
                self._claims.use(key)
            return
        works: dict[str, Callable[[str], dict[str, Any]]] = {
            "builds": lambda history: self._builds(history, request),
            "has": self._has,
            "look": self._look,
            "compare": self._compare_inputs,
            "get": self._get,
            "put": self._put,
            "lease": self._lease,
            "release": self._release,
        }
        pool = self._puts if op == "put" else self._pool

        def one(key: str) -> None:
            answer = self._answer(works[op], key)
            for meter in self._meters:
                meter.flush()
            self._say({"id": ident, "op": op, "key": key, **answer})

        self._pending += [pool.submit(one, key) for key in request["keys"]]

    def _answer(self, work: Callable[[str], dict[str, Any]], key: str) -> dict[str, Any]:
        try:
            return work(key)
        except Damaged as e:
            return {"error": f"a blob {e.why}"}
        except BuildError as e:
            return {"error": e.fact}
        except Exception as e:  # noqa: BLE001
            # obstore's errors have no common class that is exported.
            return {"error": reason(e), "offline": is_offline(e)}

    def finish(self) -> None:
        """Wait for all that was asked for."""
        for future in self._pending:
            future.result()
        self._claims.close()
        self._traces.close()

    def _has(self, key: str) -> dict[str, Any]:
        return {"hit": self.remote.size(trace_name(key)) is not None}

    def _look(self, key: str) -> dict[str, Any]:
        """Fetch the trace of a key, if there is one, and put it into the store."""
        result = self._results.read(key)
        if result is None:
            return {"hit": False}
        self._traces.put(shareable(result.trace))
        self._looked[key] = result
        self._claims.use(key)
        return {"hit": True, "bytes": sum(blob.size for blob in result.blobs)}

    def _compare_inputs(self, key: str) -> dict[str, Any]:
        """Compare what a result of the store was made from with what its inputs are now."""
        if trace := self._traces.get(key):
            self._results.compare_kept(trace)
        return {}

    def _get(self, key: str) -> dict[str, Any]:
        """Bring the blobs of a result into the store, each checked by both its digests."""
        result = self._looked.pop(key, None) or self._results.read(key)
        if result is None:
            return {"error": "it is not there any more"}
        try:
            self._results.check_present(result)
            count = self._fetches.fetch(result.blobs)
            self._results.check_lent(result)
        except Exception:
            self._claims.refuse(key, _identity(result))
            raise
        return {"bytes": count}

    def _lease(self, key: str) -> dict[str, Any]:
        return {"lease": self._claims.lease(key)}

    def _release(self, key: str) -> dict[str, Any]:
        self._claims.release(key)
        return {}

    def _builds(self, history: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Bring builds to a history there, or those that were not seen from it."""
        builds = Builds(self.remote, self._results.trust, self._results.signer, history)
        if "builds" in request:
            if self.remote.read_only:
                return {"error": "it can only be read"}
            return {"names": builds.write(request["builds"])}
        texts, faults = builds.read(request["seen"])
        return {"texts": texts, "faults": faults}

    def _usable(self, key: str) -> str:
        """Return what names the result of a key that counts; "" where there is none."""
        standing = self._results.find(key)
        return _identity(standing.result) if standing and standing.result else ""

    def _put(self, key: str) -> dict[str, Any]:
        """Bring a result of the store to the remote cache, unless it is there."""
        try:
            return self._bring(key)
        finally:
            self._claims.release(key)

    def _bring(self, key: str) -> dict[str, Any]:
        if self.remote.read_only:
            return {"error": "it can only be read"}
        trace = self._traces.get(key)
        if trace is None:
            return {"error": "it is not in the cache any more"}
        sizes = blobs_of(self.store, trace)
        replaced = self._fetches.bad & sizes.keys()
        if self._results.stands(key):
            # Whoever found a blob there damaged, and has made it, puts it right for all.
            self._uploads.write({digest: sizes[digest] for digest in replaced}, replaced)
            self._fetches.bad -= replaced
            return {"put": False, **self._compare(trace)}
        with self._claims.upload(key, sizes) as check:
            blobs, count = self._uploads.write(sizes, replaced)
            check()
            is_put = self._results.put(trace, blobs)
        answer = {"put": is_put, "bytes": count, "unkept": not self._claims.are_kept}
        return answer | ({} if is_put else self._compare(trace))

    def _compare(self, trace: Trace) -> dict[str, Any]:
        """Return how the result that is there differs from ours."""
        try:
            standing = self._results.find(trace.key)
        except StoreError:
            # It is not used, which whoever looks for it is told.
            return {}
        if standing is None or standing.result is None:
            return {}
        return {"differs": self._differences.told(trace, standing.result.trace)}


def _identity(result: RemoteResult) -> str:
    return hashing.of_bytes(result.body())


def main() -> None:
    lock = threading.Lock()

    def say(message: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(message), flush=True)

    url, cache = sys.argv[1:3]
    try:
        process = Process(Remote(url), Store(Path(cache)), say)
    except BuildError as e:
        say({"fault": e.fact, "hint": e.hint})
        return
    say({"ready": True})
    for line in sys.stdin:
        process.take(json.loads(line))
    process.finish()


if __name__ == "__main__":
    main()
