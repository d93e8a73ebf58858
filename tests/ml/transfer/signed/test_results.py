"""Whose results count in a bucket that anybody can write to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs, to_builtins

from olivebuild.cache.key import Part, key_of
from olivebuild.cache.remote_records import (
    InputPlace,
    RemoteBlob,
    RemoteResult,
    Signature,
    StepPaths,
    blobs_of,
    envelope,
    opened,
    short_name,
    trace_name,
)
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core import hashing
from olivebuild.core.errors import StoreError
from olivebuild.ml.models.remotes.sha256 import sha256_of
from olivebuild.ml.transfer.remote import Remote
from olivebuild.ml.transfer.signed.results import Results
from olivebuild.ml.transfer.signing import keygen
from tests.support.forged import forged_pair

PARTS = (Part("step", "kind", "command"), Part("file", "in[0]", f".bin:{'0' * 32}"))
KEY = key_of(PARTS)
NAME = trace_name(KEY)


class Machine:
    """A machine with a cache and a configuration, a file that steps read, and a result of it."""

    def __init__(self, root: Path, name: str, text: bytes, environment: dict[str, str]) -> None:
        self.root, self.name, self.environment = root, name, environment
        self.store = Store(root / f"{name}-cache")
        self.traces = Traces(self.store)
        self.input = root / f"{name}.bin"
        self.input.write_bytes(text)
        self.remote = Remote((root / "remote").as_uri())

    def keygen(self) -> str:
        self.environment["OLIVEBUILD_CONFIG"] = str(self.root / self.name)
        return keygen()[1]

    def results(self, *trusted: str, revoked: str = "") -> Results:
        self.environment |= {
            "OLIVEBUILD_CONFIG": str(self.root / self.name),
            "OLIVEBUILD_TRUSTED_KEYS": " ".join(trusted),
            "OLIVEBUILD_REVOKED_KEYS": revoked,
        }
        results = Results(self.remote, self.store, self.traces, lambda _message: None)
        digest = f".bin:{hashing.of_file(self.input)}"
        place = InputPlace(label="file in[0]", digest=digest, path=str(self.input))
        results.take({KEY: to_builtins(StepPaths(inputs=(place,), outputs={"x": "x.bin"}))})
        return results

    def make(self, text: str = "output") -> Trace:
        folder = self.store.scratch("out")
        (folder / "x.bin").write_text(text)
        manifest, blob = self.store.put_folder(folder)
        outputs = {"x": manifest.files[0].digest}
        trace = Trace(KEY, "command", PARTS, outputs, manifest=blob)
        self.traces.put(trace)
        return trace

    def put(self, *trusted: str) -> bool:
        trace = self.traces.get(KEY) or self.make()
        blobs = [
            RemoteBlob(digest=digest, size=size, sha256=sha256_of(self.store.path(digest)))
            for digest, size in blobs_of(self.store, trace).items()
        ]
        return self.results(*trusted).put(trace, blobs)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], Machine]:
    environment: dict[str, str] = {}

    class Environment(dict[str, str]):
        def __ior__(self, other: dict[str, str]) -> Environment:  # type: ignore[override,misc]
            for name, value in other.items():
                monkeypatch.setenv(name, value)
            return self

        def __setitem__(self, name: str, value: str) -> None:
            monkeypatch.setenv(name, value)

    environment = Environment()
    return lambda name, text: Machine(tmp_path, name, text, environment)


Make = Callable[[str, bytes], Machine]


def test_a_signed_result_is_read_by_whom_has_the_same_inputs(machine: Make) -> None:
    evil, good = forged_pair()
    builder, reader, other = machine("one", evil), machine("reader", evil), machine("other", good)
    key = builder.keygen()
    assert builder.put()
    result = reader.results(key).read(KEY)
    assert result
    assert result.inputs.keys() == {"file in[0]"}
    assert result.outputs.keys() == {"x"}
    with pytest.raises(StoreError, match="another file in"):
        other.results(key).read(KEY)
    # Without signatures nobody can tell.
    assert other.results().read(KEY)


def test_a_result_is_not_signed_for_other_inputs_than_it_was_made_from(machine: Make) -> None:
    evil, good = forged_pair()
    builder = machine("one", evil)
    builder.keygen()
    builder.put()
    builder.input.write_bytes(good)
    with pytest.raises(StoreError, match="another file in"):
        builder.put()
    builder.input.write_bytes(b"edited")
    results, trace = builder.results(), builder.traces.get(KEY)
    assert trace
    place = InputPlace(label="file in[0]", digest=f".bin:{'1' * 32}", path=str(builder.input))
    results.take({KEY: to_builtins(StepPaths(inputs=(place,)))})
    with pytest.raises(StoreError, match="has changed since"):
        results.put(trace, [])


def test_a_result_of_ones_own_lies_beside_others(machine: Make) -> None:
    stranger, builder, reader = (machine(name, b"text") for name in ("a", "b", "reader"))
    key = builder.keygen()
    assert stranger.put()
    assert builder.put(key)
    assert not builder.put(key)
    beside = trace_name(KEY, key)
    assert beside == f"{NAME}.{short_name(key)}"
    assert builder.remote.read(beside)
    assert reader.results(key).read(KEY)
    assert reader.results(key).stands(KEY)
    with pytest.raises(StoreError, match="not signed"):
        reader.results(key, revoked=key).read(KEY)
    # What nobody can read there is replaced.
    builder.remote.replace(beside, b"nothing")
    assert builder.put(key)
    assert reader.results(key).read(KEY)


def test_the_first_signed_result_stays(machine: Make) -> None:
    one, other = machine("a", b"text"), machine("b", b"text")
    keys = one.keygen(), other.keygen()
    assert one.put(*keys)
    assert not other.put(*keys)
    assert one.remote.read(trace_name(KEY, keys[1])) is None
    # Who does not trust the first has one too.
    assert other.put(keys[1])
    assert one.remote.read(trace_name(KEY, keys[1]))


def altered(text: bytes) -> bytes:
    body, signature = opened(text)
    return envelope(body.replace(b'"seconds":', b'"seconds":1'), signature)


def unsigned(text: bytes) -> bytes:
    return envelope(opened(text)[0], Signature())


def earlier(text: bytes) -> bytes:
    body, signature = opened(text)
    return envelope(body, structs.replace(signature, time=signature.time - 1))


def uncovered(text: bytes) -> bytes:
    body, signature = opened(text)
    result = structs.replace(RemoteResult.from_body(body, KEY), inputs={})
    return envelope(result.body(), signature)


@pytest.mark.parametrize(
    ("poison", "why"),
    [
        (altered, "is not right"),
        (unsigned, "not signed"),
        (earlier, "is not right"),
        (uncovered, "is not right"),
        (lambda text: text[:-1], "damaged"),
        (lambda _text: b"", "damaged"),
    ],
)
def test_what_was_altered_does_not_count(
    machine: Make, poison: Callable[[bytes], bytes], why: str
) -> None:
    builder, reader = machine("a", b"text"), machine("reader", b"text")
    key = builder.keygen()
    builder.put()
    text = builder.remote.read(NAME)
    assert text
    builder.remote.replace(NAME, poison(text))
    with pytest.raises(StoreError, match=why):
        reader.results(key).read(KEY)
    assert not reader.results(key).stands(KEY)
    # Its signer puts it right, beside it or in its place.
    assert builder.put(key)
    assert reader.results(key).read(KEY)


def test_a_signature_that_covers_no_inputs_does_not_count(machine: Make) -> None:
    builder, reader = machine("a", b"text"), machine("reader", b"text")
    key = builder.keygen()
    trace, results = builder.make(), builder.results()
    assert results.signer
    blobs = (RemoteBlob(digest=trace.manifest, size=1, sha256="0" * 64),)
    body = RemoteResult(trace=trace, blobs=blobs).body()
    builder.remote.replace(NAME, envelope(body, results.signer.sign(body)))
    with pytest.raises(StoreError, match="does not cover its file in"):
        reader.results(key).read(KEY)
    results = reader.results(key)
    results._paths.clear()
    with pytest.raises(StoreError, match="not known what it is made from"):
        results.read(KEY)


def test_what_was_fetched_is_not_signed(machine: Make) -> None:
    stranger, builder = machine("a", b"text"), machine("b", b"text")
    stranger.put()
    builder.keygen()
    result = builder.results().read(KEY)
    assert result
    builder.traces.put(result.trace)
    for digest in blobs_of(stranger.store, result.trace):
        builder.store.put_bytes(stranger.store.read(digest))
    builder.remote.replace(NAME, b"nothing")
    assert builder.put()
    text = builder.remote.read(NAME)
    assert text
    assert opened(text)[1] == Signature()
