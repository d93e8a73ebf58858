"""Results of a remote cache: which of those under a key counts here, and how one is put there.

A key has the first result that was put there and, beside it, one of each signer who did not trust
that. A machine takes the first that it may: signed by somebody whom it trusts, not withdrawn, and
made from the very inputs that it has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from msgspec import structs

from olivebuild.cache.remote_records import (
    RemoteBlob,
    RemoteResult,
    Signature,
    StepPaths,
    envelope,
    opened,
    shareable,
    trace_name,
)
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core.errors import Damaged, StoreError
from olivebuild.core.values.typed import convert
from olivebuild.ml.transfer.remote import Remote
from olivebuild.ml.transfer.signed.sums import Sums
from olivebuild.ml.transfer.signed.withdrawals import Withdrawals
from olivebuild.ml.transfer.signing import HINT, Signer, Trust


class Standing(NamedTuple):
    """What lies under a name: the result, or why it counts for nothing ("" where none is)."""

    result: RemoteResult | None
    fault: str
    signer: str = ""
    is_harmed: bool = False
    """Nobody can read it."""


class Results:
    """The results in `remote`, for the cache `store`."""

    def __init__(
        self, remote: Remote, store: Store, traces: Traces, say: Callable[[dict[str, Any]], None]
    ) -> None:
        """`say` is called with messages for the build. Raises InputError for keys that are none."""
        self._remote, self._store = remote, store
        self.signer = None if remote.read_only else Signer.of_configuration()
        self.trust = Trust.of_configuration()
        if self.signer and self.trust.is_on:
            # What this machine has signed itself counts here.
            self.trust = structs.replace(
                self.trust, trusted=self.trust.trusted | {self.signer.name}
            )
        self.sums = Sums(store, traces, lambda: say({"working": True}))
        self.withdrawals = Withdrawals(
            remote, self.trust, store.root / "sums" / "withdrawn", lambda text: say({"note": text})
        )
        self._paths: dict[str, StepPaths] = {}
        self._lock = threading.Lock()
        self._has_read_withdrawals = False

    def take(self, paths: Mapping[str, Any]) -> None:
        """Note where the inputs and outputs of steps lie, by key, as JSON has it."""
        for key, value in paths.items():
            self._paths[key] = convert(value, StepPaths)

    def read(self, key: str) -> RemoteResult | None:
        """Return the result of a key that counts; None where there is none.

        Raises StoreError for what does not count.
        """
        standing = self.find(key)
        if standing is None or standing.result is None:
            return None
        self._keep(standing.result, standing.signer)
        return standing.result

    def find(self, key: str) -> Standing | None:
        """Return the result of a key that counts, without keeping anything of it.

        Raises StoreError for what does not count.
        """
        first = ""
        for _, standing in self._standings(key):
            if standing.result:
                return standing
            first = first or standing.fault
        if first:
            raise StoreError(first, hint=HINT)
        return None

    def check_present(self, result: RemoteResult) -> None:
        """Raise StoreError if a blob that the store has already is not the signed one."""
        self._check_blobs(result.blobs, "")

    def check_lent(self, result: RemoteResult) -> None:
        """Raise StoreError if what a model here lends to a result is not what was signed."""
        if result.trace.manifest:
            self._check_blobs(result.elsewhere, self._store.manifest(result.trace.manifest).base)

    def _check_blobs(self, blobs: Iterable[RemoteBlob], base: str) -> None:
        for blob in blobs if self.trust.is_on else ():
            # One that is damaged is as if it were not here.
            with suppress(Damaged):
                if self.sums.blob(blob.digest, blob.size, base) != blob.sha256:
                    fact = f"the blob {blob.digest[:8]} here has its XXH3 digest and other bytes"
                    raise StoreError(fact, hint=HINT)

    def _keep(self, result: RemoteResult, signer: str) -> None:
        """Keep the sums of a result that is fetched, and that it was not made here."""
        trace = shareable(result.trace)
        if self.trust.is_on:
            self.sums.keep(trace, result.inputs, result.outputs, signer=signer)
        elif self.signer:
            # Nobody has vouched for its sums.
            self.sums.keep(trace, {}, {}, signer=signer or "nobody")

    def compare_kept(self, trace: Trace) -> None:
        """Raise StoreError if a result was made from other inputs than a step has here now.

        Where that is not known, it counts as before.
        """
        record, paths = self.sums.kept(trace), self._paths.get(trace.key)
        if not (record and paths and (self.trust.is_on or self.signer)):
            return
        try:
            here = self.sums.inputs(paths)
        except StoreError:
            return
        compare(record.inputs, {label: s for label, s in here.items() if label in record.inputs})

    def stands(self, key: str) -> bool:
        """Return whether a result is there beside which none of this machine is to be put."""
        return any(self._suffices(standing) for _, standing in self._standings(key))

    def put(self, trace: Trace, blobs: Sequence[RemoteBlob]) -> bool:
        """Put a result there whose blobs are there; return whether it was put.

        What nobody can read is replaced. A result that does not count here stays, and ours is put
        beside it if we sign. Raises BuildError and OSError.
        """
        result = RemoteResult(trace=shareable(trace), blobs=tuple(blobs))
        signature = Signature()
        if self.signer and self._is_ours(trace):
            result = self._with_sums(result, trace)
            signature = self.signer.sign(result.body())
        text = envelope(result.body(), signature)
        if self._put_at(trace.key, trace_name(trace.key), text):
            return True
        if not signature.signer or self.stands(trace.key):
            return False
        return self._put_at(trace.key, trace_name(trace.key, signature.signer), text, replace=True)

    def _put_at(self, key: str, name: str, text: bytes, *, replace: bool = False) -> bool:
        """Put a text where there is none, or none that can be read; or, if so, none that counts."""
        if self._remote.create(name, text):
            return True
        standing = self._standing(key, name)
        if not (standing.is_harmed or (replace and not self._suffices(standing))):
            return False
        self._remote.replace(name, text)
        return True

    def _suffices(self, standing: Standing) -> bool:
        """Return whether a result counts here, and is signed if we could sign it ourselves."""
        return bool(standing.result and (standing.signer or not self.signer))

    def _is_ours(self, trace: Trace) -> bool:
        """Return whether a result was made here: what another has made is not ours to sign."""
        record = self.sums.kept(trace)
        return record is None or not record.signer

    def _with_sums(self, result: RemoteResult, trace: Trace) -> RemoteResult:
        """Return a result with the sums that are signed with it. Raises BuildError and OSError."""
        paths = self._paths.get(trace.key, StepPaths())
        inputs = self.sums.inputs(paths)
        if record := self.sums.kept(trace):
            # It was made from what the inputs were then.
            compare(record.inputs, inputs)
            inputs = dict(record.inputs)
        elsewhere = self.sums.elsewhere(trace, [blob.digest for blob in result.blobs])
        outputs = self.sums.outputs(trace, paths.outputs, [*result.blobs, *elsewhere])
        self.sums.keep(trace, inputs, outputs)
        return structs.replace(result, elsewhere=elsewhere, inputs=inputs, outputs=outputs)

    def _standings(self, key: str) -> Iterator[tuple[str, Standing]]:
        """Yield what lies under a key, the first result first."""
        name = trace_name(key)
        standing = self._standing(key, name)
        if standing.result is None and not standing.fault:
            return
        yield name, standing
        if standing.result and standing.signer:
            return
        signers = set(self.trust.trusted) | ({self.signer.name} if self.signer else set())
        for signer in sorted(signers - self.trust.revoked):
            name = trace_name(key, signer)
            yield name, self._standing(key, name)

    def _standing(self, key: str, name: str) -> Standing:
        text = self._remote.read(name)
        if text is None:
            return Standing(None, "")
        try:
            body, signature = opened(text)
            result = RemoteResult.from_body(body, key)
        except ValueError as e:
            return Standing(None, str(e), is_harmed=True)
        try:
            if self.trust.is_on:
                self._check(key, result, body, signature)
        except StoreError as e:
            return Standing(None, e.fact, signature.signer)
        return Standing(result, "", signature.signer)

    def _check(self, key: str, result: RemoteResult, body: bytes, signature: Signature) -> None:
        """Raise StoreError for a result that does not count here."""
        self.trust.check(signature, body)
        with self._lock:
            if not self._has_read_withdrawals:
                self.withdrawals.read()
                self._has_read_withdrawals = True
        self.withdrawals.check(key, signature)
        paths = self._paths.get(key)
        if paths is None:
            raise StoreError("it is not known what it is made from here", hint=HINT)
        compare(result.inputs, self.sums.inputs(paths))
        if result.trace.outputs.keys() - result.outputs.keys():
            raise StoreError("its signature does not cover its outputs", hint=HINT)


def compare(signed: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raise StoreError where a result's inputs are not those that a step has here."""
    for label, sha256 in here.items():
        if label not in signed:
            raise StoreError(f"its signature does not cover its {label}", hint=HINT)
        if signed[label] != sha256:
            raise StoreError(
                f"it was made from another {label}: XXH3 digests are equal, SHA-256 is not",
                hint=HINT,
            )
