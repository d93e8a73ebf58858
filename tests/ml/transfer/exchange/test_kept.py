"""Blobs of jobs stay in a remote cache that is swept, as long as somebody may wait for them."""

from __future__ import annotations

import json
from pathlib import Path

from olivebuild.ml.transfer.exchange.kept import blobs_of_jobs
from olivebuild.ml.transfer.exchange.records import JOBS, Attempt, Segment, Task
from olivebuild.ml.transfer.remote import Remote
from tests.ml.transfer.test_sweep import Bucket

ATTEMPT = Attempt(key="a" * 32, name="b" * 16, secret="c" * 64)


def naming(*digests: str) -> bytes:
    blobs = [{"digest": d, "size": 1, "sha256": "0" * 64} for d in digests]
    return json.dumps({"blobs": blobs}).encode()


def test_inputs_of_jobs_and_outputs_of_those_that_ended(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path)
    sent, made, other = (bucket.blob(text, 9) for text in ("sent", "made", "other"))
    states = f"{ATTEMPT.folder}/states/{'0' * 64}"
    segments = [Segment(log=b"x"), Segment(outcome=naming(made))]
    texts = {ATTEMPT.task: Task(action=naming(sent)).body()}
    texts |= {ATTEMPT.segment(n): segment.body() for n, segment in enumerate(segments)}
    for name, text in texts.items():
        bucket.put(name, ATTEMPT.sealed(name, text), 9)
    bucket.put(states, b"a state", 9)
    bucket.put(f"{JOBS}/strange/x/task", b"no task", 9)
    remote = Remote(tmp_path.as_uri())
    assert blobs_of_jobs(remote, remote.entries(f"{JOBS}/")) == {sent, made}
    bucket.sweep()
    left = {p.name for p in (tmp_path / "v1/blobs").rglob("*") if p.is_file()}
    assert left == {sent, made}
    assert other not in left
    for name in (*texts, states, f"{JOBS}/strange/x/task"):
        assert (tmp_path / name).exists()
        (tmp_path / name).rename(tmp_path / "moved")
        bucket.put(name, (tmp_path / "moved").read_bytes(), 31)
    bucket.sweep()
    assert [p for p in (tmp_path / "v1").rglob("*") if p.is_file()] == []
