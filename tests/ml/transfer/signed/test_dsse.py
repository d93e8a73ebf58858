"""Envelopes of statements, as securesystemslib checks them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from securesystemslib.exceptions import VerificationError

from olivebuild.ml.transfer.signed.dsse import envelope
from olivebuild.ml.transfer.signing import Signer, keygen
from tests.support.verifiers import opened_envelope


def test_an_envelope_holds_what_was_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEBUILD_CONFIG", str(tmp_path))
    _, key = keygen()
    signer = Signer.of_configuration()
    assert signer
    text = json.dumps(envelope(b'{"a": 1}', signer))
    assert opened_envelope(text, key) == '{"a": 1}'
    altered = json.loads(text) | {"payload": "eyJhIjogMn0="}
    with pytest.raises(VerificationError):
        opened_envelope(json.dumps(altered), key)
